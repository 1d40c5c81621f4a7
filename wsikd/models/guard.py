"""Is a slide like those that a network learnt from, in colour and texture?

A guard reads the numbers of ``wsikd.slides.texture`` of some fields of a slide. It has the mean of
the training fields, and a scale for every direction: the spread of the training fields along it,
and that which a slight blur, another stain and compression bring. Of a slide it takes two
distances: of its mean field, less what chance adds to it, and the mean distance of its fields. Both
logarithms, in standard deviations of slides that the guard was not fitted on, are added and divided
by a threshold. Why, and how well it works: docs/decisions/0021-guard.md. N fields, K numbers.
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
"""Share of slides like the training that the threshold is meant to withhold."""
ENOUGH = 19
"""Validation slides below which a guard is weak."""
FIELDS = 16
"""Fields of a slide that are looked at, at most: every n-th in the order of reading."""
LEAST_TISSUE = 0.5
"""Share of tissue below which a field is not looked at, unless the slide has no other."""
PARTS = 10
"""Parts that the training slides are divided into, each being judged by a fit on the others."""
LEADING = 0.4
"""Share of the directions that have a scale of their own; the others share the least of these."""
FIELDS_EACH = 2
"""Training fields that a direction with a scale of its own takes."""
PRIOR = 4.0
USUAL_SPREAD = (0.35, 0.12)
"""Standard deviations of the logarithms in cohorts that were measured: worth ``PRIOR`` slides."""
USUAL_SUM = 1.6
"""The same of the sum of the two."""
WIDER = 4.0
"""The limit from S slides is this over S wider: what drawn cohorts of few slides need."""
_LEAST, _LEAST_MEAN = 1e-9, 0.01


@dataclass(frozen=True)
class Guard:
    """Where the training fields lie, and how far a slide may be.

    Attributes:
        mean: of the training fields, float32 (K,).
        axes: float32 (K, K); the distance of a field is the length of ``(numbers - mean) @ axes``.
        noise: mean square of that distance of a training field from its slide's mean.
        centre: of the logarithms of the two distances of slides like the training.
        spread: their standard deviations.
        threshold: of the sum of the two standardised logarithms.
        train_slides: slides of the training fields.
        val_slides: validation slides, which the threshold rests on too.
        colour: whether the numbers include those of colour.
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
        """Whether too few validation slides carry the threshold."""
        return self.val_slides < ENOUGH

    def distance(self, numbers: Numbers) -> float:
        """Of a slide, in multiples of the threshold: 0 is usual, beyond 1 it is withheld.

        Args:
            numbers: of its fields, float64 (N, K), N >= 1.
        """
        found = _distances((numbers - self.mean) @ self.axes, self.noise)
        standard = (np.log(found) - self.centre) / self.spread
        return float(standard.sum() / self.threshold)

    def reading(self) -> Reading:
        """What looks at a slide's fields."""
        return Reading(self)


