"""The labels of the two sets as the product reads them: grades in order, patients as groups."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from wsikd.core.errors import DataError
from wsikd.core.run import write_text_atomic

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "colon": ("benign", "low-grade", "high-grade", "adenocarcinoma"),
    "prostate": ("benign", "gleason3", "gleason4"),
}
GROUP = {"colon": "patient", "prostate": "slide"}


def write_labels(source: Path, name: str, out: Path) -> Path:
    """A labels CSV of a set in the study's folder; images stay where they are.

    Images without a grade are left out, and so is the set's own split.

    Args:
        source: folder of the set's ``labels.csv``.
        name: "colon" or "prostate".
        out: folder of the CSV.

    Raises:
        DataError: the set cannot be read.
    """
    file, key = source / "labels.csv", GROUP[name]
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
        known = [(r["image"], r[key], int(r["label"])) for r in rows if r["label"]]
        lines = [
            (str(_image(source, image)), group, group, label, NAMES[name][label])
            for image, group, label in known
        ]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(file, f"is not the labels of the {name} set", "give its folder") from error
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", "slide", "patient", "label", "class"))
    writer.writerows(lines)
    made = out / f"{name}.csv"
    write_text_atomic(made, stream.getvalue())
    return made


def _image(source: Path, name: str) -> Path:
    """Where an image of a set lies: beside its CSV, or in ``images``."""
    beside = source / name
    return (beside if beside.is_file() else source / "images" / name).resolve()
