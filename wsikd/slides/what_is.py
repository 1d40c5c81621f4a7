"""What a path holds, judged by names and small JSON files: slides, tile stores, bags, results, a
run.

``check_role`` refuses a path of another kind than a command takes, and names the right command.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError
from wsikd.slides.file_format import zarr_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

# Kinds, as messages name them.
SLIDES = "slides"
STORES = "tile stores"
BAGS = "bags"
GRIDS = "region grids"
RESULTS = "results of wsikd infer"
IMAGES = "patch images"
GRADER = "a student or teacher"
CLASSIFIER = "a slide classifier (method mil)"
REGIONS = "a region encoder (method slpd)"
EMBEDDER = "an embedder (method ts2g)"
DETECTOR = "a lesion detector (method detector)"
UNFINISHED = "an unfinished run"
WEIGHTS = "a file of a model"
SETTINGS = "a configuration"
PATCHES = (STORES, IMAGES)

NETWORKS = {
    "mil": CLASSIFIER,
    "region": REGIONS,
    "embedder": EMBEDDER,
    "detector": DETECTOR,
}
"""Kinds by what ``card.json`` calls them; a grader's card has none."""

_USE = {
    SLIDES: "slides go to wsikd tile, infer, embed, bench and info",
    STORES: "tile stores go to wsikd distill --data, wsikd embed -i and wsikd export",
    BAGS: "bags go to wsikd distill --data (method mil) and wsikd attend --bags",
    GRIDS: "region grids go to wsikd distill --data (method slpd)",
    RESULTS: "results go to wsikd view, wsikd report and wsikd evaluate --slides",
    IMAGES: "patch images go to wsikd distill --data as they are",
    GRADER: "it goes to wsikd infer -m, wsikd evaluate, bench, info and export-model",
    CLASSIFIER: "it goes to wsikd attend and wsikd evaluate",
    REGIONS: "it goes to wsikd embed --encoder and wsikd slides similar",
    EMBEDDER: "it goes to wsikd embed --encoder",
    DETECTOR: "it goes to trunk.weights of method ts2g",
    UNFINISHED: "finish it with wsikd distill --resume",
    WEIGHTS: "give the folder that it lies in",
    SETTINGS: "it goes to wsikd distill -c",
}
_WANTED = {
    SLIDES: "give the slides themselves",
    STORES: "give tile stores of wsikd tile",
    BAGS: "give bags of wsikd embed",
    GRIDS: "give region grids of wsikd embed --regions",
    RESULTS: "give the -o of wsikd infer",
    IMAGES: "give patch images, in folders named by class or with a labels CSV",
    GRADER: "give a run of wsikd distill that grades patches",
    CLASSIFIER: "give a run of wsikd distill (method mil)",
    REGIONS: "give a run of wsikd distill (method slpd)",
    EMBEDDER: "give a run of wsikd distill (method ts2g)",
    SETTINGS: "give a YAML file; wsikd init METHOD writes one",
}
_MAKE = {
    (SLIDES, STORES): "tile them first: wsikd tile -i {path} -o STORES",
    (SLIDES, BAGS): "embed them first: wsikd embed -i {path} --encoder NAME -o BAGS",
    (STORES, BAGS): "embed them first: wsikd embed -i {path} --encoder NAME -o BAGS",
    (SLIDES, GRIDS): "embed them: wsikd embed -i {path} --encoder NAME --regions PX -o GRIDS",
    (STORES, GRIDS): "embed the slides: wsikd embed -i SLIDES --encoder NAME --regions PX -o GRIDS",
    (GRIDS, BAGS): "embed them: wsikd embed -i {path} --encoder RUN -o BAGS (RUN of method slpd)",
    (SLIDES, RESULTS): "grade them first: wsikd infer -i {path} -m STUDENT -o OUT",
    (STORES, RESULTS): "grade the slides: wsikd infer -i SLIDES -m STUDENT -o OUT, and give OUT",
}

_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".mrxs", ".qptiff", ".jp2"}
    | {".svslide", ".bif", ".vms", ".vmu", ".czi", ".dcm"}
)
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_FEATURES = frozenset({".h5", ".hdf5"})
_MODELS = frozenset({".safetensors", ".pt", ".pth", ".ckpt", ".onnx"})
_LOOKED_AT = 1000
_OPENED = 20
_DEEP = 4
_BYTES = 4 << 20


def what_is(path: str | Path) -> str | None:
    """The main kind of a path's content; None if it is missing, empty or not known."""
    return next(iter(kinds_in(path)), None)


def kinds_in(path: str | Path) -> list[str]:
    """Kinds of all that a path holds, what it is itself first; looks at a thousand entries."""
    path = Path(path)
    try:
        if path.is_file():
            return _of_file(path)
        return _of_folder(path) if path.is_dir() else []
    except OSError:
        return []


