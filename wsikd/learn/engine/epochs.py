"""A training from its start, or from where it stopped, to its best epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.learn.engine.loggers import EpochLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.learn.engine.schedules import Best
    from wsikd.learn.engine.trainer import Trainer


def run_epochs(
    trainer: Trainer, *, resume: bool, resumed: bool, loggers: Sequence[str] = ()
) -> Best:
    """Train to the end, from where the run stopped if asked, and take up the best epoch."""
    team = trainer.team
    if resume:
        trainer.resume()
    if resumed and team.is_first:
        trainer.run.note_resume()
    log = EpochLog(trainer.run, loggers, epoch=trainer.epoch) if team.is_first else None
    try:
        best = trainer.fit(log)
    finally:
        if log is not None:
            log.close()
    trainer.load_best()
    return best
