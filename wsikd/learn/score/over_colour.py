"""How much better a network is than colour alone, paired on the same patches."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.intervals import NO_INTERVAL, difference_interval, leave_out
from wsikd.learn.score.metrics import scale_of, weighted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class OverColour:
    """A network compared with the baseline of colour histograms.

    Attributes:
        metric: "kappa", with quadratic weights, for classes in order, else "balanced_accuracy".
        network: figure of the network; None if it is undefined.
        colour: figure of the histograms.
        difference: network less colour.
        interval: 95 % interval of the difference, over groups; None with too few groups.
        groups: patients or slides.
    """

    metric: str
    network: float | None
    colour: float | None
    difference: float | None
    interval: tuple[float, float] | None
    groups: int

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """The baseline and the difference, for a line."""
        name = self.metric.replace("_", " ")
        if self.colour is None or self.difference is None:
            return f"{name} of colour histograms alone is undefined"
        spread = f"({NO_INTERVAL})"
        if self.interval is not None:
            spread = "[{:+.3f}, {:+.3f}]".format(*self.interval)
        found = f"colour histograms alone reach {name} {self.colour:.3f}"
        return f"{found}, difference {self.difference:+.3f} {spread}"

    @property
    def warning(self) -> str | None:
        """The warning if the network is not shown to be better."""
        if self.difference is None:
            return None
        if (self.interval[0] if self.interval else self.difference) > 0:
            return None
        return f"not shown to be better than colour: {self.summary}; it may have learned the stain"


def over_colour(
    truth: NDArray[np.int64],
    network: NDArray[np.float64],
    colour: NDArray[np.float64],
    groups: Sequence[str],
    *,
    ordered: bool,
) -> OverColour:
    """Compare a network with the baseline on the same patches.

    Args:
        truth: int64 (N,).
        network: its class probabilities, float64 (N, C).
        colour: those of :func:`wsikd.learn.score.colour_baseline.histogram_baseline`.
        groups: patient or slide of each patch, (N,).
        ordered: whether the classes are in order of severity.
    """
    metric = "kappa" if ordered else "balanced_accuracy"
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    times = leave_out(len(known))
    own, other = (weighted(truth, p, group, times, benign=())[metric] for p in (network, colour))
    between = difference_interval(own, other, scale_of(metric))
    whole = (float(own[0]), float(other[0]), float(own[0] - other[0]))
    found = [v if math.isfinite(v) else None for v in whole]
    return OverColour(metric, found[0], found[1], found[2], between, len(known))
