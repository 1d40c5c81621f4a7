"""The record of a run of tiling: ``runs/<utc>.json`` in the folder of stores."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError
from wsikd.core.run import provenance, write_json_atomic
from wsikd.slides.listing.search import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsikd.core.errors import WsikdError
    from wsikd.slides.listing.search import LeftOut
    from wsikd.tiles.jobs import Tiled, TileJob

log = logging.getLogger(__name__)


class Record:
    """The record of a run, for ``runs/<utc>.json``."""

    def __init__(
        self,
        jobs: Sequence[TileJob],
        how: Mapping[str, Any],
        out: Path,
        left_out: Sequence[LeftOut],
    ) -> None:
        self._begun = datetime.now(UTC)
        self._out = out
        self._about = {
            **provenance(),
            "settings": asdict(jobs[0].settings) if jobs else None,
            "running": dict(how),
        }
        self._slides: dict[str, dict[str, Any]] = {
            job.entry.name: {"status": "unfinished"} for job in jobs
        }
        self._left_out = listed(left_out)
        self.status = "interrupted"

    def done(self, name: str, tiled: Tiled) -> None:
        """Record a slide that is done."""
        status = "made" if tiled.made else "already there"
        self._slides[name] = {"status": status, **asdict(tiled)}
        del self._slides[name]["made"]

    def failed(self, name: str, error: WsikdError) -> None:
        """Record a slide that failed."""
        self._slides[name] = {
            "status": "failed",
            "error": type(error).__name__,
            "fault": error.fault,
            "remedy": error.remedy,
        }

    def summary(self) -> str:
        """How many were made, and how many were there."""
        found = [slide["status"] for slide in self._slides.values()]
        return ", ".join(f"{found.count(what)} {what}" for what in ("made", "already there"))

    def write(self) -> None:
        """Write it whole or not at all; a full disk is reported and stops nothing."""
        ended = datetime.now(UTC)
        content = {
            "status": self.status,
            **self._about,
            "time": self._begun.isoformat(timespec="seconds"),
            "seconds": round((ended - self._begun).total_seconds(), 3),
            "slides": [{"slide": name, **about} for name, about in self._slides.items()],
            "left_out": self._left_out,
        }
        name = self._begun.strftime("%Y%m%dT%H%M%S.%fZ.json")
        try:
            write_json_atomic(self._out / "runs" / name, content)
        except OutputError as error:
            log.warning("%s", error)
