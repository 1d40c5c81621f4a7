"""The lower bound of kappa(student) - kappa(teacher) that ``bench --margin`` tests.

A student that fails on few slides looks as good as its teacher in a sample without such slides, and
the variance of the sample does not show it. One slide is therefore added, of average classes: the
student misses its cancer, and the teacher grades it as labelled (compare the added observations of
A. Agresti and B. Caffo, Am. Stat. 54, 2000). Above 30 groups its weight grows with the root of
their number. The bound is that of Student's t, with the jackknife's standard error, on the sample
with the added slide, for fields and for grade groups.

``benchmarks/studies/margin`` measures the error rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.agreement import kappas
from wsikd.core.intervals import MIN_GROUPS, leave_out, paired_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.bench.types import Gradings

LEVELS = {"field": 0.96, "slide": 0.985}
"""Unit -> level of the one-sided bound; chosen for an error of at most ``ERROR``."""
ERROR = 0.05
"""Nominal rate of choosing a student that loses more than the margin; measured: at most 6 %."""
ONE_UP_TO = 30
"""Up to this number of groups, the added slide has weight 1."""


def lower_bound(gradings: Gradings, student: str, teacher: str) -> float | None:
    """The lower bound of kappa(student) - kappa(teacher); None if it is undefined.

    Args:
        gradings: grades of both.
        student: name of the student.
        teacher: name of the teacher.
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
    """Compute the bounds of many cohorts.

    Args:
        tables: confusion tables, float64 (2, ..., G, C, C); the teacher's first, the reference
            class in rows.
        unit: "field" or "slide".
        quadratic: whether kappa has quadratic weights.

    Returns:
        float64 (...); NaN if kappa is undefined after one of the groups is left out.
    """
    teacher, student = without_each(one_missed(tables), quadratic=quadratic)
    return paired_bounds(student, teacher, level=LEVELS[unit])


def without_each(tables: NDArray[np.float64], *, quadratic: bool) -> list[NDArray[np.float64]]:
    """Kappas of teacher and student with all groups, then without each: (..., 1 + R)."""
    without = leave_out(tables.shape[-3]).astype(np.float64)
    both = np.einsum("rg,w...gij->w...rij", without, tables, optimize=True)
    found = [kappas(one.reshape(-1, *one.shape[-2:]), quadratic=quadratic) for one in both]
    return [one.reshape(both.shape[1:-2]) for one in found]


def one_missed(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tables with one group added, whose cancer the student misses: (2, ..., G + 1, C, C).

    Its classes have the shares that they have in the reference. It has as many fields or slides as
    the average group; above ``ONE_UP_TO`` groups, more.
    """
    groups = tables.shape[-3]
    weight = max(1.0, (groups / ONE_UP_TO) ** 0.5)
    labels = weight * tables[0].sum((-3, -1)) / groups
    teacher = labels[..., None] * np.eye(labels.shape[-1])
    student = np.zeros_like(teacher)
    student[..., 0] = labels
    return np.concatenate([tables, np.stack([teacher, student])[..., None, :, :]], -3)
