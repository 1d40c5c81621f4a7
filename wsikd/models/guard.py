"""The guard compares a slide with the training slides of a network, in colour and texture.

A guard computes the features of ``wsikd.slides.texture`` on some fields of a slide. It stores the
mean of the training fields, and a scale for every direction: the spread of the training fields
along it, plus the change by a slight blur, another stain and compression. A slide has two
distances: that of its mean field, without the part that is due to chance, and the mean distance of
its fields. The logarithms of both are standardised by slides that the guard was not fitted on,
added, and divided by a threshold. Reasons and measurements: docs/decisions/0021-guard.md. N fields,
K features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wsikd.slides.texture import look

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FALSE_ALARMS = 0.025
"""Nominal share of slides like the training that are withheld."""
ENOUGH = 19
"""Validation slides below which a guard is weak."""
FIELDS = 16
"""Greatest number of fields of a slide that are used: every n-th in the order of reading."""
LEAST_TISSUE = 0.5
"""Fields with a smaller share of tissue are not used, unless the slide has no others."""
PARTS = 10
"""Folds of the training slides; the distances in each are by a fit on the others."""
LEADING = 0.4
"""Share of the directions with a scale of their own; the others have the least of these."""
FIELDS_EACH = 2
"""Least number of training fields per direction with a scale of its own.

All fits of a guard have the same number of these: distances grow with it.
"""
PRIOR_FIELDS = 4.0
"""Weight, in fields, of the training's scatter of fields about the mean of their slide."""
PRIOR_SLIDES = 16.0
USUAL_SPREAD = (0.35, 0.12)
"""Prior standard deviations of the logarithms, measured on cohorts; weight: ``PRIOR_SLIDES``."""
USUAL_SUM = 1.75
"""Prior standard deviation of the sum of the two."""
WIDER = 1.5
"""The limit from S slides is wider by this / S, as measured on cohorts of few slides."""
_LEAST, _LEAST_MEAN = 1e-9, 0.01


