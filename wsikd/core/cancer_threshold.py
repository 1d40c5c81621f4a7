"""The least area for a slide to have cancer, chosen on validation slides.

Of every slide two shares are known: the share of its labelled tissue that the student calls cancer,
on slides with cancer, and the share of its labelled benign tissue that it calls cancer, on slides
that have such tissue. Shares of a few fields scatter more than shares of many. So mean and spread
*between slides* are estimated, the scatter within a slide taken off, and a beta distribution with
these two gives the quantiles. They do not depend on the number of labelled fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

SENSITIVITY = 0.95
SPECIFICITY = 0.95
PATTERN_MOST = 0.05
FEW_SLIDES = 3
MIN_FIELDS = 5


@dataclass(frozen=True)
class Spread:
    """A share over slides: its mean, its standard deviation between slides, and their number."""

    mean: float
    sd: float
    slides: int

    def quantile(self, level: float) -> float:
        """The share that a part ``level`` of the slides does not exceed."""
        from scipy.special import betaincinv

        most = self.mean * (1 - self.mean)
        variance = min(self.sd**2, 0.999 * most)
        if variance < 1e-12 or most <= 0:
            return self.mean
        whole = most / variance - 1
        return float(betaincinv(self.mean * whole, (1 - self.mean) * whole, level))

    def record(self) -> dict[str, Any]:
        """For the card."""
        return {"mean": round(self.mean, 9), "sd": round(self.sd, 9), "slides": self.slides}


@dataclass(frozen=True)
class Thresholds:
    """What was chosen, as shares.

    Attributes:
        cancer_share: share of the tissue that is classified as cancer.
        expected_share: share of the tissue that is expected to be cancer; None: not chosen.
        pattern_share: share of the cancer, for a pattern to count.
    """

    cancer_share: float = 0.0
    expected_share: float | None = None
    pattern_share: float = PATTERN_MOST


def spread(
    value: NDArray[np.float64],
    slide: Sequence[str],
    weight: NDArray[np.float64],
    *,
    least: int = MIN_FIELDS,
) -> Spread:
    """Mean and spread between slides of a weighted mean of fields.

    Args:
        value: value of each field, 0 to 1: float64 (N,).
        slide: slide of each field.
        weight: weight of each field, its share of tissue: float64 (N,).
        least: fields that a slide must have to count.
    """
    return spread_of(slide_means(value, slide, weight, least=least).values())


def slide_means(
    value: NDArray[np.float64],
    slide: Sequence[str],
    weight: NDArray[np.float64],
    *,
    least: int = MIN_FIELDS,
) -> dict[str, tuple[float, float]]:
    """Mean of each slide that counts, and the variance that its fields give it; see `spread`."""
    names, place = np.unique(np.asarray(slide), return_inverse=True)
    order = np.argsort(place, kind="stable")
    fields = np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
    found: dict[str, tuple[float, float]] = {}
    for name, own in zip(names, fields, strict=False):  # no name, one empty part
        w, v = weight[own], value[own]
        if len(v) < least or not w.sum() > 0:
            continue
        mean = float((w * v).sum() / w.sum())
        effective = float(w.sum() ** 2 / (w**2).sum())
        scatter = float((w * (v - mean) ** 2).sum() / w.sum())
        found[str(name)] = mean, scatter / max(effective - 1, 1.0)
    return found


def spread_of(slides: Iterable[tuple[float, float]]) -> Spread:
    """Mean and spread between slides from the values of :func:`slide_means`."""
    pairs = list(slides)
    means, within = [mean for mean, _ in pairs], [own for _, own in pairs]
    if not means:
        return Spread(0.0, 0.0, 0)
    between = float(np.var(means, ddof=1)) if len(means) > 1 else 0.0
    return Spread(
        float(np.mean(means)), max(0.0, between - float(np.mean(within))) ** 0.5, len(means)
    )


def thresholds(record: Mapping[str, Any], sensitivity: float = SENSITIVITY) -> Thresholds:
    """The thresholds that a card's record gives at a sensitivity.

    The smallest share that holds off ``SPECIFICITY`` of the slides without cancer (both criteria
    together), but none above the share that ``sensitivity`` of the slides with cancer exceed.
    Nothing is chosen on fewer than ``FEW_SLIDES`` slides. The rate of stray fields varies between
    slides by its mean or more, and the expected share by as much: the spread of rare stray fields
    cannot be seen in few fields.

    Args:
        record: as :func:`as_record` makes it; empty for a card without one.
        sensitivity: 0 to 1.
    """
    if not record:
        return Thresholds()
    level = 1 - (1 - SPECIFICITY) / 2
    found: dict[str, float | None] = {}
    floor = 0.0
    for name in ("called", "expected"):
        benign, cancer = (_read(record[p].get(name)) for p in ("benign", "with_cancer"))
        if benign:
            floor = max(floor, benign.mean if name == "called" else 0.0)
            benign = replace(benign, sd=max(benign.sd, floor))
        share = benign.quantile(level) if benign and benign.slides >= FEW_SLIDES else None
        if share is not None and cancer and cancer.slides >= FEW_SLIDES:
            share = min(share, cancer.quantile(1 - sensitivity))
        found[name] = share
    wrong = _read(record.get("wrong_pattern"))
    known = wrong and wrong.slides >= FEW_SLIDES
    pattern = min(PATTERN_MOST, wrong.quantile(SPECIFICITY)) if wrong and known else PATTERN_MOST
    return Thresholds(found["called"] or 0.0, found["expected"], pattern)


def _read(part: Mapping[str, Any] | None) -> Spread | None:
    return None if part is None else Spread(part["mean"], part["sd"], part["slides"])
