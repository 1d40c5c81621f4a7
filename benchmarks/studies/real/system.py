"""The system: a student that leaves its doubtful fields to the teacher, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.real.arms import TEACHER
from benchmarks.studies.real.figures import MARGINS, margin_bound, not_inferior
from benchmarks.studies.real.plan import TEST, VAL, Job
from benchmarks.studies.real.work import calibrated
from wsikd.core.escalation import doubt
from wsikd.core.intervals import interval, leave_out
from wsikd.learn.reproduce.run_rows import Predictions, join_folds, read_predictions
from wsikd.learn.reproduce.table import difference_of, leave_out_of, point_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.studies.real.figures import Figures

SHARES = (*(n / 40 for n in range(13)), 0.4, 0.5, 0.7)
GOAL = 0.20
SYSTEM = "system"


def threshold_of(doubts: NDArray[np.float64], share: float) -> float:
    """Least doubt of the most doubtful share of validation fields; none is above 1.

    >>> threshold_of(np.array([0.1, 0.2, 0.3, 0.4]), 0.5)
    0.3
    """
    count = round(share * len(doubts))
    if count == 0:
        return 2.0
    return 0.0 if share >= 1 else float(np.sort(doubts)[-count])


def read_again(figures: Figures, share: float, arm: str = "kd") -> tuple[Any, Any]:
    """What the system says at a share of validation fields, and which fields it reads again.

    Returns:
        (seed, 0) -> predictions, calibrated; (seed, 0) -> bool (N,), in the same order.
    """
    plan, block = figures.plan, figures.block
    units: dict[tuple[int, int], Predictions] = {}
    again: dict[tuple[int, int], NDArray[np.bool_]] = {}
    for key in figures.units[arm]:
        parts, asked = [], []
        for fold in range(plan.study.folds):
            own = plan.kept(Job(block, arm, fold, key[0]))
            teacher = plan.kept(plan.teacher_at(block, fold, key[0]))
            limit = threshold_of(doubt(calibrated(own, VAL)), share)
            student = calibrated(own, TEST)
            chosen = doubt(student) >= limit
            merged = np.where(chosen[:, None], calibrated(teacher, TEST), student)
            parts.append(replace(read_predictions(own / TEST, fold), probability=merged))
            asked.append(chosen)
        order = np.argsort(np.concatenate([p.index for p in parts]), kind="stable")
        units[key], again[key] = join_folds(parts), np.concatenate(asked)[order]
    return units, again


def at_share(figures: Figures, share: float, cost: float) -> dict[str, Any]:
    """P2 of the system at a share, and the share of evaluated fields that is read again.

    Args:
        figures: of a finished block.
        share: of the validation fields.
        cost: of the student, as a share of the teacher's.
    """
    units, again = read_again(figures, share)
    points = figures.points | {SYSTEM: {key: point_of(p) for key, p in units.items()}}
    without = figures.without | {SYSTEM: leave_out_of(units, figures.groups)}
    found = [
        not_inferior(difference_of(SYSTEM, TEACHER, metric, points, without), margin)
        for metric, margin in MARGINS.items()
    ]
    asked, reach = _share_over_groups(units, again, figures.groups)
    return {
        "share_of_validation": share, "read_again": asked, "read_again_interval": reach,
        "cost": cost + asked,
        "cost_interval": None if reach is None else [cost + value for value in reach],
        "comparisons": found,
        "bench_margin_bound": margin_bound(figures.units[TEACHER], units, figures.groups),
        "holds": all(entry["holds"] for entry in found),
    }  # fmt: skip


def _share_over_groups(
    units: dict[tuple[int, int], Predictions],
    again: dict[tuple[int, int], NDArray[np.bool_]],
    groups: list[str],
) -> tuple[float, tuple[float, float] | None]:
    """Mean share of fields read again over seeds, and its interval over groups."""
    place, times = {name: i for i, name in enumerate(groups)}, leave_out(len(groups))
    values = []
    for key, p in units.items():
        own = np.array([place[g] for g in p.group.tolist()])
        asked = np.bincount(own, again[key], len(groups))
        values.append((times @ asked) / (times @ np.bincount(own, minlength=len(groups))))
    mean = np.mean(values, 0)
    return float(mean[0]), interval(mean, "share")


def make_system(figures: Figures) -> dict[str, Any]:
    """The least share at which P2 holds, tested from the greatest down until the first failure."""
    macs = {row["name"]: row["macs"] for row in figures.rows()}
    cost = macs["kd"] / macs[TEACHER]
    curve = [at_share(figures, share, cost) for share in SHARES]
    least = None
    for entry in reversed(curve):
        if not entry["holds"]:
            break
        least = entry
    return {
        "student_cost": cost, "curve": curve, "least": least, "goal": GOAL,
        "reached": least is not None and least["cost"] <= GOAL,
    }  # fmt: skip
