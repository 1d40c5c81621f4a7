"""A folder of results: one folder per slide, and one summary of all.

A slide's folder appears when it is complete. Its ``result.json`` records student and settings:
another run with the same ones skips the slide, and a run with other settings is refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wsikd.core.about import __version__
from wsikd.core.errors import OutputError, StoreMismatchError, WsikdError
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import CARD, RESULT
from wsikd.core.output.place import Place
from wsikd.core.run import provenance, write_json_atomic
from wsikd.grade.cores import core_columns, cores
from wsikd.grade.domain_shift import likeness
from wsikd.grade.escalation.predictor import EscalatingPredictor, escalation_row
from wsikd.grade.exports import DEFAULT, PICTURES, formats_for, write_all
from wsikd.grade.gleason_rules import RULES_OF, Rules
from wsikd.grade.guard_verdict import ANYWAY, beyond, guard_columns, watches
from wsikd.grade.intervals import basis, intervals
from wsikd.grade.review import reviewed
from wsikd.grade.runs.prefetch import open_now
from wsikd.grade.runs.record import FILE, FORMAT, ResultRecord, newer_format, read_record
from wsikd.grade.runs.summary_file import ASKED, HOW, note_of
from wsikd.grade.score_text import score_sentence
from wsikd.grade.summary import summarise
from wsikd.grade.verdict import UNLIKE
from wsikd.slides.appearance import Watcher
from wsikd.slides.base import MARKS
from wsikd.slides.file_format import files_of
from wsikd.slides.listing.once import Made
from wsikd.slides.tissue.find import mask_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsikd.core.shares import ShareErrors
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.predict import SlidePredictor
    from wsikd.grade.runs.prefetch import Opened
    from wsikd.models.files.bundle import StudentBundle
    from wsikd.slides.appearance import Appearance
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry

RULE_NAMES = tuple(Rules.__dataclass_fields__)
ACCEPTED = "accept_grey"


@dataclass(frozen=True)
class ResultSettings(Rules):
    """Settings that decide a slide's results, beside student and reading; rules of the score too.

    ``formats`` are entries of ``EXPORTERS``, or ``all`` for every one that supports the slide.
    ``temperature`` calibrates the probabilities, ``teacher_temperature`` those of the fields that a
    teacher read; None leaves them uncalibrated. ``grade_anyway`` grades slides that the student's
    guard would withhold.
    """

    formats: tuple[str, ...] = DEFAULT
    temperature: float | None = None
    teacher_temperature: float | None = None
    grade_anyway: bool = False


def begin_slide(
    predictor: SlidePredictor | EscalatingPredictor,
    entry: SlideEntry,
    out: Path,
    settings: ResultSettings,
    *,
    student: str,
    called: str = "",
    trained_on: Appearance | None = None,
    errors: ShareErrors | None = None,
    overwrite: bool = False,
    opened: Opened | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    inputs: Sequence[Path] = (),
) -> Callable[[], tuple[dict[str, Any], bool]]:
    """Grade a slide for ``out/<name>/``, unless its results are there.

    Args:
        predictor: the student, ready to run, alone or with its teacher.
        entry: the slide.
        out: folder of results.
        settings: formats, rules of the score and temperatures.
        student: SHA-256 of the student's weights, or its first digits.
        called: what pictures call the student; by default the first digits.
        trained_on: stain and focus of the training slides, for a comparison with the slide's.
        errors: errors of shares on the student's validation slides, for the intervals.
        overwrite: replace results made with other settings.
        opened: the slide, if it was opened in advance.
        on_progress: called with (fields done, fields in all).
        inputs: files and folders that are read beside the slide's own, e.g. the student's folder;
            results are not written over them.

    Returns:
        A function that writes the results and may be called from any thread. It returns the slide's
        row of the summary and whether it was made now. The folder appears when it ends; until then
        the folder is locked, and the slide is open.

    Raises:
        StoreMismatchError: there are results of other settings.
        AnnotationError: the mask file cannot be used.
        OutputError: the result cannot be written, another process is using the folder, or it has
            files that wsikd did not make.
        SlideError, RegionReadError: the slide cannot be read.
    """
    read = files_of(entry.path, entry.annotation, entry.mask)
    place = Place(out / entry.name, RESULT, out, [*read, *inputs])
    begun = time.perf_counter()
    opened = opened or open_now(entry)
    clock = opened.clock
    with ExitStack() as work:
        slide = work.enter_context(opened.slide)
        place.check()
        formats = formats_for(settings.formats, slide)
        made_with = _made_with(predictor, entry, slide, settings, student, formats)
        if place.replaced.exists():
            with locked(place.path):
                place.recover()
        if not overwrite and (row := _made(place, made_with)) is not None:
            return _already(row)
        place.may_replace()
        begin = work.enter_context(_locked(place))
        if not overwrite and (row := _made(place, made_with)) is not None:
            return _already(row)  # another process has made it meanwhile
        part = begin()
        watcher = Watcher() if trained_on else None
        reading = predictor.guard.reading() if predictor.guard else None
        grade_map = predictor.predict(
            slide,
            mask_file=entry.mask,
            prepared=opened.prepared,
            clock=clock,
            on_progress=on_progress,
            watch=watches(reading, watcher),
            picture=not PICTURES.isdisjoint(formats),
        ).calibrated(settings.temperature, settings.teacher_temperature)
        how = {"engine": _engine(predictor), "escalation": _rule(predictor),
               "read": _read_how(predictor, slide)}  # fmt: skip
        rest = work.pop_all()

    def finish() -> tuple[dict[str, Any], bool]:
        with rest:
            with clock("summary"):
                withheld = UNLIKE if beyond(reading) and not settings.grade_anyway else None
                row, spread, found = _summary(grade_map, settings, errors, withheld)
            if entry.patient:
                row = {"slide": row["slide"], "patient": entry.patient} | row
            row |= likeness(entry.name, trained_on, watcher)
            row |= guard_columns(entry.name, reading, anyway=settings.grade_anyway)
            row |= escalation_row(grade_map, clock.seconds)
            with clock("write"):
                caption = _caption(row, called or student[:12], predictor.spec.mpp)
                write_all(replace(grade_map, caption=caption), part, formats, slide=slide)
            row["seconds"] = round(time.perf_counter() - begun, 3)
            row |= _how(made_with, predictor.spec.mpp) | {"engine": how["engine"]}
            row = reviewed(row)
            record = ResultRecord(
                format=FORMAT,
                summary=row,
                intervals=spread,
                **({"cores": found} if found else {}),
                made_with=made_with,
                seconds={k: round(v, 4) for k, v in clock.seconds.items()},
                mpp_source=slide.mpp.source,
                series=slide.info.series,
                **how,
                wsikd=__version__,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                note=note_of(row),
            )
            write_json_atomic(part / FILE, record.record())
        return row, True

    return finish


def _caption(row: Mapping[str, Any], called: str, mpp: float) -> str:
    """Score, student and date, for the pictures of a map."""
    today = datetime.now(UTC).date().isoformat()
    read = f"Graded by student {called} at {mpp:g} µm/px on {today}."
    return " ".join(filter(None, (score_sentence(row), read)))


def _already(row: dict[str, Any]) -> Callable[[], tuple[dict[str, Any], bool]]:
    """The function for a slide whose results are there: it writes nothing."""
    return lambda: (row, False)


def _made_with(
    predictor: SlidePredictor | EscalatingPredictor,
    entry: SlideEntry,
    slide: Slide,
    settings: ResultSettings,
    student: str,
    formats: Sequence[str],
) -> dict[str, Any]:
    """Student, slide and settings that decide a result."""
    made_with = {
        "student": student,
        "slide": slide.info.fingerprint,
        "slide_mpp": [slide.mpp.x, slide.mpp.y],
        "mask": _file_hash(entry.mask),
        **asdict(settings),
        "rules": RULES_OF,
        "formats": formats,
        **_reading(predictor),
        **slide.info.marks,
    }
    if not settings.grade_anyway:
        del made_with[ANYWAY]  # results of wsikd 0.1.0 lack the entry
    return made_with


def results_made(out: Path) -> Made:
    """The results in a folder and their slides, for ``wsikd.slides.listing.once.settle_names``."""

    def slide_of(folder: Path) -> str | None:
        record = read_record(folder)
        return record.fingerprint if record else None

    return Made(out, "", slide_of)


def _summary(
    grade_map: GradeMap,
    settings: ResultSettings,
    errors: ShareErrors | None,
    withheld: str | None,
) -> tuple[dict[str, Any], dict[str, Any] | None, list[dict[str, Any]]]:
    """A slide's row, intervals of its numbers if there are any, and cores of a biopsy.

    ``withheld`` is the reason why slide and cores get no grade; None if they are graded.
    """
    drawn = intervals(grade_map, errors, settings)
    of_cancer = drawn.of_cancer if drawn and not withheld else None
    row: dict[str, Any] = summarise(
        grade_map, settings, drawn=drawn, of_cancer=of_cancer, withheld=withheld
    )
    row["intervals"] = basis(grade_map, errors)
    found = cores(grade_map, settings) if settings.specimen == "biopsy" and not withheld else []
    if found:
        row |= core_columns(found)
    spread = drawn.record(grade_map.classes) if drawn and not withheld else None
    return row, spread, [c.record() for c in found]


@contextmanager
def _locked(place: Place) -> Iterator[Callable[[], Path]]:
    """Lock a result; yields a function that makes the folder that replaces it after the block."""
    try:
        with locked(place.path), ExitStack() as work:
            yield lambda: work.enter_context(place.made())
    except OSError as error:
        if isinstance(error, WsikdError):
            raise
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(place.path, fault, "free space, or choose another -o") from error


def _how(made_with: Mapping[str, Any], mpp: float) -> dict[str, Any]:
    """Columns of the summary on student, rules and settings."""
    row = dict(
        zip(
            HOW[:-1],
            (
                made_with["student"][:12],
                made_with["specimen"],
                made_with["min_area_mm2"],
                made_with["min_pattern"],
                made_with["rules"],
                mpp,
                made_with["temperature"],
            ),
            strict=True,
        )
    )
    if "teacher" in made_with:
        row |= {key: made_with[key] for key in ASKED} | {"teacher": made_with["teacher"][:12]}
    return row


def keep_card(out: Path, bundle: StudentBundle) -> Path:
    """Write a student's card, with versions of the software, beside its results; returns the file.

    Raises:
        OutputError: it cannot be written.
    """
    path = out / f"student-{bundle.sha256[:12]}.json"
    made = provenance()
    versions = {k: made[k] for k in ("wsikd", "git", "python", "platform") if made[k]}
    write_json_atomic(
        path, {**bundle.card.record(), "made_with": versions | made["packages"]}, CARD
    )
    return path


def _reading(predictor: SlidePredictor | EscalatingPredictor) -> dict[str, Any]:
    """Settings of the predictor that change a map; threads and batches do not."""
    settings = predictor.settings
    return {
        **(predictor.made_with if isinstance(predictor, EscalatingPredictor) else {}),
        "stride_px": settings.stride_px or predictor.spec.patch_px,
        "tissue": settings.tissue,
        "min_tissue": settings.min_tissue,
        "max_fields": settings.max_fields,
        "engine": settings.engine,
        "precision": settings.precision,
        "exact": settings.exact,
    }


def _read_how(predictor: SlidePredictor | EscalatingPredictor, slide: Slide) -> dict[str, Any]:
    """Level, reader, and the JPEG decoder's reduction factor."""
    canvas = predictor.canvas(slide)
    return {"level": canvas.level, "reader": slide.info.reader, "reduced_by": canvas.reduction}


