"""Corrections of graded slides by a reviewer: ``OUT/corrections/<slide>.geojson``.

One polygon per corrected field, in QuPath's GeoJSON. ``wsikd tile --annotations OUT/corrections``
takes them as labels. They are kept outside the slide's own folder, since grading a slide again
replaces that folder.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsikd.core.errors import AnnotationError
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import CORRECTIONS, CORRECTIONS_KIND
from wsikd.core.reading import read_json
from wsikd.core.run import write_text_atomic
from wsikd.grade.runs.record import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap

FOLDER = "corrections"
LONGEST_TEXT = 2000
_WAIT_S = 5.0
_DECIMALS = 3
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "wsikd.grade.corrections")
_REMEDY = "move it elsewhere; corrections of this slide start again"

Box = tuple[float, float, float, float]
_Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


@dataclass(frozen=True)
class Correction:
    """The class that a reviewer gives to a field.

    Attributes:
        box: (x, y, width, height) in level-0 px from the corner of the slide's bounds.
        grade: the reviewer's class.
        was: the student's class.
        by: name of the reviewer.
        at: date and time in UTC.
        note: the reviewer's words; may be empty.
    """

    box: Box
    grade: str
    was: str
    by: str
    at: str
    note: str = ""


@dataclass(frozen=True)
class Review:
    """What reviewers have said about a slide.

    Attributes:
        slide: name of the slide.
        fingerprint: fingerprint of the slide file, see ``SlideInfo``.
        corrections: the corrected fields, by box.
        note: a note on the whole slide.
        signed_by: name of the reviewer who signed; empty if nobody has. Any change after that
            removes the signature.
        signed_at: date and time of the signature in UTC.
    """

    slide: str
    fingerprint: str
    corrections: tuple[Correction, ...] = ()
    note: str = ""
    signed_by: str = ""
    signed_at: str = ""

    def with_class(
        self, boxes: Sequence[tuple[Box, str]], grade: str | None, *, by: str, note: str = ""
    ) -> Self:
        """Give fields a class.

        Args:
            boxes: box and the student's class of each field.
            grade: the class; None removes earlier corrections of these fields.
            by: name of the reviewer.
            note: the reviewer's words.
        """
        kept = {one.box: one for one in self.corrections}
        now = _now()
        for box, was in boxes:
            kept.pop(box, None)
            if grade is not None:
                kept[box] = Correction(box, grade, was, by, now, note)
        return replace(
            self, corrections=tuple(kept[box] for box in sorted(kept)), signed_by="", signed_at=""
        )

    def with_note(self, note: str) -> Self:
        """Change the note on the slide."""
        return replace(self, note=note, signed_by="", signed_at="")

    def signed(self, by: str) -> Self:
        """Sign the slide as it is."""
        return replace(self, signed_by=by, signed_at=_now())


def review_text(review: Review) -> str:
    """A review in words; empty where there is none.

    >>> box = (0.0, 0.0, 9.0, 9.0)
    >>> review_text(Review("s", "").with_class([(box, "G3")], "G4", by="A"))
    'Reviewed, not signed. 1 field has another class (A).'
    """
    changed = [one for one in review.corrections if one.grade != one.was]
    same = len(review.corrections) - len(changed)
    if not (review.corrections or review.note or review.signed_by):
        return ""
    signed = f"Signed by {review.signed_by}, {review.signed_at[:10]}."
    parts = [signed if review.signed_by else "Reviewed, not signed."]
    if changed:
        names = ", ".join(sorted({one.by for one in changed}))
        parts.append(f"{_fields(len(changed))} another class ({names}).")
    if same:
        parts.append(f"{_fields(same)} the student's class confirmed.")
    return " ".join(parts)


def _fields(count: int) -> str:
    return "1 field has" if count == 1 else f"{count} fields have"


def field_box(grade_map: GradeMap, row: int, column: int) -> Box:
    """Box of a field as corrections name it."""
    left, top = grade_map.slide.bounds[:2]
    width, height = grade_map.cell_px
    x = grade_map.origin_xy[0] + column * width - left
    y = grade_map.origin_xy[1] + row * height - top
    return _rounded((x, y, x + width, y + height))


def review_file(out: Path, slide: str) -> Path:
    """The file of a slide's corrections in a folder of results."""
    return out / FOLDER / f"{slide}.geojson"


