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
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import imagecodecs

from wsikd.core.errors import OutputError, StoreError
from wsikd.core.lock import locked
from wsikd.core.run import aside
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


def write(store: TileStore, folder: Path, options: Options) -> str:
    """Write the patches of one store as images, and its ``labels-<slide>.csv``.

    A run that was killed leaves no such table; what it did leave is cleared by the next.

    Raises:
        OutputError: there are images of the slide already, another process is at work on it, or
            the disk does not take them.
        StoreError: the store does not hold ``options.mpp``, or is damaged.
    """
    mpp = resolution(store, options)
    slide = slide_name(store)
    table = folder / f"labels-{slide}.csv"
    rows = _rows(store, options.image_format)
    part = folder / f".{slide}.part"
    try:
        with locked(table):
            _clear_killed(folder, part, table, slide)
            if not options.overwrite:
                _refuse_existing(folder, table, rows)
            try:
                _encode_all(store, mpp, part, rows, options)
                _swap(folder, part, table, rows)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(folder, fault, "mend that or choose another -o") from error
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
    patches, rows = store.patches, []
    for (x, y), label, tissue in zip(patches.xy, patches.label, patches.tissue, strict=True):
        name = "" if label == UNLABELLED else store.classes[label]
        file = f"{store.slide}_{round(x)}_{round(y)}.{suffix}"
        place = f"{_folder(name)}/{file}" if store.classes else file
        number = "" if label == UNLABELLED else int(label)
        known = (store.split or "", store.patient or "")
        rows.append([place, store.slide, x, y, name, number, round(float(tissue), 4), *known])
    return rows


def _folder(name: str) -> str:
    """A class as a folder's name: what no file system takes becomes ``_``."""
    safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name).strip(". ")
    return (safe or "_") if name else _NO_CLASS


def _clear_killed(folder: Path, part: Path, table: Path, slide: str) -> None:
    """Remove what a killed run left: its folder aside, and images that no table lists."""
    if not part.exists():
        return
    shutil.rmtree(part)
    if table.exists():
        return
    own = re.compile(re.escape(slide) + r"_-?\d+_-?\d+\.(png|jpg)")
    for place in (folder, *(d for d in folder.iterdir() if d.is_dir())):
        for file in place.iterdir():
            if own.fullmatch(file.name):
                file.unlink()


def _refuse_existing(folder: Path, table: Path, rows: Sequence[Sequence[Any]]) -> None:
    if table.exists():
        raise refuse(table)
    for row in rows:
        if (folder / row[0]).exists():
            raise refuse(folder / row[0])


def _encode_all(
    store: TileStore, mpp: float, part: Path, rows: Sequence[Sequence[Any]], options: Options
) -> None:
    """Encode every patch into the folder aside, in threads."""
    for place in {(part / row[0]).parent for row in rows} | {part}:
        place.mkdir(parents=True, exist_ok=True)

    def encode(index: int) -> None:
        try:
            pixels = store.read_patch(index, mpp)
        except (ValueError, KeyError) as error:
            fault = f"damaged ({type(error).__name__}: {error})"
            raise StoreError(store.path, fault, "run wsikd tile --overwrite") from error
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


def _swap(folder: Path, part: Path, table: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Put the new images where the old ones were; the table goes first and comes last."""
    if table.exists():
        old = [row["image"] for row in _read(table)]
        table.unlink()
        for name in old:
            (folder / name).unlink(missing_ok=True)
    moved = []
    try:
        for row in rows:
            target = folder / row[0]
            target.parent.mkdir(exist_ok=True)
            (part / row[0]).replace(target)
            moved.append(target)
        _write_table(table, rows)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        raise


def _read(table: Path) -> list[dict[str, str]]:
    """The rows of a table of ours; raises OutputError where it is none."""
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"columns {reader.fieldnames}")
            rows = list(reader)
        if strange := [row["image"] for row in rows if not _PLACE.fullmatch(row["image"])]:
            raise ValueError(f"image '{strange[0]}'")
    except (OSError, ValueError, csv.Error) as error:
        fault = f"is no table of exported images ({error})"
        raise OutputError(table, fault, "remove it, or choose another -o") from error
    return rows


def _write_table(table: Path, rows: Sequence[Sequence[Any]]) -> None:
    with aside(table) as part, part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
