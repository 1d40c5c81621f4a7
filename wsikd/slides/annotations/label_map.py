"""Renaming of annotated classes: SOURCE=CLASS."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wsikd.core.errors import ConfigError
from wsikd.core.reading import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

EXCLUDED = "-"
"""The class of areas that are cut out of all others."""
OPTION = "--label-map"
_REMEDY = f"give {OPTION} SOURCE=CLASS, or {OPTION} FILE.yaml with lines SOURCE: CLASS"


def parse_label_map(items: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Read what ``--label-map`` was given.

    Args:
        items: each ``SOURCE=CLASS``, or a YAML file that maps sources to classes. An empty class
            leaves the source out; ``-`` cuts its areas out of all others.

    Returns:
        (source, class) pairs sorted by source, so that equal maps are equal tuples.

    Raises:
        ConfigError: an item is neither, a file is not a mapping, or a source has two classes.
    """
    found: dict[str, str] = {}
    for item in items:
        for source, name in _pairs(item):
            source, name = plain_name(source), plain_name(name)
            if not source:
                raise ConfigError(OPTION, f"'{item}' names no source", _REMEDY)
            if found.setdefault(source, name) != name:
                fault = f"'{source}' becomes both '{found[source]}' and '{name}'"
                raise ConfigError(OPTION, fault, "keep one of them")
    return tuple(sorted(found.items()))


def plain_name(name: str) -> str:
    """A class name without spaces around it, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name.strip())


def _pairs(item: str) -> list[tuple[str, str]]:
    path = Path(item)
    if "=" not in item or path.is_file():
        if path.suffix.lower() in (".yaml", ".yml", ".json"):
            return _from_file(path)
        raise ConfigError(OPTION, f"'{item}' is neither SOURCE=CLASS nor a YAML file", _REMEDY)
    source, _, name = item.rpartition("=")
    return [(source, name)]


def _from_file(path: Path) -> list[tuple[str, str]]:
    try:
        # The base loader keeps every scalar as text: 1 stays "1" and no stays "no".
        content: Any = parse_yaml(path.read_text(encoding="utf-8"), as_text=True)
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})", _REMEDY) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"is not YAML ({error})", _REMEDY) from error
    if not isinstance(content, dict) or not all(
        isinstance(text, str) for pair in content.items() for text in pair
    ):
        raise ConfigError(path, "does not map sources to classes", _REMEDY)
    return [(k, "" if v in ("~", "null") else v) for k, v in content.items()]
