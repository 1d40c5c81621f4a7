"""The validation scores in a student's card, used by ``infer`` to decide on cancer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.cancer_threshold import (
    FEW_SLIDES,
    Spread,
    slide_means,
    spread,
    spread_of,
    thresholds,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Means = dict[str, tuple[float, float]]

log = logging.getLogger(__name__)


def cancer_record(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    slide: Sequence[str],
    tissue: NDArray[np.float64],
    benign: Sequence[int],
    *,
    calibrated: bool = True,
) -> dict[str, Any]:
    """Shares of tissue that a student calls cancer, with and without cancer; for the card.

    Args:
        truth: class of each validation field, int64 (N,).
        probability: float64 (N, C).
        slide: slide of each field.
        tissue: share of each field that is tissue, float64 (N,).
        benign: the classes that are not cancer.
        calibrated: whether the probabilities are; else nothing is said of expected areas.
    """
    names = np.asarray(slide)
    is_cancer = ~np.isin(truth, list(benign))
    predicted = probability.argmax(1)
    called = (~np.isin(predicted, list(benign))).astype(np.float64)
    likely = 1 - probability[:, list(benign)].sum(1)
    ill = np.isin(names, np.unique(names[is_cancer]))
    shares: dict[str, dict[str, Means]] = {}
    for part, chosen in (("with_cancer", ill), ("benign", ~is_cancer)):
        where = names[chosen].tolist()
        shares[part] = {"called": slide_means(called[chosen], where, tissue[chosen])}
        if calibrated:
            shares[part]["expected"] = slide_means(likely[chosen], where, tissue[chosen])
    record = _record(shares)
    record["wrong_pattern"] = _wrong_pattern(truth, predicted, names, tissue, benign).record()
    return record | _kept(record, shares, called, likely, names, tissue, ill)


def _record(shares: dict[str, dict[str, Means]], without: str | None = None) -> dict[str, Any]:
    """Spreads of all slides, or of all but one."""
    return {
        part: {
            name: spread_of(v for k, v in means.items() if k != without).record()
            for name, means in own.items()
        }
        for part, own in shares.items()
    }


def _wrong_pattern(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    names: NDArray[Any],
    tissue: NDArray[np.float64],
    benign: Sequence[int],
) -> Spread:
    """Share of a slide's cancer fields that are called a class of cancer that it does not have."""
    is_cancer = ~np.isin(truth, list(benign))
    values, slides, weights = [], [], []
    for name in np.unique(names[is_cancer]):
        own = is_cancer & (names == name)
        for missing in sorted(set(np.unique(truth[is_cancer])) - set(truth[own])):
            values.append((predicted[own] == missing).astype(np.float64))
            slides += [f"{name}/{missing}"] * int(own.sum())
            weights.append(tissue[own])
    if not values:
        return Spread(0.0, 0.0, 0)
    return spread(np.concatenate(values), slides, np.concatenate(weights))


def _kept(
    record: dict[str, Any],
    shares: dict[str, dict[str, Means]],
    called: NDArray[np.float64],
    likely: NDArray[np.float64],
    names: NDArray[Any],
    tissue: NDArray[np.float64],
    ill: NDArray[np.bool_],
) -> dict[str, Any]:
    """How many of the validation slides with cancer reach the thresholds at 0.95. Warns of few.

    The thresholds of a slide are those of all others. ``assured`` is the share of further slides
    that this shows with 95 % confidence. The epoch was chosen on the same slides, so that it is
    optimistic.
    """
    slides = np.unique(names[ill])
    kept = 0
    for name in slides:
        own, chosen = names == name, thresholds(_record(shares, str(name)))
        total = max(float(tissue[own].sum()), 1e-12)
        both = [float((v[own] * tissue[own]).sum()) / total for v in (called, likely)]
        by_area = both[0] > 0 and both[0] >= chosen.cancer_share
        by_expected = chosen.expected_share is not None and both[1] >= chosen.expected_share
        kept += by_area or by_expected
    for part, what in (("benign", "benign tissue"), ("with_cancer", "cancer")):
        if (count := record[part]["called"]["slides"]) < FEW_SLIDES:
            text = "the threshold of cancer rests on %d validation slide(s) with %s"
            log.warning(text, count, what)
    return {
        "kept": int(kept),
        "slides_with_cancer": len(slides),
        "assured": _assured(int(kept), len(slides)),
        "slides": len(np.unique(names)),
    }


def _assured(kept: int, slides: int) -> float | None:
    """Clopper's and Pearson's lower bound of a share at 95 %; None where there are no slides."""
    from scipy.special import betaincinv

    if not slides:
        return None
    return float(betaincinv(kept, slides - kept + 1, 0.05)) if kept else 0.0
