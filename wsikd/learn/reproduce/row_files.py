"""The files of a comparison's rows: ``base.yaml`` and ``rows.yaml``, or one file a row.

``rows.yaml`` maps the name of each row to what differs from ``base.yaml``: sections are merged key
by key, any other value (a list too) replaces the base's.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from wsikd.core.config import read_mapping
from wsikd.core.errors import ConfigError
from wsikd.core.output.names import safe_name
from wsikd.learn.engine.configurations import BASE, ROWS
from wsikd.learn.patch.settings import load_grading, parse_grading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.learn.patch.settings import RunConfig

_FILE = re.compile(r"(\d+)_(.+)\.yaml")


def find_rows(folder: Path) -> dict[str, Callable[[Sequence[str]], RunConfig]]:
    """Name of each row, in order -> what reads its settings, given overrides ``"key=value"``.

    Raises:
        ConfigError: there is no row, two have the same name, a file is not a YAML mapping, or the
            folder holds rows in both forms.
    """
    files = sorted(
        (int(m[1]), m[2], file)
        for file in folder.glob("*.yaml")
        if (m := _FILE.fullmatch(file.name))
    )
    if (folder / ROWS).is_file():
        if files:
            what = f"holds {ROWS} and {files[0][2].name}"
            raise ConfigError(folder, what, "keep one of the two forms")
        base = read_mapping(folder / BASE)
        return {
            name: partial(_read_row, name, base, own)
            for name, own in _differences(folder / ROWS).items()
        }
    if not files:
        raise ConfigError(
            folder, "holds no row", f"add {BASE} and {ROWS}, or files 1_teacher.yaml, 2_ce.yaml ..."
        )
    found: dict[str, Callable[[Sequence[str]], RunConfig]] = {
        name: partial(load_grading, file) for _, name, file in files
    }
    if len(found) < len(files):
        raise ConfigError(folder, "two rows have the same name", "rename one of the files")
    return found


def _read_row(
    name: str, base: dict[str, Any], own: dict[str, Any], overrides: Sequence[str]
) -> RunConfig:
    """Check a row; a fault is that of the file which holds its key."""

    def source(key: Sequence[str]) -> str:
        return BASE if _holds(base, key) and not _holds(own, key) else f"{ROWS}: {name}"

    return parse_grading(_merged(base, own), name=source, overrides=overrides)


def _differences(file: Path) -> dict[str, dict[str, Any]]:
    """Rows of a file: name -> what differs from the base."""
    found = read_mapping(file)
    if not found:
        raise ConfigError(file.name, "holds no row", "write 'NAME: {key: value}' lines")
    for name, own in found.items():
        if not isinstance(name, str) or safe_name(name) != name:
            raise ConfigError(
                f"{file.name}: {name}",
                "is not a name of a row",
                "choose one that a folder can have",
            )
        if own is not None and not isinstance(own, dict):
            what = f"holds {'a list' if isinstance(own, list) else 'one value'}, not a mapping"
            raise ConfigError(f"{file.name}: {name}", what, "write what differs from the base")
    return {name: own or {} for name, own in found.items()}


def _merged(base: Any, own: Any) -> Any:
    """A row's value over the base's: sections key by key, anything else whole."""
    if not isinstance(own, dict):
        return own
    below = base if isinstance(base, dict) else {}
    return {**below, **{key: _merged(below.get(key), value) for key, value in own.items()}}


def _holds(content: Any, key: Sequence[str]) -> bool:
    """Whether a file says a key, or gives a value where the key needs a section."""
    for part in key:
        if not isinstance(content, dict):
            return True
        if part not in content:
            return False
        content = content[part]
    return bool(key)
