"""Slides as the front door takes them: one path, or a list of slides, folders, globs, manifests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from wsikd.core.errors import WsikdError
    from wsikd.core.output.batch import Batch

One: TypeAlias = str | os.PathLike[str]
"""A path. A run, store, student or folder of results stands for its path."""
Many: TypeAlias = (
    list[str] | list[Path] | list[str | Path] | tuple[One, ...] | Sequence[os.PathLike[str]]
)


def names_of(slides: One | Sequence[One]) -> list[str]:
    """The inputs as text. Raises ConfigError for any that is not a path."""
    if isinstance(slides, (str, os.PathLike)):
        return [os.fspath(slides)]
    return [text_of(one) for one in slides]


def text_of(one: One, several: str = "") -> str:
    """A path as text.

    Args:
        one: a path.
        several: what takes a list, for the message.

    Raises:
        ConfigError: it is something else, e.g. a list or an array.
    """
    if isinstance(one, (str, os.PathLike)):
        return os.fspath(one)
    remedy = f"give str or Path; {several}" if several else "give str or Path"
    raise ConfigError(type(one).__name__, "is not a path", remedy)


def only(slide: One, found: int) -> None:
    """Refuse a single path that names several slides. Raises ConfigError."""
    if found != 1:
        raise ConfigError(slide, f"names {found} slides", f"give it in a list: ['{slide}']")


def failures_of(batch: Batch) -> dict[str, WsikdError]:
    """The error of each slide that failed, by name."""
    return dict(batch.failures)
