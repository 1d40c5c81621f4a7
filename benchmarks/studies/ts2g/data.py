"""What the study of TS2G-KD learns from beside its slides: boxes, and the teacher's patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks.studies.ts2g.cells import SHAPES, draw_shapes
from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text
from wsikd.core.run import aside, write_text_atomic
from wsikd.slides.base import open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.studies.ts2g.cells import CellSlide

EACH = 4
"""Patches of a slide with each shape, and without any, that the teacher learns from."""


def write_teacher_patches(
    folder: Path, *, seed: int, slides: int, size_px: int, patch_px: int
) -> Path:
    """Write patches of shapes, named by what is in the middle, every fourth slide for validation.

    The slides are not of the cohort and hold no rare cell.

    Args:
        folder: where to; what is finished in it stays.
        seed: of the cohort.
        slides: how many.
        size_px: side of a slide.
        patch_px: side of a patch.

    Returns:
        The labels CSV.

    Raises:
        OutputError: an image cannot be written.
    """
    rows = [("image", "label", "class", "slide", "split")]
    names = ("plain", *SHAPES)
    if (folder / "labels.csv").is_file():
        return folder / "labels.csv"
    for k in range(slides):
        rng = np.random.default_rng([seed, k, 2**20, 9])
        bare, _ = draw_shapes((seed, k, 2**20), size_px, 0)
        image, placed = draw_shapes((seed, k, 2**20), size_px, EACH)
        middle = rng.integers(size_px // 4, 3 * size_px // 4, (EACH, 2)).tolist()
        cuts = [(image, *place) for place in placed] + [(bare, "plain", x, y) for x, y in middle]
        for n, (source, kind, x, y) in enumerate(cuts):
            off = rng.integers(-(patch_px // 4), patch_px // 4 + 1, 2) - patch_px // 2
            left, top = (int(v) for v in np.clip(off + [x, y], 0, size_px - patch_px))
            name = f"t{k:02d}_{n:03d}.png"
            patch = source[top : top + patch_px, left : left + patch_px]
            write_png(folder / "images" / name, patch)
            split = "val" if k % 4 == 3 else "train"
            rows.append((name, str(names.index(kind)), kind.replace(",", ""), f"t{k:02d}", split))
    write_text_atomic(folder / "labels.csv", csv_text(rows[0], rows[1:]))
    return folder / "labels.csv"


def cut_boxes(slides: list[CellSlide], folder: Path, tile_px: int) -> dict[str, Any]:
    """Cut an image around every rare cell, and as many from slides without any.

    Cells lie anywhere in their image but are never cut by its edge; a cell that another image's
    edge cuts is kept there as a crowd, which neither trains nor scores.

    Args:
        slides: of one split.
        folder: images go to ``images/`` in it.
        tile_px: side of an image in level-0 px.

    Returns:
        The annotation file's content, in COCO's format.
    """
    rng = np.random.default_rng([tile_px, len(slides)])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    negative = [s for s in slides if not len(s.boxes)]
    wanted = sum(len(s.boxes) for s in slides)
    for slide in slides:
        with open_slide(slide.path) as opened:
            width, height = opened.info.dimensions
            corners = [
                (int(rng.integers(right - tile_px, left + 1)),
                 int(rng.integers(bottom - tile_px, top + 1)))
                for left, top, right, bottom in slide.boxes.tolist()
            ] or [
                (int(rng.integers(width - tile_px)), int(rng.integers(height - tile_px)))
                for _ in range(-(-wanted // len(negative)))
            ]  # fmt: skip
            for x, y in corners:
                x, y = min(max(x, 0), width - tile_px), min(max(y, 0), height - tile_px)
                name = f"{slide.path.stem}_{x}_{y}.png"
                write_png(folder / "images" / name, opened.read_level(0, (x, y), (tile_px,) * 2))
                images.append({"id": len(images) + 1, "file_name": name, "width": tile_px,
                               "height": tile_px})  # fmt: skip
                for box in slide.boxes - [x, y, x, y]:
                    left, top, right, bottom = (int(v) for v in np.clip(box, 0, tile_px))
                    if right <= left or bottom <= top:
                        continue
                    whole = np.array_equal(box, [left, top, right, bottom])
                    annotations.append({
                        "id": len(annotations) + 1, "image_id": len(images), "category_id": 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top), "iscrowd": int(not whole),
                    })  # fmt: skip
    categories = [{"id": 1, "name": "rare cell"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def holds(xy: NDArray[np.float64], side: float, boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which patches hold the middle of a box: bool (N,).

    Args:
        xy: corners of the patches, level-0 px, float64 (N, 2).
        side: of a patch in level-0 px.
        boxes: (M, 4), see :class:`~benchmarks.studies.ts2g.cells.CellSlide`.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (middle[None] >= xy[:, None]) & (middle[None] < xy[:, None] + side)
    found: NDArray[np.bool_] = np.any(np.all(inside, axis=2), axis=1)
    return found


def write_png(file: Path, rgb: NDArray[np.uint8]) -> None:
    """Write uint8 (height, width, 3), RGB. Raises OutputError."""
    with aside(file, keep_suffix=True) as part:
        if not cv2.imwrite(str(part), np.ascontiguousarray(rgb[..., ::-1])):
            raise OutputError(file, "cannot be written", "free space, or choose another -o")
