"""The share of each class on a slide, and how far it may be off.

Three estimates are made of a slide's calibrated probabilities: its fields counted by their most
probable class; the mean probability, which is drawn towards the mix of the training; and the mean
after the mix was estimated again for this slide (M. Saerens et al., Neural Computation 14, 2002),
which is not, but trusts the probabilities more. Their mixture with the least error on validation
slides is taken.

The interval is conformal, by slide (J. Lei et al., JASA 113, 2018): errors of validation slides,
cross-fitted and divided by a scale that grows with share (1 - share) and shrinks with the number of
fields, give the half-width that holds all classes of 95 % of slides at once. It needs slides like
those of the validation, not a model of the errors, and at least ``MIN_SLIDES`` of them. The part
that one class has of some, as pattern 4 of the cancer, has a half-width of its own. N fields, S
slides, C classes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEVEL = 0.95
MIN_SLIDES = 20
MIN_FIELDS = 5
"""Labelled fields that a validation slide needs to count."""
NOT_ENOUGH = "not enough validation slides for an interval"
TOO_WIDE = "the errors on validation slides are too wide for an interval"
_ALL_ORDERS = 5
_MIXTURES = 300
_FOLDS = 5
_ROUNDS = 40
_LEAST = 0.005**2
_STEADY = 0.1
"""Part of the mean square error that a share near 0 or 1 has at least."""
_MIXED = 0.05
"""A slide counts for a ratio where its estimate is so far from 0 and 1."""
_MOST_DEVIATIONS = 100.0
_TINY = 1e-9


@dataclass(frozen=True)
class Ratio:
    """Errors of the part that one class has of some, as pattern 4 has of the cancer.

    Attributes:
        of: the class.
        among: the classes, it among them.
        slides: validation slides with a mixture of them.
        quantile: shares are this many deviations apart at the ends of an interval.
    """

    of: int
    among: tuple[int, ...]
    slides: int
    quantile: float


@dataclass(frozen=True)
class ShareErrors:
    """What validation slides say of the errors of shares.

    Attributes:
        slides: number of slides that they are computed from.
        prior: float64 (C,), mix of the classes that the probabilities are calibrated for.
        mix: float64 (3,), weight of each of :func:`estimates`.
        scale: float64 (3,), variance of an error is ``scale[0] + (scale[1] + scale[2] / fields)
            share (1 - share)``.
        quantile: an interval reaches so many deviations.
        fields: labelled ones of the validation slide with the most; a slide with more counts as
            one with so many.
        ratio: of one class among some; None where none was asked for.
    """

    slides: int
    prior: NDArray[np.float64]
    mix: NDArray[np.float64]
    scale: NDArray[np.float64]
    quantile: float
    fields: int = 1
    ratio: Ratio | None = None

    @property
    def fault(self) -> str | None:
        """Why no interval can be given; None where one can."""
        if self.slides < MIN_SLIDES:
            return f"{NOT_ENOUGH} ({self.slides} of {MIN_SLIDES})"
        half = self.quantile * float(self.deviation(np.array(0.5), self.fields))
        return None if half < 1 else TOO_WIDE

    def estimate(
        self, probability: NDArray[np.floating[Any]], weight: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Shares of the classes, float64 (C,), of probabilities (N, C), fields weighted (N,)."""
        return np.asarray(self.mix @ estimates(probability, weight, self.prior))

    def deviation(self, share: NDArray[np.float64], fields: int) -> NDArray[np.float64]:
        """Standard deviation of the error of shares (..., C) on a slide of so many fields."""
        return _deviation(share, self.scale, min(max(fields, 1), self.fields))

    def limits(
        self, share: NDArray[np.float64], fields: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both ends of the intervals of estimated shares (..., C)."""
        return _ends(share, self.quantile * self.deviation(share, fields))

    def ratio_limits(self, share: NDArray[np.float64], fields: int) -> tuple[float, float] | None:
        """Both ends of the ratio's interval; None where too few validation slides had a mixture."""
        if self.ratio is None or self.ratio.slides < MIN_SLIDES:
            return None
        half = self.ratio.quantile * self.deviation(share, fields)
        low, high = _ratio_ends(*_ends(share, half), self.ratio.of, self.ratio.among)
        return float(low), float(high)

    def corners(self, share: NDArray[np.float64], fields: int) -> NDArray[np.float64]:
        """Shares that the intervals allow, float64 (D, C): the estimate, extremes, and mixtures.

        The extremes are those of all shares of sum 1 within the intervals: in some order of the
        classes each takes as much as it may.
        """
        return corners(share, *self.limits(share, fields))

    def record(self) -> dict[str, Any]:
        """For the card: JSON values. Too few slides leave nothing but their number."""
        found: dict[str, Any] = {"format": 2, "slides": self.slides}
        if self.slides < MIN_SLIDES:
            return found
        if self.ratio is not None:
            found["ratio"] = asdict(self.ratio) | {"among": list(self.ratio.among)}
        return found | {
            "level": LEVEL,
            "prior": self.prior.round(9).tolist(),
            "mix": self.mix.round(9).tolist(),
            "scale": self.scale.round(9).tolist(),
            "quantile": round(self.quantile, 6),
            "fields": self.fields,
        }


def too_few(slides: int) -> ShareErrors:
    """What so few slides say: nothing but their number."""
    nothing = np.zeros(0)
    return ShareErrors(slides, nothing, nothing, nothing, math.inf)


def corners(
    share: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shares of sum 1 between two ends, see :meth:`ShareErrors.corners`."""
    classes = len(share)
    if classes <= _ALL_ORDERS:
        orders = np.array(list(permutations(range(classes))))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([rng.permutation(classes) for _ in range(_MIXTURES)])
    room, left = (high - low)[orders], 1 - low.sum()
    before = np.cumsum(room, 1) - room
    taken = np.clip(left - before, 0.0, room)
    extreme = np.empty_like(taken)
    np.put_along_axis(extreme, orders, low[orders] + taken, 1)
    # With return_index, np.unique does not import numpy.ma, which takes as long as a small slide.
    extreme, _ = np.unique(extreme.round(12), axis=0, return_index=True)
    mixed = _mixtures(len(extreme)) @ extreme
    return np.concatenate([share[None], extreme, mixed])


@lru_cache(maxsize=32)
def _mixtures(extremes: int) -> NDArray[np.float64]:
    """Weights of so many extremes, float64 (D, extremes); the same for all slides."""
    drawn = np.random.default_rng(1).dirichlet(np.full(extremes, 0.3), _MIXTURES)
    drawn.setflags(write=False)
    return drawn


def estimates(
    probability: NDArray[np.floating[Any]],
    weight: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Three estimates of the shares of classes on a slide.

    Args:
        probability: (N, C), calibrated.
        weight: float64 (N,), area of each field.
        prior: float64 (C,), mix of the classes that they are calibrated for.

    Returns:
        float64 (3, C): counted, mean, and mean with the mix estimated again. NaN without area.
    """
    total = float(weight.sum())
    if not total > 0:
        return np.full((3, len(prior)), np.nan)
    part = weight / total
    counted = np.bincount(probability.argmax(1), part, len(prior))
    ratio = np.asarray(probability, np.float64) / np.maximum(prior, 1e-6)
    share = np.maximum(prior, 1e-6)
    for _ in range(_ROUNDS):
        joint = ratio * share
        share = part @ (joint / np.maximum(joint.sum(1, keepdims=True), 1e-300))
    return np.stack([counted, part @ np.asarray(probability, np.float64), share])


def fit_share_errors(
    probability: NDArray[np.floating[Any]],
    truth: NDArray[np.int64],
    slides: Sequence[str],
    weight: NDArray[np.float64] | None = None,
    *,
    ratio: tuple[int, tuple[int, ...]] | None = None,
) -> ShareErrors:
    """Learn the errors of shares from labelled fields of validation slides.

    Args:
        probability: (N, C), calibrated.
        truth: int64 (N,).
        slides: slide of each field, (N,).
        weight: float64 (N,), tissue of each field; all alike by default.
        ratio: a class and the classes that it is a part of, see :class:`Ratio`.
    """
    classes = probability.shape[1]
    weight = np.ones(len(truth)) if weight is None else np.maximum(weight, 1e-6)
    _, slide = np.unique(np.asarray(slides), return_inverse=True)
    count = np.bincount(slide)
    own = [np.flatnonzero(slide == s) for s in np.flatnonzero(count >= MIN_FIELDS)]
    if len(own) < MIN_SLIDES:
        return too_few(len(own))
    true = np.stack([np.bincount(truth[f], weight[f], classes) / weight[f].sum() for f in own])
    prior = true.mean(0)
    each = np.stack([estimates(probability[f], weight[f], prior) for f in own])
    return _of_slides(each, true, prior, np.array([len(f) for f in own]), ratio)


def _of_slides(
    each: NDArray[np.float64],
    true: NDArray[np.float64],
    prior: NDArray[np.float64],
    fields: NDArray[np.int64],
    ratio: tuple[int, tuple[int, ...]] | None,
) -> ShareErrors:
    """The errors of estimates (S, 3, C) of true shares (S, C), of so many fields (S,)."""
    from scipy.optimize import nnls

    fold = np.arange(len(true)) % _FOLDS
    mix = _best_mix(each, true)
    error = np.empty_like(true)
    for f in range(_FOLDS):
        other = _best_mix(each[fold != f], true[fold != f])
        error[fold == f] = true[fold == f] - other @ each[fold == f]
    share, counts = mix @ each, fields[:, None]
    spread = share * (1 - share)
    parts = np.stack([np.ones(share.size), spread.ravel(), (spread / counts).ravel()], 1)
    least = max(_LEAST, _STEADY * float((error**2).mean()))
    scale = np.maximum(nnls(parts, (error**2).ravel())[0], (least, 0.0, 0.0))
    deviation = _deviation(share, scale, counts)
    reach = _conformal((np.abs(error) / deviation).max(1))
    found = None if ratio is None else _ratio_errors(share, deviation, true, *ratio)
    return ShareErrors(len(true), prior, mix, scale, max(reach, 1e-3), int(fields.max()), found)


def _conformal(scores: NDArray[np.float64]) -> float:
    """The score that 95 % of further slides do not exceed; between two ranks by interpolation."""
    ranked = np.sort(scores)
    rank = (len(ranked) + 1) * LEVEL - 1
    return float(np.interp(rank, np.arange(len(ranked)), ranked))


def _ratio_errors(
    share: NDArray[np.float64],
    deviation: NDArray[np.float64],
    true: NDArray[np.float64],
    of: int,
    among: tuple[int, ...],
) -> Ratio | None:
    """How many deviations the shares (S, C) must move until their ratios hold the true ones."""
    columns = list(among)
    parts, wanted = share[:, columns].sum(1), true[:, columns].sum(1)
    own = share[:, of] / np.maximum(parts, _TINY)
    mixed = np.flatnonzero((wanted > 0) & (own > _MIXED) & (own < 1 - _MIXED))
    if not len(mixed):
        return None
    ratio = true[mixed, of] / wanted[mixed]
    low, high = np.zeros(len(mixed)), np.full(len(mixed), _MOST_DEVIATIONS)
    for _ in range(40):
        middle = (low + high) / 2
        ends = _ends(share[mixed], middle[:, None] * deviation[mixed])
        least, most = _ratio_ends(*ends, of, among)
        held = (least <= ratio + _TINY) & (ratio <= most + _TINY)
        low, high = np.where(held, low, middle), np.where(held, middle, high)
    return Ratio(of, among, len(mixed), max(_conformal(high), 1e-3))


def _ends(
    share: NDArray[np.float64], half: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.clip(share - half, 0.0, 1.0), np.clip(share + half, 0.0, 1.0)


def _ratio_ends(
    low: NDArray[np.float64], high: NDArray[np.float64], of: int, among: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and greatest part that a class may have of some, by the ends of shares (..., C)."""
    others = [c for c in among if c != of]
    least, most = low[..., of], high[..., of]
    below = least / np.maximum(least + high[..., others].sum(-1), _TINY)
    above = most / np.maximum(most + low[..., others].sum(-1), _TINY)
    return np.asarray(below), np.asarray(above)


def _deviation(
    share: NDArray[np.float64], scale: NDArray[np.float64], fields: Any
) -> NDArray[np.float64]:
    spread = np.clip(share * (1 - share), 0.0, None)
    return np.asarray(np.sqrt(scale[0] + (scale[1] + scale[2] / fields) * spread))


def _best_mix(each: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of at least 0, of sum 1, with which the estimates err least."""
    from scipy.optimize import nnls

    sure = 1e3
    columns = np.moveaxis(each, 1, -1).reshape(-1, each.shape[1])
    rows = np.vstack([columns, np.full((1, each.shape[1]), sure)])
    found = nnls(rows, np.append(true.ravel(), sure))[0]
    return np.asarray(found / found.sum())
