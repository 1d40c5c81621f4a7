"""Drawn slides of few fields: guards fitted on them, which real tissue is shown to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.learn.patch.guard import alterations
from wsikd.models.guard import enough_tissue
from wsikd.slides.texture import look, texture
from wsikd.synthetic.cohort import class_weights
from wsikd.synthetic.glands import GRADES
from wsikd.synthetic.tissue import plan_tissue, render_strips

if TYPE_CHECKING:
    from benchmarks.studies.guard.data import Image
    from benchmarks.studies.guard.textures import Numbers

SLIDES, ACROSS = 30, 6
MPP, FIELD_PX, SIDE = 0.5, 512, 64
ALTERED = 24
FIELDS = (10, 100)
"""Fields of a slide that a guard is fitted on, at most; a slide has 14 to 20."""


def numbers_of_drawn() -> dict[str, np.ndarray]:
    """Draw the slides; what ``read_numbers`` reads again."""
    found: dict[str, list[np.ndarray]] = {"all": [], "slide": [], "chosen": [], "slight": []}
    for number in range(SLIDES):
        fields, numbers = drawn_fields(number)
        chosen = np.linspace(0, len(fields) - 1, min(ALTERED, len(fields))).round().astype(int)
        kept = fields[np.unique(chosen)]
        plain = _look(kept)
        slight = [_look(np.stack([c(f) for f in kept])) - plain for c in alterations(MPP)]
        name = f"{number:02d}"
        found["all"].append(numbers)
        found["slide"].append(np.full(len(numbers), name))
        found["chosen"].append(np.full(len(kept), name))
        found["slight"].append(np.stack(slight, 1))
    made = {key: np.concatenate(values) for key, values in found.items()}
    return {**made, "slight": made["slight"].transpose(1, 0, 2)}


def drawn_fields(number: int) -> tuple[Image, Numbers]:
    """Fields of a drawn slide with at least half tissue, uint8 (N, 512, 512, 3), and numbers."""
    side = ACROSS * FIELD_PX
    tissue = plan_tissue((90, number), (side, side), MPP, GRADES, class_weights(number, 4))
    shape = (ACROSS, FIELD_PX, ACROSS, FIELD_PX, 3)
    rgb = np.concatenate(list(render_strips(tissue))).reshape(shape).swapaxes(1, 2)
    fields = rgb.reshape(-1, FIELD_PX, FIELD_PX, 3)
    numbers, share = look(np.stack([_small(field) for field in fields]))
    keep = enough_tissue(share)
    return fields[keep], numbers[keep]


def _look(fields: Image) -> Numbers:
    return texture(np.stack([_small(field) for field in fields]))


def _small(field: Image) -> Image:
    return np.asarray(cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
