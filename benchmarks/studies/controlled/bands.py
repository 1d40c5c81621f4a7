"""Patches whose grade lies in their texture alone, in bands of frequency that are known.

A patch is a sum of noise bands. The log amplitude of cue band k is g_k s + n, where s is the grade
(-1, 0 or 1) and n has deviation ``NUISANCE``; an anchor band at the lowest frequency says nothing.
The amplitudes of all bands are known up to a common factor, so an observer who sees bands V tells
neighbouring grades apart with d' = sqrt(sum_{k in V} g_k^2) / NUISANCE: the *share* of the cue that
survives at a magnification is the share of d'^2 in the bands below its Nyquist frequency. The
total contrast is the same for all patches and the two stains are drawn slide by slide, whatever
the grade, so that colour says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text
from wsikd.core.output.files import aside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = ("benign", "gleason3", "gleason4")
BANDS = ((0.42, 0.50), (0.18, 0.24), (0.085, 0.115), (0.042, 0.058))
"""Cycles per um of the cue's bands: seen at 10x only; 5x and finer; 2.5x and finer; 1.25x and
finer. They lie where area averaging to the next magnifications passes least of them."""
ANCHOR = (0.012, 0.03)
SEEN_FROM_MPP = (1.0, 2.0, 4.0, 8.0)
NUISANCE = 0.5
STRENGTH = 2.5
"""d' between neighbouring grades of an observer who sees every band."""
SPREAD = 0.22
"""Deviation of optical density within a patch, of a mean of 0.5."""


@dataclass(frozen=True)
class Cue:
    """Where the cue lies.

    Attributes:
        shares: of d'^2 in each of ``BANDS``, finest first; they sum to 1.
    """

    shares: tuple[float, float, float, float]

    def surviving(self, mpp: float) -> float:
        """Share of d'^2 in the bands that a resolution (um per pixel) shows."""
        seen = zip(self.shares, SEEN_FROM_MPP, strict=True)
        return sum(share for share, coarsest in seen if mpp <= coarsest * 1.001)

    @property
    def gains(self) -> NDArray[np.float64]:
        """g_k: change of a band's log amplitude from one grade to the next, float64 (4,)."""
        return np.asarray(NUISANCE * STRENGTH * np.sqrt(self.shares))


@cache
def _rings(side: int, mpp: float) -> NDArray[np.bool_]:
    """Fourier cells (5, side, side) of each band, the anchor last."""
    across = np.fft.fftfreq(side, mpp)
    radius = np.hypot(across[:, None], across[None])
    return np.stack([(radius >= low) & (radius < high) for low, high in (*BANDS, ANCHOR)])


def draw_texture(
    grade: int, cue: Cue, rng: np.random.Generator, side: int = 128
) -> NDArray[np.float64]:
    """A patch's texture at 1 um per pixel, mean 0 and deviation 1: float64 (side, side)."""
    amplitude = np.ones(len(BANDS) + 1)
    nuisance = rng.normal(0, NUISANCE, len(BANDS))
    amplitude[:-1] = np.exp(cue.gains * (grade - 1) + nuisance)
    noise = np.fft.fft2(rng.normal(size=(side, side)))
    rings = _rings(side, 1.0)
    cells = rings.sum((1, 2))
    weight = (rings * (amplitude / np.sqrt(cells))[:, None, None]).sum(0)
    texture = np.fft.ifft2(noise * weight).real
    return np.asarray((texture - texture.mean()) / texture.std())


def band_amplitudes(grey: NDArray[np.float64], mpp: float) -> NDArray[np.float64]:
    """Log amplitude of every band that a resolution shows, over the anchor's: float64 (bands,).

    Args:
        grey: (side, side), any grey or density.
        mpp: um per pixel.
    """
    power = np.abs(np.fft.fft2(grey)) ** 2
    rings = _rings(grey.shape[0], mpp)
    seen = [k for k, coarsest in enumerate(SEEN_FROM_MPP) if mpp <= coarsest * 1.001]
    logs = [0.5 * np.log(power[rings[k]].mean()) for k in (*seen, len(BANDS))]
    return np.asarray(np.array(logs[:-1]) - logs[-1])


def draw_stains(rng: np.random.Generator) -> NDArray[np.float64]:
    """Optical density of a slide's stain in red, green and blue, per unit of density: (3,)."""
    return np.asarray(np.array([0.65, 0.95, 0.55]) * rng.uniform(0.7, 1.3, 3))


def paint(texture: NDArray[np.float64], stain: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The texture as a density of stain: uint8 (side, side, 3), RGB."""
    density = np.maximum(0.5 + SPREAD * texture, 0)
    image = 255 * 10 ** -(density[..., None] * stain)
    return np.asarray(np.round(image), np.uint8)


def write_bands(
    folder: Path,
    cue: Cue,
    patches: dict[str, int],
    *,
    per_slide: int = 12,
    wrong: float = 0.0,
    side: int = 128,
    seed: int = 0,
) -> Path:
    """Write a labels CSV with its images, grades equally often in every slide.

    Args:
        folder: where to.
        cue: where the cue lies.
        patches: how many in "train", "val" and "test".
        per_slide: patches of a slide, which share a stain.
        wrong: share of training and validation labels replaced by another grade; test labels are
            always true.
        side: of a patch in pixels of 1 um.
        seed: the same one writes the same bytes.

    Raises:
        OutputError: an image cannot be written.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines: list[list[object]] = []
    slide = 0
    for split, count in patches.items():
        for n in range(count):
            if n % per_slide == 0:
                slide, stain = slide + 1, draw_stains(rng)
            grade = n % len(CLASSES)
            image = paint(draw_texture(grade, cue, rng, side), stain)
            told = grade
            if split != "test" and rng.random() < wrong:
                told = int((grade + rng.integers(1, len(CLASSES))) % len(CLASSES))
            name = f"{split}_{n:05d}.png"
            with aside(folder / "images" / name, keep_suffix=True) as part:
                if not cv2.imwrite(str(part), image[..., ::-1]):
                    raise OutputError(part, "cannot be written", "free space on its disk")
            lines.append([name, told, CLASSES[told], f"s{slide:04d}", split])
    table = folder / "labels.csv"
    with aside(table) as part, part.open("w", newline="", encoding="utf-8") as stream:
        stream.write(csv_text(("image", "label", "class", "slide", "split"), lines))
    return folder / "labels.csv"
