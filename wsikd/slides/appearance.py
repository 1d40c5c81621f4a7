"""What fields look like in stain and focus, and how far a slide's are from those of a training.

Cheap statistics per field: optical density, saturation, sharpness. A training keeps quantiles of
them; a slide whose median field lies far outside is one that the network has not learnt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CHANNELS = ("red", "green", "blue")
# Name -> the least half-range: differences below it are never called far.
STATISTICS: dict[str, float] = {
    **{f"od_mean_{channel}": 0.05 for channel in CHANNELS},
    **{f"od_sd_{channel}": 0.05 for channel in CHANNELS},
    **{f"od_share_{channel}": 0.02 for channel in CHANNELS},
    "saturation": 0.05,
    "focus": 0.15,
}
_WORDS = {
    "mean": "strength of the stain in {}",
    "sd": "contrast of the stain in {}",
    "share": "hue of the stain, its part of {}",
}
FAR = 2.0
QUANTILES = (0.05, 0.5, 0.95)
MAX_FIELDS = 48
_DENSITY = -np.log10((np.arange(256) + 1) / 256)
_SQUARED = _DENSITY**2


def field_statistics(patch: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The statistics of one field, in the order of ``STATISTICS``: float64 (11,).

    Mean and standard deviation of optical density -log10((v + 1) / 256) in each channel, each
    channel's share of the summed means (the hue of the stain, whatever its amount), mean of HSV
    saturation 0 to 1, and log10 of one plus the variance of the Laplacian of the grey image.

    Args:
        patch: uint8 (height, width, 3).
    """
    count = patch.shape[0] * patch.shape[1]
    counts = np.empty((3, 256))
    for channel in range(3):
        counts[channel] = cv2.calcHist([patch], [channel], None, [256], [0, 256])[:, 0]
    share = counts / count
    mean = share @ _DENSITY
    sd = np.sqrt(np.maximum(share @ _SQUARED - mean**2, 0))
    saturation = cv2.mean(cv2.cvtColor(patch, cv2.COLOR_RGB2HSV))[1] / 255
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    _, spread = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    focus = np.log10(1 + float(spread[0, 0]) ** 2)
    found = np.empty(len(STATISTICS))
    found[:3], found[3:6], found[6:9] = mean, sd, mean / max(float(mean.sum()), 1e-3)
    found[9:] = saturation, focus
    return found


def describe_statistic(name: str) -> str:
    """A statistic in words.

    >>> describe_statistic("od_mean_green"), describe_statistic("focus")
    ('strength of the stain in green', 'focus')
    """
    parts = name.split("_")
    if len(parts) == 3 and parts[1] in _WORDS:
        return _WORDS[parts[1]].format(parts[2])
    return name


@dataclass(frozen=True)
class Distance:
    """Distance of a slide from the training data: the largest of its statistics."""

    value: float
    statistic: str

    @property
    def far(self) -> bool:
        """Whether the slide is one that the network has not learnt."""
        return self.value > FAR


@dataclass(frozen=True)
class Appearance:
    """Colour and focus of the training fields.

    Attributes:
        quantiles: for each of ``STATISTICS`` its 5 %, 50 % and 95 % quantile over the fields,
            where every slide weighs the same.
        slides: how many slides they were taken from.
        fields: how many fields.
    """

    quantiles: Mapping[str, tuple[float, float, float]]
    slides: int
    fields: int

    @classmethod
    def of(cls, statistics: NDArray[np.float64], slides: Sequence[str]) -> Appearance:
        """Sum up fields.

        Args:
            statistics: float64 (N, 11), rows of :func:`field_statistics`.
            slides: the slide of each.
        """
        names, place, count = np.unique(slides, return_inverse=True, return_counts=True)
        weight = 1 / count[place]
        found = {
            name: _quantiles(statistics[:, column], weight)
            for column, name in enumerate(STATISTICS)
        }
        return cls(found, len(names), len(statistics))

    @classmethod
    def from_card(cls, entry: Mapping[str, Any] | None) -> Appearance | None:
        """Read the entry ``appearance`` of a card; None where the card has none.

        Raises:
            KeyError, TypeError, ValueError: the entry is malformed.
        """
        if entry is None:
            return None
        found = {}
        for name in STATISTICS:
            low, middle, high = (float(v) for v in entry["quantiles"][name])
            if not low <= middle <= high:
                raise ValueError(f"appearance of {name}: quantiles must rise")
            found[name] = (low, middle, high)
        return cls(found, int(entry["slides"]), int(entry["fields"]))

    def as_card(self) -> dict[str, Any]:
        """The entry ``appearance`` of a card."""
        rounded = {name: [round(v, 5) for v in q] for name, q in self.quantiles.items()}
        return {"quantiles": rounded, "slides": self.slides, "fields": self.fields}

    def distance(self, statistics: NDArray[np.float64]) -> Distance | None:
        """Distance of a slide's median field from that of the training data.

        In units of the distance from the training's median to its 5 % or 95 % quantile on that
        side, or of the least half-range where that is narrower; the farthest statistic counts.

        Args:
            statistics: float64 (N, 11) of fields of one slide.

        Returns:
            None where there is no field.
        """
        if not len(statistics):
            return None
        found = []
        # As np.median, which imports numpy.ma for as long as a small slide takes.
        ordered, count = np.sort(statistics, 0), len(statistics)
        middle_of_slide = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        for value, (name, least) in zip(middle_of_slide, STATISTICS.items(), strict=True):
            low, middle, high = self.quantiles[name]
            reach = max(high - middle if value > middle else middle - low, least)
            found.append(Distance(float(abs(value - middle) / reach), name))
        return max(found, key=lambda distance: distance.value)


@dataclass
class Watcher:
    """Takes the statistics of an even sample of fields while they pass by."""

    most: int = MAX_FIELDS
    _rows: list[NDArray[np.float64]] = field(default_factory=list)

    def __call__(self, index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        """Look at a batch: indices of its fields, fields in all, uint8 (B, height, width, 3)."""
        every = -(-count // self.most)
        for number, patch in zip(index.tolist(), patches, strict=True):
            if number % every == 0:
                self._rows.append(field_statistics(patch))

    @property
    def statistics(self) -> NDArray[np.float64]:
        """The statistics so far: float64 (N, 11)."""
        return np.array(self._rows).reshape(-1, len(STATISTICS))


def _quantiles(
    values: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Weighted quantiles: the least value at or below which that share of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    place = np.searchsorted(below, np.asarray(QUANTILES) * below[-1] * (1 - 1e-12))
    low, middle, high = values[order[np.minimum(place, len(values) - 1)]].tolist()
    return low, middle, high
