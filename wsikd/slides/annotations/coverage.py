"""How much of each field a class covers, and which class that makes the field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.slides.annotations.read import Region

UNLABELLED = -1
_TOLERANCE = 1e-9


def region_shares(
    boxes: NDArray[np.float64], regions: Sequence[Region], classes: Sequence[str]
) -> NDArray[np.float64]:
    """Share of each field that the regions of each class cover: float64 (N, classes), 0 to 1.

    Args:
        boxes: level-0 (x, y, width, height), float64 (N, 4).
        regions: in level-0 (x, y); those of one class count once where they overlap.
        classes: names in label order; regions of other classes are ignored.
    """
    cover = np.zeros((len(boxes), len(classes)))
    if not len(boxes):
        return cover
    x, y, width, height = boxes.T
    fields = shapely.box(x, y, x + width, y + height)
    tree = shapely.STRtree(fields)
    full = width * height
    for index, name in enumerate(classes):
        geometries = [r.geometry for r in regions if r.name == name]
        if not geometries:
            continue
        parts = shapely.get_parts(shapely.union_all(geometries))
        shapely.prepare(parts)
        part, field = tree.query(parts, predicate="intersects")
        areas = full[field]
        # Clipping a large outline is slow, and most fields lie wholly within it.
        cut = ~shapely.contains(parts[part], fields[field])
        areas[cut] = shapely.area(shapely.intersection(fields[field[cut]], parts[part[cut]]))
        np.add.at(cover[:, index], field, areas)
    return np.asarray(cover / np.maximum(full, _TOLERANCE)[:, None])


def majority(
    shares: NDArray[np.float64], *, min_cover: float = 0.5, min_purity: float = 0.0
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Label each field by the class that covers most of it; of equals the first.

    Args:
        shares: of each field by each class, float64 (N, classes), 0 to 1.
        min_cover: share of the field that the class must cover, else the field stays unlabelled.
        min_purity: share that the class must have of all that the classes cover together.

    Returns:
        label int16 (N,), -1 where unlabelled; cover float32 (N,), the largest class's share.
    """
    best = shares.argmax(1) if shares.shape[1] else np.zeros(len(shares), np.int64)
    share = shares.max(1, initial=0.0)
    pure = share >= min_purity * shares.sum(1) - _TOLERANCE
    enough = (share > _TOLERANCE) & (share >= min_cover - _TOLERANCE)
    label = np.where(enough & pure, best, UNLABELLED)
    return label.astype(np.int16), share.astype(np.float32)
