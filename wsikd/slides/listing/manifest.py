"""Which slides to process: a file, a folder, a glob, or a CSV manifest."""

from __future__ import annotations

import filecmp
import glob
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, NoSlidesError
from wsikd.core.registry import nearest, resolve
from wsikd.slides.base import FILLS_GAPS, READERS, open_slide, printable
from wsikd.slides.dicom.grouping import DICOM_SUFFIX, dicom_files, group_series, series_of
from wsikd.slides.listing.entry import SlideEntry as SlideEntry
from wsikd.slides.listing.manifest_table import number, read_table
from wsikd.slides.listing.once import Given, each_once, unique_names
from wsikd.slides.listing.search import NO_SLIDE, SLIDE_SUFFIXES, LeftOut, Search
from wsikd.slides.listing.sidecar import sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsikd.slides.base import Slide
    from wsikd.slides.dicom.grouping import Series
    from wsikd.slides.listing.manifest_table import Row

log = logging.getLogger(__name__)

COLUMNS = ("slide", "mpp", "label", "patient", "split", "annotation", "mask")
SPLITS = ("train", "val", "test")
_SHOWN = 5
_LONGEST_PART = 255  # bytes of a file name


@dataclass(frozen=True)
class Found:
    """The slides that the inputs of a call name, and what was left out of them."""

    entries: list[SlideEntry]
    left_out: list[LeftOut]


def open_entry(entry: SlideEntry) -> Slide:
    """Open the slide of an entry as the entry says; see :func:`wsikd.slides.base.open_slide`."""
    return open_slide(
        entry.path,
        slide_mpp=entry.mpp,
        mpp_source=entry.mpp_source,
        reader=entry.reader,
        name=entry.name,
        series=entry.series,
        accept_grey=entry.accept_grey,
    )


def find_slides(
    inputs: Sequence[str | Path],
    *,
    slide_mpp: float | None = None,
    annotations: Path | None = None,
    reader: str = "auto",
    series: int | None = None,
    accept_grey: bool = False,
) -> list[SlideEntry]:
    """The entries of :func:`discover_slides`, with the same arguments and errors."""
    found = discover_slides(
        inputs,
        slide_mpp=slide_mpp,
        annotations=annotations,
        reader=reader,
        series=series,
        accept_grey=accept_grey,
    )
    return found.entries


def discover_slides(
    inputs: Sequence[str | Path],
    *,
    slide_mpp: float | None = None,
    annotations: Path | None = None,
    reader: str = "auto",
    series: int | None = None,
    accept_grey: bool = False,
) -> Found:
    """List the slides that the inputs name, sorted, each once, and log what was left out.

    Links to a slide and copies of it are the same slide. Of a folder or a glob, hidden files, masks
    and overviews of slides, and label images of DICOM are left out.

    Args:
        inputs: files, folders (searched in depth), globs, or CSV manifests with a column ``slide``
            and any of ``mpp, label, patient, split, annotation, mask``; paths in a manifest are
            relative to it.
        slide_mpp: um per level-0 pixel for slides whose manifest row and file give none.
        annotations: one file, or a folder of files named after the slides (see
            :func:`wsikd.slides.listing.sidecar.sidecar`), for slides without their own.
        reader: how all of them are opened, an entry of ``READERS``.
        series: which image of each file is read; default the largest scan.
        accept_grey: whether those that are not brightfield are read nevertheless.

    Raises:
        NoSlidesError: the inputs name no slide.
        ConfigError: a manifest cannot be understood or contradicts itself, or no such reader is
            known.
    """
    search, rows = Search(suffixes_of(reader)), []
    for item in map(str, inputs):
        tables = _manifests(item)
        if not tables:
            search.add(item)
        for table in tables:
            rows += list(_from_manifest(table))
    search.close()
    found = [Given(_entry(c.path), c.place, None, c.named, c.series) for c in search.found]
    kept, doubles = each_once([*rows, *found])
    kept, sidecars = _without_sidecars([_annotated(one, annotations) for one in kept])
    left_out = [*search.left_out, *sidecars, *doubles]
    if not kept:
        raise _none_found(inputs, left_out)
    search.log_left_out()
    _warn_left_out([*sidecars, *doubles])
    how: dict[str, Any] = {"reader": reader, "series": series, "accept_grey": accept_grey}
    entries = [replace(_with_mpp(e, slide_mpp), **how) for e in unique_names(kept)]
    return Found(entries, left_out)


def suffixes_of(reader: str) -> frozenset[str]:
    """The suffixes that a package's reader adds to those of slides, as its ``suffixes``.

    Raises:
        ConfigError: no such reader is known, or its package cannot be imported.
    """
    if reader in READERS:
        return frozenset()
    found = resolve(READERS, reader, kind="readers")
    return frozenset(suffix.lower() for suffix in getattr(found, "suffixes", ()))


