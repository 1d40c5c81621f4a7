"""Masks of class values, as those of PANDA: each value stands for a class."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.core.errors import AnnotationError, ConfigError
from wsikd.slides.annotations.base import Annotation, Remarks
from wsikd.slides.annotations.label_map import EXCLUDED, OPTION
from wsikd.slides.annotations.mask_image import LabelPlane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskAnnotation(Annotation):
    """A mask of class values; ``names`` are the classes that its label map gives.

    Attributes:
        plane: the image.
        classes: value -> class.
        origin_xy: level-0 (x, y) of the mask's corner.
        scale_xy: mask pixels per level-0 pixel.
        named: all values that the label map names, also those that it leaves out.
        seen: values met by :meth:`shares`, a sample of every 16th pixel.
    """

    plane: LabelPlane
    classes: dict[int, str]
    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    named: frozenset[int] = frozenset()
    seen: set[int] = field(default_factory=set, compare=False)

    @classmethod
    def read(cls, path: Path, slide: Slide, label_map: Mapping[str, str]) -> Self:
        """Lay a mask over a slide; see :func:`wsikd.slides.annotations.read.read_annotation`.

        Raises:
            AnnotationError: the file cannot be read, or has not the slide's shape.
            ConfigError: the map gives no value a class.
        """
        names = mask_names(path, label_map)
        plane = LabelPlane.open(path)
        origin, scale = placed(plane, slide)
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
            raise AnnotationError(path, fault, "correct --annotations or the manifest") from error
        named = frozenset(int(source) for source in label_map if source.isdecimal())
        return cls(names, digest, plane, mask_classes(label_map), origin, scale, named)

    @property
    def remarks(self) -> Remarks:
        """The values that the label map does not name."""
        return Remarks(unnamed_values=tuple(sorted(self.seen - self.named - {0})))

    def shares(self, boxes: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
        """Share of each field that each class covers, exact to the fraction of a mask pixel."""
        values = [[v for v, name in self.classes.items() if name == own] for own in classes]
        edges = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        edges = (edges - np.tile(self.origin_xy, 2)) * np.tile(self.scale_xy, 2)
        x0, y0, x1, y1 = edges.T
        total = np.zeros((len(boxes), len(classes)))

        def touched(x: int, y: int, width: int, height: int) -> NDArray[np.intp]:
            return np.flatnonzero((x1 > x) & (x0 < x + width) & (y1 > y) & (y0 < y + height))

        for x, y, block in self.plane.blocks(lambda *at: bool(touched(*at).size)):
            rows = touched(x, y, block.shape[1], block.shape[0])
            self.seen.update(np.unique(block[::16, ::16]).tolist())
            low, high = int(block.min()), int(block.max())
            for index, own in enumerate(values):
                near = [v for v in own if low <= v <= high]
                if near:
                    mask = np.logical_or.reduce([block == v for v in near])
                    total[rows, index] += _areas(mask, edges[rows] - [x, y, x, y])
        if not total.any():
            self._warn()
        return np.asarray(total / np.maximum((x1 - x0) * (y1 - y0), 1e-9)[:, None])

    def _warn(self) -> None:
        """Report where a mask's values are not those of the label map at all."""
        if self.seen - {0} and self.seen.isdisjoint(self.classes):
            listed = ", ".join(map(str, sorted(self.seen)[:10]))
            log.warning("%s: holds %s, and %s names none of them", self.plane.path, listed, OPTION)


def mask_names(path: Path, label_map: Mapping[str, str]) -> tuple[str, ...]:
    """Classes that a label map gives to mask values, each once.

    Raises:
        ConfigError: there are none; the message lists the values of the mask.
        AnnotationError: the mask cannot be read.
    """
    names = tuple(dict.fromkeys(mask_classes(label_map).values()))
    if names:
        return names
    values = LabelPlane.open(path).values()
    listed = ", ".join(map(str, values))
    example = next((v for v in values if v), 1)
    fault = f"is a mask with the values {listed}, and none has a class"
    raise ConfigError(path, fault, f"name the class of each, as in {OPTION} {example}=NC")


def placed(plane: LabelPlane, slide: Slide) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a mask lies: level-0 (x, y) of its corner, and mask pixels per level-0 pixel (x, y).

    It covers the whole plane, or else the slide's bounds, whichever has its shape.

    Raises:
        AnnotationError: it has the shape of neither.
    """
    width, height = plane.size
    x, y, w, h = slide.info.bounds
    for left, top, across, down in ((0, 0, *slide.info.dimensions), (x, y, w, h)):
        # Sizes are rounded, so either may be off by a pixel.
        if abs(width * down - height * across) <= across + down:
            return (float(left), float(top)), (width / across, height / down)
    full = "{} x {}".format(*slide.info.dimensions)
    fault = f"is {width} x {height} pixels, which does not match the shape of the slide ({full})"
    raise AnnotationError(plane.path, fault, "give a mask of the whole slide")


def mask_classes(label_map: Mapping[str, str]) -> dict[int, str]:
    """The entries for mask values; what is to be left out or excluded is of no class here."""
    return {
        int(source): name
        for source, name in label_map.items()
        if source.isdecimal() and name not in ("", EXCLUDED)
    }


def _areas(mask: NDArray[np.bool_], edges: NDArray[Any]) -> NDArray[np.float64]:
    """Area of a mask within boxes (x0, y0, x1, y1) that may reach beyond it: float64 (N,)."""
    height, width = mask.shape
    corners = np.clip(edges, 0, [width, height] * 2)
    x0, y0, x1, y1 = corners.T
    if mask.all():
        return np.asarray((x1 - x0) * (y1 - y0))
    if not mask.any():
        return np.zeros(len(edges))
    table = cv2.integral(mask.astype(np.uint8))

    def below(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Area above and to the left of points; the integral is bilinear between pixels."""
        column = np.minimum(x.astype(np.int64), width - 1)
        row = np.minimum(y.astype(np.int64), height - 1)
        u, v = x - column, y - row
        top = table[row, column] * (1 - u) + table[row, column + 1] * u
        bottom = table[row + 1, column] * (1 - u) + table[row + 1, column + 1] * u
        return np.asarray(top * (1 - v) + bottom * v)

    return below(x1, y1) - below(x0, y1) - below(x1, y0) + below(x0, y0)
