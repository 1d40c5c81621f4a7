"""Patches at a resolution that the slide has a level of: wsikd, other readers, the decoder alone.

No pixel is averaged there, so what is left is to find, read and decode tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import Report, measure, own_peak_mb, rate_ratios

# isort: split
import numpy as np
from peers import PATCH_PX, WORKERS, JpegTiles
from synthetic import MPP

from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness import Timed
    from numpy.typing import NDArray
    from synthetic import BenchSlide

LEVEL, DOWN, BATCH = 1, 4, 32
READERS = ("fastslide", "tiffslide", "openslide")
FASTER, OF_DECODE, MEMORY = 1.15, 0.95, 1.3
"""Bars: times fastslide, or share of pure decoding; peak memory over that of fastslide."""


@dataclass(frozen=True)
class Fields:
    """Fields of 512 px at level 1 of a slide: (rows, columns), int64 (N,) each."""

    path: Path
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, slide: BenchSlide, columns: int, rows: int) -> Fields:
        """A block of tissue."""
        return cls(slide.path, *slide.window(PATCH_PX * DOWN, columns, rows))

    @property
    def megapixels(self) -> float:
        """Of the level."""
        return len(self.rows) * PATCH_PX**2 / 1e6

    def corners(self) -> Iterator[tuple[int, int]]:
        """(x, y) of each field in pixels of the level."""
        for y, x in zip(self.rows.tolist(), self.columns.tolist(), strict=True):
            yield x * PATCH_PX, y * PATCH_PX


def stream(fields: Fields, seen: list[NDArray[np.uint8]] | None = None) -> float:
    """The fields as ``wsikd infer`` reads them, from opening the slide on; megapixels."""
    with open_slide(fields.path) as slide:
        grid = TileGrid.plan(slide, MPP * DOWN, PATCH_PX)
        canvas = Canvas.plan(slide, MPP * DOWN)
        assert canvas.level == LEVEL
        for _, patches in stream_patches(
            canvas, grid, fields.rows, fields.columns, batch_size=BATCH, workers=WORKERS
        ):
            if seen is not None:
                seen.append(patches.copy())
    return fields.megapixels


def read(name: str, fields: Fields, seen: list[NDArray[np.uint8]] | None = None) -> float:
    """The same through another reader, one region a field; megapixels."""
    slide, region = opened(name, fields.path)
    with slide:
        for corner in fields.corners():
            patch = region(corner)
            if seen is not None:
                seen.append(patch)
    return fields.megapixels


def read_batches(name: str, fields: Fields) -> None:
    """The same into batches of as many patches as the stream's, each overwritten by the next."""
    slide, region = opened(name, fields.path)
    batch = np.empty((BATCH, PATCH_PX, PATCH_PX, 3), np.uint8)
    with slide:
        for number, corner in enumerate(fields.corners()):
            batch[number % BATCH] = region(corner)


def opened(name: str, path: Path) -> tuple[Any, Callable[[tuple[int, int]], NDArray[np.uint8]]]:
    """A slide, and what reads a field of it: uint8 (512, 512, 3)."""
    size = (PATCH_PX, PATCH_PX)
    if name == "fastslide":
        slide = import_module(name).FastSlide.from_file_path(str(path))
        return slide, lambda corner: np.asarray(slide.read_region(corner, LEVEL, size).numpy())
    if name == "tiffslide":
        slide = import_module(name).TiffSlide(path)
        return slide, lambda corner: np.asarray(
            slide.read_region((corner[0] * DOWN, corner[1] * DOWN), LEVEL, size, as_array=True)
        )
    slide = import_module(name).OpenSlide(path)
    return slide, lambda corner: np.asarray(
        slide.read_region((corner[0] * DOWN, corner[1] * DOWN), LEVEL, size).convert("RGB")
    )


def measure_native(report: Report, slide: BenchSlide, columns: int, rows: int) -> None:
    """Stream, readers and decoder in turn."""
    fields = Fields.of(slide, columns, rows)
    tiles = JpegTiles(slide.path, LEVEL)
    block = tiles.covering(fields.rows, fields.columns, PATCH_PX)
    run: dict[str, Callable[[], float]] = {
        "native level, decode": lambda: tiles.decode(block),
        "native level, stream": lambda: stream(fields),
    }
    here = [name for name in READERS if find_spec(name) is not None]
    for name in here:
        run[f"native level, {name}"] = lambda name=name: read(name, fields)
    report.raw["native level: largest mean difference to the stream (grey levels)"] = {
        name: difference(name, fields) for name in here
    }
    timed = measure(run, report.options.rounds)
    report.timings(timed, "MP of the level")
    ours = "native level, stream"
    for name in ("fastslide", "tiffslide", "openslide"):
        if name in here:
            report.speed(f"{ours} / {name}", (ours, f"native level, {name}"), 1.0, timed)
        else:
            report.missing(f"{ours} / {name}", f"{name} is not installed", 1.0)
    compare_speed(report, timed)


def compare_speed(report: Report, timed: Timed) -> None:
    """The share of the bar that is reached: as fast as it asks, or as near to decoding."""
    ours = timed["native level, stream"]
    reached = {"decode": median(rate_ratios(ours, timed["native level, decode"])) / OF_DECODE}
    if (other := timed.get("native level, fastslide")) is not None:
        reached["fastslide"] = median(rate_ratios(ours, other)) / FASTER
    report.raw["native level: share of the bar"] = reached
    title = f"native level, of {FASTER:g} times fastslide or {OF_DECODE:g} of decoding"
    report.ratio(title, max(reached.values()), 1)


def difference(name: str, fields: Fields) -> float:
    """Mean difference between the fields of a reader and ours: that of the worst field."""
    some = Fields(fields.path, fields.rows[:4], fields.columns[:4])
    ours: list[NDArray[np.uint8]] = []
    theirs: list[NDArray[np.uint8]] = []
    stream(some, ours)
    read(name, some, theirs)
    apart = np.abs(np.concatenate(ours).astype(np.int16) - np.stack(theirs)[..., :3])
    return round(float(apart.mean((1, 2, 3)).max()), 3)


def compare_memory(report: Report, peak: Callable[[str], dict[str, float]]) -> None:
    """Peak memory of the stream over that of fastslide, both in a process of their own.

    Both make batches for a network. The stream reads one while another is used, so it holds two.

    Args:
        report: takes the figures.
        peak: runs ``own_memory`` of a reader in a process.
    """
    title = f"native level, peak memory of batches of {BATCH}, stream / fastslide"
    ours = peak("wsikd")
    found = report.raw.setdefault("memory (MB)", {})
    found["native level, stream"] = ours
    if find_spec("fastslide") is None:
        report.missing(title, "fastslide is not installed", MEMORY, "lower")
        return
    found["native level, fastslide"] = theirs = peak("fastslide")
    found["native level, fastslide, one region at a time"] = peak("fastslide singly")
    report.ratio(title, ours["peak"] / theirs["peak"], MEMORY, "lower")


def own_memory(name: str, fields: Fields) -> dict[str, float]:
    """Peak memory of this process, before and after the fields were read."""
    before = own_peak_mb()
    reader, _, singly = name.partition(" ")
    if reader == "wsikd":
        stream(fields)
    elif singly:
        read(reader, fields)
    else:
        read_batches(reader, fields)
    return {"imports": before, "peak": own_peak_mb()}
