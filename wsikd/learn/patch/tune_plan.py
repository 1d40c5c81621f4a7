"""The grid of ``wsikd tune``, from its options."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from wsikd.core.errors import ConfigError
from wsikd.learn.patch.settings import load_grading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsikd.learn.patch.settings import RunConfig

METRICS = ("kappa", "balanced_accuracy", "accuracy")


@dataclass(frozen=True)
class Tuning:
    """A search.

    Attributes:
        config_file: YAML file of the run.
        overrides: ``"key=value"`` entries that hold for every trial.
        data: places of the data, beside those in the file.
        grid: dotted key -> values, as YAML reads them.
        metric: metric of the validation part, one of ``METRICS``; the largest wins.
        seed: seed of every trial.
    """

    config_file: Path
    overrides: tuple[str, ...]
    data: tuple[str, ...]
    grid: Mapping[str, tuple[Any, ...]]
    metric: str = "kappa"
    seed: int = 0

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """Settings of one trial. Raises ConfigError."""
        entries = [f"{k}={yaml.safe_dump(v, default_flow_style=True)}" for k, v in values.items()]
        config = load_grading(self.config_file, [*self.overrides, *entries])
        paths = {"paths": [*config.data.paths, *self.data]}
        return config.model_copy(update={"data": config.data.model_copy(update=paths)})

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid."""
        values = itertools.product(*self.grid.values())
        return [dict(zip(self.grid, point, strict=True)) for point in values]


def parse_grid(entries: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Read ``"weights.fm=0.01,0.1,1"`` entries.

    Raises:
        ConfigError: one is not ``key=value,value``, or a key or a value comes twice.
    """
    grid: dict[str, tuple[Any, ...]] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        try:
            values = tuple(yaml.safe_load(part) for part in text.split(","))
        except yaml.YAMLError as error:
            raise ConfigError(f"--grid {entry}", "is not a list of values", "quote it") from error
        plain = all(isinstance(v, (str, int, float, bool)) for v in values)
        if not equals or not key.strip() or not plain:
            raise ConfigError(
                f"--grid {entry}",
                "is not key=value,value",
                "write, for example, weights.fm=0.01,0.1,1",
            )
        if key.strip() in grid or len(set(values)) < len(values):
            raise ConfigError(f"--grid {entry}", "names a key or a value twice", "drop one")
        grid[key.strip()] = tuple(_as_number(v) for v in values)
    if not grid:
        raise ConfigError("--grid", "is empty to vary", "write, for example, weights.fm=0.01,0.1,1")
    return grid


def _as_number(value: Any) -> Any:
    """1e-4, which YAML reads as a word, is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
