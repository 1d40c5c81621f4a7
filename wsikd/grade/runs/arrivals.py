"""Slides that arrive in a folder: which are complete, and which have been handled."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsikd.slides.listing.entry import SlideEntry

Signature = tuple[tuple[str, int, int], ...]


def signature(path: Path) -> Signature:
    """Names, sizes and times of change of all files of a slide.

    These are the file, or all files of a folder (DICOM), and those of a folder of the same name
    beside the file (MIRAX). Files that vanish meanwhile are left out.
    """
    beside = path.with_suffix("")
    found = []
    for file in (*_files(path), *(_files(beside) if beside != path else ())):
        with suppress(OSError):
            about = file.stat()
            found.append((str(file), about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))


def _files(path: Path) -> list[Path]:
    """A file, or all files of a folder and of the folders in it."""
    if not path.is_dir():
        return [path]
    return [Path(here, name) for here, _, names in os.walk(path) for name in names]


@dataclass
class Arrivals:
    """What is known of the slides of a folder.

    A slide is ready once its signature has been the same for ``settle_s`` seconds. It is given out
    once; again if it has changed since.

    Attributes:
        settle_s: seconds.
    """

    settle_s: float
    _since: dict[Path, tuple[Signature, float]] = field(default_factory=dict)
    _handled: dict[Path, Signature] = field(default_factory=dict)

    def ready(self, entries: Iterable[SlideEntry], now: float) -> list[SlideEntry]:
        """Those of the entries that are complete and have not been handled.

        Args:
            entries: all slides that are in the folder now.
            now: time in seconds, by a clock that does not go back.
        """
        found, seen = [], {}
        for entry in entries:
            signed = signature(entry.path)
            before, since = self._since.get(entry.path, (None, now))
            seen[entry.path] = signed, since if before == signed else now
            if self._handled.get(entry.path) == signed or not signed:
                continue
            if now - seen[entry.path][1] >= self.settle_s:
                found.append(entry)
        self._since = seen
        return found

    def handled(self, entries: Iterable[SlideEntry]) -> None:
        """Give these out again only if they change from what they were when they were ready."""
        for entry in entries:
            self._handled[entry.path] = self._since[entry.path][0]

    @property
    def waiting(self) -> int:
        """Slides that are in the folder and have not been handled."""
        return sum(self._handled.get(path) != signed for path, (signed, _) in self._since.items())
