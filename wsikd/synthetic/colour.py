"""Colour of drawn tissue that does not depend on the grade.

Around every point, the histogram of each channel is given a shape that is the same for every grade:
that of the slide's whole tissue, with a contrast and a strength of stain that vary by smooth
random fields. This is done at a fine and at a four times coarser resolution by turns, each with a
field of contrast of its own. Shapes stay where they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.synthetic.glands import noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]

FINE_UM = 1.0
COARSER = 4
NEAR_UM = 64.0  # deviation of the Gaussian neighbourhood that is alike everywhere
CELL_UM = 32.0
FIELD_UM = 280.0
CONTRAST = 0.4  # deviation of the logarithm of local contrast
STRENGTH = 0.25  # the same of optical density
TINTS = (0.3, -0.3, 0.0)  # effect of the field of hue on R, G, B
ROUNDS = 2
WHITE = 245.0


def colour_shift(
    rgb: NDArray[np.uint8], tissue: Float, rng: np.random.Generator, um: float
) -> NDArray[np.int8]:
    """What to add to drawn pixels so that their colour does not depend on the grade.

    Args:
        rgb: uint8 (rows, columns, 3), the slide at about ``FINE_UM`` um/px.
        tissue: float32 (rows, columns), share of tissue in each pixel.
        rng: source of randomness, independent of the grade.
        um: micrometres per pixel.

    Returns:
        int8 (rows, columns, 3); 0 on glass.
    """
    soft = np.clip(2 * tissue - 0.5, 0, 1)[..., None]
    grain, blob, strength, hue = _fields(rng, tissue.shape, um)
    fine = _Alike(rgb, tissue, um, (grain, strength, hue))
    coarse = _Alike(_shrink(rgb), _shrink(tissue), um * COARSER, (blob, strength, hue))
    found = rgb.astype(np.float32)
    for _ in range(ROUNDS):
        found += fine.change(found) * soft
        found += resized(coarse.change(_shrink(found)), tissue.shape) * soft
    found += fine.change(found) * soft
    shift = np.rint(found.clip(0, 255) - rgb)
    return np.asarray(shift.clip(-128, 127), np.int8)


class _Alike:
    """Makes local histograms those of the whole tissue but for random fields, at one resolution.

    The fields are of contrast, strength of stain, and hue.
    """

    def __init__(
        self, rgb: NDArray[np.uint8], tissue: Float, um: float, fields: tuple[Float, ...]
    ) -> None:
        self.inside = tissue > 0.5
        self.cell = max(1, round(CELL_UM / um))
        self.sigma = NEAR_UM / um / self.cell
        rows, columns = (math.ceil(n / self.cell) for n in tissue.shape)
        self.shape = (rows, columns)
        y, x = (np.arange(n) // self.cell for n in tissue.shape)
        self.where = np.flatnonzero(self.inside)
        self.bins = (y[:, None] * columns + x).reshape(-1).take(self.where) * 256
        self.ranks = [self._ranks(h.sum((0, 1))) for h in self._histograms(rgb)]
        self.middle = rgb[self.inside].mean(0) if self.inside.any() else np.zeros(3)
        self.fields = [resized(field, self.shape)[..., None] for field in fields]

    def change(self, pixels: Float) -> Float:
        """Difference to add to float32 (rows, columns, 3) pixels."""
        rgb = np.rint(pixels).clip(0, 255).astype(np.uint8)
        out = np.empty(rgb.shape, np.float32)
        levels = np.arange(256)
        for channel, counts in enumerate(self._histograms(rgb)):
            near = np.empty_like(counts)
            for first in range(0, 256, 4):  # OpenCV blurs up to four channels at once
                part = np.ascontiguousarray(counts[..., first : first + 4])
                near[..., first : first + 4] = cv2.GaussianBlur(
                    part, (0, 0), self.sigma, borderType=cv2.BORDER_CONSTANT
                )
            known = near.sum(-1, keepdims=True) > 0.3 * self.cell**2
            table = np.interp(self._ranks(near), self.ranks[channel], levels)
            table = self._varied(table, channel)
            table = np.where(known, table, levels).astype(np.float32)
            out[..., channel] = self._look_up(rgb[..., channel], table)
        return out - pixels

    def _varied(self, table: NDArray[np.float64], channel: int) -> NDArray[np.float64]:
        """Levels (rows, columns, 256) with the contrast and the stain of their place."""
        contrast, strength, hue = self.fields
        middle = self.middle[channel]
        table = middle + np.exp(CONTRAST * contrast) * (table - middle)
        factor = np.exp(STRENGTH * (strength + TINTS[channel] * hue))
        return np.asarray(WHITE * (table.clip(1, 255) / WHITE) ** factor)

    def _histograms(self, rgb: NDArray[np.uint8]) -> list[Float]:
        """Counts of each channel's levels in each cell: float32 (rows, columns, 256)."""
        size = self.shape[0] * self.shape[1] * 256
        return [
            np.bincount(self.bins + rgb[..., k].reshape(-1).take(self.where), minlength=size)
            .reshape(*self.shape, 256)
            .astype(np.float32)
            for k in range(3)
        ]

    def _ranks(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Share of pixels below the middle of each level, strictly rising."""
        counts = counts.astype(np.float64) + 1e-9
        upto = np.cumsum(counts, -1)
        return (upto - 0.5 * counts) / upto[..., -1:]

    def _look_up(self, grey: NDArray[np.uint8], table: NDArray[Any]) -> Float:
        """Values of the tables of the four nearest cells, interpolated."""
        rows, columns = self.shape
        y, down = self._nearest(0, grey.shape[0])
        x, right = self._nearest(1, grey.shape[1])
        first = (y[:, None] * columns + x) * 256 + grey
        flat = table.reshape(-1)
        to_right, below = 256 * (columns > 1), 256 * columns * (rows > 1)
        left = 1 - right
        upper = flat.take(first) * left + flat[to_right:].take(first) * right
        flat = flat[below:]
        lower = flat.take(first) * left + flat[to_right:].take(first) * right
        return np.asarray(upper + (lower - upper) * down[:, None], np.float32)

    def _nearest(self, axis: int, size: int) -> tuple[NDArray[np.int64], Float]:
        """The cell before each pixel of an axis, and how far the pixel is towards the next."""
        count = self.shape[axis]
        place = np.clip((np.arange(size) + 0.5) / self.cell - 0.5, 0, count - 1)
        before = np.minimum(place.astype(np.int64), max(count - 2, 0))
        return before, (place - before).astype(np.float32)


def _fields(rng: np.random.Generator, shape: tuple[int, ...], um: float) -> list[Float]:
    """Four smooth fields of deviation 1, eight times coarser; a part is common to the slide."""
    coarse = (math.ceil(shape[0] / 8), math.ceil(shape[1] / 8))
    common = rng.normal(0, 0.5, 4).astype(np.float32)
    return [0.87 * noise(rng, coarse, FIELD_UM / um / 8) + one for one in common]


def _shrink(field: NDArray[Any]) -> NDArray[Any]:
    size = (max(1, field.shape[1] // COARSER), max(1, field.shape[0] // COARSER))
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_AREA))


def resized(field: NDArray[Any], shape: tuple[int, ...]) -> Float:
    """A field interpolated to (rows, columns): float32."""
    return np.asarray(cv2.resize(field, (shape[1], shape[0])), np.float32)
