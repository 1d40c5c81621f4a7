"""What a slide is: reader, levels, resolution, tissue, fields; as a record and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wsikd.core.workers.process import Task, WorkerPool
from wsikd.slides.mpp import mpp_of_magnification
from wsikd.slides.scaled_view import Canvas
from wsikd.tiles.grid import TileGrid, patch_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.core.output.batch import Batch
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.entry import SlideEntry

_SAME = 1e-6
"""Relative difference of resolutions that counts as none."""


@dataclass(frozen=True)
class Asked:
    """What ``wsikd info`` reports of each slide.

    Attributes:
        magnifications: to count fields for, the highest first.
        patch_size: patch side in px at the highest.
        tissue: how tissue is found.
        min_tissue: smallest share of tissue in a field.
        threads: number of reading threads; None: one per core.
    """

    magnifications: tuple[float, ...] = (10.0, 2.5)
    patch_size: int = 512
    tissue: str = "otsu"
    min_tissue: float = 0.1
    threads: int | None = None

    def check(self) -> None:
        """Refuse sizes that do not go together. Raises ConfigError."""
        mpps = [mpp_of_magnification(m) for m in self.magnifications]
        patch_sizes(mpps, self.patch_size, self.patch_size)


def describe_all(
    entries: Sequence[SlideEntry], asked: Asked, batch: Batch, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Describe slides, each in a process of its own.

    Args:
        entries: the slides.
        asked: what is reported.
        batch: records those that fail.
        say: takes the text of a slide in two parts, as soon as each is known.

    Returns:
        A record of JSON values for each slide that could be opened.
    """
    by_name = {entry.name: entry for entry in entries}
    records: list[dict[str, Any]] = []

    def described(_: Task, values: tuple[Any, ...]) -> None:
        records.append(values[0])
        say(to_text(values[0]))

    with WorkerPool() as pool:
        tasks = [Task(entry.name, describe_job, (entry, asked)) for entry in entries]
        for outcome in pool.run(tasks, described):
            if outcome.error:
                import cv2  # noqa: F401 - what it lacks is not a fault of the slide: reported once

                batch.failed(by_name[outcome.task.name], outcome.error)
                continue
            stated = records[-1]["brightfield"] is not None
            records[-1].update(outcome.value)
            lines = [] if stated else _brightfield_text(outcome.value)
            say("\n".join([*lines, *fields_text(outcome.value)]))
    return records


def describe_job(report: Callable[..., None], entry: SlideEntry, asked: Asked) -> dict[str, Any]:
    """What a slide is, reported, and then its tissue and fields, which need its resolution."""
    from wsikd.core.errors import NotBrightfieldError
    from wsikd.slides.base import printable
    from wsikd.slides.listing.manifest import open_entry
    from wsikd.slides.threads import use_threads

    workers = use_threads(asked.threads)
    try:
        slide = open_entry(replace(entry, accept_grey=True))
    except NotBrightfieldError as error:
        report({"file": printable(entry.path.name), **_brightfield(error.fault)})
        raise
    with slide:
        report(describe(slide))
        slide.mpp  # noqa: B018 - raises if nothing more can be shown
        return fields_of(slide, entry.mask, asked, workers)


def describe(slide: Slide) -> dict[str, Any]:
    """What is known of a slide without looking for tissue: JSON values."""
    from wsikd.slides.readers.series import list_series

    record = asdict(slide.info)
    record["series"] = [asdict(one) for one in list_series(slide)]
    del record["doubt"], record["accept_grey"]
    record |= _brightfield(slide.info.doubt.reason if slide.info.doubt else None)
    record["levels"] = [
        {"size": list(size), "downsample": list(down)}
        for size, down in zip(
            record.pop("level_dimensions"), record.pop("level_downsamples"), strict=True
        )
    ]
    return record


def _brightfield(reason: str | None) -> dict[str, Any]:
    """Whether a slide is brightfield RGB and why not; None where only its pixels can answer."""
    from wsikd.slides.checks.doubt import NOT_RGB

    return {
        "brightfield": None if reason is None else not reason,
        "brightfield_reason": (reason or "").removesuffix(NOT_RGB),
    }


