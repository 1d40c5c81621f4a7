"""The patches of all sources of a run in one list, with one set of classes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.classes import ordered_classes
from wsikd.core.errors import DataError
from wsikd.core.registry import nearest
from wsikd.learn.data.listing import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.listing import Listed
    from wsikd.learn.data.settings import Data


@dataclass(frozen=True)
class Joined:
    """Patches, N of them.

    ``label`` int64 (N,) is an index into ``classes``, -1 for a patch without a label; ``slide``,
    ``patient`` and ``given`` (the split that the data bring) as in ``Listing``; ``tissue`` is the
    share of tissue, 1 where it is not known.
    """

    label: NDArray[np.int64]
    slide: list[str]
    patient: list[str | None]
    given: list[str | None]
    tissue: list[float]
    classes: tuple[str, ...]

    def only(self, rows: NDArray[np.int64]) -> Joined:
        """These rows, int64 (M,)."""
        lists = (self.slide, self.patient, self.given, self.tissue)
        slide, patient, given, tissue = ([part[i] for i in rows] for part in lists)
        return Joined(self.label[rows], slide, patient, given, tissue, self.classes)


def join(sources: Sequence[Listed], data: Data) -> Joined:
    """List the patches of all sources.

    Args:
        sources: entries of ``data``, in their order.
        data: what classes they have.

    Raises:
        DataError: sources that disagree, unknown classes, no labelled patch.
    """
    _check_agreement(sources)
    classes = _classes(sources, data.classes)
    number = {name: i for i, name in enumerate(classes)} | {UNLABELLED: -1}
    for name in data.benign or ():
        if name not in classes:
            raise DataError("data.benign", f"class '{name}' is unknown", nearest(name, classes))
    label: list[int] = []
    found = Joined(np.empty(0, np.int64), [], [], [], [], classes)
    for source in sources:
        rows = source.listing
        for name in set(rows.label) - {UNLABELLED} - set(classes):
            raise DataError(source.path, f"class '{name}' is unknown", nearest(name, classes))
        label += [number[name] for name in rows.label]
        found.slide.extend(rows.slide)
        found.patient.extend(rows.patient)
        found.given.extend(rows.split)
        found.tissue.extend(rows.tissue or [1.0] * len(rows))
    if all(one < 0 for one in label):
        raise DataError(
            sources[0].path, "holds no labelled patches", "tile with annotations, or label them"
        )
    return replace(found, label=np.asarray(label, np.int64))


def _check_agreement(sources: Sequence[Listed]) -> None:
    """Tile stores of one run must have the same settings."""
    first = sources[0]
    for other in sources[1:]:
        for key, value in first.settings.items():
            if other.settings.get(key, value) != value:
                raise DataError(
                    other.path,
                    f"{key} {other.settings[key]}, but {value} in {first.path.name}",
                    "tile them with the same settings",
                )


def _classes(sources: Sequence[Listed], wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is not None:
        classes = tuple(wanted)
    elif len(known := {s.classes for s in sources if s.classes}) == 1:
        classes = known.pop()
    else:
        classes = ordered_classes(
            name for s in sources for name in s.listing.label if name != UNLABELLED
        )
    if not classes:
        raise DataError(
            sources[0].path,
            "holds no labelled patches",
            "tile with annotations (--annotations, or a manifest), or label them",
        )
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise DataError(
            "data.classes",
            f"needs at least two different names, not {list(classes)}",
            "add data of another class, or correct the setting",
        )
    return classes
