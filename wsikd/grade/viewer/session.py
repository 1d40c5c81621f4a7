"""Data of the viewer for a folder of results: its slides, their maps, and tiles of both."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.errors import NoSlidesError, WsikdError
from wsikd.grade.exports import MAP_FILE
from wsikd.grade.exports.csv import doubtful
from wsikd.grade.exports.ome_zarr import read_alone
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.review import reasons
from wsikd.grade.runs.record import named_records
from wsikd.grade.score_text import score_sentence, score_text
from wsikd.grade.viewer.deepzoom import TILE_PX, Plane, cell_at, map_tile, slide_tile
from wsikd.slides.base import FILLS_GAPS
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.runs.record import ResultRecord
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry

_MOST_OPEN = 4
_MOST_MAPS = 16
_MOST_AT_ONCE = 4
_MOST_DOUBTFUL = 200
UNKNOWN = "results do not store paths; give the slides with -i to see them under the map"


@dataclass
class _Held:
    """An open slide, and the number of tiles that are being read from it."""

    slide: Slide
    users: int = 0


class Viewing:
    """The slides of one folder of results, by number. Thread-safe.

    Args:
        out: folder that ``wsikd infer`` wrote.
        entries: the slides, matched by name.
        cache_bytes: size of the cache of encoded tiles.

    Raises:
        NoSlidesError: the folder holds no grade map.
    """

    def __init__(
        self, out: Path, entries: Sequence[SlideEntry] = (), *, cache_bytes: int = 128 << 20
    ) -> None:
        """Find the maps; none is read yet."""
        known = {entry.name: entry for entry in entries}
        self.records = [
            (folder, record)
            for folder, record in named_records(out)
            if (folder / MAP_FILE).is_dir()
        ]
        if not self.records:
            remedy = "give a folder of wsikd infer, made with --format zarr among others"
            raise NoSlidesError(out, "holds no grade maps", remedy)
        self._entries = [known.get(folder.name) for folder, _ in self.records]
        self._notices: dict[int, str] = {}
        self._maps: OrderedDict[int, tuple[GradeMap, Plane]] = OrderedDict()
        self._open: OrderedDict[int, _Held] = OrderedDict()
        self._cache = _Cache(cache_bytes)
        self._lock = threading.RLock()
        self._lane = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def names(self) -> list[str]:
        """Name of each slide."""
        return [folder.name for folder, _ in self.records]

    def about(self, number: int) -> dict[str, Any]:
        """The page's data about a slide. Raises StoreNotFoundError, IndexError."""
        grade_map, plane = self._map(number)
        notice, record = self._notice(number), self.records[number][1]
        return {
            "name": self.records[number][0].name,
            "size": plane.size,
            "tile_px": TILE_PX,
            "levels": [plane.first_level, plane.last_level],
            "mpp": plane.mpp,
            "field_um": grade_map.mpp,
            "classes": [
                {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(name, i))}
                for i, name in enumerate(grade_map.classes)
            ],
            "summary": record.summary,
            "score": score_sentence(record.summary),
            "reasons": [asdict(reason) for reason in reasons(record.summary)],
            "cores": _cores(record, plane),
            "doubtful": _doubtful(grade_map, plane),
            "not_assessed": NOT_ASSESSED,
            "notice": notice,
        }

    def slide_tile(self, number: int, level: int, column: int, row: int) -> bytes | None:
        """PNG of a tile of the slide; None if there is no such tile.

        Raises:
            SlideError, RegionReadError: it cannot be read. IndexError: no such slide.
        """
        _, plane = self._map(number)
        if self._notice(number):
            return None

        def make() -> NDArray[np.uint8] | None:
            with self._lease(number) as slide:
                return slide_tile(slide, plane, level, column, row)

        return self._tile(("slide", number, level, column, row), make)

    def map_tile(self, number: int, level: int, column: int, row: int, shown: int) -> bytes | None:
        """PNG of a tile of the map; None if there is none. ``shown`` as in ``deepzoom``."""
        grade_map, plane = self._map(number)
        return self._tile(
            ("map", number, level, column, row, shown),
            lambda: map_tile(grade_map, plane, level, column, row, shown),
        )

    def at(self, number: int, x: float, y: float) -> dict[str, Any] | None:
        """The field at a point on the plane, and its probabilities; None if none was read."""
        grade_map, plane = self._map(number)
        left, top = plane.to_level0(x, y)
        cell = cell_at(grade_map, left, top)
        if cell is None:
            return None
        row, column = cell
        corner = (
            grade_map.origin_xy[0] + column * grade_map.cell_px[0],
            grade_map.origin_xy[1] + row * grade_map.cell_px[1],
        )
        return {
            "box": plane.box_from_level0((*corner, *grade_map.cell_px)),
            "level0": [round(v, 1) for v in corner],
            "grade": int(grade_map.grade_hw[row, column]),
            "probabilities": [
                round(float(p), 4) for p in grade_map.probability_khw[:, row, column]
            ],
            "tissue": round(float(grade_map.tissue_hw[row, column]), 4),
        }

    def close(self) -> None:
        """Release the slides."""
        with self._lock:
            for held in self._open.values():
                held.slide.close()
            self._open.clear()

    def _map(self, number: int) -> tuple[GradeMap, Plane]:
        with self._lock:
            if number not in self._maps:
                found = read_alone(self.records[number][0] / MAP_FILE)
                mpp = found.slide.mpp
                assert mpp is not None  # infer refuses slides without one
                plane = Plane.over(found.slide.bounds, (mpp.x, mpp.y))
                self._maps[number] = (found, plane)
                while len(self._maps) > _MOST_MAPS:
                    self._maps.popitem(last=False)
            self._maps.move_to_end(number)
            return self._maps[number]

    def _notice(self, number: int) -> str:
        """The reason why the slide is not shown; empty if it is shown."""
        with self._lock:
            if number not in self._notices:
                try:
                    with self._lease(number):
                        self._notices[number] = ""
                except WsikdError as error:
                    self._notices[number] = str(error)
            return self._notices[number]

    @contextmanager
    def _lease(self, number: int) -> Iterator[Slide]:
        """The slide, which stays open while the block runs."""
        with self._lock:
            held = self._open.get(number)
            if held is None:
                held = self._open[number] = _Held(self._opened(number))
            self._open.move_to_end(number)
            held.users += 1
            self._close_idle()
        try:
            yield held.slide
        finally:
            with self._lock:
                held.users -= 1

    def _close_idle(self) -> None:
        for number in list(self._open)[: max(0, len(self._open) - _MOST_OPEN)]:
            if not self._open[number].users:
                self._open.pop(number).slide.close()

    def _opened(self, number: int) -> Slide:
        """Open a slide with the resolution of its grading. Raises SlideError for another slide."""
        folder, record = self.records[number]
        entry = self._entries[number]
        if entry is None:
            raise NoSlidesError(folder.name, "only its map is shown", UNKNOWN)
        made_with = record.made_with
        mpp = next(iter(m if isinstance(m := made_with.get("slide_mpp"), list) else ()), None)
        if entry.mpp is None and isinstance(mpp, int | float):
            entry = replace(entry, mpp=float(mpp), mpp_source=FILLS_GAPS)
        series = record.series if isinstance(record.series, int) else None
        slide = open_entry(replace(entry, series=series))
        plane = self._map(number)[1]
        same = made_with.get("slide") in (None, slide.info.fingerprint)
        if not same or Plane.over(slide.info.bounds, (slide.mpp.x, slide.mpp.y)) != plane:
            slide.close()
            fault = "is not the slide that was graded, or has another mpp; only the map is shown"
            raise NoSlidesError(entry.path.name, fault, "give the slide that was graded with -i")
        return slide

    def _tile(self, key: tuple[Any, ...], make: Any) -> bytes | None:
        found = self._cache.get(key)
        if found is None:
            with self._lane:
                pixels = make()
            if pixels is None:
                return None
            found = _png(pixels)
            self._cache.put(key, found)
        return found


