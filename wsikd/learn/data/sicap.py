"""SICAPv2 as it is distributed: a folder of images, and spreadsheets that divide them.

J. Silva-Rodriguez et al., "Going deeper through the Gleason scoring scale", Computer Methods and
Programs in Biomedicine 195, 2020. Layout::

    images/<image_name>
    partition/Validation/Val1/Train.xlsx, Test.xlsx    training and validation, folds Val1 to Val4
    partition/Test/Test.xlsx                           test
    wsi_labels.xlsx                                    slide_id, patient_id

Each partition table has a column ``image_name`` and one column of 0 and 1 for each class.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import DataError
from wsikd.learn.data.listing import Listing
from wsikd.learn.data.source_base import IMAGE_SUFFIXES, FileSource, slide_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLASSES = ("NC", "G3", "G4", "G5")


def is_sicap(path: Path) -> bool:
    """Whether a folder is laid out as SICAPv2: images/ and partition/ in it."""
    return (path / "images").is_dir() and (path / "partition").is_dir()


def tables_of(path: Path, fold: str) -> dict[str, Path]:
    """Spreadsheet of each split: "train", "val", "test" -> file."""
    part = path / "partition"
    own = part / "Validation" / fold
    return {"train": own / "Train.xlsx", "val": own / "Test.xlsx", "test": part / "Test/Test.xlsx"}


def read_sicap(path: Path, fold: str = "Val1") -> FileSource:
    """All patches of a validation fold and of the test part.

    The column G4C (cribriform, a part of G4) is not read. The slide is the file stem before
    "_Block_"; its patient is what ``wsi_labels.xlsx`` says, if that file is there.

    Args:
        path: the folder that holds images/ and partition/.
        fold: "Val1" to "Val4".

    Returns:
        The source; its classes are NC, G3, G4, G5.

    Raises:
        DataError: a table is missing or lacks a column, a row has no class or two, an image does
            not exist.
    """
    patients = _patients(path / "wsi_labels.xlsx")
    listing = Listing()
    files: list[Path] = []
    for split, table in tables_of(path, fold).items():
        for line, row in _rows(table, ("image_name", *CLASSES)):
            file = _image(path / "images", str(row["image_name"]), f"{table.name} line {line}")
            slide = slide_of(file.stem)
            listing.label.append(_label(table, line, row))
            listing.number.append(-1)
            listing.row.append(len(files))
            listing.slide.append(slide)
            listing.patient.append(patients.get(slide))
            listing.split.append(split)
            files.append(file)
    if not files:
        raise DataError(path, "its partition tables are empty", "copy SICAPv2 again")
    return FileSource(path, files, listing, CLASSES)


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number in the sheet and the wanted columns of every row that is not empty."""
    import zipfile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    if not table.is_file():
        raise DataError(table, "does not exist", "copy SICAPv2 with its partition/ as distributed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # openpyxl's, of styles it leaves out
            book = load_workbook(table, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise DataError(table, "cannot be read as a spreadsheet", "copy SICAPv2 again") from error
    try:
        lines = book.worksheets[0].iter_rows(values_only=True)
        head = [str(cell).strip() if cell is not None else "" for cell in next(lines, ())]
        for name in columns:
            if name not in head:
                raise DataError(table, f"has no column '{name}'", "copy SICAPv2 again")
        places = {name: head.index(name) for name in columns}
        for number, cells in enumerate(lines, start=2):
            if cells[places[columns[0]]] not in (None, ""):
                yield number, {name: cells[place] for name, place in places.items()}
    finally:
        book.close()


def _label(table: Path, line: int, row: dict[str, Any]) -> str:
    said = [name for name in CLASSES if row[name] in (1, "1", True)]
    if len(said) != 1:
        fault = f"has {'two classes' if said else 'no class'}: {', '.join(said) or 'all are 0'}"
        raise DataError(f"{table.name} line {line}", fault, "correct or delete the line")
    return said[0]


def _image(folder: Path, name: str, place: str) -> Path:
    """The file of an image, whose suffix the table may leave out."""
    for suffix in ("", *sorted(IMAGE_SUFFIXES)):
        if (file := folder / f"{name}{suffix}").is_file():
            return file
    raise DataError(place, f"image '{name}' is not in {folder.name}/", "copy SICAPv2 again")


def _patients(table: Path) -> dict[str, str]:
    """Patient of each slide; empty where there is no such file."""
    if not table.is_file():
        return {}
    wanted = ("slide_id", "patient_id")
    rows = [row for _, row in _rows(table, wanted)]
    return {str(r["slide_id"]): str(r["patient_id"]) for r in rows if r["patient_id"] is not None}
