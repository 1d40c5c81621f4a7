"""What the cohort benchmark runs in processes of their own: a hand-written loop, a count of opens.

The loop does what grading needs and no more: open, find tissue, read, OpenVINO in bf16, one CSV a
slide. It has no process that may die, no resume, no score, no interval, no guard, no check of bf16.
"""

from __future__ import annotations

import csv
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.softmax import softmax
from wsikd.core.workers.memory import keep_freed
from wsikd.grade.engines import Network, Place
from wsikd.grade.engines.choose import default_precision
from wsikd.grade.engines.with_openvino import OpenVinoEngine
from wsikd.models.files.bundle import load_bundle
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.models.files.bundle import InputSpec

    Ready = tuple[Path, NDArray[np.float64], list[NDArray[np.uint8]]]

CORES, BATCH, MIN_TISSUE = len(os.sched_getaffinity(0)), 128, 0.1


def grade_by_hand(folder: Path, model: Path, out: Path) -> int:
    """Grade every slide of a folder; returns how many.

    Two threads open, look for tissue and read, as many slides ahead as there are cores; this one
    computes and writes.
    """
    keep_freed()
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(model, known=lambda _: True)
    precision = default_precision("openvino", "cpu")
    network = Network(bundle.network, bundle.spec.patch_px, bundle.key)
    engine = OpenVinoEngine(network, Place(threads=CORES, precision=precision))
    paths = sorted(folder.glob("*.svs"))
    with ThreadPoolExecutor(CORES) as pool:
        for path, boxes, parts in pool.map(lambda p: _read(p, bundle.spec), paths):
            logits = [engine(part) for part in parts]
            _write(out / f"{path.stem}.csv", boxes, softmax(np.concatenate(logits)), bundle.spec)
    return len(paths)


def _read(path: Path, spec: InputSpec) -> Ready:
    """Corners of a slide's fields, and their pixels in batches."""
    with open_slide(path) as slide:
        grid = TileGrid.plan(slide, spec.mpp, spec.patch_px)
        rows, columns = np.nonzero(grid.cover(find_tissue(slide, workers=1)) >= MIN_TISSUE)
        boxes = np.stack([columns, rows], 1) * grid.step_px + grid.origin_xy
        canvas = Canvas.plan(slide, spec.mpp, close=True)
        batches = stream_patches(canvas, grid, rows, columns, batch_size=BATCH, workers=1)
        return path, boxes, [patches.copy() for _, patches in batches]


def _write(
    path: Path, boxes: NDArray[np.float64], found: NDArray[np.floating], spec: InputSpec
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["minx", "miny", *(f"prob_{name}" for name in spec.classes)])
        for box, row in zip(boxes.tolist(), found.tolist(), strict=True):
            table.writerow([*box, *(f"{v:.6f}" for v in row)])


def count_opens(slides: Path, model: Path, out: Path) -> int:
    """Files opened by this process and its worker threads to grade slides into a folder."""
    from wsikd.cli.main import main

    opened = 0

    def hook(event: str, arguments: Sequence[object]) -> None:
        nonlocal opened
        opened += event == "open" and str(out) in str(arguments[0])

    sys.addaudithook(hook)
    line = ["infer", "-i", str(slides), "-m", str(model), "-o", str(out), "--jobs", "0"]
    main(line, standalone_mode=False)
    return opened
