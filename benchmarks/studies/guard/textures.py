"""Numbers of colour and texture of the sets, kept in a file, and guards fitted on them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsikd.learn.patch.guard import ALTERED
from wsikd.models.guard import Sample, fit_guard
from wsikd.slides.texture import texture

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.studies.guard.data import Patches
    from wsikd.models.guard import Guard

    Numbers = NDArray[np.float64]

_BATCH = 64


@dataclass(frozen=True)
class Set:
    """What is known of the patches of a set.

    Attributes:
        slides: numbers of the patches of each slide, or patient.
        chosen: the slide of each patch that was altered, str (M,).
        altered: by name, numbers of these patches, float64 (M, K); "none": as they are.
        slight: what each slight alteration adds to them, float64 (A, M, K).
    """

    slides: dict[str, Numbers]
    chosen: NDArray[np.str_]
    altered: dict[str, Numbers]
    slight: Numbers

    def guard(self, train: Iterable[str], val: Iterable[str], *, slight: bool = True) -> Guard:
        """A guard fitted on these slides, as a training does."""
        train = list(train)
        own = np.flatnonzero(np.isin(self.chosen, train))
        own = own[np.linspace(0, len(own) - 1, min(ALTERED, len(own))).round().astype(int)]
        copies = len(self.slight)
        added = Sample(self.slight[:, own].reshape(copies * len(own), -1),
                       self.chosen[own].tolist() * copies)  # fmt: skip
        return fit_guard(
            self._sample(train), self._sample(val), added if slight else None, copies=copies
        )

    def few_fields(self, most: int, seed: int) -> Set:
        """The same with so many fields of a slide at most, drawn by chance."""
        rng = np.random.default_rng(seed)
        kept = [i for n in self.slides for i in np.flatnonzero(self.chosen == n)[:most]]
        slides = {n: x[np.sort(rng.permutation(len(x))[:most])] for n, x in self.slides.items()}
        return Set(slides, self.chosen[kept], {}, self.slight[:, kept])

    def _sample(self, names: Iterable[str]) -> Sample:
        names = list(names)
        rows = np.concatenate([self.slides[n] for n in names])
        return Sample(rows, [n for n in names for _ in range(len(self.slides[n]))])


def numbers_of(patches: Patches) -> dict[str, NDArray[np.generic]]:
    """What :func:`read_numbers` reads again."""
    found: dict[str, NDArray[np.generic]] = {"all": _look(patches.image), "slide": patches.slide}
    if len(patches.chosen):
        found["chosen"] = patches.slide[patches.chosen]
        found["altered/none"] = plain = _look(patches.image[patches.chosen])
        found |= {f"altered/{name}": _look(images) for name, images in patches.altered.items()}
        found["slight"] = np.stack([_look(images) - plain for images in patches.slight])
    return found


def read_numbers(file: Path) -> Set:
    """A set that was kept."""
    kept = np.load(file)
    slide = kept["slide"]
    return Set(
        {str(name): kept["all"][slide == name] for name in np.unique(slide)},
        kept["chosen"] if "chosen" in kept.files else np.array([]),
        {k.removeprefix("altered/"): kept[k] for k in kept.files if k.startswith("altered/")},
        kept["slight"] if "slight" in kept.files else np.zeros((0, 0, 0)),
    )


def reported(name: str) -> bool:
    """Whether a slide is of the half that figures are reported on; the other chose the method."""
    return zlib.crc32(f"1 {name}".encode()) % 2 == 1


def _look(images: NDArray[np.uint8]) -> Numbers:
    return np.concatenate([texture(images[s : s + _BATCH]) for s in range(0, len(images), _BATCH)])
