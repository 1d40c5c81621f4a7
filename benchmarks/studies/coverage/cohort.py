"""Simulated slides whose classes are known, and networks that err slide by slide.

Nothing here comes from the rules that are tested. A slide has its own mix of four classes, three in
ten slides have the first alone. The classes form regions. A network's logits are the truth, a bias
of the slide, noise that reaches over some distance, and noise of single fields; they are too sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 4
CELL_MM = 0.5
REGION_MM = 2.0
MIX = (1.2, 0.7, 0.7, 0.4)


@dataclass(frozen=True)
class Errors:
    """How a network errs.

    Attributes:
        reach_mm: distance over which fields err together.
        bias: standard deviation of a slide's own shift of each logit.
        sharp: by how much the true class stands out.
        noise: of the fields that err together.
        white: of single fields.
        factor: on all logits; above 1 they are too sure.
    """

    reach_mm: float = 1.0
    bias: float = 0.5
    sharp: float = 3.2
    noise: float = 1.0
    white: float = 0.7
    factor: float = 1.3


@dataclass(frozen=True)
class Cohort:
    """Slides.

    Attributes:
        truth: int64 (S, N), class of each field.
        logits: float64 (S, N, C).
    """

    truth: NDArray[np.int64]
    logits: NDArray[np.float64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """True share of each class on each slide: float64 (S, C)."""
        return np.stack([(self.truth == c).mean(1) for c in range(CLASSES)], 1)


def smooth(rng: np.random.Generator, count: int, side: int, reach_mm: float) -> NDArray[np.float64]:
    """Gaussian noise of unit variance, smoothed over a distance: float64 (count, side * side)."""
    wide = 2 * side  # the noise is periodic; half of it is not seen
    found = rng.normal(size=(count, wide, wide))
    if reach_mm > 0:
        turn = np.fft.fftfreq(wide)
        square = turn[:, None] ** 2 + turn[None] ** 2
        kernel = np.exp(-2 * (np.pi * reach_mm / CELL_MM) ** 2 * square)
        kernel /= np.sqrt((kernel**2).mean())
        found = np.fft.ifft2(np.fft.fft2(found) * kernel).real
    return np.asarray(found[:, :side, :side].reshape(count, -1))


def draw_truth(rng: np.random.Generator, slides: int, side: int) -> NDArray[np.int64]:
    """Classes of the fields of slides: int64 (slides, side * side)."""
    from scipy.stats import norm

    mix = rng.dirichlet(MIX, slides)
    mix[rng.random(slides) < 0.3] = np.eye(CLASSES)[0]
    place = norm.cdf(smooth(rng, slides, side, REGION_MM))
    return np.asarray((place[..., None] > np.cumsum(mix, 1)[:, None, :-1]).sum(2))


def draw_logits(
    rng: np.random.Generator, truth: NDArray[np.int64], errors: Errors, side: int
) -> NDArray[np.float64]:
    """What a network says of the fields: float64 (slides, fields, C)."""
    slides, fields = truth.shape
    bias = errors.bias * rng.normal(size=(slides, 1, CLASSES))
    near = [smooth(rng, slides, side, errors.reach_mm) for _ in range(CLASSES)]
    alone = errors.white * rng.normal(size=(slides, fields, CLASSES))
    said = errors.sharp * np.eye(CLASSES)[truth] + bias + errors.noise * np.stack(near, -1) + alone
    return np.asarray(errors.factor * said)


def draw(seed: int, slides: int, errors: Errors, *, side: int = 12) -> Cohort:
    """Draw slides of ``side`` x ``side`` fields of 0.5 mm."""
    rng = np.random.default_rng(seed)
    truth = draw_truth(rng, slides, side)
    return Cohort(truth, draw_logits(rng, truth, errors, side))