def fields_of(slide: Slide, mask_file: Path | None, asked: Asked, workers: int) -> dict[str, Any]:
    """Whether a slide is brightfield, its tissue and its fields: JSON values.

    Args:
        slide: open, and of known resolution.
        mask_file: tissue of the user's own.
        asked: what is reported.
        workers: threads that read.
    """
    from wsikd.slides.checks.brightfield import judge
    from wsikd.slides.tissue.find import find_tissue

    mpps = [mpp_of_magnification(m) for m in asked.magnifications]
    sizes = patch_sizes(mpps, asked.patch_size, asked.patch_size)
    mask = find_tissue(
        slide, method=asked.tissue, mask_file=mask_file, workers=workers, picture=True
    )
    fields = []
    for mpp, (patch, _) in zip(mpps, sizes, strict=True):
        if mpp < min(slide.mpp.x, slide.mpp.y) * (1 - 1e-6):
            continue
        grid = TileGrid.plan(slide, mpp, patch)
        cover = grid.cover(mask)
        count = int(((cover >= asked.min_tissue) & (cover > 0)).sum())
        fields.append(
            {
                "magnification": 10 / mpp,
                "mpp": mpp,
                "patch_px": patch,
                "level": (level := Canvas.plan(slide, mpp).level),
                "level_mpp": slide.mpp.x * slide.info.level_downsamples[level][0],
                "grid": [grid.columns, grid.rows],
                "fields": count,
                "store_bytes": 3 * patch**2 * count,
            }
        )
    assert mask.thumbnail is not None
    reason = slide.info.doubt.reason if slide.info.doubt else judge(mask.thumbnail)
    return {
        **_brightfield(reason),
        "tissue_fraction": round(mask.fraction, 4),
        "fields": fields,
    }


def to_text(record: dict[str, Any]) -> str:
    """What is known of a slide without looking for tissue, as lines."""
    if "dimensions" not in record:
        return "\n".join([record["file"], *_brightfield_text(record)])
    width, height = record["dimensions"]
    mpp = record["mpp"]
    power = record["objective_power"]
    lines = [
        f"{record['file']}",
        f"  vendor      {record['vendor']}",
        f"  reader      {record['reader']}{_because(record['reader_note'])}",
        f"  dimensions  {width} x {height} px",
    ]
    if mpp:
        size = f"{width * mpp['x'] / 1000:.2f} x {height * mpp['y'] / 1000:.2f} mm"
        value = f"{mpp['x']:g}" if mpp["x"] == mpp["y"] else f"{mpp['x']:g} x {mpp['y']:g}"
        lines.append(f"  mpp         {value} um/px (from {mpp['source']}), {size}")
    else:
        lines.append("  mpp         unknown")
    lines.append(f"  objective   {f'{power:g}x' if power else 'unknown'}")
    profile = "present, and not applied" if record["icc_profile"] else "none"
    lines.append(f"  ICC profile {profile}")
    x, y, w, h = record["bounds"]
    lines.append(f"  bounds      x {x}, y {y}, {w} x {h} px")
    for number, level in enumerate(record["levels"]):
        dx, dy = level["downsample"]
        down = f"{dx:.9g}" if dx == dy else f"{dx:.9g} x {dy:.9g}"
        own = f", {mpp['x'] * dx:.6g} um/px" if mpp else ""
        w, h = level["size"]
        lines.append(f"  level {number:<5} {w} x {h} px, downsample {down}{own}")
    if len(record["series"]) > 1:
        lines += [_series_text(one) for one in record["series"]]
    if record["brightfield"] is not None:
        lines += _brightfield_text(record)
    return "\n".join(lines)


def _brightfield_text(record: dict[str, Any]) -> list[str]:
    answer = "yes" if record["brightfield"] else f"no: {record['brightfield_reason']}"
    return [f"  brightfield {answer}"]


def _series_text(one: dict[str, Any]) -> str:
    (width, height), mpp = one["size"], one["mpp"]
    at = f", {mpp[0]:g} um/px" if mpp else ""
    name = f", '{one['name']}'" if one["name"] else ""
    read = ", read here" if one["read"] else ""
    return f"  series {one['number']:<4} {one['role']}, {width} x {height} px{at}{name}{read}"


def _averaged(level: int, level_mpp: float, mpp: float) -> str:
    """Which pixels are averaged: those of level 0, or of a level that the scanner made."""
    if level == 0:
        return "averaged from level 0"
    own = f"the scanner's level {level} ({level_mpp:.4g} um/px)"
    return f"{own} as it is" if abs(mpp / level_mpp - 1) < _SAME else f"averaged from {own}"


def _because(note: str) -> str:
    return f" ({note})" if note else ""


def fields_text(more: dict[str, Any]) -> list[str]:
    """Tissue and fields as lines."""
    lines = [f"  tissue      {more['tissue_fraction']:.1%} of the scanned box"]
    for f in more["fields"]:
        columns, rows = f["grid"]
        what = f"{f['magnification']:g}x ({f['patch_px']} px, {f['mpp']:g} um/px)"
        size = f"{f['store_bytes'] / 1e6:.1f} MB uncompressed"
        read = _averaged(f["level"], f["level_mpp"], f["mpp"])
        lines.append(f"  fields      {f['fields']} of {columns} x {rows} at {what}, {read}, {size}")
    return lines
