"""Which slides to process: a file, a folder, a glob, or a CSV manifest."""

from __future__ import annotations

import csv
import glob
import hashlib
import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, NoSlidesError
from wsikd.core.tables import nearest, resolve
from wsikd.slides.base import FILLS_GAPS, READERS, open_slide, printable
from wsikd.slides.kinds import is_image_zarr, slide_stem
from wsikd.slides.sidecar import sidecar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wsikd.slides.base import Slide

log = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".mrxs", ".qptiff", ".jp2"}
    | {".svslide", ".bif", ".vms", ".vmu", ".czi", ".dcm", ".zarr"}
)
COLUMNS = ("slide", "mpp", "label", "patient", "split", "annotation", "mask")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SlideEntry:
    """One slide to process, and what a manifest says of it.

    ``name`` is unique within a run: the file's stem, with six digits of its folder's hash where two
    slides share a stem; bytes of a file name that are no UTF-8 are spelt out in it. ``mpp`` counts
    as ``mpp_source`` has it, see :func:`wsikd.slides.base.open_slide`, ``reader`` is an entry of
    its ``READERS``, ``series`` the image of the file to read, by default its largest scan, and
    ``accept_grey`` reads what is not brightfield.
    """

    path: Path
    name: str
    mpp: float | None = None
    mpp_source: str = FILLS_GAPS
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    annotation: Path | None = None
    mask: Path | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False


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
    """List the slides that the inputs name, sorted, each once.

    Args:
        inputs: files, folders (searched in depth), globs, or CSV manifests with a column ``slide``
            and any of ``mpp, label, patient, split, annotation, mask``; paths in a manifest are
            relative to it.
        slide_mpp: um per level-0 pixel for slides whose manifest row and file give none.
        annotations: one file, or a folder of files named after the slides (see
            :func:`wsikd.slides.sidecar.sidecar`), for slides without their own.
        reader: how all of them are opened, an entry of ``READERS``.
        series: which image of each file is read; default the largest scan.
        accept_grey: whether those that are not brightfield are read nevertheless.

    Raises:
        NoSlidesError: the inputs name no slide.
        ConfigError: a manifest cannot be understood, or no such reader is known.
    """
    if reader not in READERS:
        resolve(READERS, reader, kind="readers")
    found: dict[Path, tuple[SlideEntry, str]] = {}
    for item in inputs:
        for entry, place in _expand(str(item)):
            found.setdefault(entry.path.absolute(), (entry, place))
    if not found:
        names = ", ".join(str(i) for i in inputs)
        suffixes = " ".join(sorted(SLIDE_SUFFIXES))
        raise NoSlidesError(names, "no slide found", f"give slides with one of {suffixes} with -i")
    entries = _unique_names(found.values())
    how: dict[str, Any] = {"reader": reader, "series": series, "accept_grey": accept_grey}
    return [replace(_with_defaults(e, slide_mpp, annotations), **how) for e in entries]


def _expand(item: str) -> Iterable[tuple[SlideEntry, str]]:
    """Entries of one input, each with its place below that input (for names that collide)."""
    path = Path(item)
    if path.is_dir():
        if _is_slide(path):
            yield _entry(path), path.name
            return
        for slide in _in_folder(path):
            yield _entry(slide), slide.relative_to(path).as_posix()
    elif path.suffix.lower() in (".csv", ".tsv"):
        yield from _from_manifest(path)
    elif path.exists() or not glob.has_magic(item):
        yield _entry(path), path.as_posix()
    else:
        # Path.glob refuses absolute patterns.
        for match in sorted(glob.glob(item, recursive=True)):  # noqa: PTH207
            yield from _expand(match)


def _entry(path: Path) -> SlideEntry:
    return SlideEntry(path=path, name=printable(slide_stem(path)))


def _in_folder(folder: Path) -> Iterable[Path]:
    skipped = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if _is_slide(path):
                yield path
            elif path.suffix.lower() != ".zarr":
                yield from _in_folder(path)
        elif path.suffix.lower() in SLIDE_SUFFIXES - {".dcm", ".zarr"}:
            yield path
        else:
            skipped.append(printable(path.name))
    if skipped:
        shown = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        log.info("%s: passed over %d files that are no slides: %s", folder, len(skipped), shown)


def _is_slide(folder: Path) -> bool:
    """Whether a folder is one slide: DICOM, or an OME-Zarr image that is no tile store of ours."""
    if folder.suffix.lower() == ".zarr":
        return is_image_zarr(folder)
    return any(p.suffix.lower() == ".dcm" for p in folder.iterdir() if p.is_file())


def _from_manifest(path: Path) -> Iterable[tuple[SlideEntry, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a CSV file in UTF-8") from error
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    columns = [c.strip() for c in reader.fieldnames or []]
    reader.fieldnames = columns
    for column in columns:
        if column not in COLUMNS:
            raise ConfigError(path, f"unknown column '{column}'", nearest(column, COLUMNS))
    if "slide" not in columns:
        raise ConfigError(path, "no column 'slide'", f"name the columns {', '.join(COLUMNS)}")
    for row in reader:
        cells = {k: (v or "").strip() for k, v in row.items() if k}
        yield _row(path, reader.line_num, cells), cells["slide"]


def _row(manifest: Path, number: int, row: dict[str, str]) -> SlideEntry:
    where = f"{manifest}, line {number}"
    if not row["slide"]:
        raise ConfigError(where, "no slide named", "fill the column 'slide' or delete the line")
    mpp = None
    if row.get("mpp"):
        try:
            mpp = float(row["mpp"])
        except ValueError:
            raise ConfigError(where, f"mpp '{row['mpp']}' is no number", "give um/px") from None
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ConfigError(where, f"unknown split '{split}'", nearest(split, SPLITS))

    def beside(column: str) -> Path | None:
        return manifest.parent / row[column] if row.get(column) else None

    slide = beside("slide")
    assert slide is not None
    return replace(
        _entry(slide),
        mpp=mpp,
        mpp_source=f"column mpp of {manifest.name}",
        label=row.get("label") or None,
        patient=row.get("patient") or None,
        split=split,
        annotation=beside("annotation"),
        mask=beside("mask"),
    )


def _unique_names(found: Iterable[tuple[SlideEntry, str]]) -> list[SlideEntry]:
    """Sorted entries; those of one stem are told apart by their place below the input.

    Where two inputs hold the same place, the whole path tells them apart.
    """
    pairs = sorted(found, key=lambda pair: (pair[0].name, pair[1], pair[0].path.absolute()))
    stems = Counter(entry.name.casefold() for entry, _ in pairs)
    places = Counter((entry.name.casefold(), place) for entry, place in pairs)
    entries = []
    for entry, place in pairs:
        stem = entry.name.casefold()
        if stems[stem] > 1:
            text = place if places[stem, place] == 1 else entry.path.absolute().as_posix()
            digits = hashlib.sha256(os.fsencode(text)).hexdigest()[:6]
            entry = replace(entry, name=f"{entry.name}-{digits}")
        entries.append(entry)
    return entries


def _with_defaults(
    entry: SlideEntry, slide_mpp: float | None, annotations: Path | None
) -> SlideEntry:
    if entry.mpp is None and slide_mpp is not None:
        entry = replace(entry, mpp=slide_mpp, mpp_source=FILLS_GAPS)
    if entry.annotation is None and annotations is not None:
        entry = replace(entry, annotation=sidecar(annotations, entry.path))
    return entry
