"""Which prototypes of two slides go together, and which slides are neighbours (SLPD, section 2.3).

The similarity of slides n and m is ``max over pi of mean_k <P_nk, P_m,pi(k)>``, the best
one-to-one matching of their K prototypes, found by the Hungarian method instead of K! trials, and
only for the slides whose mean prototypes are nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 25
_MARGIN = 1e-4
"""More than rounding of sums of single precision."""


@dataclass(frozen=True)
class Neighbours:
    """The r neighbours of each of N slides; -1 and NaN if there are fewer.

    Attributes:
        index: int64 (N, r), the most similar first.
        similarity: float32 (N, r), mean cosine of the matched prototypes.
        matched: int64 (N, r, K), the neighbour's prototype for each own one.
    """

    index: NDArray[np.int64]
    similarity: NDArray[np.float32]
    matched: NDArray[np.int64]


def match(cosine: NDArray[np.floating]) -> tuple[float, NDArray[np.int64]]:
    """The best one-to-one matching of rows to columns.

    Args:
        cosine: float (K, K), of own prototypes (rows) to another slide's (columns).

    Returns:
        The sum of the matched values, and the column of each row, int64 (K,).

    >>> match(np.array([[0.9, 0.8], [0.8, 0.1]]))
    (1.6, array([1, 0]))
    """
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return float(cosine[rows, columns].sum(dtype=np.float64)), columns.astype(np.int64)


def find_neighbours(
    prototypes: NDArray[np.float32],
    valid: NDArray[np.bool_],
    patients: Sequence[str | None],
    *,
    count: int = 1,
    shortlist: int = 64,
    correspondence: Literal["matching", "greedy"] = "matching",
    same_patient: bool = False,
) -> Neighbours:
    """The most similar slides of each slide; never itself, nor one without prototypes.

    Args:
        prototypes: float32 (N, K, D), of length 1.
        valid: bool (N,), which slides have prototypes.
        patients: patient of each slide; None if unknown, which matches no other.
        count: r, how many of each.
        shortlist: slides, by the cosine of mean prototypes, among which the matching decides; with
            N - 1 or more the result is exact.
        correspondence: "matching": the neighbour's prototypes by the matching; "greedy": each own
            prototype takes the nearest, whoever else takes it (as the released code of SLPD).
        same_patient: whether other slides of a slide's patient may be its neighbours.
    """
    n, k = prototypes.shape[:2]
    found = Neighbours(
        np.full((n, count), -1, np.int64),
        np.full((n, count), np.nan, np.float32),
        np.full((n, count, k), -1, np.int64),
    )
    group = _groups(patients, same_patient=same_patient)
    usable = np.flatnonzero(valid)
    mean = prototypes[usable].mean(1)  # of unit vectors: the mean of all K x K cosines
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(usable))))
    for start in range(0, len(usable), block):
        rows = usable[start : start + block]
        nearness = mean[start : start + block] @ mean.T
        nearness[group[rows][:, None] == group[usable]] = -np.inf
        for n_row, near in zip(rows.tolist(), nearness, strict=True):
            own = prototypes[n_row]
            listed = usable[_highest(near, shortlist)]
            cosines = own @ prototypes[listed].transpose(0, 2, 1)  # (S, K, K)
            for place, (total, i, matched) in enumerate(_best(cosines, listed, count)):
                found.index[n_row, place] = listed[i]
                found.similarity[n_row, place] = total / k
                greedy = correspondence == "greedy"
                found.matched[n_row, place] = cosines[i].argmax(1) if greedy else matched
    return found


def _best(
    cosines: NDArray[np.float32], listed: NDArray[np.int64], count: int
) -> list[tuple[float, int, NDArray[np.int64]]]:
    """The best matchings of (S, K, K), at most ``count``; the lower slide first where they tie.

    No matching exceeds the sum of its rows' or of its columns' highest values, so most slides are
    skipped.
    """
    bound = np.minimum(cosines.max(2).sum(1), cosines.max(1).sum(1))
    best: list[tuple[float, int, NDArray[np.int64]]] = []
    for i in np.argsort(-bound, kind="stable").tolist():
        if len(best) == count and bound[i] < best[-1][0] - _MARGIN:
            break
        total, matched = match(cosines[i])
        best.append((total, i, matched))
        best = sorted(best, key=lambda b: (-b[0], listed[b[1]]))[:count]
    return best


def _highest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Places of the highest finite values."""
    open_to = np.flatnonzero(np.isfinite(values))
    if len(open_to) > count:
        open_to = open_to[np.argpartition(-values[open_to], count - 1)[:count]]
    return open_to


def _groups(patients: Sequence[str | None], *, same_patient: bool) -> NDArray[np.int64]:
    """A number for each slide, the same for slides that must not be neighbours: int64 (N,)."""
    if same_patient:
        return np.arange(len(patients))
    known = {p: i for i, p in reversed(list(enumerate(patients))) if p is not None}
    return np.array([i if p is None else known[p] for i, p in enumerate(patients)], np.int64)
