"""Places in a run's settings: kept relative to its folder, so that it names no place above them.

An absolute path of data may name a user or a patient, and is of no use where the run is copied to
with its data.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN_CONFIG, RUN_RECORD = "config.yaml", "provenance.json"
_BESIDE = ("./", "../")
_PATTERNS = ("slide_pattern",)  # regular expressions, which may begin as a path does
_PLACES = {"paths", "teacher", "teacher_cache_dir", "targets", "weights_file", "weights"}
_PLACES |= {"labels", "scorer", "smote", "train", "val", "images", "trunk"}
_NAMES = {"random", "timm"}  # weights that are not files


def relative_places(content: Any, folder: Path, *, typed: bool = True) -> Any:
    """Settings with each path as one relative to a run's folder, ``./`` or ``../`` first.

    Args:
        content: JSON values. A text without ``/`` or ``./`` in front is a path where its key is one
            of a place and it exists in the working folder.
        folder: the run's.
        typed: relative paths are relative to the working folder, not to the run's.
    """
    base = os.path.realpath(folder)

    def change(key: str, text: str) -> str:
        beside = text.startswith(_BESIDE) or (
            key in _PLACES and text not in _NAMES and os.path.lexists(text)
        )
        if typed and beside:
            text = os.path.abspath(text)  # noqa: PTH100 - links stay as they are
        if not os.path.isabs(text):  # noqa: PTH117
            return text
        try:
            found = os.path.relpath(text, base).replace(os.sep, "/")
        except ValueError:  # another drive
            return text
        return found if found.startswith(_BESIDE) or found == ".." else f"./{found}"

    return _each(content, change)


def absolute_places(content: Any, folder: Path) -> Any:
    """Settings with the paths of :func:`relative_places` as absolute ones, where they exist.

    Others stay as they are: earlier versions kept paths as they were typed.
    """
    base = os.path.realpath(folder)

    def change(_: str, text: str) -> str:
        if not text.startswith(_BESIDE) and text != "..":
            return text
        place = os.path.normpath(os.path.join(base, text))  # noqa: PTH118
        return place if os.path.lexists(place) else text

    return _each(content, change)


def _each(content: Any, change: Callable[[str, str], str], key: str = "") -> Any:
    if isinstance(content, str):
        return change(key, content)
    if isinstance(content, list):
        return [_each(part, change, key) for part in content]
    if isinstance(content, dict):
        return {k: v if k in _PATTERNS else _each(v, change, k) for k, v in content.items()}
    return content
