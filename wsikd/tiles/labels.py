"""Annotations or a slide's label become labels of fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from wsikd.slides.annotations.base import UNLABELLED, Remarks, majority, region_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.slides.annotations.base import Annotation, Region
    from wsikd.tiles.metadata import SlideNotes
    from wsikd.tiles.store import StoreSettings

__all__ = ["UNLABELLED", "LabelCount", "label_fields", "label_patches"]


@dataclass(frozen=True)
class LabelCount:
    """How many patches of a slide have which label.

    Attributes:
        patches: patches of the slide.
        per_class: patches of each class, in the order of the settings.
        remarks: what is odd about the annotation.
    """

    patches: int
    per_class: tuple[int, ...]
    remarks: Remarks = field(default_factory=Remarks)

    @classmethod
    def of(
        cls, label: NDArray[np.int16], classes: Sequence[str], annotation: Annotation | None
    ) -> LabelCount:
        """Count labels int16 (N,), -1 where unlabelled."""
        counts = np.bincount(label[label >= 0], minlength=len(classes))[: len(classes)]
        remarks = Remarks() if annotation is None else annotation.remarks
        return cls(len(label), tuple(int(n) for n in counts), remarks)

    @property
    def labelled(self) -> int:
        """Patches with a label."""
        return sum(self.per_class)


def label_fields(
    boxes: NDArray[np.float64],
    regions: Sequence[Region],
    classes: Sequence[str],
    *,
    min_cover: float = 0.5,
    min_purity: float = 0.0,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Label each field by the class that covers most of it; of equals the first.

    Args:
        boxes: level-0 (x, y, width, height), float64 (N, 4).
        regions: regions in level-0 (x, y).
        classes: names in label order; regions of other classes are ignored.
        min_cover: share of the field that the class must cover, else the field stays unlabelled.
        min_purity: share that the class must have of all that the classes cover together.

    Returns:
        label int16 (N,), -1 where unlabelled; cover float32 (N,), the largest class's share.
    """
    shares = region_shares(boxes, regions, classes)
    return majority(shares, min_cover=min_cover, min_purity=min_purity)


def label_patches(
    boxes: NDArray[np.float64], settings: StoreSettings, notes: SlideNotes
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Labels of a store's patches: from the annotation, else the slide's own label for all.

    Args:
        boxes: level-0 (x, y, width, height), float64 (N, 4).
        settings: its classes and thresholds.
        notes: the slide's annotation and label.

    Returns:
        label int16 (N,), -1 where unlabelled; cover float32 (N,).

    Raises:
        AnnotationError: the annotation's file cannot be read.
    """
    classes, count = settings.classes, len(boxes)
    if notes.annotation is not None and notes.annotation.names:
        return notes.annotation.label(
            boxes, classes, min_cover=settings.min_cover, min_purity=settings.min_purity
        )
    if notes.label in classes:
        own = classes.index(notes.label)
        return np.full(count, own, np.int16), np.ones(count, np.float32)
    return np.full(count, UNLABELLED, np.int16), np.zeros(count, np.float32)