def read_review(out: Path, slide: str, fingerprint: str) -> Review:
    """Read what reviewers have said about a slide; an empty review without a file.

    Raises:
        AnnotationError: the file is another one, is damaged, or belongs to another slide.
    """
    path = review_file(out, slide)
    try:
        content = read_json(path, finite=True)
        found = _File.model_validate(content).review()
    except FileNotFoundError:
        return Review(slide, fingerprint)
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise AnnotationError(path, fault, "correct its permissions") from error
    except ValidationError as error:
        raise AnnotationError(path, "is not a file of corrections", _REMEDY) from error
    except ValueError as error:
        raise AnnotationError(path, f"is damaged ({error})", _REMEDY) from error
    if found.fingerprint != fingerprint:
        raise AnnotationError(path, "holds corrections of another slide of this name", _REMEDY)
    return found


def change_review(
    out: Path, slide: str, fingerprint: str, change: Callable[[Review], Review]
) -> Review:
    """Change what is on file about a slide; other processes wait meanwhile.

    Args:
        out: folder of results.
        slide: name of the slide.
        fingerprint: fingerprint of the slide file.
        change: makes the new review from the one on file.

    Returns:
        The new review.

    Raises:
        AnnotationError: as :func:`read_review`, or ``OUT/corrections`` is the result of a slide.
        OutputError: the file cannot be written.
    """
    path = review_file(out, slide)
    if read_record(path.parent):
        fault = f"a slide of this name is graded here, and corrections need the folder {FOLDER}"
        raise AnnotationError(path.parent, fault, "grade into another folder")
    try:
        with locked(path, wait_s=_WAIT_S):
            new = change(read_review(out, slide, fingerprint))
            write_text_atomic(path, _text(new), CORRECTIONS)
    except OSError as error:
        fault = f"cannot be written ({error.strerror})"
        raise AnnotationError(path, fault, "correct its permissions") from error
    return new


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _rounded(edges: Box) -> Box:
    left, top, right, bottom = (round(v, _DECIMALS) for v in edges)
    return left, top, round(right - left, _DECIMALS), round(bottom - top, _DECIMALS)


def _text(review: Review) -> str:
    head = {
        "kind": CORRECTIONS_KIND, "format": 1, "slide": review.slide,
        "fingerprint": review.fingerprint, "note": review.note,
        "signed_by": review.signed_by, "signed_at": review.signed_at,
    }  # fmt: skip
    lines = ",\n".join(
        json.dumps(_feature(review, one), ensure_ascii=False) for one in review.corrections
    )
    start = json.dumps(head, ensure_ascii=False)
    return f'{{"type": "FeatureCollection", "wsikd": {start}, "features": [\n{lines}\n]}}\n'


def _feature(review: Review, one: Correction) -> dict[str, Any]:
    x, y, width, height = one.box
    right, bottom = round(x + width, _DECIMALS), round(y + height, _DECIMALS)
    ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{review.fingerprint}/{one.box}")),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": one.grade},
            "metadata": {"was": one.was, "by": one.by, "at": one.at, "note": one.note},
        },
    }


class _Model(BaseModel):
    model_config = ConfigDict(strict=True)


class _Head(_Model):
    kind: Literal["corrections of a reviewer"]
    format: Literal[1]
    slide: str
    fingerprint: str
    note: _Text
    signed_by: _Text
    signed_at: _Text


class _Classification(_Model):
    name: Annotated[str, Field(min_length=1)]


class _Metadata(_Model):
    was: str
    by: _Text
    at: _Text
    note: _Text


class _Properties(_Model):
    classification: _Classification
    metadata: _Metadata


class _Geometry(_Model):
    type: Literal["Polygon"]
    coordinates: Annotated[
        list[Annotated[list[list[float]], Field(min_length=5, max_length=5)]],
        Field(min_length=1, max_length=1),
    ]


class _Feature(_Model):
    geometry: _Geometry
    properties: _Properties

    def correction(self) -> Correction:
        (left, top), _, (right, bottom), *_ = self.geometry.coordinates[0]
        given = self.properties.metadata
        return Correction(
            _rounded((left, top, right, bottom)), self.properties.classification.name,
            given.was, given.by, given.at, given.note,
        )  # fmt: skip


class _File(_Model):
    wsikd: _Head
    features: list[_Feature]

    def review(self) -> Review:
        head = self.wsikd
        return Review(
            head.slide, head.fingerprint, tuple(one.correction() for one in self.features),
            head.note, head.signed_by, head.signed_at,
        )  # fmt: skip
