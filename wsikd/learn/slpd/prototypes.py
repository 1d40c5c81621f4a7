"""Prototypes of slides: kinds of regions in a slide, and slides with similar ones.

A table is a file of its own, ``prototypes.npz`` in the run folder: for finding similar slides, and
for looking at what a training took for a kind of tissue.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from wsikd.core.errors import DataError
from wsikd.core.run import aside
from wsikd.learn.slpd.slide_similarity import match

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FILE = "prototypes.npz"
NOBODY = -1
_FORMAT = 1
_REMEDY = "give a run of method slpd, or train it again"


@dataclass(frozen=True)
class Similar:
    """A slide that is like another.

    Attributes:
        slide: its index in the table.
        similarity: mean cosine of matched prototypes, -1 to 1.
        matched: int64 (K,), its prototype that goes with each one of the other.
    """

    slide: int
    similarity: float
    matched: NDArray[np.int64]


@dataclass(frozen=True)
class PrototypeTable:
    """Prototypes of N slides with R regions in all, K prototypes a slide, width D.

    Attributes:
        slides: names, ascending.
        patients: hashed patient of each slide, None where unknown.
        valid: bool (N,), false for slides with too few regions, which have no prototypes.
        prototypes: float32 (N, K, D), each of length 1; zeros where not valid.
        neighbours: int64 (N, r), the most similar slides, the nearest first; NOBODY where none.
        similarity: float32 (N, r), mean cosine of matched prototypes; NaN where none.
        matched: int64 (N, r, K), prototype of the neighbour for each own one; NOBODY where none.
        slide_index: int64 (R,), slide of each region, not falling.
        region_index: int64 (R,), its place in the slide, from 0.
        assignment: int64 (R,), prototype of each region; NOBODY in slides that are not valid.
        closeness: float32 (R,), cosine between a region and its prototype; NaN as before.
        coords: float64 (R, 2), level-0 (x, y) of the regions' corners.
        field_px: float64 (N, 2), level-0 (width, height) of a region; NaN where unknown.
        about: what made it, JSON values: epoch, digest of the regions, encoder, settings.
    """

    slides: tuple[str, ...]
    patients: tuple[str | None, ...]
    valid: NDArray[np.bool_]
    prototypes: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    similarity: NDArray[np.float32]
    matched: NDArray[np.int64]
    slide_index: NDArray[np.int64]
    region_index: NDArray[np.int64]
    assignment: NDArray[np.int64]
    closeness: NDArray[np.float32]
    coords: NDArray[np.float64]
    field_px: NDArray[np.float64]
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check that the shapes go together; raises ValueError."""
        n, k = self.prototypes.shape[:2]
        r, regions = self.neighbours.shape[1], len(self.slide_index)
        shapes = {
            "valid": (n,), "prototypes": (n, k, self.prototypes.shape[2]), "neighbours": (n, r),
            "similarity": (n, r), "matched": (n, r, k), "slide_index": (regions,),
            "region_index": (regions,), "assignment": (regions,), "closeness": (regions,),
            "coords": (regions, 2), "field_px": (n, 2),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, not {shape}")
        if len(self.slides) != n or len(self.patients) != n:
            raise ValueError(f"{len(self.slides)} slides do not go with {n} sets of prototypes")

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def clusters(self) -> int:
        """K, prototypes of a slide."""
        return int(self.prototypes.shape[1])

    def index(self, slide: str) -> int:
        """Place of a slide; raises DataError where it is none, or has no prototypes."""
        if slide not in self.slides:
            some = ", ".join(self.slides[:3])
            raise DataError(f"slide '{slide}'", "has no prototypes here", f"give one of {some} ...")
        found = self.slides.index(slide)
        if not self.valid[found]:
            raise DataError(
                f"slide '{slide}'", "had too few regions for prototypes", "give another slide"
            )
        return found

    def nearest(self, slide: int, prototype: int, count: int) -> NDArray[np.int64]:
        """The regions that are closest to a prototype of their slide, the closest first.

        Args:
            slide: index of the slide.
            prototype: 0 to K - 1.
            count: how many at most.

        Returns:
            int64 (at most ``count``,), indices into the R regions.
        """
        own = np.flatnonzero((self.slide_index == slide) & (self.assignment == prototype))
        return own[np.argsort(-self.closeness[own], kind="stable")][:count]

    def similar(self, slide: int, count: int, *, same_patient: bool = False) -> list[Similar]:
        """The slides that are most like one, each compared by optimal matching.

        Args:
            slide: index of the slide.
            count: how many at most.
            same_patient: whether other slides of its patient count.
        """
        others = self.valid.copy()
        others[slide] = False
        own = self.patients[slide]
        if own is not None and not same_patient:
            others &= np.array([p != own for p in self.patients], bool)
        found = []
        for other in np.flatnonzero(others).tolist() if self.valid[slide] else ():
            total, matched = match(self.prototypes[slide] @ self.prototypes[other].T)
            found.append(Similar(other, total / self.clusters, matched))
        return sorted(found, key=lambda s: (-s.similarity, s.slide))[:count]

    def save(self, path: Path) -> None:
        """Write the table as one ``.npz`` without pickle. Raises OutputError."""
        about = {"format": _FORMAT, "slides": self.slides, "patients": self.patients}
        text = json.dumps({**about, "about": dict(self.about)}, allow_nan=False)
        with aside(path) as part, part.open("wb") as stream:
            np.savez(stream, text=np.array(text), **{k: getattr(self, k) for k in _DTYPES})

    @classmethod
    def load(cls, path: Path) -> PrototypeTable:
        """Read a table, or the one of a run folder; nothing in it is executed. Raises DataError."""
        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise DataError(path, f"holds no {FILE}", _REMEDY)
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                text = json.loads(str(found["text"]))
                arrays = {k: np.asarray(found[k], dtype) for k, dtype in _DTYPES.items()}
            if text["format"] != _FORMAT:
                raise DataError(file, "is of another version of wsikd", _REMEDY)
            slides, patients = tuple(text["slides"]), tuple(text["patients"])
            return cls(slides=slides, patients=patients, about=text["about"], **arrays)
        except (OSError, EOFError, LookupError, TypeError, ValueError, BadZipFile) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                file, f"cannot be read as prototypes ({type(error).__name__})", _REMEDY
            ) from error


_DTYPES: dict[str, Any] = {
    "valid": np.bool_,
    "prototypes": np.float32,
    "neighbours": np.int64,
    "similarity": np.float32,
    "matched": np.int64,
    "slide_index": np.int64,
    "region_index": np.int64,
    "assignment": np.int64,
    "closeness": np.float32,
    "coords": np.float64,
    "field_px": np.float64,
}
