"""The bound by which ``bench --margin`` decides: how much kappa a student may lose.

*Fields* have many errors a slide: the bound is the lower end of the interval of a difference, taken
one-sided. *Grade groups* have one answer a slide. There a student that misses cancer on few slides
looks as good as its teacher on those that do not show it, and no spread of the data gives that
away. The sample is therefore given one slide more, of average grade group, whose cancer the student
misses and the teacher grades as labelled (in the manner of the added observations of A. Agresti and
B. Caffo, Am. Stat. 54, 2000). Above 30 groups it counts for more than one, by the root of their
number. Student's bound of the difference, by the jackknife, follows from that.

``benchmarks/studies/margin`` measures how often either errs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.agreement import kappas
from wsikd.core.intervals import MIN_GROUPS, difference_limits, leave_out, paired_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.bench.types import Gradings

LEVELS = {"field": 0.96, "slide": 0.985}
"""Of the one-sided bounds, by the unit; chosen for an error of at most ``ERROR``."""
ERROR = 0.05
"""Nominal error of naming a student that loses more than the margin; measured: at most 6 %."""
ONE_UP_TO = 30
"""Groups up to which one slide is added."""


def lower_bound(gradings: Gradings, student: str, teacher: str) -> float | None:
    """The bound of kappa(student) - kappa(teacher); None where there is none.

    Args:
        gradings: of both.
        student: its name.
        teacher: of the teacher.
    """
    if gradings.groups < MIN_GROUPS:
        return None
    both = np.stack([gradings.tables[name] for name in (teacher, student)]).astype(np.float64)
    plain = without_each(both, quadratic=gradings.quadratic)
    found = float(bounds_of(both, gradings.unit, quadratic=gradings.quadratic))
    return found if np.isfinite(plain).all() and np.isfinite(found) else None


def bounds_of(
    tables: NDArray[np.float64], unit: str, *, quadratic: bool = True
) -> NDArray[np.float64]:
    """The bounds of many cohorts.

    Args:
        tables: float64 (2, ..., G, C, C), the teacher's first, the reference's class in rows.
        unit: "field" or "slide".
        quadratic: weights of kappa.

    Returns:
        float64 (...); NaN where kappa is undefined without some group.
    """
    if unit == "field":
        teacher, student = without_each(tables, quadratic=quadratic)
        return difference_limits(student, teacher, "kappa", level=2 * LEVELS[unit] - 1)[..., 0]
    teacher, student = without_each(one_missed(tables), quadratic=quadratic)
    return paired_bounds(student, teacher, level=LEVELS[unit])


def without_each(tables: NDArray[np.float64], *, quadratic: bool) -> list[NDArray[np.float64]]:
    """Kappas of teacher and student with all groups and without each: (..., 1 + R)."""
    without = leave_out(tables.shape[-3]).astype(np.float64)
    both = np.einsum("rg,w...gij->w...rij", without, tables, optimize=True)
    found = [kappas(one.reshape(-1, *one.shape[-2:]), quadratic=quadratic) for one in both]
    return [one.reshape(both.shape[1:-2]) for one in found]


def one_missed(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tables with one group more, whose cancer the student misses: (2, ..., G + 1, C, C).

    Its grade groups are those of all references, in their shares; it has as many slides as a group
    has on average, above ``ONE_UP_TO`` groups more.
    """
    groups = tables.shape[-3]
    weight = max(1.0, (groups / ONE_UP_TO) ** 0.5)
    labels = weight * tables[0].sum((-3, -1)) / groups
    teacher = labels[..., None] * np.eye(labels.shape[-1])
    student = np.zeros_like(teacher)
    student[..., 0] = labels
    return np.concatenate([tables, np.stack([teacher, student])[..., None, :, :]], -3)
