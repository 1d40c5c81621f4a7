"""Recognition of folders and files that wsikd has made, by kind.

A folder is recognised by its marker: an attribute of its Zarr group, or a JSON file of known
content. An unfinished folder has the file ``.wsikd``, which is written before anything else and
names its kind. wsikd 0.1.0 wrote no such file; its unfinished folders are recognised by their
content. Files in a folder of wsikd that do not belong to its kind are the user's.
"""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = ".wsikd"
ATTENTION_FILE = "attention.json"
_HEAD_BYTES = 1 << 16
_JUNK = frozenset({".DS_Store", "Thumbs.db", MARKER})
_PART = r"(?:(?:\.\d+){0,2}\.part)?"


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        name: name in messages, with its article.
        own: returns whether a folder has the marker of this kind; it may be unfinished.
        member: matches the relative path of every file that belongs to such a folder.
        early: returns whether a folder without a marker is an unfinished one of wsikd 0.1.0.
    """

    name: str
    own: Callable[[Path], bool]
    member: re.Pattern[str]
    early: Callable[[Path], bool] = lambda _: False


@dataclass(frozen=True)
class FileKind:
    """A kind of single file: its name in messages, with its article, and a test for it."""

    name: str
    own: Callable[[Path], bool]


def stranger(folder: Path, kind: Kind) -> Path | None:
    """The first file or link in a folder that does not belong to its kind; None without any."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in folders:
            if (here / name).is_symlink():
                return here / name
        for name in files:
            file = here / name
            known = name in _JUNK or kind.member.fullmatch(file.relative_to(folder).as_posix())
            if file.is_symlink() or not known:
                return file
    return None


def is_empty(folder: Path) -> bool:
    """Whether a path is an empty folder, not a link to one."""
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def csv_header(file: Path) -> list[str]:
    """Read the first row of a CSV file; empty if there is none."""
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error):
        return []


def says(text: bytes) -> Callable[[Path], bool]:
    """A test for files with these bytes near the start."""

    def own(file: Path) -> bool:
        try:
            with file.open("rb") as stream:
                head = stream.read(_HEAD_BYTES)
        except OSError:
            return False
        return text in head

    return own


def _attributes(folder: Path) -> dict[str, Any]:
    """Attributes of a Zarr group, of format 3 or 2."""
    found = read_json(folder / "zarr.json").get("attributes")
    if isinstance(found, dict):
        return found
    return read_json(folder / ".zattrs") if (folder / ".zgroup").is_file() else {}


def _attribute(folder: Path, name: str, *keys: str) -> dict[str, Any] | None:
    found = _attributes(folder).get(name)
    return found if isinstance(found, dict) and all(k in found for k in keys) else None


def _zarr_member(names: str) -> str:
    """Pattern of the files of a Zarr hierarchy whose groups and named arrays are ``names``."""
    files = r"zarr\.json|\.z(?:array|attrs|group|metadata)|\d+(?:\.\d+)*|[^/]+\.partial"
    return rf"(?:(?:{names}|\d+|c)/)*(?:{files}|\.stop)"


def _bag_axes(folder: Path) -> int:
    shape = read_json(folder / "features" / "zarr.json").get("shape")
    return len(shape) if isinstance(shape, list) else 0


def _is_store(folder: Path) -> bool:
    settings = (_attribute(folder, "wsikd", "settings") or {}).get("settings")
    return isinstance(settings, dict) and "patch_px" in settings


def _is_bag(folder: Path) -> bool:
    return _attribute(folder, "wsikd_bag") is not None and _bag_axes(folder) != 4


def _is_grid(folder: Path) -> bool:
    return _attribute(folder, "wsikd_bag") is not None and _bag_axes(folder) == 4


def _is_grades(folder: Path) -> bool:
    return _attribute(folder, "wsikd", "classes", "cell_px") is not None


def _started_grades(folder: Path) -> bool:
    ome = _attribute(folder, "ome", "multiscales")
    return ome is not None and "omero" in ome and "probability" in json.dumps(ome["multiscales"])


def _is_result(folder: Path) -> bool:
    found = read_json(folder / "result.json")
    return all(isinstance(found.get(key), dict) for key in ("summary", "made_with"))


def _started_result(folder: Path) -> bool:
    maps = [folder / "grades.zarr", *folder.glob("grades.zarr.*.part")]
    if _is_result(folder) or any(_is_grades(m) or _started_grades(m) for m in maps):
        return True
    corner = ["minx", "miny", "width", "height"]
    return csv_header(folder / "tiles.csv")[:4] == corner


def _is_attention(folder: Path) -> bool:
    if read_json(folder / ATTENTION_FILE).get("kind") == ATTENTION.name:
        return True
    about = _attribute(folder / "grades.zarr", "wsikd", "cell_px") or {}
    drawn = about.get("classes") == ["rest", "attention"]
    return drawn and not (folder / "result.json").exists()