def _cores(record: ResultRecord, plane: Plane) -> list[dict[str, Any]]:
    """Number, score and place of each core, if a slide has several."""
    found = record.cores if isinstance(record.cores, list) else []
    sides = ("x", "y", "width", "height")
    if len(found) < 2 or not all(
        isinstance(core, dict) and all(isinstance(core.get(side), int | float) for side in sides)
        for core in found
    ):
        return []
    return [
        {
            "number": core.get("core"),
            "score": score_text(core),
            "box": plane.box_from_level0([core[side] for side in sides]),
        }
        for core in found
    ]


def _doubtful(grade_map: GradeMap, plane: Plane) -> list[list[float]]:
    """Plane boxes of the most doubtful fields, the most doubtful first."""
    boxes = grade_map.boxes()[doubtful(grade_map)[:_MOST_DOUBTFUL]]
    return [plane.box_from_level0(box) for box in boxes.tolist()]


class _Cache:
    """Cache of encoded tiles, limited in bytes; drops the least recently used."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[Any, ...], data: bytes) -> None:
        with self._lock:
            self._bytes += len(data) - len(self._kept.pop(key, b""))
            self._kept[key] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def _png(pixels: NDArray[np.uint8]) -> bytes:
    order = [2, 1, 0, 3][: pixels.shape[2]]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., order]), options)
    assert done
    return encoded.tobytes()