@dataclass(frozen=True)
class Guard:
    """The distribution of the training fields, and the threshold of a slide's distance from it.

    Attributes:
        mean: mean of the training fields, float32 (K,).
        axes: float32 (K, K); the distance of a field is the length of ``(numbers - mean) @ axes``.
        noise: mean square distance of a training field from its slide's mean.
        centre: means of the logarithms of the two distances, over slides like the training.
        spread: their standard deviations.
        threshold: threshold of the sum of the two standardised logarithms.
        train_slides: number of slides of the training fields.
        val_slides: number of validation slides, which determine the threshold too.
        colour: whether the features include those of colour.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    noise: float
    centre: tuple[float, float]
    spread: tuple[float, float]
    threshold: float
    train_slides: int
    val_slides: int
    colour: bool = True

    @property
    def weak(self) -> bool:
        """Whether there were too few validation slides for the threshold."""
        return self.val_slides < ENOUGH

    def distance(self, numbers: Numbers) -> float:
        """Distance of a slide in multiples of the threshold: 0 is usual, above 1 it is withheld.

        Args:
            numbers: features of its fields, float64 (N, K), N >= 1.
        """
        found = _distances((numbers - self.mean) @ self.axes, self.noise)
        standard = (np.log(found) - self.centre) / self.spread
        return float(standard.sum() / self.threshold)

    def reading(self) -> Reading:
        """Measure a slide: make an object that receives its fields."""
        return Reading(self)


@dataclass
class Reading:
    """Measures a slide's distance from an even sample of the fields that it receives in batches."""

    guard: Guard
    _patches: list[NDArray[np.uint8]] = field(default_factory=list, init=False)

    def watch(self, index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        """Receive a batch: indices of its fields, fields in all, uint8 (B, height, width, 3)."""
        chosen = index % -(-count // FIELDS) == 0
        if chosen.any():
            self._patches.append(patches[chosen])  # a copy, since the caller overwrites patches

    @cached_property
    def distance(self) -> float | None:
        """The slide's distance in multiples of the threshold; None without a field.

        It is computed once, so read it after all batches.
        """
        if not self._patches:
            return None
        numbers, tissue = look(np.concatenate(self._patches), colour=self.guard.colour)
        self._patches.clear()
        return self.guard.distance(numbers[enough_tissue(tissue)])


def enough_tissue(share: Numbers) -> NDArray[np.bool_]:
    """Which fields of a slide are used: (N,), from their shares of tissue."""
    enough = share >= LEAST_TISSUE
    return enough if enough.any() else np.ones_like(enough)


@dataclass(frozen=True)
class Sample:
    """Features of fields, and the slide of each.

    Attributes:
        numbers: features, float64 (N, K).
        slides: name of each field's slide, (N,).
    """

    numbers: Numbers
    slides: Sequence[str]

    def each(self) -> Iterator[Numbers]:
        """Yield the fields of each slide, in the order of the slides' names."""
        names = np.asarray(self.slides)
        for name in np.unique(names):
            yield self.numbers[names == name]

    def with_tissue(self, share: Numbers) -> Sample:
        """The fields that are used, from their shares of tissue (N,)."""
        names = np.asarray(self.slides)
        keep = np.zeros(len(names), np.bool_)
        for name in np.unique(names):
            keep[names == name] = enough_tissue(share[names == name])
        return Sample(self.numbers[keep], names[keep].tolist())

    def within(self, slides: set[str]) -> Sample:
        """The fields of these slides."""
        keep = [slide in slides for slide in self.slides]
        return Sample(self.numbers[keep], [s for s in self.slides if s in slides])


def fit_guard(
    train: Sample, val: Sample, altered: Sample | None = None, *, copies: int = 1,
    colour: bool = True,
) -> Guard:  # fmt: skip
    """Fit a guard; every slide has the same weight.

    The threshold is the prediction limit of a normal distribution of the sum of both standardised
    logarithms. It is computed on validation slides, and on training slides by a fit on the others.

    Args:
        train: fields of training slides.
        val: fields of validation slides; may be empty.
        altered: changes of the features of training fields when these are altered.
        copies: number of alterations of each field in ``altered``.
        colour: whether the features include those of colour.
    """
    names = sorted(set(train.slides))
    parts = _parts(names)
    rests = [train.within(set(names) - out) for out in parts]
    fewest = min((len(rest.slides) for rest in rests), default=len(train.slides))
    leading = min(int(LEADING * train.numbers.shape[1]), fewest // FIELDS_EACH)
    whole = _Fit.of(train, altered, copies, leading)
    logs = [whole.logs(own) for own in val.each()] if len(val.slides) else []
    val_slides = len(logs)
    for out, rest in zip(parts, rests, strict=True):
        other = _Fit.of(rest, altered and altered.within(set(rest.slides)), copies, leading)
        logs += [other.logs(own) for own in train.within(out).each()]
    if not logs:  # there is one slide only, so its distance is by a fit that includes it
        logs = [whole.logs(own) for own in train.each()]
    centre, spread, limit = _limits(np.array(logs))
    return Guard(
        whole.mean.astype(np.float32), whole.axes.astype(np.float32), whole.noise,
        centre, spread, limit, len(names), val_slides, colour,
    )  # fmt: skip


def _parts(names: Sequence[str]) -> list[set[str]]:
    """Folds of slides, each measured by a fit on the others; none for a single slide."""
    order = np.random.default_rng(0).permutation(len(names)) % PARTS
    count = min(PARTS, len(names)) if len(names) > 1 else 0
    return [{n for n, own in zip(names, order, strict=True) if own == part}
            for part in range(count)]  # fmt: skip


def _limits(logs: Numbers) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Means, standard deviations, and the limit of the standardised sum of (S, 2) logarithms."""
    from scipy.special import stdtrit

    count = len(logs)
    centre = logs.mean(0)
    spread = np.sqrt((((logs - centre) ** 2).sum(0) + PRIOR_SLIDES * np.square(USUAL_SPREAD)) / (
        count - 1 + PRIOR_SLIDES
    ))  # fmt: skip
    total = ((logs - centre) / spread).sum(1)
    squares = float((total**2).sum()) + PRIOR_SLIDES * USUAL_SUM**2
    own = math.sqrt(squares / (count - 1 + PRIOR_SLIDES))
    student = float(stdtrit(count - 1 + PRIOR_SLIDES, 1 - FALSE_ALARMS)) * (1 + WIDER / count)
    one, two = centre.tolist()
    by_one, by_two = spread.tolist()
    return (one, two), (by_one, by_two), student * math.sqrt(1 + 1 / count) * own


@dataclass(frozen=True)
class _Fit:
    mean: Numbers
    axes: Numbers
    noise: float

    @classmethod
    def of(cls, train: Sample, altered: Sample | None, copies: int, leading: int) -> _Fit:
        """The ``leading`` directions of most variance have a scale of their own."""
        _, place, count = np.unique(
            np.asarray(train.slides), return_inverse=True, return_counts=True
        )
        weight = 1 / count[place] / len(count)
        mean = weight @ train.numbers
        away = train.numbers - mean
        square = (away.T * weight) @ away
        if altered is not None and len(altered.slides):
            added = altered.numbers
            square += copies * (added.T @ added) / len(added)
        scale = np.sqrt(np.diag(square))
        scale = np.maximum(scale, max(_LEAST, 1e-3 * float(np.median(scale))))
        variance, vectors = np.linalg.eigh(square / np.outer(scale, scale))
        least = variance[-1 - leading]
        root = np.sqrt(np.maximum(variance, max(float(least), _LEAST)) * len(variance))
        axes = vectors / root / scale[:, None]
        own = np.zeros((len(count), len(mean)))
        np.add.at(own, place, away)
        inside = (away - (own / count[:, None])[place]) @ axes
        spare = np.maximum(count - 1, 1)[place] / count[place]
        noise = float(weight @ (np.einsum("nk,nk->n", inside, inside) / spare))
        return cls(mean, axes, noise)

    def logs(self, numbers: Numbers) -> Numbers:
        return np.log(_distances((numbers - self.mean) @ self.axes, self.noise))


def _distances(away: Numbers, noise: float) -> Numbers:
    """Distance of the mean field, corrected for chance, and mean distance of the fields: (2,).

    Chance adds the variance of the mean to its squared distance. It is estimated from the spread of
    the fields, with that of the training as a prior of ``PRIOR_FIELDS`` fields.
    """
    count, middle = len(away), away.mean(0)
    about = float(np.square(away - middle).sum()) + PRIOR_FIELDS * noise
    square = float(middle @ middle) - about / (count - 1 + PRIOR_FIELDS) / count
    fields = float(np.sqrt(np.einsum("nk,nk->n", away, away)).mean())
    return np.array([math.sqrt(max(square, _LEAST_MEAN)), max(fields, _LEAST)])
