"""Which settings and which training belong to a method. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from wsikd.core.config import load_config, peek
from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.core.config import Settings

BASE, ROWS = "base.yaml", "rows.yaml"  # of a comparison
PATCHES = "patches"
SETTINGS: dict[str, str] = {
    PATCHES: "wsikd.learn.patch.settings:RunConfig",
    "mil": "wsikd.learn.mil.settings:MilConfig",
    "ts2g": "wsikd.learn.ts2g.adapter_settings:Ts2gConfig",
    "detector": "wsikd.learn.ts2g.detect_settings:DetectConfig",
    "slpd": "wsikd.learn.slpd.settings:SlpdConfig",
}
"""Of each method that does not learn classes from patches, and of those that do."""

TASKS: dict[str, str] = {
    PATCHES: "wsikd.learn.patch.train:PatchTask",
    "mil": "wsikd.learn.mil.train:BagTask",
    "ts2g": "wsikd.learn.ts2g.adapter_train:EmbedTask",
    "detector": "wsikd.learn.ts2g.detect_train:DetectTask",
    "slpd": "wsikd.learn.slpd.train:SlpdTask",
}


class Run(NamedTuple):
    """Checked settings, and what trains by them; its result has ``told()``, a line."""

    config: Any
    train: Callable[..., Any]


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a training configuration of any method. Raises ConfigError."""
    model = resolve(SETTINGS, _kind(path, overrides), kind="settings")
    found: Settings = load_config(model, path, overrides)
    return found


def load_run(
    path: Path, overrides: Sequence[str], *, data: Sequence[Path] = (), teacher: Path | None = None
) -> Run:
    """Read a training configuration and find what trains by it.

    Args:
        path: the YAML file.
        overrides: "key=value" each.
        data: added to ``data.paths``.
        teacher: sets ``teacher``.

    Raises:
        ConfigError: a setting is wrong, or the method takes no teacher or no paths; or as
            :func:`wsikd.learn.preflight.check_run`, for what the settings name.
        DataError: as there.
        BundleError: as there.
    """
    import json

    from wsikd.learn.preflight import check_run

    kind, changes = _kind(path, overrides), list(overrides)
    if teacher is not None:
        if kind != PATCHES:
            raise ConfigError("--teacher", f"method {kind} takes none", "leave it out")
        changes.append(f"teacher={json.dumps(str(teacher))}")
    config: Any = load_config(resolve(SETTINGS, kind, kind="settings"), path, changes)
    if data:
        if not hasattr(config.data, "paths"):
            raise ConfigError("--data", f"method {kind} has files of its own", "set data.train")
        paths = [*config.data.paths, *map(str, data)]
        config = config.model_copy(update={"data": config.data.model_copy(update={"paths": paths})})
    check_run(config)
    return Run(config, partial(_train, kind))


def _train(kind: str, *arguments: Any, **more: Any) -> Any:
    """Import what trains, which takes its time, and call it."""
    from wsikd.learn.engine.train import train

    return train(resolve(TASKS, kind, kind="tasks"), *arguments, **more)


def refuse_rows(path: Path) -> None:
    """Refuse the rows of a comparison where one training is asked for. Raises ConfigError."""
    if path.name == ROWS and (path.parent / BASE).is_file():
        raise ConfigError(
            path, "holds the rows of a comparison, not one training",
            f"run wsikd reproduce at_plus --config-dir {path.parent}, or give one training's file",
        )  # fmt: skip


def _kind(path: Path, overrides: Sequence[str]) -> str:
    refuse_rows(path)
    method = peek(path, overrides, "method")
    return method if isinstance(method, str) and method in SETTINGS else PATCHES
