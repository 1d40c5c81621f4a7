"""What a run tells beside ``metrics.jsonl``: its log, ``metrics.csv``, and TensorBoard's events."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError
from wsikd.core.output.cells import csv_records
from wsikd.core.run import write_text_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from wsikd.core.run import RunDir

CSV = "metrics.csv"
LOGGERS = ("tensorboard",)


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger that is unknown or not installed. Raises ConfigError."""
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"--logger {name}", "is not known", f"give {', '.join(LOGGERS)}")
        if find_spec(name) is None:
            raise ConfigError(
                f"--logger {name}", "is not installed", "pip install 'wsikd[loggers]'"
            )


class EpochLog:
    """Takes the row of every epoch.

    ``metrics.csv`` is written anew from ``metrics.jsonl`` each time, so that the two agree also
    after a kill; TensorBoard's events lie in ``tensorboard/``.
    """

    def __init__(self, run: RunDir, names: Sequence[str] = (), *, epoch: int = 0) -> None:
        """Go on after ``epoch``."""
        self.run = run
        self._writer: Any = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=epoch + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Take an epoch, which ``metrics.jsonl`` holds already."""
        write_csv(self.run)
        if self._writer is not None:
            for name, value in flat(row).items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self._writer.add_scalar(name.replace(".", "/"), value, row["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """Nothing comes any more."""
        if self._writer is not None:
            self._writer.close()


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


def told_scores(val: Mapping[str, Any]) -> str:
    """An epoch's figures on validation, for the log."""
    shown = ("kappa", "balanced_accuracy", "auc", "cosine", "r2", "map", "map_50")
    parts = [f"loss {val['loss']:.4f}"]
    for name in shown:
        if name in val:
            value = "undefined" if val[name] is None else f"{val[name]:.3f}"
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)
