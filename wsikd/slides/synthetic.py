"""Synthetic slides: files that OpenSlide opens as Aperio, with known truth.

``write_pyramid`` turns any pixels into a slide, ``write_cohort`` draws prostate tissue with its
grade regions for the demo, the tests and the benchmarks, and ``write_geometry_slide`` makes the
slide of the geometry self-test. All of it is seeded: the same call writes the same bytes.
"""

from __future__ import annotations

import json
import math
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
import shapely
import tifffile

from wsikd.core.errors import ConfigError, OutputError
from wsikd.slides.synthetic_glands import GRADES
from wsikd.slides.synthetic_tissue import PLAN_PX, Tissue, plan_tissue, render_strips

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

COLOURS = {"NC": (70, 160, 90), "G3": (240, 200, 60), "G4": (235, 130, 40), "G5": (190, 40, 50)}
THUMBNAIL_PX = 768
BIGTIFF_PX = 2_000_000_000  # from here on a JPEG pyramid may pass 4 GB


@dataclass(frozen=True)
class SyntheticSlide:
    """One slide of a cohort and its truth.

    Attributes:
        path: the slide.
        annotation: its grade regions, QuPath GeoJSON.
        size_px: level-0 (width, height).
        mpp: um per level-0 pixel.
        area_mm2: annotated area of each class; 0 where a class is absent.
    """

    path: Path
    annotation: Path
    size_px: tuple[int, int]
    mpp: float
    area_mm2: dict[str, float]


def write_pyramid(
    path: str | Path,
    level0_rgb: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
    *,
    mpp: float,
    power: float,
    downsamples: Sequence[int] = (1, 4, 16),
    tile_px: int = 256,
    quality: int = 80,
    subsampling: str = "420",
    size_px: tuple[int, int] | None = None,
    description_extra: str = "",
    omit_mpp: bool = False,
) -> None:
    """Write a pyramidal tiled-JPEG TIFF that OpenSlide opens as Aperio.

    Level k is the area average of whole blocks of ``downsamples[k]`` pixels, so its size is the
    level-0 size divided and rounded down, as in Aperio's own files. As there, the second page is a
    thumbnail. From strips, memory is bounded by a few strips and the coarser levels' JPEG bytes.

    Args:
        path: where the slide goes; it appears only when it is whole.
        level0_rgb: uint8 (height, width, 3), or strips of that width from top to bottom.
        mpp: um per level-0 pixel.
        power: objective power.
        downsamples: of each level, whole numbers that rise from 1.
        tile_px: side of a tile, a multiple of 16.
        quality: of the JPEG, 1 to 100.
        subsampling: of the chroma, ``"420"`` or ``"444"``.
        size_px: level-0 (width, height); needed with strips.
        description_extra: more ``|Key = value`` items for the Aperio description.
        omit_mpp: leave the resolution out, as some scanners do.

    Raises:
        OutputError: the file cannot be written, or the pixels do not fit the arguments.
    """
    path = Path(path)
    strips: Iterable[NDArray[np.uint8]]
    if isinstance(level0_rgb, np.ndarray):
        strips, size_px = [level0_rgb], (level0_rgb.shape[1], level0_rgb.shape[0])
    else:
        strips = level0_rgb
    if size_px is None:
        raise OutputError(path, "strips without a size", "give size_px=(width, height)")
    rising = all(b > a for a, b in zip(downsamples, downsamples[1:], strict=False))
    if not downsamples or downsamples[0] != 1 or not rising or tile_px % 16:
        fault = f"downsamples {tuple(downsamples)} or tile_px {tile_px} make no pyramid"
        raise OutputError(path, fault, "let downsamples rise from 1, tile_px be a multiple of 16")
    if min(size_px) < downsamples[-1]:
        fault = f"{size_px[0]}x{size_px[1]} pixels leave nothing at downsample {downsamples[-1]}"
        raise OutputError(path, fault, "give fewer downsamples")
    levels = [_Level(size_px, d, tile_px, quality, subsampling) for d in downsamples]
    scale = "" if omit_mpp else f"|MPP = {mpp!r}"
    header = f"Aperio Image Library v12.0.0 (wsikd synthetic)\r\n{size_px[0]}x{size_px[1]}"
    tail = f"JPEG/RGB Q={quality}|AppMag = {power:g}{scale}{description_extra}"
    with _aside(path) as part:
        big = size_px[0] * size_px[1] > BIGTIFF_PX
        with tifffile.TiffWriter(part, bigtiff=big) as tiff:
            _write_levels(tiff, levels, _bands(path, strips, size_px, levels), header, tail)


