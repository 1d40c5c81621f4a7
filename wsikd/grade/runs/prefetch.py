"""Opens the next slide, finds its tissue and reads a small one while the current is computed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsikd.core.timing import StageClock
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsikd.grade.predict import Prepared
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry

    Prepare = Callable[[Slide, Path | None, StageClock], Prepared]


@dataclass(frozen=True)
class Opened:
    """An open slide, what was prepared of it, and the time that both took."""

    slide: Slide
    prepared: Prepared | None = None
    clock: StageClock = field(default_factory=StageClock)


def open_now(entry: SlideEntry) -> Opened:
    """Open a slide; raises as :func:`wsikd.slides.listing.manifest.open_entry`."""
    clock = StageClock()
    with clock("open"):
        slide = open_entry(entry)
    return Opened(slide, None, clock)


class Ahead:
    """Opens at most one slide in advance, in a thread that ends with its process."""

    def __init__(self) -> None:
        """No slide is open yet."""
        self._entry: SlideEntry | None = None
        self._thread: threading.Thread | None = None
        self._found: Opened | None = None
        self._error: Exception | None = None

    def begin(self, entry: SlideEntry, prepare: Prepare | None) -> None:
        """Open a slide in the background, and call ``prepare``, if given."""
        self._drop()
        self._entry, self._found, self._error = entry, None, None

        def work() -> None:
            try:
                found = open_now(entry)
                if prepare:
                    found = _prepared(found, entry, prepare)
                self._found = found
            except Exception as error:  # noqa: BLE001 - ``take`` raises it
                self._error = error

        self._thread = threading.Thread(target=work, name=f"ahead {entry.name}", daemon=True)
        self._thread.start()

    def take(self, entry: SlideEntry) -> Opened | None:
        """Wait for the slide if it is the next one; raises the error of opening it."""
        if self._entry != entry or self._thread is None:
            return None
        self._thread.join()
        found, error = self._found, self._error
        self._entry = self._thread = self._found = self._error = None
        if error:
            raise error
        return found

    def _drop(self) -> None:
        """Close slides that were not used."""
        if self._thread is not None:
            self._thread.join()
        if self._found is not None:
            self._found.slide.close()
        self._entry = self._thread = self._found = None


def _prepared(found: Opened, entry: SlideEntry, prepare: Prepare) -> Opened:
    try:
        prepared = prepare(found.slide, entry.mask, found.clock)
        return Opened(found.slide, prepared, found.clock)
    except BaseException:
        found.slide.close()
        raise
