"""Output of a run in addition to ``metrics.jsonl``: log, ``metrics.csv``, and loggers."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from wsikd.core.errors import ConfigError, one_line
from wsikd.core.output.cells import csv_records
from wsikd.core.registry import resolve
from wsikd.core.run import write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from wsikd.core.run import RunDir

CSV = "metrics.csv"
LOGGERS: dict[str, str] = {"tensorboard": "wsikd.learn.engine.loggers:TensorBoard"}
"""Name -> ``(run, *, epoch) -> Logger``; packages add theirs to the group ``wsikd.loggers``.

``run`` is the run's folder, ``epoch`` the last epoch that counts: what a killed run has written of
later ones is void. A class may have a static method ``check()``, called before training begins,
which raises ConfigError where the logger cannot be used.
"""

log = logging.getLogger(__name__)


class Logger(Protocol):
    """Keeps the figures of every epoch somewhere."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take an epoch: the row of ``metrics.jsonl``; :func:`flat` joins its nested names."""

    def close(self) -> None:
        """No epoch follows."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger that is unknown or cannot be used. Raises ConfigError."""
    for name in names:
        try:
            found = resolve(LOGGERS, name, kind="loggers")
        except ConfigError as error:
            raise ConfigError(f"--logger {name}", error.fault, error.remedy) from error
        if (check := getattr(found, "check", None)) is not None:
            check()


class TensorBoard:
    """Scalars for TensorBoard, in ``tensorboard/`` of the run."""

    def __init__(self, run: Path, *, epoch: int = 0) -> None:
        """Continue after ``epoch``."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=epoch + 1)

    @staticmethod
    def check() -> None:
        """Raise ConfigError where it is not installed."""
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "--logger tensorboard", "is not installed", "pip install 'wsikd[loggers]'"
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """Take an epoch."""
        for name, value in flat(row).items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(name.replace(".", "/"), value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """No epoch follows."""
        self._writer.close()


class EpochLog:
    """Takes the row of every epoch and gives it to the loggers.

    ``metrics.csv`` is written from ``metrics.jsonl`` each time, so that the two agree also after a
    kill. A logger that fails is dropped with a warning: training does not end for it.
    """

    def __init__(self, run: RunDir, names: Sequence[str] = (), *, epoch: int = 0) -> None:
        """Continue after ``epoch``. Raises ConfigError for an unknown logger."""
        self.run = run
        self._loggers: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            make = resolve(LOGGERS, name, kind="loggers")
            self._loggers[name] = make(run.path, epoch=epoch)

    def write(self, row: Mapping[str, Any]) -> None:
        """Take an epoch, which ``metrics.jsonl`` holds already."""
        write_csv(self.run)
        for name, logger in list(self._loggers.items()):
            try:
                logger.write(row)
            except Exception as error:  # noqa: BLE001 - its service may be gone, its code wrong
                del self._loggers[name]
                self._failed(name, error, "no further epochs are sent to it")

    def close(self) -> None:
        """No epoch follows."""
        for name, logger in self._loggers.items():
            try:
                logger.close()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(name, error, "its log may be incomplete")

    def _failed(self, name: str, error: Exception, then: str) -> None:
        text = one_line(f"{type(error).__name__}: {error}")
        log.warning("--logger %s: failed (%.300s); %s", name, text, then)
        log.debug("%s", name, exc_info=error)


def flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined by points: {"val": {"kappa": 1}} -> {"val.kappa": 1}."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def write_csv(run: RunDir) -> None:
    """Write the epochs of ``metrics.jsonl`` as ``metrics.csv``. Raises OutputError."""
    rows = [flat(row) for row in run.read_metrics() if "epoch" in row]
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_text_atomic(run.path / CSV, csv_records(names, rows))


@contextmanager
def log_to(file: Path) -> Iterator[None]:
    """Copy what wsikd logs to a file."""
    package = logging.getLogger("wsikd")
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, least = package.level, package.getEffectiveLevel()
    shown = [(h, h.level) for h in logging.getLogger().handlers]
    package.addHandler(handler)
    if least > logging.INFO:  # for the file alone: what others show stays as it was
        package.setLevel(logging.INFO)
        for other, level in shown:
            other.setLevel(max(level, least))
    try:
        yield
    finally:
        package.setLevel(before)
        for other, level in shown:
            other.setLevel(level)
        package.removeHandler(handler)
        handler.close()


def scores_text(val: Mapping[str, Any]) -> str:
    """An epoch's figures on validation, for the log."""
    shown = ("kappa", "balanced_accuracy", "auc", "cosine", "r2", "map", "map_50")
    parts = [f"loss {val['loss']:.4f}"]
    for name in shown:
        if name in val:
            value = "undefined" if val[name] is None else f"{val[name]:.3f}"
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)
