"""Grades painted over a picture of the slide."""

from __future__ import annotations

import math
import zlib
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.about import RESEARCH_USE
from wsikd.grade.exports import OVERLAY_FILES, Exporter, aside
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.reports.thumbnail import PICTURE_PX, View, view
from wsikd.grade.summary import class_areas

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

PICTURE_KEY = "wsikd-picture"
"""Metadata entry with the slide's (width)x(height) in the picture, above the legend.

In a PNG it is a text chunk of this name. In other formats the image description starts with it.
"""
_DESCRIPTION = 0x010E  # EXIF tag ImageDescription
_QUALITY = 88
_FONT_PX, _LINE_PX, _MARGIN_PX = 16, 28, 12
_INK = (30, 30, 30)
_EDGED_CELL_PX = 10


def write(
    grade_map: GradeMap,
    path: Path,
    *,
    slide: Slide | None = None,
    max_px: int = PICTURE_PX,
    alpha: float = 0.45,
) -> None:
    """Write an overlay: the scanned part of the slide, and below it a legend.

    The legend gives each class its share of the graded tissue, a scale bar in mm, and the slide's
    name and resolution. Only cells that were read are coloured. The file is PNG, JPEG or WebP,
    by its suffix.

    Args:
        grade_map: the map to write. If it has a picture of the slide, the slide is not read again.
        path: the file.
        slide: the open slide; without it, and without a picture, the background is white.
        max_px: longest side of the slide's picture.
        alpha: opacity of the colours, 0 to 1.

    Raises:
        RegionReadError: the slide is damaged.
        OutputError: the file cannot be written.
    """
    seen = _seen(grade_map, slide, max_px)
    painted = paint(grade_map, seen, alpha=alpha)
    _save(painted, path, grade_map, seen, _legend_lines(grade_map, max(painted.shape[1], 480)))


def write_heat(
    grade_map: GradeMap, path: Path, *, slide: Slide | None = None, max_px: int = PICTURE_PX
) -> None:
    """Write the probability of the last class as a heat map over the slide, as :func:`write` does.

    Args:
        grade_map: the map to write.
        path: the file.
        slide: the open slide; without it the background is white.
        max_px: longest side of the slide's picture.

    Raises:
        RegionReadError: the slide is damaged.
        OutputError: the file cannot be written.
    """
    seen = _seen(grade_map, slide, max_px)
    painted, last = paint_heat(grade_map, seen), len(grade_map.classes) - 1
    text = f"{grade_map.classes[last]}: the fuller, the nearer to 1"
    need = _FONT_PX + 8 + math.ceil(_length(text)) + 3 * _MARGIN_PX
    _save(painted, path, grade_map, seen, [[(last, text, need)]])


