"""Figures of a study of SLPD over several trainings: what patients and what seeds make uncertain.

The interval over patients is of the mean over all seeds: what another cohort might have given these
trainings. That over seeds is Student's, of the mean of the seeds' figures: what other trainings
might have given on this cohort. Neither holds the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.slpd.scores import mean_of
from wsikd.core.errors import DataError
from wsikd.core.intervals import (
    LEVEL,
    MIN_GROUPS_AUC_DIFFERENCE,
    difference_interval,
    interval,
    leave_out,
)
from wsikd.learn.score.metrics import weighted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Rows = Sequence[Mapping[str, Any]]


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Figures of single seeds, with the interval of their mean: {"values", "interval"}.

    The interval is None for fewer than two seeds, or where one is undefined.
    """
    from scipy.stats import t

    known = np.array([v for v in values if v is not None], np.float64)
    if len(known) < max(2, len(values)):
        return {"values": list(values), "interval": None}
    half = t.ppf((1 + LEVEL) / 2, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
    mean = float(known.mean())
    return {"values": list(values), "interval": [mean - float(half), mean + float(half)]}


def pool_scores(found: Sequence[Mapping[str, Mapping[str, Any]]], key: str) -> dict[str, Any]:
    """``mean_of`` of :mod:`~benchmarks.studies.slpd.scores` for the mean over seeds, and each seed.

    Args:
        found: by seed, and in it by slide.
        key: of the figure.

    Returns:
        {"value", "interval", "slides", "seeds"}.
    """
    means: dict[str, dict[str, Any]] = {}
    for slide, one in found[0].items():
        own = [seed[slide].get(key) for seed in found]
        known = [float(v) for v in own if v is not None]
        means[slide] = {"group": one["group"], key: float(np.mean(known)) if known else None}
    each = [mean_of(seed, key)["value"] for seed in found]
    return {**mean_of(means, key), "seeds": over_seeds(each)}


def pool_areas(own: Sequence[Rows], other: Sequence[Rows] | None = None) -> dict[str, Any]:
    """AUC as the mean over seeds and folds, or how much more it is than another's.

    Args:
        own: by seed, what was said of each slide: ``slide``, ``group``, ``label``,
            ``probability``, ``fold``.
        other: by seed, the same of the same slides.

    Returns:
        {"value", "interval", "seeds"}; None where undefined, the interval for fewer than
        ``MIN_GROUPS_AUC_DIFFERENCE`` groups too, as in ``wsikd reproduce mil``.

    Raises:
        DataError: the slides are not the same.
    """
    parts = [[_arrays(rows) for rows in every] for every in (own, other or ())]
    slides = parts[0][0][0]
    if any(one[0] != slides for every in parts for one in every):
        raise DataError("rows", "are not of the same slides", "remove their scores and run again")
    groups = int(parts[0][0][4].max()) + 1

    without = leave_out(groups)
    found = [np.stack([_area(one, without) for one in every]) for every in parts if every]
    means = [areas.mean(0) for areas in found]
    if len(found) == 2:
        each = (found[0] - found[1])[:, 0]
        spread = difference_interval(means[0], means[1], "slides", least=MIN_GROUPS_AUC_DIFFERENCE)
    else:
        each = found[0][:, 0]
        spread = interval(means[0], "slides", least=MIN_GROUPS_AUC_DIFFERENCE)
    value = float(each.mean())
    return {
        "value": None if np.isnan(value) else value,
        "interval": None if spread is None else list(spread),
        "seeds": over_seeds([None if np.isnan(v) else float(v) for v in each]),
    }


def _arrays(rows: Rows) -> tuple[list[str], Any, Any, Any, Any]:
    """Slides, truth, probabilities, fold and group, in the order of the slides' names."""
    ordered = sorted(rows, key=lambda row: str(row["slide"]))
    truth, said, fold = (
        np.array([row[key] for row in ordered]) for key in ("label", "probability", "fold")
    )
    _, group = np.unique([row["group"] for row in ordered], return_inverse=True)
    return [row["slide"] for row in ordered], truth, said, fold, group


def _area(one: tuple[list[str], Any, Any, Any, Any], times: NDArray[np.int64]) -> Any:
    _, truth, said, fold, group = one
    return weighted(truth, said, group, times, fold=fold)["auc_macro"]
