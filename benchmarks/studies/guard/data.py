"""Patches of prostate, colon and bone at 4 um/px; what blur, stain and compression do to them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.learn.patch.guard import alterations as slight_alterations
from wsikd.slides.altered import blurred, compressed, stained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

REDUCED_BY = 4
SIDE = 56
MOST = 24
"""Patches of a slide, at most."""
ALTERED = 8
"""Patches of a slide that are blurred, stained and compressed."""
BLUR_UM = (2.0, 4.0, 8.0)
STAIN = (0.1, 0.25, 0.5)
QUALITY = (30, 10, 5)
FLUORESCENCE = "shown as fluorescence"
NUCLEI = 1.2
"""Optical density in red that is shown brightest."""


@dataclass(frozen=True)
class Patches:
    """Patches and the slide, or patient, of each.

    Attributes:
        image: uint8 (N, SIDE, SIDE, 3).
        label: int64 (N,); -1 where there is none.
        slide: str (N,).
        altered: by name, uint8 (M, SIDE, SIDE, 3) of the patches ``chosen``.
        slight: what a guard is fitted to overlook, each as ``altered``.
        chosen: int64 (M,), the first patches of each slide.
    """

    image: Image
    label: NDArray[np.int64]
    slide: NDArray[np.str_]
    altered: dict[str, Image]
    slight: list[Image]
    chosen: NDArray[np.int64]


def read_set(folder: Path) -> Patches:
    """A folder with ``labels.csv``: image, label, and slide or patient."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    key = "slide" if "slide" in rows[0] else "patient"
    by_slide: dict[str, list[tuple[Path, int]]] = {}
    for row in rows:
        label = int(row["label"]) if row["label"] else -1
        file = next(
            f for f in (folder / row["image"], folder / "images" / row["image"]) if f.exists()
        )
        by_slide.setdefault(row[key], []).append((file, label))
    chosen = (
        (name, *found[i])
        for name, found in by_slide.items()
        for i in _even(len(found), MOST)
    )  # fmt: skip
    return _patches((slide, _read(file), label) for slide, file, label in chosen)


def read_bone(folder: Path) -> Patches:
    """Fields of 1024 px in folders; each field is a slide of 16 patches."""

    def tiles() -> Iterator[tuple[str, Image, int]]:
        step = SIDE * REDUCED_BY
        for file in sorted(folder.rglob("*.jpg")):
            image = _read(file)
            for y in range(0, image.shape[0] - step + 1, step):
                for x in range(0, image.shape[1] - step + 1, step):
                    yield file.stem, image[y : y + step, x : x + step], -1

    return _patches(tiles())


def alterations() -> dict[str, Callable[[Image], Image]]:
    """Name -> what is done to a patch at 1 um/px."""
    found: dict[str, Callable[[Image], Image]] = {}
    for um in BLUR_UM:
        found[f"blur {um:g} um"] = partial(blurred, sigma_px=um)
    for strength in STAIN:
        found[f"stain {strength:g}"] = partial(stained, gains=(1 + strength, 1.0, 1 - strength))
    for quality in QUALITY:
        found[f"JPEG quality {quality}"] = partial(compressed, quality=quality)
    return {**found, FLUORESCENCE: fluorescent}


def fluorescent(image: Image) -> Image:
    """Nuclei bright blue on black, as DAPI is shown."""
    density = -np.log10((image[:, :, 0] + 1.0) / 256) / NUCLEI
    return (np.clip(density, 0, 1)[:, :, None] * (20, 60, 255)).astype(np.uint8)


def _patches(rows: Iterable[tuple[str, Image, int]]) -> Patches:
    images: list[Image] = []
    labels: list[int] = []
    slides: list[str] = []
    chosen: list[int] = []
    changes, count = alterations(), dict[str, int]()
    altered: dict[str, list[Image]] = {name: [] for name in changes}
    slight: list[list[Image]] = [[] for _ in slight_alterations(1.0)]
    for slide, image, label in rows:
        if count.get(slide, 0) < ALTERED and label >= 0:
            chosen.append(len(images))
            for name, change in changes.items():
                altered[name].append(_small(change(image)))
            for kept, change in zip(slight, slight_alterations(1.0), strict=True):
                kept.append(_small(change(image)))
        count[slide] = count.get(slide, 0) + 1
        images.append(_small(image))
        labels.append(label)
        slides.append(slide)
    stacked = {k: np.stack(v) for k, v in altered.items() if v}
    return Patches(
        np.stack(images), np.array(labels), np.array(slides), stacked,
        [np.stack(kept) for kept in slight if kept], np.array(chosen, np.int64),
    )  # fmt: skip


def _read(file: Path) -> Image:
    image = cv2.imread(str(file))
    assert image is not None, file
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _small(image: Image) -> Image:
    """The middle, averaged over squares."""
    wide = SIDE * REDUCED_BY
    top, left = (image.shape[0] - wide) // 2, (image.shape[1] - wide) // 2
    part = image[top : top + wide, left : left + wide]
    return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def _even(count: int, most: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most)).round()})