def _save(
    painted: NDArray[np.uint8],
    path: Path,
    grade_map: GradeMap,
    seen: View,
    lines: list[list[tuple[int, str, int]]],
) -> None:
    """Put the legend below a picture and write both."""
    from PIL import Image

    high, wide = painted.shape[:2]
    width = max([wide, *(line[-1][2] for line in lines)])
    notes = _wrapped(_caption(grade_map), width - 2 * _MARGIN_PX)
    footer = (len(lines) + 1 + len(notes)) * _LINE_PX + _MARGIN_PX
    whole = np.full((high + footer, width, 3), 255, np.uint8)
    whole[:high, :wide] = painted
    canvas = Image.fromarray(whole)
    _footer(canvas, high + _MARGIN_PX // 2, grade_map, seen, lines, notes)
    with aside(path) as part:
        _encode(canvas, part, path.suffix, f"{wide}x{high}")


def _encode(canvas: Image, part: Path, suffix: str, size: str) -> None:
    """Write a picture in the format of a suffix, with the slide's size in its metadata."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    if suffix == ".png":
        about = PngInfo()
        about.add_text(PICTURE_KEY, size)
        canvas.save(part, format="PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=about)
        return
    exif = Image.Exif()
    exif[_DESCRIPTION] = f"{PICTURE_KEY} {size}"
    if suffix == ".webp":
        canvas.save(part, format="WEBP", quality=_QUALITY, method=0, exif=exif)
    else:
        canvas.save(part, format="JPEG", quality=_QUALITY, subsampling="4:4:4", exif=exif)


def slide_size(opened: Image) -> tuple[int, int] | None:
    """Width and height of the slide in an opened overlay; None if the metadata lack them."""
    text = opened.info.get(PICTURE_KEY)
    if text is None:
        name, _, text = str(opened.getexif().get(_DESCRIPTION, "")).partition(" ")
        text = text if name == PICTURE_KEY else ""
    sides = [int(v) for v in str(text).split("x") if v.isdecimal()]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def paint(grade_map: GradeMap, seen: View, *, alpha: float = 0.45) -> NDArray[np.uint8]:
    """Colour a slide's picture by grade: uint8 (height, width, 3).

    If cells are large enough to see, regions are outlined in their full colour, since a tint is
    hard to recognise on stained tissue.

    Args:
        grade_map: the grades; a picture pixel has the grade of the cell at its centre.
        seen: picture of the same slide.
        alpha: opacity of the colours, 0 to 1; cells that were not read stay as they are.
    """
    import cv2

    rows, line = _lines_under(grade_map, seen)
    colours = np.zeros((len(grade_map.classes) + 1, 3), np.uint8)
    for index, name in enumerate(grade_map.classes):
        colours[index + 1] = class_colour(name, index)
    solid = np.take(np.take(colours, rows, 0), line, 0)  # a line of pixels is copied as a whole
    painted = cv2.addWeighted(seen.rgb, 1 - alpha, solid, alpha, 0)
    cv2.copyTo(seen.rgb, np.take((rows == 0).view(np.uint8), line, 0), painted)
    if min(grade_map.cell_px) * min(seen.scale) >= _EDGED_CELL_PX:
        cv2.copyTo(solid, _edges(rows, line).view(np.uint8), painted)
    return np.asarray(painted, np.uint8)


def _lines_under(grade_map: GradeMap, seen: View) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Class + 1 under each pixel of a picture, 0 off tissue or unread, one line a row of cells.

    Returns:
        Lines of classes (R, width), the last of them 0, and the line of each pixel row (height,).
    """
    height, width = seen.rgb.shape[:2]
    shown, parts = grade_map.shown_hw()
    column, in_x = cells_under(grade_map, seen, 0, width, parts)
    row, in_y = cells_under(grade_map, seen, 1, height, parts)
    wanted = np.result_type(np.uint8, np.min_scalar_type(len(grade_map.classes)))
    classes = (shown + 1).astype(wanted)
    lines = np.zeros((len(classes) + 1, width), wanted)
    lines[:-1] = np.take(classes, column, 1) * in_x
    return lines, np.where(in_y, row, len(classes))


def paint_heat(grade_map: GradeMap, seen: View, *, alpha: float = 0.65) -> NDArray[np.uint8]:
    """Colour a slide's picture by the probability of the last class: uint8 (height, width, 3).

    Args:
        grade_map: the probabilities; a picture pixel has the value of the cell at its centre.
        seen: picture of the same slide.
        alpha: opacity of the colour at probability 1. At probability 0, and where nothing was read,
            the picture is unchanged.
    """
    cells, inside = _cells(grade_map, seen)
    share = np.where(grade_map.valid_hw, grade_map.probability_khw[-1], 0)[cells]
    weight = (alpha * np.where(inside, share, 0))[..., None]
    last = len(grade_map.classes) - 1
    colour = np.asarray(class_colour(grade_map.classes[last], last), np.float32)
    return np.round((1 - weight) * seen.rgb + weight * colour).astype(np.uint8)


def _cells(
    grade_map: GradeMap, seen: View
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[np.bool_]]:
    """Index of the cell under each pixel of a picture, and whether there is one: (h, w)."""
    height, width = seen.rgb.shape[:2]
    column, in_x = cells_under(grade_map, seen, 0, width)
    row, in_y = cells_under(grade_map, seen, 1, height)
    return np.ix_(row, column), in_y[:, None] & in_x


def _edges(lines: NDArray[np.integer], line: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a pixel was read and is at most two px from another grade, along rows or columns.

    Args:
        lines: class + 1 of the pixels of some lines, (R, width).
        line: which of the lines each pixel row is, (height,).
    """
    flat = np.zeros(lines.shape, bool)
    for step in (1, 2):
        other = lines[:, step:] != lines[:, :-step]
        flat[:, step:] |= other
        flat[:, :-step] |= other
    out = np.take(flat, line, 0)
    for step in (1, 2):
        y = np.flatnonzero(line[step:] != line[:-step])
        other = lines[line[y]] != lines[line[y + step]]
        out[y] |= other
        out[y + step] |= other
    return np.asarray(out & np.take(lines > 0, line, 0))


def cells_under(
    grade_map: GradeMap, seen: View, axis: int, length: int, parts: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cell index under each pixel centre along x (axis 0) or y (1), and whether it exists.

    ``parts`` as of :meth:`GradeMap.cells_at`.
    """
    place = seen.origin_xy[axis] + (np.arange(length) + 0.5) / seen.scale[axis]
    index = grade_map.cells_at(axis, place, parts)
    return np.maximum(index, 0), index >= 0


def _seen(grade_map: GradeMap, slide: Slide | None, max_px: int) -> View:
    """The picture in the map, else one read from the slide, else a white one."""
    if grade_map.picture is not None and max(grade_map.picture.rgb.shape) <= max_px:
        return grade_map.picture
    if slide is None:
        return blank(grade_map, max_px)
    return view(slide, grade_map.slide.bounds, max_px)


def blank(grade_map: GradeMap, max_px: int) -> View:
    """A white picture in place of the slide, at most ``max_px`` px at its longest side."""
    x, y, width, height = grade_map.slide.bounds
    scale = min(max_px / max(width, height), 1.0)
    size = (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    placed = (size[1] / width, size[0] / height)
    return View(np.full(size, 255, np.uint8), (float(x), float(y)), placed)


def _caption(grade_map: GradeMap) -> str:
    mpp = grade_map.mpp / grade_map.cell_px[0]
    scale = f"Slide at {mpp:.4g} µm/px, one cell {grade_map.mpp:.4g} µm."
    return " ".join(
        filter(None, (f"{grade_map.slide.name}.", grade_map.caption, scale, RESEARCH_USE))
    )


def _legend_lines(grade_map: GradeMap, width: int) -> list[list[tuple[int, str, int]]]:
    """Legend entries as lines of (class index, text, right edge in px), broken at ``width``."""
    areas = class_areas(grade_map)
    total = max(float(areas.sum()), 1e-12)
    lines: list[list[tuple[int, str, int]]] = [[]]
    left = _MARGIN_PX
    for index, (name, area) in enumerate(zip(grade_map.classes, areas, strict=True)):
        text = f"{name} {100 * area / total:.1f} %"
        need = _FONT_PX + 8 + math.ceil(_length(text)) + 2 * _MARGIN_PX
        if lines[-1] and left + need > width:
            lines.append([])
            left = _MARGIN_PX
        lines[-1].append((index, text, left + need))
        left += need
    return lines


def _footer(
    canvas: Image,
    top: int,
    grade_map: GradeMap,
    seen: View,
    lines: list[list[tuple[int, str, int]]],
    notes: list[str],
) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(canvas)
    for line in lines:
        left = _MARGIN_PX
        for index, text, right in line:
            colour = class_colour(grade_map.classes[index], index)
            box = (left, top + 4, left + _FONT_PX, top + 4 + _FONT_PX)
            draw.rectangle(box, fill=colour, outline=_INK)
            _text(draw, left + _FONT_PX + 8, top, text)
            left = right
        top += _LINE_PX
    _scale_bar(draw, top, grade_map, seen)
    for note in notes:
        top += _LINE_PX
        _text(draw, _MARGIN_PX, top, note)


def _scale_bar(draw: ImageDraw, top: int, grade_map: GradeMap, seen: View) -> None:
    px_per_mm = 1000 / (grade_map.mpp / grade_map.cell_px[0]) * seen.scale[0]
    length_mm = nice_length(0.3 * seen.rgb.shape[1] / px_per_mm)
    right = _MARGIN_PX + round(length_mm * px_per_mm)
    draw.rectangle((_MARGIN_PX, top + 11, right, top + 14), fill=_INK)
    _text(draw, right + 8, top, f"{length_mm:g} mm")


def nice_length(longest: float) -> float:
    """Largest of 1, 2 or 5 times a power of ten that is not above ``longest``.

    >>> [nice_length(v) for v in (0.34, 1.0, 7.9)]
    [0.2, 1.0, 5.0]
    """
    power = 10.0 ** math.floor(math.log10(longest) + 1e-9)
    step = max(s for s in (1, 2, 5) if s * power <= longest * (1 + 1e-9))
    return float(f"{step * power:.3g}")


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in (piece for one in text.split() for piece in _pieces(one, width)):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _pieces(word: str, width: int) -> Iterator[str]:
    """A word, cut where it is wider than the picture, as a long name may be."""
    while len(word) > 1 and _length(word) > width:
        fit = next((n for n in range(len(word) - 1, 1, -1) if _length(word[:n]) <= width), 1)
        yield word[:fit]
        word = word[fit:]
    yield word


def _text(draw: ImageDraw, left: int, top: int, text: str) -> None:
    draw.text((left, top + 3), text, fill=_INK, font=_font())


@lru_cache(maxsize=4096)
def _length(text: str) -> float:
    """Width of a text in px; captions of all slides have most words in common."""
    return float(_font().getlength(text))


@cache
def _font() -> FreeTypeFont:
    """DejaVu Sans, which covers many scripts, from matplotlib's folder without importing it."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return ImageFont.load_default(_FONT_PX)  # type: ignore[return-value]
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(file, _FONT_PX)


JPEG, PNG, WEBP = (Exporter(file, write) for file in OVERLAY_FILES)
HEAT = Exporter("heat.png", write_heat)
