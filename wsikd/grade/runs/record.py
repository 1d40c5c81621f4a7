"""The ``result.json`` of a graded slide: a pydantic model, and its only reader.

A file that does not match the model counts as no result.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from wsikd.core.reading import read_json
from wsikd.models.files.card import GraderCard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = "result.json"
FORMAT: Final = 1
_GROUPS = (None, 0, 1, 2, 3, 4, 5)
_DIGEST = re.compile(r"[0-9a-f]{1,64}")
_MOST = 2**53


def _plain(value: Any) -> bool:
    """Whether a value is a string, a number, a bool, None, or a list of these."""
    if isinstance(value, list):
        return all(_plain(v) and not isinstance(v, list) for v in value)
    if isinstance(value, bool | str | None):
        return True
    return isinstance(value, int | float) and abs(value) < _MOST


def _row(columns: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(columns.get("slide"), str):
        raise ValueError("a row names its slide")
    if columns.get("isup_grade_group") not in _GROUPS:
        raise ValueError("a grade group is 0 to 5, or none")
    if not all(map(_plain, columns.values())):
        raise ValueError("columns are texts, numbers, truth values, or lists of them")
    return columns


def _seconds(stages: dict[str, Any]) -> dict[str, Any]:
    if not all(_plain(v) and not isinstance(v, list | str) for v in stages.values()):
        raise ValueError("seconds are numbers")
    return stages


_GROUP_SCHEMA = {"enum": list(_GROUPS)}
_ROW_SCHEMA = {
    "type": "object",
    "required": ["slide"],
    "properties": {"slide": {"type": "string"}, "isup_grade_group": _GROUP_SCHEMA},
    "additionalProperties": {"type": ["string", "number", "boolean", "null", "array"]},
}
_SECONDS_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": ["number", "boolean", "null"]},
}


class ResultRecord(BaseModel):
    """A graded slide. Entries that this version does not know are kept.

    Attributes:
        format: version of the record. It increases when older versions of wsikd cannot read new
            records; wsikd 0.1.0 wrote none.
        summary: the slide's row of ``summary.csv``: a value for each column. Columns follow the
            student's classes, and the order is that of the file.
        intervals: intervals of areas, shares and grades, see ``wsikd.grade.intervals``.
        cores: score and place of each connected piece of tissue, in biopsies.
        made_with: student, slide and settings that decide the result; another run of
            ``wsikd infer`` compares its own with them, entry by entry.
        seconds: seconds of each stage.
        mpp_source: source of the slide's resolution.
        series: number of the image in the slide file.
        engine: engine and precision.
        escalation: the rule that selected the fields for the teacher, in words.
        read: level, reader and JPEG reduction of the pixels that were read.
        wsikd: version of the program.
        created: date and time in UTC.
        note: permitted use of the result.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    format: Literal[1] = 1
    summary: Annotated[dict[str, Any], AfterValidator(_row), WithJsonSchema(_ROW_SCHEMA)]
    intervals: Any = None
    cores: Any = None
    made_with: dict[str, Any] = {}
    seconds: Annotated[
        dict[str, Any], AfterValidator(_seconds), WithJsonSchema(_SECONDS_SCHEMA)
    ] = {}
    mpp_source: Any = None
    series: Any = None
    engine: Any = None
    escalation: Any = None
    read: Any = None
    wsikd: Any = None
    created: Any = None
    note: Any = None

    @property
    def slide(self) -> str:
        """Name of the slide."""
        return str(self.summary["slide"])

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the slide file, see ``SlideInfo``; None if the record has none."""
        found = self.made_with.get("slide")
        return found if isinstance(found, str) else None

    def record(self) -> dict[str, Any]:
        """The entries of ``result.json``."""
        return self.model_dump(exclude_unset=True)


def read_record(folder: Path) -> ResultRecord | None:
    """Read the record in a slide's folder of results; None if it is missing or malformed."""
    try:
        return ResultRecord.model_validate(read_json(folder / FILE, finite=True))
    except (OSError, ValueError):
        return None


def newer_format(folder: Path) -> str | None:
    """A message on a record whose format this version cannot read; None for any other record."""
    try:
        found = read_json(folder / FILE, finite=True).get("format")
    except (OSError, ValueError, AttributeError):
        return None
    newer = isinstance(found, int) and not isinstance(found, bool) and found > FORMAT
    return f"{FILE} has format {found}, this wsikd reads up to {FORMAT}" if newer else None


def named_records(out: Path) -> Iterator[tuple[Path, ResultRecord]]:
    """The finished results in a folder, sorted by name.

    Folders without the name of their slide, such as those left by a killed run, are skipped.
    """
    for file in sorted(out.glob(f"*/{FILE}")):
        record = read_record(file.parent)
        if record and record.slide == file.parent.name:
            yield file.parent, record


def student_card(out: Path, digest: Any) -> GraderCard | None:
    """Read the card that ``wsikd infer`` wrote beside a student's results.

    Args:
        out: folder of results.
        digest: the first digits of the student's SHA-256, from a row of the summary.

    Returns:
        The card; None if it is missing or malformed.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    try:
        content = read_json(out / f"student-{digest}.json", finite=True)
        return GraderCard.model_validate(content)
    except (OSError, ValueError):
        return None


def student_called(out: Path, digest: Any) -> str:
    """Name, version and digits of a student, from its card; the digits alone without a name.

    Args:
        out: folder of results.
        digest: the first digits of the student's SHA-256, from a row of the summary.
    """
    card = student_card(out, digest)
    own = card is not None and card.sha256.startswith(digest)
    return card.called if card and own else str(digest or "")