class _Level:
    """One level being made: rows come in, are averaged, and leave as encoded tiles."""

    def __init__(
        self, size_px: tuple[int, int], downsample: int, tile_px: int, quality: int, chroma: str
    ) -> None:
        self.downsample, self.tile_px = downsample, tile_px
        self.width, self.height = size_px[0] // downsample, size_px[1] // downsample
        self.quality, self.chroma = quality, chroma
        self.rows: list[NDArray[np.uint8]] = []
        self.held = 0
        self.tiles: list[bytes] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    def average(self, band: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Whole blocks of a band of level-0 rows, averaged."""
        d = self.downsample
        rows = band.shape[0] // d
        if d == 1 or rows == 0:
            return band[: rows * d]
        whole = np.ascontiguousarray(band[: rows * d, : self.width * d])
        small = cv2.resize(whole, (self.width, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def push(self, rows: NDArray[np.uint8], *, last: bool) -> Iterator[bytes]:
        """Take rows of this level; yield the tiles that are complete."""
        if len(rows):
            self.rows.append(rows)
            self.held += len(rows)
        if self.held < self.tile_px and not last:
            return
        held = np.concatenate(self.rows) if self.rows else np.empty((0, self.width, 3), np.uint8)
        whole = self.held if last else self.held // self.tile_px * self.tile_px
        for top in range(0, whole, self.tile_px):
            yield from self._encode(held[top : min(top + self.tile_px, whole)])
        self.rows, self.held = [held[whole:].copy()], self.held - whole

    def _encode(self, rows: NDArray[np.uint8]) -> Iterator[bytes]:
        side = self.tile_px
        across = math.ceil(self.width / side) * side
        pad = ((0, side - len(rows)), (0, across - self.width), (0, 0))
        padded = np.pad(rows, pad, mode="edge")
        for left in range(0, across, side):
            tile = np.ascontiguousarray(padded[:, left : left + side])
            yield imagecodecs.jpeg8_encode(tile, level=self.quality, subsampling=self.chroma)


def _bands(
    path: Path,
    strips: Iterable[NDArray[np.uint8]],
    size_px: tuple[int, int],
    levels: Sequence[_Level],
) -> Iterator[NDArray[np.uint8]]:
    """Cut strips of any height into bands that every level's blocks and tiles fit."""
    step = math.lcm(levels[0].tile_px, *(level.downsample for level in levels))
    held, count, seen = [], 0, 0
    for strip in strips:
        if strip.dtype != np.uint8 or strip.ndim != 3 or strip.shape[1:] != (size_px[0], 3):
            fault = f"a strip is {strip.dtype} {strip.shape}, not uint8 (rows, {size_px[0]}, 3)"
            raise OutputError(path, fault, "give strips as wide as size_px")
        for top in range(0, len(strip), step):
            held.append(strip[top : top + step])
            count, seen = count + len(held[-1]), seen + len(held[-1])
            while count >= step:
                rows = held[0] if len(held) == 1 else np.concatenate(held)
                yield rows[:step]
                held, count = [rows[step:]], count - step
    if seen != size_px[1]:
        fault = f"the strips hold {seen} rows, not {size_px[1]}"
        raise OutputError(path, fault, "give strips that add up to size_px")
    if count:
        yield np.concatenate(held)


def _write_levels(
    tiff: Any, levels: Sequence[_Level], bands: Iterator[NDArray[np.uint8]], header: str, tail: str
) -> None:
    """Write level 0 as it comes, then the thumbnail, then the levels gathered meanwhile."""
    smallest: list[NDArray[np.uint8]] = []

    def level0() -> Iterator[bytes]:
        for band in bands:
            yield from levels[0].push(band, last=False)
            for level in levels[1:]:
                level.tiles.extend(level.push(level.average(band), last=False))
            smallest.append(levels[-1].average(band).copy())
        yield from levels[0].push(np.empty((0, levels[0].width, 3), np.uint8), last=True)

    def write(level: _Level, tiles: Iterable[bytes], text: str) -> None:
        tiff.write(
            iter(tiles),
            shape=level.shape,
            dtype=np.uint8,
            tile=(level.tile_px, level.tile_px),
            photometric="ycbcr",
            subsampling=(2, 2) if level.chroma == "420" else (1, 1),
            compression="jpeg",
            description=f"{header} [0,0 {levels[0].width}x{levels[0].height}] {text}",
            metadata=None,
            software=False,
        )

    tile = f"({levels[0].tile_px}x{levels[0].tile_px})"
    write(levels[0], level0(), f"{tile} {tail}")
    if len(levels) > 1:
        _write_thumbnail(tiff, np.concatenate(smallest), header, tail)
    for level in levels[1:]:
        rest = level.push(np.empty((0, level.width, 3), np.uint8), last=True)
        write(level, chain(level.tiles, rest), f"{tile} -> {level.width}x{level.height} {tail}")


def _write_thumbnail(tiff: Any, rgb: NDArray[np.uint8], header: str, tail: str) -> None:
    """A small picture in one strip, where readers of Aperio files expect it."""
    shrink = min(1.0, THUMBNAIL_PX / max(rgb.shape))
    size = (max(1, round(rgb.shape[1] * shrink)), max(1, round(rgb.shape[0] * shrink)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    tiff.write(
        iter([imagecodecs.jpeg8_encode(small, level=80, subsampling="420")]),
        shape=small.shape,
        dtype=np.uint8,
        rowsperstrip=small.shape[0],
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        description=f"{header} -> {size[0]}x{size[1]} - |{tail.partition('|')[2]}",
        metadata=None,
        software=False,
    )


def write_cohort(
    folder: str | Path,
    *,
    seed: int,
    slides: int = 8,
    size_px: tuple[int, int] = (6144, 6144),
    classes: Sequence[str] = GRADES,
    mpp: float = 0.5,
) -> list[SyntheticSlide]:
    """Draw a cohort of graded prostate slides, each with its regions as QuPath GeoJSON.

    Writes ``demo-01.svs`` and ``demo-01.geojson`` and so on. Every second slide lacks one class,
    a different one each time, so that any two of eight together hold all four. A slide depends
    only on the seed and its own number.

    Args:
        folder: where the files go; made where it is missing.
        seed: of everything drawn.
        slides: how many.
        size_px: level-0 (width, height).
        classes: out of NC, G3, G4, G5.
        mpp: um per level-0 pixel.

    Raises:
        ConfigError: a class is unknown.
        OutputError: the folder cannot be written.
    """
    for name in classes:
        if name not in GRADES:
            raise ConfigError(name, "no class that can be drawn", f"choose {', '.join(GRADES)}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be made ({error})", "choose another folder") from error
    made = []
    for index in range(slides):
        path = folder / f"demo-{index + 1:02d}.svs"
        weights = class_weights(index, len(classes))
        tissue = plan_tissue((seed, index), size_px, mpp, classes, weights)
        write_pyramid(path, render_strips(tissue), mpp=mpp, power=20, size_px=size_px)
        regions = grade_regions(tissue, classes)
        annotation = path.with_suffix(".geojson")
        with _aside(annotation) as part:
            ids = np.random.default_rng([seed, index, 1])
            part.write_text(json.dumps(_geojson(regions, ids), indent=1), encoding="utf-8")
        area = dict.fromkeys(classes, 0.0)
        for name, shape in regions:
            area[name] += shape.area * (mpp / 1000) ** 2
        made.append(SyntheticSlide(path, annotation, size_px, mpp, area))
    return made


def class_weights(index: int, classes: int) -> list[float]:
    """Share of the tissue wished for each class of slide ``index``; one class leads."""
    weights = [1.0] * classes
    missing = index // 2 % classes
    if index % 2 and classes > 2:
        weights[missing] = 0.0
        weights[(missing + 2) % classes] = 1.5
    else:
        weights[missing] = 1.5
    return weights


def grade_regions(
    tissue: Tissue, classes: Sequence[str]
) -> list[tuple[str, shapely.Polygon | shapely.MultiPolygon]]:
    """Outlines of the grade regions: (class, valid geometry in level-0 pixels)."""
    regions = []
    slide = shapely.box(0, 0, *tissue.size_px)
    for index, name in enumerate(classes):
        mask = (tissue.label == index).astype(np.uint8)
        outlines, nesting = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for k, outline in enumerate(outlines):
            if nesting[0, k, 3] >= 0 or len(outline) < 40:
                continue
            holes = [
                outlines[j][:, 0]
                for j in range(len(outlines))
                if nesting[0, j, 3] == k and len(outlines[j]) >= 40
            ]
            shape = shapely.make_valid(shapely.Polygon(outline[:, 0], holes)).buffer(0.5)
            shape = shape.simplify(0.7)
            scaled = shapely.transform(shape, lambda xy: (xy + 0.5) * PLAN_PX)
            regions.append((name, shapely.make_valid(scaled.intersection(slide))))
    return regions


def _geojson(
    regions: Sequence[tuple[str, shapely.Polygon | shapely.MultiPolygon]], rng: np.random.Generator
) -> dict[str, Any]:
    """Regions as a QuPath FeatureCollection."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
            "geometry": json.loads(shapely.to_geojson(shapely.set_precision(shape, 0.25))),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": list(COLOURS[name])},
            },
        }
        for name, shape in regions
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geometry_slide(
    path: str | Path,
    *,
    seed: int,
    size_px: tuple[int, int],
    mpp: float,
    square_px: tuple[int, int, int],
) -> None:
    """Write white glass with a patch of greyish tissue and one dark blue square in it.

    The JPEG keeps full chroma, so that the square's edges stay where they are.

    Args:
        path: where the slide goes.
        seed: of the tissue's texture.
        size_px: level-0 (width, height).
        mpp: um per level-0 pixel.
        square_px: level-0 (x, y, side).

    Raises:
        OutputError: the square leaves the slide, or the file cannot be written.
    """
    (width, height), (left, top, side) = size_px, square_px
    if min(left, top, side - 1) < 0 or left + side > width or top + side > height:
        raise OutputError(path, f"square {square_px} leaves {size_px}", "choose another square_px")
    rng = np.random.default_rng(seed)

    def strips() -> Iterator[NDArray[np.uint8]]:
        for first in range(0, height, 512):
            rows = min(512, height - first)
            rgb = np.full((rows, width, 3), 244, np.uint8)
            y = np.arange(first, first + rows)
            inside = (y >= min(height // 8, top)) & (y < max(height * 7 // 8, top + side))
            x0, x1 = min(width // 8, left), max(width * 7 // 8, left + side)
            texture = rng.integers(-10, 11, (rows, x1 - x0, 1))
            rgb[inside, x0:x1] = (np.array([196, 160, 178]) + texture)[inside]
            rgb[(y >= top) & (y < top + side), left : left + side] = (30, 35, 120)
            yield rgb

    write_pyramid(path, strips(), mpp=mpp, power=20, quality=97, subsampling="444", size_px=size_px)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to ``path`` on success and removed on failure."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error})", "check the folder") from error
    finally:
        part.unlink(missing_ok=True)
