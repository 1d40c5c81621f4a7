"""The folder of a study: one study, of the settings that it was begun with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from wsikd.core.config import dump_config, first_difference
from wsikd.core.errors import OutputError
from wsikd.core.run import write_text_atomic
from wsikd.core.run_places import relative_places

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.core.config import Settings


def claim(out: Path, config: Settings) -> None:
    """Make a study's folder, or check that the one there was begun with the same settings.

    Raises:
        OutputError: it holds a study of other settings, or something else; or it cannot be written.
    """
    file = out / "study.yaml"
    if file.is_file():
        try:
            old = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise OutputError(file, "cannot be read", "choose another -o") from error
        now = config.model_dump(mode="json")
        old = dict(old or {})
        key = first_difference(old, now) and first_difference(old, relative_places(now, out))
        if key is not None:
            raise OutputError(out, f"holds a study with another '{key}'", "choose another -o")
        return
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(out, "is not empty and holds no study", "choose another -o")
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, dump_config(config, out))


def read_json(file: Path) -> Any:
    """Content of a JSON file of the study. Raises OutputError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(file, "cannot be read", "remove it and run again") from error
