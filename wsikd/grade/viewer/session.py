"""Data of the viewer for a folder of results: its slides, their maps, and tiles of both."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.errors import NoSlidesError, WsikdError
from wsikd.grade.corrections import Review, change_review, read_review
from wsikd.grade.exports import MAP_FILE
from wsikd.grade.exports.csv import doubtful
from wsikd.grade.exports.ome_zarr import read_alone
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.review import reasons
from wsikd.grade.runs.graded_slide import open_graded
from wsikd.grade.runs.record import named_records, student_called
from wsikd.grade.score_text import score_sentence, score_text
from wsikd.grade.viewer.deepzoom import TILE_PX, Plane, cell_at, map_tile, slide_tile
from wsikd.grade.viewer.reviewing import Change, change_of, corrected_grades, review_data

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


@dataclass
class _Held:
    """An open slide, and the number of tiles that are being read from it."""

    slide: Slide
    users: int = 0


@dataclass(frozen=True)
class _Known:
    """A review, the map after it as it is shown, its number in this session, and its fault."""

    review: Review
    shown_hw: tuple[NDArray[np.int16], int]
    revision: int
    fault: str


class Viewing:
    """The slides of one folder of results, by number. Thread-safe.

    Args:
        out: folder that ``wsikd infer`` wrote.
        entries: the slides, matched by name.
        reviewer: name of the person who may correct grades; empty: nobody may.
        cache_bytes: size of the cache of encoded tiles.

    Raises:
        NoSlidesError: the folder holds no grade map.
    """

    def __init__(
        self,
        out: Path,
        entries: Sequence[SlideEntry] = (),
        *,
        reviewer: str = "",
        cache_bytes: int = 128 << 20,
    ) -> None:
        """Find the maps; none is read yet."""
        self.reviewer = reviewer
        self._out = out
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
        self._reviews: dict[int, _Known] = {}
        self._revision = count()
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
            "student": student_called(self._out, record.summary.get("student")),
            "reasons": [asdict(reason) for reason in reasons(record.summary)],
            "cores": _cores(record, plane),
            "doubtful": _doubtful(grade_map, plane),
            "reviewer": self.reviewer,
            "review": self._review_data(number),
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

    def map_tile(
        self, number: int, level: int, column: int, row: int, shown: int, *, outline: bool = False
    ) -> bytes | None:
        """PNG of a tile of the corrected map; None if there is none.

        ``shown`` and ``outline`` as in ``deepzoom``.
        """
        grade_map, plane = self._map(number)
        known = self._review(number)
        return self._tile(
            ("map", number, level, column, row, shown, outline, known.revision),
            lambda: map_tile(
                grade_map, plane, level, column, row, shown,
                shown_hw=known.shown_hw, outline=outline,
            ),
        )  # fmt: skip

    def change(self, number: int, asked: Change) -> dict[str, Any]:
        """Change the review of a slide in the name of ``reviewer``.

        Returns:
            The new review as the page shows it.

        Raises:
            ValueError: there is no such class or field, or nobody may correct.
            AnnotationError, OutputError: the file cannot be read or written.
        """
        if not self.reviewer:
            raise ValueError("start wsikd view with --reviewer NAME to correct grades")
        grade_map, plane = self._map(number)
        change = change_of(asked, grade_map, plane, self.reviewer)
        review = change_review(self._out, *self._identity(number), change)
        with self._lock:
            self._reviews[number] = self._known(review, grade_map)
        return review_data(review, grade_map, plane)

    def _review(self, number: int) -> _Known:
        grade_map = self._map(number)[0]
        with self._lock:
            if number not in self._reviews:
                try:
                    known = self._known(read_review(self._out, *self._identity(number)), grade_map)
                except WsikdError as error:
                    empty = Review(*self._identity(number))
                    known = self._known(empty, grade_map, str(error))
                self._reviews[number] = known
            return self._reviews[number]

    def _identity(self, number: int) -> tuple[str, str]:
        """Name of a slide and fingerprint of its file."""
        folder, record = self.records[number]
        return folder.name, record.fingerprint or ""

    def _known(self, review: Review, grade_map: GradeMap, fault: str = "") -> _Known:
        shown_hw = grade_map.shown_hw(corrected_grades(review, grade_map))
        return _Known(review, shown_hw, next(self._revision), fault)

    def _review_data(self, number: int) -> dict[str, Any]:
        known = self._review(number)
        return review_data(known.review, *self._map(number)) | {"fault": known.fault}

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
        folder, record = self.records[number]
        return open_graded(folder.name, record, self._map(number)[0].slide, self._entries[number])

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
