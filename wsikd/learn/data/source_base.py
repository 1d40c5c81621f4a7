"""The interface of sources of patches, and sources of image files: labels CSV, class folders."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsikd.core.errors import DataError
from wsikd.core.output.cells import plain_cell
from wsikd.core.reading import parse_csv
from wsikd.learn.data.listing import (
    SPLITS,
    UNLABELLED,
    UNLABELLED_FOLDERS,
    Listed,
    Listing,
    split_name,
)
from wsikd.slides.checks.image_check import read_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
_CASE = re.compile(r"((?:Case-\d+|P\d+)(?=-))(?:-P\d+)?-[A-Z]\d+", re.IGNORECASE)


class Source(Listed, Protocol):
    """Patches of one origin, to be read.

    Attributes:
        field_mm2: area of a patch in mm2 if patches tile their slide without overlap.
    """

    field_mm2: float | None

    @property
    def digest(self) -> str:
        """Identity of the content, for the record."""

    def read(self, row: int) -> NDArray[np.uint8]:
        """Pixels of a patch: uint8 (height, width, 3), RGB. Raises DataError."""

    def image_hash(self, row: int) -> str | None:
        """Digest of a patch's file; None where patches are not files."""


class FileSource:
    """Patches that are image files, listed by a CSV or by folders."""

    field_mm2: float | None = None  # nothing says whether such patches overlap

    def __init__(
        self, path: Path, files: list[Path], listing: Listing, classes: tuple[str, ...] | None
    ) -> None:
        """Use :func:`read_csv` or :func:`read_folders`."""
        self.path, self.files, self.listing, self.classes = path, files, listing, classes
        self.settings: dict[str, Any] = {}
        self._sound: set[int] = set()

    @cached_property
    def digest(self) -> str:
        """Identity of the files, by names, sizes and labels."""
        of, files = self.listing, self.files
        facts = zip(files, of.label, of.number, of.slide, of.patient, of.split, strict=True)
        known = (f"{f.name} {f.stat().st_size} {' '.join(map(str, more))}" for f, *more in facts)
        text = "\n".join(sorted(known))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def read(self, row: int) -> NDArray[np.uint8]:
        """Decode one file: uint8 (height, width, 3), RGB. Raises DataError."""
        import cv2

        image = read_image(self.files[row], check=row not in self._sound)
        self._sound.add(row)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def image_hash(self, row: int) -> str | None:
        """Digest of the file's bytes."""
        return hashlib.blake2b(self.files[row].read_bytes(), digest_size=16).hexdigest()


def slide_of(stem: str, pattern: str | None = None) -> str:
    """Slide that a patch file belongs to.

    Args:
        stem: file name without suffix.
        pattern: regular expression whose first group is the slide; None takes what stands before
            "_Block_" (SICAPv2), the case and the block that a name begins with ("Case-3-A15-...",
            "P9-B12-..."), else what stands before the first "_".

    Raises:
        DataError: the pattern does not match.

    >>> slide_of("16B0001851_Block_Region_1_0_0_xini_6803_yini_59786")
    '16B0001851'
    >>> slide_of("s7_004")
    's7'
    >>> slide_of("Case-3-A15-2939-11262_112"), slide_of("Case-48-P5-C18-17610-25605_104")
    ('Case-3-A15', 'Case-48-P5-C18')
    """
    if pattern is None:
        if case := _CASE.match(stem):
            return case[0]
        head, block, _ = stem.partition("_Block_")
        return head if block else stem.partition("_")[0]
    found = re.search(pattern, stem)
    if found is None or not found.groups():
        raise DataError(
            stem, f"data.slide_pattern '{pattern}' finds no slide in it", "give it one (group)"
        )
    return str(found.group(1))


def patient_of(stem: str) -> str | None:
    """The case that a file name begins with, as a patient; None where it names none.

    >>> patient_of("Case-48-P5-C18-17610-25605_104"), patient_of("P9-B12-1-2_3")
    ('Case-48', 'P9')
    """
    case = _CASE.match(stem)
    return case[1] if case else None