def check_role(path: str | Path, option: str, *wanted: str) -> None:
    """Refuse a path that holds other things than an option takes.

    A path of no known kind passes: what reads it says what is wrong with it.

    Args:
        path: file or folder.
        option: which it was given with, for the message.
        wanted: the kinds that it takes, the usual one first.

    Raises:
        ConfigError: in one line, with the command that takes such a thing or makes the right one.
    """
    found = kinds_in(path)
    if not found or set(found) & set(wanted):
        return
    kind = found[0]
    remedy = _MAKE.get((kind, wanted[0])) or f"{_WANTED[wanted[0]]}; {_USE[kind]}"
    verb = "is" if kind.startswith(("a ", "an ")) else "holds"
    fault = f"{verb} {kind}, which {option} does not take"
    raise ConfigError(path, fault, remedy.format(path=shlex.quote(str(path))))


def _of_file(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            columns = {c.strip().lower() for c in next(csv.reader([stream.readline(1 << 16)]), [])}
        if "image" in columns:
            return [IMAGES]
        return [SLIDES] if "slide" in columns and "student" not in columns else []
    if suffix in (".yaml", ".yml"):
        return [SETTINGS]
    known = {SLIDES: _SUFFIXES, BAGS: _FEATURES, WEIGHTS: _MODELS}
    return [kind for kind, suffixes in known.items() if suffix in suffixes]


def _of_folder(path: Path) -> list[str]:
    own = _zarr_kind(path) or _network_kind(path)
    if own:
        return [own]
    if (path / "result.json").is_file():
        return [RESULTS]
    entries = _entries(path)
    found: dict[str, None] = {}
    if any(e.name.startswith("student-") and e.name.endswith(".json") for e in entries) or any(
        (Path(e.path) / "result.json").is_file() for e in islice(_folders(entries), _OPENED)
    ):
        found[RESULTS] = None
    for entry in islice((e for e in entries if e.name.endswith(".zarr")), _OPENED):
        if kind := _zarr_kind(Path(entry.path)):
            found[kind] = None
    for kind, suffixes in ((SLIDES, _SUFFIXES), (BAGS, _FEATURES)):
        if any(_suffix(e) in suffixes for e in entries):
            found[kind] = None
    if _holds_patches(path, entries):
        found[IMAGES] = None
    if SLIDES not in found and _slides_below(path):
        found[SLIDES] = None
    return list(found)


def _zarr_kind(folder: Path) -> str | None:
    """Kind of a Zarr group; None for one of another maker that is not an image, and for no
    group."""
    if not ((folder / "zarr.json").is_file() or (folder / ".zattrs").is_file()):
        return None
    attributes = zarr_attributes(folder)
    if isinstance(own := attributes.get("wsikd"), dict):
        return STORES if "settings" in own else RESULTS
    if "wsikd_bag" in attributes:
        shape = _json(folder / "features" / "zarr.json").get("shape")
        return GRIDS if isinstance(shape, list) and len(shape) == 4 else BAGS
    return SLIDES if "multiscales" in attributes else None


def _network_kind(folder: Path) -> str | None:
    """Kind of a bundle or run folder; None where it is neither."""
    for place in (folder, folder / "student"):
        if (place / "card.json").is_file():
            kind = _json(place / "card.json").get("kind")
            return NETWORKS.get(str(kind), GRADER) if kind is not None else GRADER
    made = (folder / "config.yaml").is_file() and (folder / "provenance.json").is_file()
    return UNFINISHED if made and (folder / "checkpoints").is_dir() else None


def _holds_patches(path: Path, entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is a data set of patches: SICAPv2, a labels CSV, or folders of pictures."""
    names = {e.name for e in entries}
    if {"images", "partition"} <= names:
        return True
    if "labels.csv" in names:
        return IMAGES in _of_file(path / "labels.csv")
    classes = list(islice(_folders(entries), _OPENED))
    if any(e.name.lower() in ("train", "val", "test") for e in classes):
        classes = [inner for e in classes for inner in _folders(_entries(Path(e.path)))][:_OPENED]
    return any(_only_pictures(_entries(Path(e.path))) for e in classes)


def _only_pictures(entries: list[os.DirEntry[str]]) -> bool:
    return bool(entries) and all(_suffix(e) in _PICTURES and e.is_file() for e in entries)


def _slides_below(path: Path) -> bool:
    """Whether some slide lies in a folder of this one, results left out; looks into so many."""
    todo = [path]
    for _ in range(_OPENED * _DEEP):
        if not todo:
            return False
        entries = _entries(todo.pop(0))
        if any(e.name == "result.json" for e in entries):
            continue
        if any(_suffix(e) in _SUFFIXES or _zarr_kind_of(e) == SLIDES for e in entries):
            return True
        todo += [Path(e.path) for e in _folders(entries) if _suffix(e) != ".zarr"]
    return False


def _zarr_kind_of(entry: os.DirEntry[str]) -> str | None:
    return _zarr_kind(Path(entry.path)) if _suffix(entry) == ".zarr" else None


def _entries(path: Path) -> list[os.DirEntry[str]]:
    """The first entries of a folder, by name, without hidden ones; none where it is unreadable."""
    try:
        with os.scandir(path) as scan:
            found = [e for e in islice(scan, _LOOKED_AT) if not e.name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda e: e.name)


def _folders(entries: list[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    return (e for e in entries if e.is_dir())


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()  # noqa: PTH122


def _json(file: Path) -> dict[str, Any]:
    """The content of a small JSON file; empty for anything else."""
    try:
        if file.stat().st_size > _BYTES:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