@dataclass
class Reading:
    """Takes the numbers of an even sample of a slide's fields while they pass by."""

    guard: Guard
    _patches: list[NDArray[np.uint8]] = field(default_factory=list, init=False)

    def watch(self, index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        """Look at a batch: indices of its fields, fields in all, uint8 (B, height, width, 3)."""
        chosen = index % -(-count // FIELDS) == 0
        if chosen.any():
            self._patches.append(patches[chosen])  # a copy, as they are overwritten

    def look(self, features: NDArray[np.float32]) -> None:
        """The network's features do not matter here."""

    @cached_property
    def distance(self) -> float | None:
        """Of the slide, in multiples of the threshold; None without a field.

        Asked for once all fields have been seen.
        """
        if not self._patches:
            return None
        numbers, tissue = look(np.concatenate(self._patches), colour=self.guard.colour)
        self._patches.clear()
        return self.guard.distance(numbers[enough_tissue(tissue)])


def enough_tissue(share: Numbers) -> NDArray[np.bool_]:
    """Which fields of a slide are looked at: (N,), from their shares of tissue."""
    enough = share >= LEAST_TISSUE
    return enough if enough.any() else np.ones_like(enough)


@dataclass(frozen=True)
class Sample:
    """Numbers of fields, and the slide of each.

    Attributes:
        numbers: float64 (N, K).
        slides: (N,).
    """

    numbers: Numbers
    slides: Sequence[str]

    def each(self) -> Iterator[Numbers]:
        """The fields of one slide after the other, in the order of their names."""
        names = np.asarray(self.slides)
        for name in np.unique(names):
            yield self.numbers[names == name]

    def with_tissue(self, share: Numbers) -> Sample:
        """Those fields that are looked at, from their shares of tissue (N,)."""
        names = np.asarray(self.slides)
        keep = np.zeros(len(names), np.bool_)
        for name in np.unique(names):
            keep[names == name] = enough_tissue(share[names == name])
        return Sample(self.numbers[keep], names[keep].tolist())

    def within(self, slides: set[str]) -> Sample:
        """The fields of some slides."""
        keep = [slide in slides for slide in self.slides]
        return Sample(self.numbers[keep], [s for s in self.slides if s in slides])


def fit_guard(
    train: Sample, val: Sample, altered: Sample | None = None, *, copies: int = 1,
    colour: bool = True,
) -> Guard:  # fmt: skip
    """Fit a guard; every slide weighs the same.

    The threshold is the prediction limit of a normal distribution: of the sum of both logarithms,
    standardised, of validation slides, and of training slides by a fit on the other ones.

    Args:
        train: fields of training slides.
        val: fields of validation slides; may be empty.
        altered: what altering training fields adds to their numbers.
        copies: how many alterations of each field there are in it.
        colour: whether the numbers include those of colour.
    """
    whole = _Fit.of(train, altered, copies)
    logs = [whole.logs(own) for own in val.each()] if len(val.slides) else []
    val_slides = len(logs)
    names = sorted(set(train.slides))
    order = np.random.default_rng(0).permutation(len(names)) % PARTS
    for part in range(min(PARTS, len(names)) if len(names) > 1 else 0):
        out = {name for name, place in zip(names, order, strict=True) if place == part}
        rest = set(names) - out
        other = _Fit.of(train.within(rest), altered and altered.within(rest), copies)
        logs += [other.logs(own) for own in train.within(out).each()]
    if not logs:  # one slide, and no other to see how far slides lie
        logs = [whole.logs(own) for own in train.each()]
    centre, spread, limit = _limits(np.array(logs))
    return Guard(
        whole.mean.astype(np.float32), whole.axes.astype(np.float32), whole.noise,
        centre, spread, limit, len(names), val_slides, colour,
    )  # fmt: skip


def _limits(logs: Numbers) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Means, standard deviations, and the limit of the standardised sum of (S, 2) logarithms."""
    from scipy.special import stdtrit

    count = len(logs)
    centre = logs.mean(0)
    spread = np.sqrt((((logs - centre) ** 2).sum(0) + PRIOR * np.square(USUAL_SPREAD)) / (
        count - 1 + PRIOR
    ))  # fmt: skip
    total = ((logs - centre) / spread).sum(1)
    own = math.sqrt((float((total**2).sum()) + PRIOR * USUAL_SUM**2) / (count - 1 + PRIOR))
    student = float(stdtrit(count - 1 + PRIOR, 1 - FALSE_ALARMS)) * (1 + WIDER / count)
    one, two = centre.tolist()
    by_one, by_two = spread.tolist()
    return (one, two), (by_one, by_two), student * math.sqrt(1 + 1 / count) * own


@dataclass(frozen=True)
class _Fit:
    mean: Numbers
    axes: Numbers
    noise: float

    @classmethod
    def of(cls, train: Sample, altered: Sample | None, copies: int) -> _Fit:
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
        leading = min(int(LEADING * len(variance)), len(away) // FIELDS_EACH)
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
    """Of a slide's mean field, chance taken off, and the mean over its fields: (2,).

    The square that chance adds to the mean is that of the fields about it; where they are few, that
    of the training counts too, as ``PRIOR`` fields.
    """
    count, middle = len(away), away.mean(0)
    about = float(np.square(away - middle).sum()) + PRIOR * noise
    square = float(middle @ middle) - about / (count - 1 + PRIOR) / count
    fields = float(np.sqrt(np.einsum("nk,nk->n", away, away)).mean())
    return np.array([math.sqrt(max(square, _LEAST_MEAN)), max(fields, _LEAST)])
