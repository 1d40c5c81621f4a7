"""Slides as the front door takes them: one path, or a list of slides, folders, globs, manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.core.errors import WsikdError
    from wsikd.core.output.batch import Batch

One: TypeAlias = str | Path
Many: TypeAlias = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]


def names_of(slides: One | Sequence[One]) -> list[str]:
    """The inputs as text."""
    return [str(one) for one in ([slides] if isinstance(slides, (str, Path)) else slides)]


def only(slide: One, found: int) -> None:
    """Refuse a single path that names several slides. Raises ConfigError."""
    if found != 1:
        raise ConfigError(slide, f"names {found} slides", f"give it in a list: ['{slide}']")


def failures_of(batch: Batch) -> dict[str, WsikdError]:
    """The error of each slide that failed, by name."""
    return dict(batch.failures)
