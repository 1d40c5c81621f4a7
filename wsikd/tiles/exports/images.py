"""Patches as image files, in a folder a class, with a table of labels.

::

    DIR/G3/slide_1026_2052.png    class, slide, level-0 x and y rounded to whole px
    DIR/slide_0_1026.png          where the store has no classes; DIR/unlabelled/ where it has some
    DIR/labels-slide.csv          the slide's rows; written last, so it marks the slide as whole
    DIR/labels.csv                all rows: image, slide, x, y, class, label, tissue, split, patient

``wsikd distill`` and torchvision's ``ImageFolder`` read such a folder.
"""

from __future__ import annotations

import csv
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import imagecodecs

from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text, read_records
from wsikd.core.output.files import (
    aside,
    check_file,
    check_folder,
    into_place,
    make_marked,
    not_ours,
    remove_tree,
)
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import FileKind, Kind, csv_header, stranger
from wsikd.core.output.names import name_key, safe_name
from wsikd.core.output.place import Place
from wsikd.tiles.codecs import jpeg_bytes
from wsikd.tiles.exports import Export, refuse, resolution, slide_name
from wsikd.tiles.labels import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.tiles.exports import Options
    from wsikd.tiles.store import TileStore

COLUMNS = ("image", "slide", "x", "y", "class", "label", "tissue", "split", "patient")
TABLE = "labels.csv"
_NO_CLASS = "unlabelled"
_PNG_LEVEL = 3
_PLACE = re.compile(r"(?!\.\.?/)([^/\\]+/)?[^/\\]+_-?\d+_-?\d+\.(png|jpg)")
_IMAGES = "exported images"
_ASIDE: Kind = Kind(
    _IMAGES,
    lambda _: False,
    re.compile(rf"(?:{_PLACE.pattern})|labels-[^/]+\.csv(?:\.\d+)*(?:\.part)?"),
    lambda folder: stranger(folder, _ASIDE) is None,
)
_TABLE = FileKind("a table of exported images", lambda file: csv_header(file) == list(COLUMNS))


def write(store: TileStore, folder: Path, options: Options) -> str:
    """Write the patches of one store as images, and its ``labels-<slide>.csv``.

    Images that are replaced are kept until all new ones are there. What a killed run was replacing
    is restored by the next.

    Raises:
        OutputError: there are images of the slide already, or files that wsikd did not write;
            another process is using it; or the disk does not take them.
        StoreError: the store does not hold ``options.mpp``, or is damaged.
    """
    mpp = resolution(store, options)
    slide = slide_name(store)
    table = folder / f"labels-{slide}.csv"
    rows = _rows(store, options.image_format)
    place = Place(folder / f".{slide}", _ASIDE, folder, [store.path])
    place.check()
    try:
        with locked(table):
            _roll_back(place, table)
            _refuse_existing(folder, table, rows, overwrite=options.overwrite)
            part = place.begin()
            try:
                _encode_all(store, mpp, part, rows, options)
                _write_table(part / table.name, rows)
                _swap(place, table, rows)
            finally:
                _roll_back(place, table)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        remedy = "free space or check its permissions, or choose another -o"
        raise OutputError(folder, fault, remedy) from error
    side = store.patch_px(mpp)
    return f"{len(rows)} images of {side} x {side} px at {mpp:g} um/px, in {folder}"


def join_tables(folder: Path) -> None:
    """Write ``labels.csv`` from the tables of all slides in ``folder``; raises OutputError."""
    rows: list[list[str]] = []
    for table in sorted(folder.glob("labels-*.csv")):
        rows += [[row[c] for c in COLUMNS] for row in _read(table)]
    _write_table(folder / TABLE, rows)


IMAGES = Export(write, join_tables)


def _rows(store: TileStore, suffix: str) -> list[list[Any]]:
    """The table of a store: one row a patch, in ``COLUMNS``."""
    patches, rows, folders = store.patches, [], _folders(store.classes)
    for (x, y), label, tissue in zip(patches.xy, patches.label, patches.tissue, strict=True):
        name = "" if label == UNLABELLED else store.classes[label]
        file = f"{store.slide}_{round(x)}_{round(y)}.{suffix}"
        place = f"{folders[name]}/{file}" if store.classes else file
        number = "" if label == UNLABELLED else int(label)
        known = (store.split or "", store.patient or "")
        rows.append([place, store.slide, x, y, name, number, round(float(tissue), 4), *known])
    return rows