def _is_bundle(folder: Path) -> bool:
    card = read_json(folder / "card.json")
    return "format" in card and "wsikd" in card and "sha256" in card


def _started_bundle(folder: Path) -> bool:
    """Whether there are weights without a card, as wsikd 0.1.0 left them when it was killed."""
    return not (folder / "card.json").exists() and (folder / "model.safetensors").is_file()


def _is_portable(folder: Path) -> bool:
    return all(k in read_json(folder / "export.json") for k in ("kind", "wsikd", "student"))


_GRADES = _zarr_member("tissue|tissue_mask|labels|grade|said_by")
_RESULT_FILES = (
    r"(?:result|attention)\.json|tiles\.(?:csv|geojson)|uncertain\.csv"
    r"|overlay\.(?:jpg|png|webp)|heat\.png"
)
_RESULT = re.compile(
    rf"(?:{_RESULT_FILES}|grades\.[\w-]+(?:\.[\w-]+)?){_PART}"
    rf"|grades\.zarr{_PART}/{_GRADES}"
)
STORE = Kind(
    "a tile store",
    _is_store,
    re.compile(_zarr_member("labels|tissue|patches|coords|row|column|label|cover")),
)
BAG = Kind("a bag of embeddings", _is_bag, re.compile(_zarr_member("features|coords")))
GRID = Kind("a region grid", _is_grid, re.compile(_zarr_member("features|coords")))
GRADES = Kind("a grade map", _is_grades, re.compile(_GRADES), _started_grades)
RESULT = Kind("a result", _is_result, _RESULT, _started_result)
ATTENTION = Kind("an attention map", _is_attention, _RESULT)
BUNDLE = Kind(
    "a network",
    _is_bundle,
    re.compile(rf"(?:card\.json|[\w-]+\.(?:safetensors|onnx)){_PART}"),
    _started_bundle,
)
PORTABLE = Kind(
    "an exported network",
    _is_portable,
    re.compile(rf"(?:export\.json|config\.json|[\w-]+\.(?:onnx|pt)){_PART}"),
)

SUMMARY = FileKind(
    "a summary of results",
    lambda f: (h := csv_header(f)) == ["note"] or (h[:1] == ["slide"] and h[-1] == "note"),
)
CASES = FileKind(
    "a table of cases", lambda f: (h := csv_header(f))[:2] == ["patient", "slides"] and "note" in h
)
CORES = FileKind(
    "a table of cores", lambda f: (h := csv_header(f))[:2] == ["slide", "core"] and "note" in h
)
FAILURES = FileKind(
    "a list of failures", lambda f: csv_header(f)[:4] == ["slide", "error", "fault", "remedy"]
)
INDEX_KIND = "an index of results"
INDEX = FileKind(INDEX_KIND, says(b'{"kind": "an index of results"'))
CARD = FileKind("the card of a student", lambda f: {"network", "made_with"} <= read_json(f).keys())
CORRECTIONS_KIND = "corrections of a reviewer"
CORRECTIONS = FileKind(CORRECTIONS_KIND, says(b'"kind": "corrections of a reviewer"'))
WATCH_KIND = "the state of a watch"
WATCH = FileKind(WATCH_KIND, lambda f: read_json(f).get("kind") == WATCH_KIND)
WATCH_LOG = FileKind("the log of a watch", says(b'{"watch": 1, "time": '))
METRICS = FileKind("metrics of a watch", says(b"# HELP wsikd_watch_"))
REPORT = FileKind("a report", says(b"<title>wsikd:"))
TABLE = FileKind("a table of runs", lambda f: "provenance" in read_json(f))
TABLE_FILES = ("table.json", "table.csv", "table.md")
LOOKS_KIND = "looks at test parts"
LOOKS = FileKind("a ledger of looks", lambda f: read_json(f).get("kind") == LOOKS_KIND)
BENCH = FileKind("a comparison of networks", lambda f: "contenders" in read_json(f))
BENCH_FILES = ("bench.json", "bench.md", "bench.png", "kappa.png")


def overlay_of_store(file: Path) -> bool:
    """Whether ``overlays/<slide>.png`` is beside its store, finished or not."""
    folder = file.parent.parent
    names = (f"{file.stem}.zarr", f"{file.stem}.zarr.part")
    return file.parent.name == "overlays" and any(_is_store(folder / n) for n in names)


OVERLAY = FileKind(
    "a picture of tissue", lambda f: says(b"Software\0wsikd")(f) or overlay_of_store(f)
)


def _is_lock(file: Path) -> bool:
    """Whether a file has process, start and host in one line, or, after a kill, part of it."""
    try:
        with file.open("rb") as stream:
            text = stream.read(1024)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return re.fullmatch(rb"(?:\d+(?: (?:[\d-]+(?: (?:\S+\n?)?)?)?)?)?", text) is not None


LOCK = FileKind("a lock", _is_lock)
