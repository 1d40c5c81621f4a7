"""COCO's mean average precision of detections, by pycocotools."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    Boxes = Sequence[dict[str, Tensor]]


def mean_average_precision(found: Boxes, targets: Boxes) -> dict[str, float | None]:
    """``map`` at IoU 0.50 to 0.95 and ``map_50`` at IoU 0.50; None where there is no box.

    Args:
        found: of each image, ``boxes`` float32 (N, 4) as x0, y0, x1, y1, ``labels`` int64 (N,) and
            ``scores`` float32 (N,).
        targets: targets of each image, true ``boxes`` and ``labels``.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({label for one in (*found, *targets) for label in one["labels"].tolist()})
    if not found:
        return {"map": None, "map_50": None}
    sides = []
    with redirect_stdout(io.StringIO()):  # it prints each of its steps
        for boxes in (targets, found):
            side = COCO()
            side.dataset = _dataset(boxes, names)
            side.createIndex()
            sides.append(side)
        judged = COCOeval(*sides, iouType="bbox")
        judged.params.iouThrs = _steps(0.5, 0.95, 10)
        judged.params.recThrs = _steps(0.0, 1.0, 101)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    figures = {"map": judged.stats[0], "map_50": judged.stats[1]}
    return {name: None if v < 0 else float(np.float32(v)) for name, v in figures.items()}


def _dataset(images: Boxes, names: Sequence[int]) -> dict[str, Any]:
    """The content of a file in COCO's format."""
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        corners = image["boxes"]
        sized = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        scores = image["scores"].tolist() if "scores" in image else [None] * len(sized)
        for box, label, score in zip(sized, image["labels"].tolist(), scores, strict=True):
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label, "bbox": box,
                   "area": box[2] * box[3], "iscrowd": 0}  # fmt: skip
            rows.append(row if score is None else {**row, "score": score})
    return {
        "images": [{"id": number} for number in range(len(images))],
        "annotations": rows,
        "categories": [{"id": label, "name": str(label)} for label in names],
    }


def _steps(first: float, last: float, count: int) -> Any:
    """Thresholds, rounded to float32 as those of the runs that are recorded."""
    return torch.linspace(first, last, count).numpy().astype(np.float64)
