"""Regions that a person drew become labels of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.slides.annotations import Region

UNLABELLED = -1


def label_fields(
    boxes: NDArray[np.float64],
    regions: Sequence[Region],
    classes: Sequence[str],
    *,
    min_cover: float = 0.5,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Label each field by the class that covers most of it.

    Args:
        boxes: level-0 (x, y, width, height), float64 (N, 4).
        regions: regions in level-0 (x, y).
        classes: names in label order; regions of other classes are ignored.
        min_cover: share of the field that the class must cover, else the field stays unlabelled.

    Returns:
        label int16 (N,), -1 where unlabelled; cover float32 (N,), the largest class's share.
    """
    cover = np.zeros((len(boxes), len(classes)))
    x, y, width, height = boxes.T
    fields = shapely.box(x, y, x + width, y + height)
    for index, name in enumerate(classes):
        geometries = [r.geometry for r in regions if r.name == name]
        if not geometries or not len(boxes):
            continue
        parts = shapely.get_parts(shapely.union_all(geometries))
        tree = shapely.STRtree(fields)
        part, field = tree.query(parts, predicate="intersects")
        areas = shapely.area(shapely.intersection(fields[field], parts[part]))
        np.add.at(cover[:, index], field, areas)
    cover /= np.maximum(width * height, 1e-9)[:, None]
    best = cover.argmax(1) if len(classes) else np.zeros(len(boxes), np.int64)
    share = cover.max(1, initial=0.0)
    label = np.where(share >= max(min_cover, 1e-9), best, UNLABELLED)
    return label.astype(np.int16), share.astype(np.float32)
