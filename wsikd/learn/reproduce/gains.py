"""How sure a gain is: an interval of the gap closed, a p-value, and Holm's correction.

All rest on the intervals of :mod:`wsikd.core.intervals`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.intervals import MIN_GROUPS, difference_interval, interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.core.intervals import Scale


def is_gap(whole: NDArray[np.float64]) -> bool:
    """Whether a difference lies above zero, by Student's t of the jackknife at 95 %.

    Args:
        whole: float64 (1 + R,), with all groups and without some, see ``leave_out``.
    """
    from scipy.special import stdtrit

    rows = len(whole) - 1
    if rows < MIN_GROUPS or not np.isfinite(whole).all():
        return False
    error = math.sqrt((rows - 1) * float(whole[1:].var()))
    return float(whole[0]) > float(stdtrit(rows - 3, 0.975)) * error


def share_interval(
    part: NDArray[np.float64], whole: NDArray[np.float64], *, least: int = MIN_GROUPS
) -> tuple[float, float] | None:
    """The 95 % interval of a share of a difference: that of a figure between 0 and 1.

    Fieller's interval (J. R. Stat. Soc. B 16, 1954) held the truth in 88 to 93 % of simulated
    cohorts, since few slides carry what a good student lacks; see ``benchmarks/studies/coverage``.

    Args:
        part: float64 (1 + R,), with all groups and without some, see ``leave_out``.
        whole: the same of what it is a share of.
        least: groups that it takes.

    Returns:
        None where ``whole`` is no gap, so that the share may be anything, where the share does not
        lie between 0 and 1, or where there are too few groups.
    """
    if not is_gap(whole) or not (whole > 0).all() or not 0 < part[0] < whole[0]:
        return None
    return interval(part / whole, "share", least=least)


def p_slides(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    scale: Scale,
    *,
    least: int = MIN_GROUPS,
) -> float | None:
    """Two-sided p-value of a difference: what the widest interval without zero leaves.

    Args:
        one: float64 (1 + R,), with all groups and without some.
        other: what it is compared with, alike.
        scale: see ``limits``.
        least: groups that it takes.

    Returns:
        None where there is no interval.
    """
    if difference_interval(one, other, scale, least=least) is None:
        return None
    low, high = 1e-12, 1.0
    for _ in range(60):  # of p, on the logarithm
        middle = math.sqrt(low * high)
        found = difference_interval(one, other, scale, level=1 - middle, least=least)
        outside = found is not None and (found[0] > 0 or found[1] < 0)
        low, high = (low, middle) if outside else (middle, high)
    return high


def p_seeds(each: NDArray[np.float64]) -> float | None:
    """Two-sided p-value of Student's test over seeds; None for one seed or undefined values."""
    from scipy.special import stdtr

    if len(each) < 2 or not np.isfinite(each).all():
        return None
    error = float(each.std(ddof=1)) / math.sqrt(len(each))
    if error == 0:
        return 0.0 if each.mean() else 1.0
    return float(2 * stdtr(len(each) - 1, -abs(each.mean()) / error))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (S. Holm, Scand. J. Stat. 6, 1979).

    A comparison without a p-value counts as one of those that were made.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((k for k, v in enumerate(values) if v is not None), key=lambda k: values[k] or 0)
    found: list[float | None] = [None] * len(values)
    most = 0.0
    for place, k in enumerate(order):
        most = max(most, min(1.0, (len(values) - place) * (values[k] or 0.0)))
        found[k] = most
    return found


def is_gain(slides: tuple[float, float] | None, seeds: tuple[float, float] | None) -> bool:
    """Whether the interval over slides and that over seeds both lie above zero."""
    return slides is not None and seeds is not None and slides[0] > 0 and seeds[0] > 0
