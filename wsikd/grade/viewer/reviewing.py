"""A reviewer's corrections in the viewer: what the page shows of them, and what it may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from wsikd.grade.corrections import LONGEST_TEXT, field_box
from wsikd.grade.viewer.deepzoom import cell_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.grade.corrections import Box, Review
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.viewer.deepzoom import Plane


class Change(BaseModel):
    """A request of the page.

    Attributes:
        box: plane (x, y, width, height); the fields whose centre lies in it get ``grade``.
        grade: index of the class; None removes earlier corrections.
        note: the reviewer's words on the fields, or, without ``box``, on the slide.
        sign: sign the slide.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    box: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)] | None = None
    grade: Annotated[int, Field(ge=0)] | None = None
    note: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    sign: bool = False


def change_of(
    asked: Change, grade_map: GradeMap, plane: Plane, by: str
) -> Callable[[Review], Review]:
    """The change of a review that a request stands for.

    Raises:
        ValueError: there is no such class, or no field in the box.
    """
    if asked.sign:
        return lambda review: review.signed(by)
    if asked.box is None:
        return lambda review: review.with_note(asked.note)
    names = grade_map.classes
    if asked.grade is not None and asked.grade >= len(names):
        raise ValueError("no such class")
    boxes = _fields_in(asked.box, grade_map, plane)
    if not boxes:
        raise ValueError("no field there")
    grade = None if asked.grade is None else names[asked.grade]
    return lambda review: review.with_class(boxes, grade, by=by, note=asked.note)


def review_data(review: Review, grade_map: GradeMap, plane: Plane) -> dict[str, Any]:
    """What the page shows of a review."""
    left, top = grade_map.slide.bounds[:2]
    names = list(grade_map.classes)
    return {
        "note": review.note,
        "signed_by": review.signed_by,
        "signed_at": review.signed_at,
        "fields": [
            {
                "box": plane.box_from_level0((one.box[0] + left, one.box[1] + top, *one.box[2:])),
                "grade": names.index(one.grade) if one.grade in names else -1,
                "name": one.grade, "was": one.was, "by": one.by, "at": one.at, "note": one.note,
            }
            for one in review.corrections
        ],
    }  # fmt: skip


def corrected_grades(review: Review, grade_map: GradeMap) -> NDArray[np.int16]:
    """Class of each field after its corrections, -1 where nothing was read: (rows, columns).

    Corrections of fields that another map had, or of classes that it had, change nothing.
    """
    grade_hw = grade_map.grade_hw.copy()
    left, top = grade_map.slide.bounds[:2]
    names = grade_map.classes
    for one in review.corrections:
        x, y, width, height = one.box
        cell = cell_at(grade_map, left + x + width / 2, top + y + height / 2)
        if cell and one.grade in names and field_box(grade_map, *cell) == one.box:
            grade_hw[cell] = names.index(one.grade)
    return grade_hw


def _fields_in(box: list[float], grade_map: GradeMap, plane: Plane) -> list[tuple[Box, str]]:
    """Box and class of each field whose centre lies in a box of the plane."""
    x, y, width, height = box
    left, top = plane.to_level0(x, y)
    right, bottom = plane.to_level0(x + width, y + height)
    rows, columns = np.nonzero(grade_map.valid_hw)
    middle_x = grade_map.origin_xy[0] + (columns + 0.5) * grade_map.cell_px[0]
    middle_y = grade_map.origin_xy[1] + (rows + 0.5) * grade_map.cell_px[1]
    inside = (left <= middle_x) & (middle_x <= right) & (top <= middle_y) & (middle_y <= bottom)
    grade_hw = grade_map.grade_hw
    return [
        (field_box(grade_map, row, column), grade_map.classes[grade_hw[row, column]])
        for row, column in zip(rows[inside].tolist(), columns[inside].tolist(), strict=True)
    ]