def _rule(predictor: SlidePredictor | EscalatingPredictor) -> str | None:
    """The escalation rule in words; None without a teacher."""
    return predictor.rule.text if isinstance(predictor, EscalatingPredictor) else None


def _engine(predictor: SlidePredictor | EscalatingPredictor) -> str | None:
    """Engine and precision, the teacher's after the student's; None if nothing was computed."""
    both = isinstance(predictor, EscalatingPredictor) and predictor.teacher.engine
    engines = [e for e in (predictor.engine, both or None) if e]
    return ", teacher ".join(f"{e.name} {e.precision}" for e in engines) or None


def _made(place: Place, made_with: dict[str, Any]) -> dict[str, Any] | None:
    """The row of results with the same settings, if they are there; raises if others are."""
    if not place.taken():
        return None
    folder = place.path
    found = read_record(folder)
    if not found:
        fault = newer_format(folder) or "exists and holds no finished result"
        raise StoreMismatchError(folder, fault, "choose another -o, or remove it")
    old, new = found.made_with, json.loads(json.dumps(made_with))
    if _with_jpeg(old.get("formats")) == new.get("formats"):
        old = old | {"formats": new.get("formats")}
    later = set() if "rules" in old else {*RULE_NAMES, "rules"} - old.keys()  # of wsikd 0.1.0
    both = dict.fromkeys([*new, *ASKED, *MARKS, ANYWAY])
    keys = [k for k in both if old.get(k) != new.get(k)]
    keys = [k for k in keys if k not in later]
    if keys:
        what = ", ".join(f"{k} {old.get(k)} there, {new.get(k)} asked" for k in keys)
        raise StoreMismatchError(
            folder,
            f"made with other settings ({what})",
            "choose another -o, or replace it with --overwrite",
        )
    return dict(found.summary)


def _with_jpeg(formats: Any) -> Any:
    """Formats of a result, with ``jpeg`` for the PNG overlay of wsikd 0.1.0, which is as good."""
    if not isinstance(formats, list):
        return formats
    return ["jpeg" if name == "png" else name for name in formats]


def _file_hash(path: Path | None) -> str | None:
    return hashlib.sha256(mask_bytes(path)).hexdigest()[:16] if path else None