def _folders(classes: Sequence[str]) -> dict[str, str]:
    """A folder's name for each class, and for "", which stands for none."""
    folders = {"": _NO_CLASS}
    for name in classes:
        folders[name] = safe_name(name, [name_key(taken) for taken in folders.values()])
    return folders


def _roll_back(place: Place, table: Path) -> None:
    """Undo a replacement that was not completed, and clear what was written aside.

    The old table lies in ``place.replaced`` while images are exchanged; the new one is in
    ``place.part`` and is moved last: with it the new images are whole.
    """
    part, hold, folder = place.part, place.replaced, table.parent
    plan, old = part / table.name, hold / table.name
    for left in (part, hold):
        if (left.exists() or left.is_symlink()) and not place.is_left(left):
            raise not_ours(left, f"{_IMAGES} being made")
    if not table.exists():
        if plan.is_file():
            _move_all([row["image"] for row in _read(plan)], folder, part)
        if old.is_file():
            _move_all([row["image"] for row in _read(old)], hold, folder)
            into_place(old, table)
    if hold.exists():
        remove_tree(hold, _ASIDE)
    place.discard()


def _move_all(images: Sequence[str], source: Path, target: Path) -> None:
    """Move the images that lie in ``source`` and have no counterpart in ``target``."""
    for image in images:
        if (source / image).is_file() and not (target / image).exists():
            (target / image).parent.mkdir(exist_ok=True)
            into_place(source / image, target / image)


def _refuse_existing(
    folder: Path, table: Path, rows: Sequence[Sequence[Any]], *, overwrite: bool
) -> None:
    """Refuse to write over images, unless a table of ours names them and that is asked for."""
    ours = {row["image"] for row in _read(table)} if table.exists() else set()
    if ours and not overwrite:
        raise refuse(table)
    for parent in {(folder / row[0]).parent for row in rows}:
        check_folder(parent, folder)
    for image in [*ours, *(row[0] for row in rows)]:
        file = folder / image
        if image in ours:
            check_file(file)
        elif file.exists() or file.is_symlink():
            raise not_ours(file, "an exported image")


def _encode_all(
    store: TileStore, mpp: float, part: Path, rows: Sequence[Sequence[Any]], options: Options
) -> None:
    """Encode every patch into the folder aside, in threads."""
    for place in {(part / row[0]).parent for row in rows} | {part}:
        place.mkdir(parents=True, exist_ok=True)

    def encode(index: int) -> None:
        pixels = store.read_patch(index, mpp)
        (part / rows[index][0]).write_bytes(_image(pixels, options.image_format))

    with ThreadPoolExecutor(options.workers) as pool:
        futures = [pool.submit(encode, index) for index in range(len(rows))]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _image(pixels: NDArray[np.uint8], image_format: str) -> bytes:
    if image_format == "jpg":
        return jpeg_bytes(pixels)
    return bytes(imagecodecs.png_encode(pixels, level=_PNG_LEVEL))


def _swap(place: Place, table: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Put the new images where the old ones were; see :func:`_roll_back`."""
    folder, part, hold = table.parent, place.part, place.replaced
    if table.exists():
        old = [row["image"] for row in _read(table)]
        make_marked(hold, _ASIDE)
        into_place(table, hold / table.name)
        _move_all(old, folder, hold)
    for image in (row[0] for row in rows):
        (folder / image).parent.mkdir(exist_ok=True)
        into_place(part / image, folder / image)
    into_place(part / table.name, table)


def _read(table: Path) -> list[dict[str, str]]:
    """The rows of a table of ours; raises OutputError where it is none."""
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            columns, rows = read_records(stream.read())
            if columns != COLUMNS:
                raise ValueError(f"columns {columns}")
        if strange := [row["image"] for row in rows if not _PLACE.fullmatch(row["image"])]:
            raise ValueError(f"image '{strange[0]}'")
    except (OSError, ValueError, csv.Error) as error:
        fault = f"is not a table of exported images ({error})"
        raise OutputError(table, fault, "remove it, or choose another -o") from error
    return rows


def _write_table(table: Path, rows: Sequence[Sequence[Any]]) -> None:
    with aside(table, _TABLE) as part, part.open("w", newline="", encoding="utf-8") as stream:
        stream.write(csv_text(COLUMNS, rows, line_end="\r\n"))