def read_csv(
    path: Path, classes: Sequence[str] | None = None, *, unlabelled: bool = False
) -> FileSource:
    """A labels CSV: columns image, slide, class and/or label, optionally split and patient.

    Args:
        path: the CSV; images are relative to its folder, or to ``images/`` in it.
        classes: names by label number, used where the file has numbers only.
        unlabelled: rows without a class are patches without a label.

    Raises:
        DataError: a column is missing, a row is incomplete, or an image does not exist.
    """
    try:
        rows = [
            {k: plain_cell(v) if isinstance(v, str) else v for k, v in row.items()}
            for row in parse_csv(path.read_text(encoding="utf-8-sig"))
        ]
    except (OSError, ValueError) as error:
        raise DataError(path, "cannot be read as CSV", "pass a labels CSV") from error
    columns = set(rows[0]) if rows else set()
    missing = [c for c in ("image", "slide") if c not in columns]
    if not columns & {"class", "label"}:
        missing.append("class")
    if missing:
        raise DataError(
            path,
            f"has no column '{missing[0]}'",
            "it needs the columns image, slide and class or label",
        )
    listing, files = Listing(), []
    for i, row in enumerate(rows):
        name, number = UNLABELLED, -1
        if not unlabelled or row.get("label") or row.get("class"):
            name, number = _csv_label(path, i + 2, row, classes)
        files.append(_image_file(path, row["image"]))
        listing.label.append(name)
        listing.number.append(number)
        listing.row.append(i)
        listing.slide.append(row["slide"])
        listing.patient.append(row.get("patient") or None)
        split = row.get("split")
        listing.split.append(split_name(split, f"{path.name} line {i + 2}") if split else None)
    return FileSource(path, files, listing, _numbered_classes(listing))


def _csv_label(
    path: Path, line: int, row: dict[str, Any], classes: Sequence[str] | None
) -> tuple[str, int]:
    place = f"{path.name} line {line}"
    if not all(row.get(k) for k in ("image", "slide")):
        raise DataError(place, "has no image or no slide", "fill it in or delete the line")
    text, name = row.get("label") or "", row.get("class") or ""
    if text and not text.isdigit():
        if name:
            raise DataError(
                place, f"label '{text}' is not a whole number", "use whole numbers from 0"
            )
        return text, -1
    if not text and not name:
        raise DataError(place, "has no class", "fill it in or delete the line")
    number = int(text) if text else -1
    if classes and name not in classes and 0 <= number < len(classes):
        name = classes[number]
    return name or text, number


def _image_file(path: Path, name: str) -> Path:
    for file in (path.parent / name, path.parent / "images" / name):
        if file.is_file():
            return file
    raise DataError(path, f"image '{name}' does not exist", "put it next to the CSV or in images/")


def _numbered_classes(listing: Listing) -> tuple[str, ...] | None:
    """Class names in the order of their numbers, if every number has one name."""
    pairs = {
        (n, name) for n, name in zip(listing.number, listing.label, strict=True)
        if name != UNLABELLED
    }  # fmt: skip
    if -1 in dict(pairs) or len(dict(pairs)) != len(pairs):
        return None
    return tuple(name for _, name in sorted(pairs))


def read_folders(path: Path, pattern: str | None = None, *, unlabelled: bool = False) -> FileSource:
    """Folders named by class, directly in ``path`` or in ``train/``, ``val/`` and ``test/``.

    Args:
        path: the folder.
        pattern: of the slide, see :func:`slide_of`; without one, a case that names begin with is
            taken as the patient.
        unlabelled: images in a folder named "unlabelled" are patches without a label.

    Raises:
        DataError: there is no image, or each would be a slide of its own.
    """
    parts = {d.name: d for d in sorted(path.iterdir()) if d.is_dir()}
    halves = {name: d for name, d in parts.items() if name.lower() in SPLITS}
    roots: list[tuple[Path, str | None]] = [(d, SPLITS[n.lower()]) for n, d in halves.items()]
    listing, files = Listing(), list[Path]()
    for root, split in roots or [(path, None)]:
        for folder in sorted(d for d in root.iterdir() if d.is_dir()):
            images = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in IMAGE_SUFFIXES]
            for file in images:
                bare = unlabelled and folder.name.lower() in UNLABELLED_FOLDERS
                listing.label.append(UNLABELLED if bare else folder.name)
                listing.number.append(-1)
                listing.row.append(len(files))
                listing.slide.append(slide_of(file.stem, pattern))
                listing.patient.append(patient_of(file.stem) if pattern is None else None)
                listing.split.append(split)
                files.append(file)
    if not files:
        raise DataError(
            path, "no images in folders named after classes", "see the docs, Your slides"
        )
    if pattern is None and len(files) > 1 and len(set(listing.slide)) == len(files):
        raise DataError(
            path,
            f"no slide can be read from its file names, such as {files[0].name}: each image "
            f"counts as one slide",
            "set data.slide_pattern, e.g. to '^(.+?)-', or '(.+)' if each is a slide",
        )
    return FileSource(path, files, listing, None)
