"""A folder of results: one folder a slide, and one summary of them all.

A slide's folder appears when it is whole. Its ``result.json`` says with what it was made, so that a
second run passes over it, and a run with other settings is refused rather than mixed in.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wsikd import RESEARCH_USE, __version__
from wsikd.core.clock import StageClock
from wsikd.core.errors import OutputError, StoreMismatchError
from wsikd.core.run import write_json_atomic, write_text_atomic
from wsikd.grade.exports import EXPORTERS, write_all
from wsikd.grade.gleason import summarise
from wsikd.slides.base import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from wsikd.grade.predict import SlidePredictor
    from wsikd.slides.manifest import SlideEntry


@dataclass(frozen=True)
class ResultSettings:
    """What decides a slide's results, beside the student and how it reads."""

    formats: tuple[str, ...] = tuple(EXPORTERS)
    specimen: str = "biopsy"
    min_area_mm2: float = 0.0
    geojson: str = "regions"


def infer_slide(
    predictor: SlidePredictor,
    entry: SlideEntry,
    out: Path,
    settings: ResultSettings,
    *,
    student: str,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], bool]:
    """Grade a slide and write its results to ``out/<name>/``, or find them done.

    Args:
        predictor: the student, ready to run.
        entry: the slide.
        out: folder of results.
        settings: what to write.
        student: identity of the student's weights.
        overwrite: replace results made with other settings.
        on_progress: called with (fields done, fields in all).

    Returns:
        The slide's row of the summary, and whether it was made now.

    Raises:
        StoreMismatchError: there are results of other settings.
        SlideError, RegionReadError, OutputError: as they say.
    """
    begun = time.perf_counter()
    clock = StageClock()
    folder, part = out / entry.name, out / f"{entry.name}.part"
    with clock("open"):
        slide = open_slide(
            entry.path, slide_mpp=entry.mpp, mpp_source=entry.mpp_source, name=entry.name
        )
    with slide:
        made_with = {
            "student": student,
            "slide": slide.info.fingerprint,
            "slide_mpp": [slide.mpp.x, slide.mpp.y],
            "mask": _file_hash(entry.mask),
            **asdict(settings),
            **_reading(predictor),
        }
        found = _read(folder)
        if folder.exists() and not overwrite:
            _check_same(folder, found, made_with)
            return found["summary"], False
        shutil.rmtree(part, ignore_errors=True)
        grade_map = predictor.predict(
            slide, mask_file=entry.mask, clock=clock, on_progress=on_progress
        )
        row = summarise(grade_map, specimen=settings.specimen, min_area_mm2=settings.min_area_mm2)
        with clock("write"):
            options: Mapping[str, Mapping[str, Any]] = {"geojson": {"mode": settings.geojson}}
            write_all(grade_map, part, settings.formats, slide=slide, options=options)
        row["seconds"] = round(time.perf_counter() - begun, 3)
        record = {
            "summary": row,
            "made_with": made_with,
            "seconds": {k: round(v, 4) for k, v in clock.seconds.items()},
            "mpp_source": slide.mpp.source,
            "wsikd": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "note": RESEARCH_USE,
        }
    write_json_atomic(part / "result.json", record)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(folder, fault, "choose another -o") from error
    return row, True


def write_summary(out: Path) -> Path:
    """Collect the rows of all slides under ``out`` into ``summary.csv``; returns its path.

    The last column of each row repeats that the numbers are for research use only.
    """
    rows = [r["summary"] for p in sorted(out.iterdir()) if p.is_dir() and (r := _read(p))]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines: list[dict[str, Any]] = [{**row, "note": RESEARCH_USE} for row in rows]
    path = out / "summary.csv"
    write_text_atomic(path, _csv_text([*columns, "note"], lines))
    return path


def _csv_text(columns: list[str], rows: list[dict[str, Any]]) -> str:
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _reading(predictor: SlidePredictor) -> dict[str, Any]:
    """Settings of the predictor that change a map; threads and batches do not."""
    settings = predictor.settings
    return {
        "stride_px": settings.stride_px or predictor.spec.patch_px,
        "tissue": settings.tissue,
        "min_tissue": settings.min_tissue,
        "max_fields": settings.max_fields,
    }


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "summary" in content else {}


def _check_same(folder: Path, found: dict[str, Any], made_with: dict[str, Any]) -> None:
    if not found:
        fault = "exists and holds no finished result"
        raise StoreMismatchError(folder, fault, "choose another -o, or --overwrite")
    old, new = found["made_with"], json.loads(json.dumps(made_with))
    keys = [k for k in new if old.get(k) != new[k]]
    if keys:
        what = ", ".join(f"{k} {old.get(k)} there, {new[k]} asked" for k in keys)
        raise StoreMismatchError(
            folder,
            f"made with other settings ({what})",
            "choose another -o, or replace it with --overwrite",
        )


def _file_hash(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else None
