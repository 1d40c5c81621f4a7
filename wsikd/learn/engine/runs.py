"""A requested training: checked settings and the function that trains."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from wsikd.core.errors import ConfigError
from wsikd.core.registry import load_target
from wsikd.learn.engine.configurations import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class Run(NamedTuple):
    """Checked settings, and the function that trains; its result has ``text()``, a line."""

    config: Any
    train: Callable[..., Any]


def load_run(
    path: Path,
    overrides: Sequence[str],
    *,
    data: Sequence[Path] = (),
    teachers: Sequence[Path] = (),
) -> Run:
    """Read a training configuration and find what trains by it.

    Args:
        path: the YAML file.
        overrides: "key=value" each.
        data: added to ``data.paths``.
        teachers: set ``teacher``.

    Raises:
        ConfigError: a setting is wrong, or the method takes no teacher or no paths; or as
            :func:`wsikd.learn.preflight.check_run`, for what the settings name.
        DataError: as there.
        BundleError: as there.
    """
    from wsikd.learn.preflight import check_run

    config = load_settings(path, overrides)
    if teachers:
        if "teacher" not in type(config).model_fields:
            raise ConfigError(
                "--teacher", f"method {config.method} does not use it", "leave it out"
            )
        names = [str(name) for name in teachers]
        given = json.dumps(names if len(names) > 1 else names[0])
        config = load_settings(path, [*overrides, f"teacher={given}"])
    if data:
        if not hasattr(config.data, "paths"):
            what = f"method {config.method} has files of its own"
            raise ConfigError("--data", what, "set data.train")
        paths = [*config.data.paths, *map(str, data)]
        config = config.model_copy(update={"data": config.data.model_copy(update={"paths": paths})})
    check_run(config)
    return Run(config, partial(_train, config.learner.task))


def _train(task: str, *arguments: Any, **more: Any) -> Any:
    """Import what trains, which takes its time, and call it."""
    from wsikd.learn.engine.train import train

    return train(load_target(task), *arguments, **more)
