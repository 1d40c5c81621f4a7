"""What commands take: other things are refused in one line, before heavy imports."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.slides.listing.manifest import SlideEntry

    from .common import Batch


def check_slides(inputs: Sequence[str], option: str = "-i") -> None:
    """Refuse inputs that hold tile stores, results or a network, but no slide. Raises ConfigError.

    Of a glob the first match is looked at.
    """
    from wsikd.slides.what_is import SLIDES, check_role

    for item in inputs:
        if not Path(item).exists() and glob.has_magic(item):
            item = next(glob.iglob(item, recursive=True), item)  # noqa: PTH207
        check_role(item, option, SLIDES)


def existing(entries: Sequence[SlideEntry], batch: Batch) -> list[SlideEntry]:
    """The slides whose files exist; each of the others is a failure of the batch."""
    from wsikd.core.errors import SlideError

    found = [entry for entry in entries if entry.path.exists()]
    for entry in entries:
        if not entry.path.exists():
            batch.failed(entry, SlideError(entry.path, "no such file", "check the path"))
    return found


def formats_of(values: Sequence[str]) -> tuple[str, ...]:
    """The formats named by a repeatable ``--format`` whose values may be lists with commas.

    Raises:
        ConfigError: one is unknown or cannot be imported, or none is named.
    """
    from wsikd.core.errors import ConfigError
    from wsikd.core.registry import check_known, known_names
    from wsikd.grade.exports import ALL, EXPORTERS, find_exporter

    known = known_names(EXPORTERS, "exporters")
    asked = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not asked:
        raise ConfigError("--format", "names nothing", f"give some of {', '.join(known)}")
    for name in sorted({*asked} - {ALL}):
        check_known(EXPORTERS, name, kind="exporters")
    for name in known:
        if name not in EXPORTERS and (name in asked or ALL in asked):
            find_exporter(name)  # imported now, so that a fault of its package is reported once
    return tuple(name for name in (*known, ALL) if name in asked)