def _manifests(item: str) -> list[Path]:
    """The manifests that an input names."""
    path = Path(item)
    if path.suffix.lower() not in (".csv", ".tsv") or path.is_dir():
        return []
    if path.exists() or not glob.has_magic(item):
        return [path]
    return [Path(p) for p in sorted(glob.glob(item, recursive=True))]  # noqa: PTH207


def _entry(path: Path) -> SlideEntry:
    return SlideEntry(path=path, name=printable(path.name))


def _from_manifest(path: Path) -> Iterator[Given]:
    for row in read_table(path, COLUMNS, "slide"):
        entry = _row(path, row)
        place = row.cells["slide"]
        yield Given(entry, place, row.where, named=True, series=_series(entry.path, row.where))


def _series(path: Path, where: str) -> Series | None:
    """The DICOM series that a row names by a file or a folder. Raises ConfigError."""
    try:
        if path.is_file():
            return series_of(path) if path.suffix.lower() == DICOM_SUFFIX else None
        found = group_series(dicom_files(path))[0] if path.is_dir() else []
    except OSError:  # the reader says what is wrong with it
        return None
    if len(found) > 1:
        fault = f"'{printable(path.name)}' holds {len(found)} DICOM slides"
        names = ", ".join(printable(one.main.name) for one in found[:3])
        raise ConfigError(where, fault, f"give one file of each: {names}")
    return found[0] if found else None


def _row(manifest: Path, row: Row) -> SlideEntry:
    where, cells = row
    if not cells.get("slide"):
        raise ConfigError(where, "no slide name", "fill the column 'slide' or delete the line")
    split = cells.get("split") or None
    if split is not None and split not in SPLITS:
        raise ConfigError(where, f"unknown split '{split}'", nearest(split, SPLITS))

    def beside(column: str) -> Path | None:
        if not (text := cells.get(column)):
            return None
        if max(len(part.encode()) for part in text.split("/")) > _LONGEST_PART:
            raise ConfigError(where, f"{column} is not a path ({text[:40]}...)", "correct it")
        return manifest.parent / text

    slide = beside("slide")
    assert slide is not None
    return replace(
        _entry(slide),
        mpp=number(where, "mpp", cells["mpp"]) if cells.get("mpp") else None,
        mpp_source=f"column mpp of {manifest.name}",
        label=cells.get("label") or None,
        patient=cells.get("patient") or None,
        split=split,
        annotation=beside("annotation"),
        mask=beside("mask"),
    )


def _annotated(one: Given, annotations: Path | None) -> Given:
    """A slide with the annotation named after it or one of its copies.

    Raises:
        ConfigError: copies of one slide have different annotations.
    """
    entry = one.entry
    if annotations is None or entry.annotation is not None:
        return one
    found = [sidecar(annotations, path) for path in (entry.path, *entry.copies)]
    files = [file for file in dict.fromkeys(found) if file is not None]
    for other in files[1:]:
        if not filecmp.cmp(files[0], other, shallow=False):
            fault = f"is listed under several names with different annotations: {files[0].name}, "
            raise ConfigError(
                f"slide {printable(entry.path.name)}", fault + other.name, "keep one of them"
            )
    return replace(one, entry=replace(entry, annotation=files[0] if files else None))


def _without_sidecars(given: list[Given]) -> tuple[list[Given], list[LeftOut]]:
    """Slides, without files that were found and are the annotation or mask of another slide."""
    used: dict[Path, str] = {}
    for one in given:
        for file, what in ((one.entry.annotation, "annotation"), (one.entry.mask, "mask")):
            if file is not None and file.suffix.lower() in SLIDE_SUFFIXES:
                used[file.resolve()] = f"{what} of {printable(one.entry.path.name)}"
    kept: list[Given] = []
    left_out: list[LeftOut] = []
    for one in given:
        path = one.entry.path
        reason = None if one.named or not used else used.get(path.resolve())
        if reason is None:
            kept.append(one)
        else:
            left_out.append(LeftOut(path, reason))
    return kept, left_out


def _warn_left_out(left_out: Sequence[LeftOut]) -> None:
    if left_out:
        shown = [f"{printable(one.path.name)} ({one.reason})" for one in left_out]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        log.warning("left out %d: %s%s", len(shown), ", ".join(shown[:_SHOWN]), more)


def _none_found(inputs: Sequence[str | Path], left_out: Sequence[LeftOut]) -> NoSlidesError:
    names = ", ".join(printable(str(item)) for item in inputs)
    reasons = [one for one in left_out if one.reason != NO_SLIDE]
    shown = ", ".join(f"{printable(one.path.name)} is {one.reason}" for one in reasons[:3])
    fault = f"no slide found ({shown})" if shown else "no slide found"
    suffixes = " ".join(sorted(SLIDE_SUFFIXES))
    return NoSlidesError(names, fault, f"give slides with one of {suffixes} with -i")


def _with_mpp(entry: SlideEntry, slide_mpp: float | None) -> SlideEntry:
    if entry.mpp is None and slide_mpp is not None:
        return replace(entry, mpp=slide_mpp, mpp_source=FILLS_GAPS)
    return entry
