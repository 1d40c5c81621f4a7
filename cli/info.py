"""``wsikd info``: what a slide is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from .common import Batch, slide_options, tissue_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsikd.core.workers.process import Task
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry


@click.command(short_help="Tell what a slide is, its resolution and its tissue.")
@click.argument("slides", nargs=-1, required=True)
@click.option(
    "--mag",
    "magnifications",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Magnifications to count fields for.  [default: 10 and 2.5]",
)
@click.option(
    "--patch-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Patch side in px at the highest of these magnifications.",
)
@tissue_options
@slide_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def info(
    slides: tuple[str, ...],
    magnifications: tuple[float, ...],
    patch_size: int,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Tell what reads a slide, its levels, resolution and where it came from, tissue and fields."""
    from wsikd.core.workers.process import Task, WorkerPool
    from wsikd.slides.listing.inputs import check_slides, own_tissue
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.sidecar import tissue_method

    sizes = sorted(set(magnifications or (10.0, 2.5)), reverse=True)
    _check_sizes(sizes, patch_size)
    asked = _Asked(tuple(sizes), patch_size, tissue_method(tissue), min_tissue, threads)
    batch = Batch(None)
    check_slides(slides, "wsikd info")
    entries = find_slides(
        slides, slide_mpp=slide_mpp, reader=reader, series=series, accept_grey=accept_grey
    )
    entries = own_tissue(tissue, entries, batch)
    tasks = [Task(entry.name, describe_job, (entry, asked)) for entry in entries]
    by_name = {entry.name: entry for entry in entries}
    records: list[dict[str, Any]] = []

    def described(_: Task, values: tuple[Any, ...]) -> None:
        records.append(values[0])
        if not as_json:
            click.echo(_text(values[0]))

    with WorkerPool() as pool:
        for outcome in pool.run(tasks, described):
            if outcome.error:
                import cv2  # noqa: F401 - what it lacks is no fault of the slide: told once

                batch.failed(by_name[outcome.task.name], outcome.error)
                continue
            stated = records[-1]["brightfield"] is not None
            records[-1].update(outcome.value)
            if not as_json:
                lines = [] if stated else _brightfield_text(outcome.value)
                click.echo("\n".join([*lines, *_fields_text(outcome.value)]))
    if as_json:
        click.echo(json.dumps(records, indent=2))
    batch.finish("")


def _check_sizes(magnifications: list[float], patch_size: int) -> None:
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.tiles.grid import patch_sizes

    patch_sizes([mpp_of_magnification(m) for m in magnifications], patch_size, patch_size)


@dataclass(frozen=True)
class _Asked:
    """What is to be told of each slide."""

    magnifications: tuple[float, ...]
    patch_size: int
    tissue: str
    min_tissue: float
    threads: int | None


def describe_job(report: Callable[..., None], entry: SlideEntry, asked: _Asked) -> dict[str, Any]:
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
        report(_describe(slide))
        slide.mpp  # noqa: B018 - raises where nothing more can be told
        return _fields(slide, entry, asked, workers)


def _describe(slide: Slide) -> dict[str, Any]:
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


def _fields(slide: Slide, entry: SlideEntry, asked: _Asked, workers: int) -> dict[str, Any]:
    from wsikd.slides.checks.brightfield import judge
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.slides.tissue.find import find_tissue
    from wsikd.tiles.grid import TileGrid, patch_sizes

    mpps = [mpp_of_magnification(m) for m in asked.magnifications]
    sizes = patch_sizes(mpps, asked.patch_size, asked.patch_size)
    mask = find_tissue(
        slide, method=asked.tissue, mask_file=entry.mask, workers=workers, picture=True
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


def _text(record: dict[str, Any]) -> str:
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


def _because(note: str) -> str:
    return f" ({note})" if note else ""


def _fields_text(more: dict[str, Any]) -> list[str]:
    lines = [f"  tissue      {more['tissue_fraction']:.1%} of the scanned box"]
    for f in more["fields"]:
        columns, rows = f["grid"]
        what = f"{f['magnification']:g}x ({f['patch_px']} px, {f['mpp']:g} um/px)"
        size = f"{f['store_bytes'] / 1e6:.1f} MB uncompressed"
        lines.append(f"  fields      {f['fields']} of {columns} x {rows} at {what}, {size}")
    return lines
