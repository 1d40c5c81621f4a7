"""Slides among the files of folders and globs, and why the rest is left out."""

from __future__ import annotations

import glob
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.output.markers import RESULT
from wsikd.slides.base import printable
from wsikd.slides.dicom.grouping import (
    DICOM_SUFFIX,
    Series,
    group_series,
    header_of,
    series_of,
    why_no_scan,
)
from wsikd.slides.file_format import is_image_zarr, is_zarr, zarr_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".mrxs", ".qptiff", ".jp2"}
    | {".svslide", ".bif", ".vms", ".vmu", ".czi", DICOM_SUFFIX, ".zarr"}
)
_FILE_SUFFIXES = SLIDE_SUFFIXES - {".zarr"}
NO_SLIDE = "its name is not that of a slide"
_HIDDEN = "hidden file"
_COMPANION = re.compile(
    r"(?P<stem>.+)[-_. ](?P<what>mask|overview|thumb|macro|label)(s|nail|nails)?([-_. ].*)?",
    re.IGNORECASE | re.DOTALL,
)
_SHOWN = 5


@dataclass(frozen=True)
class Candidate:
    """A slide as the inputs name it: ``place`` is its path below its input.

    ``named``: whether the user named this exact path; ``series`` are the files of a DICOM slide.
    """

    path: Path
    place: str
    named: bool = False
    series: Series | None = None


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not processed, and why."""

    path: Path
    reason: str


@dataclass
class Search:
    """The slides that the inputs name (``found``), and the files that were ``left_out``."""

    suffixes: frozenset[str] = frozenset()
    """Suffixes of slides in addition to ``SLIDE_SUFFIXES``: those of the reader in use."""
    found: list[Candidate] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    _dicom: list[Path] = field(default_factory=list)
    _by_item: list[tuple[str, list[LeftOut]]] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)  # of each item's slides in ``found``

    def add(self, item: str) -> None:
        """Look for slides in an input: a file, a folder, or a glob. Raises OSError."""
        path, before = Path(item), len(self.left_out)
        if path.is_dir():
            self._add_folder(path, path)
        elif not (path.exists() or not glob.has_magic(item)):
            self._add_glob(item)
        elif path.suffix.lower() == DICOM_SUFFIX and path.is_file():
            self._dicom.append(path)
        else:
            self.found.append(Candidate(path, path.as_posix(), named=True))
        self._by_item.append((item, self.left_out[before:]))
        self._ends.append(len(self.found))

    def log_left_out(self) -> None:
        """Log in one or two lines for each input what was left out of it."""
        for item, left_out in self._by_item:
            _log_left_out(item, left_out)

    def close(self) -> None:
        """Look at the inputs together; raises OSError.

        Masks may lie in one of them and their slides in another, and DICOM files may be named one
        by one.
        """
        self._leave_companions()
        for series, given in _grouped(self._dicom):
            if len(given) == 1:
                path = given[0]
                self.found.append(Candidate(path, path.as_posix(), named=True, series=series))
            else:
                self._add_series(series)
        self._dicom.clear()

    def _leave_companions(self) -> None:
        files = [c.path for c in self.found if c.series is None]
        companions = {one.path: one for one in _without_companions(files)[1]}
        kept, begin = [], 0
        for (_, left_out), end in zip(self._by_item, self._ends, strict=True):
            for one in self.found[begin:end]:
                if one.named or one.path not in companions:
                    kept.append(one)
                else:
                    left_out.append(companions[one.path])
                    self.left_out.append(companions[one.path])
            begin = end
        self.found = kept

    def _add_folder(self, folder: Path, root: Path, *, named: bool = True) -> None:
        """A folder that is one slide, or the slides in it, in depth."""
        if reason := _no_image(folder):
            self.left_out.append(LeftOut(folder, reason))
        elif is_image_zarr(folder):
            self.found.append(Candidate(folder, _place(folder, root), named))
        else:
            _Folder(root, self.found, self.left_out, self.suffixes).walk(folder)

    def _add_glob(self, pattern: str) -> None:
        # Path.glob refuses absolute patterns.
        matches = [Path(m) for m in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
        files = []
        for path in matches:
            if path.is_dir():
                self._add_folder(path, path, named=False)
            elif path.suffix.lower() in self.suffixes or _is_meant(path, pattern):
                files.append(path)
            else:
                self.left_out.append(LeftOut(path, NO_SLIDE))
        kept, companions = _without_companions(
            [p for p in files if p.suffix.lower() != DICOM_SUFFIX]
        )
        self.left_out += companions
        self.found += [Candidate(path, path.as_posix()) for path in kept]
        for series, given in _grouped(p for p in files if p.suffix.lower() == DICOM_SUFFIX):
            if series.is_scan:
                self._add_series(series)
            else:
                self.left_out += [LeftOut(p, why_no_scan(p)) for p in given]

    def _add_series(self, series: Series) -> None:
        """A series with several files in the input: its folder, where it has that to itself."""
        folder = series.main.parent
        around = Search()
        around._add_folder(folder, folder)
        alone = any(one.path == folder for one in around.found)
        path = folder if alone else series.main
        self.found.append(Candidate(path, path.as_posix(), series=series))


class _Folder:
    """A walk through a folder and all below it, each folder once."""

    def __init__(
        self,
        root: Path,
        found: list[Candidate],
        left_out: list[LeftOut],
        suffixes: frozenset[str] = frozenset(),
    ) -> None:
        self.root, self.found, self.left_out = root, found, left_out
        self._suffixes = _FILE_SUFFIXES | suffixes
        self._plain: list[Path] = []
        self._dicom: list[tuple[Path, list[Path]]] = []
        self._zarr: list[Path] = []
        self._seen: set[tuple[int, int]] = set()
        self._above: set[Path] = set()  # folders with a slide in them or below

    def walk(self, folder: Path) -> None:
        """Find the slides in it; links to folders come last, so that the folders count."""
        todo, links = [folder], list[Path]()
        while todo or links:
            one = todo.pop() if todo else links.pop(0)
            if self._is_new(one):
                inside = self._look_in(one)
                todo += reversed([p for p in inside if not p.is_symlink()])
                links += [p for p in inside if p.is_symlink()]
        kept, companions = _without_companions(self._plain)
        self.left_out += companions
        self.found += [Candidate(p, _place(p, self.root)) for p in (*kept, *self._zarr)]
        slides = [*kept, *self._zarr, *(place for place, _ in self._dicom)]
        self._above = {above for slide in slides for above in slide.parents}
        for place, files in self._dicom:
            self._add_dicom(place, files)

    def _is_new(self, folder: Path) -> bool:
        state = folder.stat()
        key = (state.st_dev, state.st_ino)
        if key in self._seen:
            self.left_out.append(LeftOut(folder, "a link to a folder that was already searched"))
            return False
        self._seen.add(key)
        return True

    def _look_in(self, folder: Path) -> list[Path]:
        """Note what lies in a folder; returns the folders in it that may hold slides."""
        try:
            inside = sorted(folder.iterdir())
        except OSError as error:
            self.left_out.append(LeftOut(folder, f"cannot be read ({error.strerror or error})"))
            return []
        folders, dicom = [], []
        stems = {p.stem for p in inside if p.suffix.lower() == ".mrxs"}
        for path in inside:
            suffix = path.suffix.lower()
            if path.is_dir():
                if path.name not in stems and self._may_hold_slides(path):
                    folders.append(path)
            elif suffix not in self._suffixes:
                self.left_out.append(LeftOut(path, NO_SLIDE))
            elif path.name.startswith("."):
                self.left_out.append(LeftOut(path, _HIDDEN))
            elif suffix == DICOM_SUFFIX:
                dicom.append(path)
            else:
                self._plain.append(path)
        if dicom:
            self._dicom.append((folder, dicom))
        return folders

    def _may_hold_slides(self, folder: Path) -> bool:
        if folder.name.startswith("."):
            self.left_out.append(LeftOut(folder, _HIDDEN))
        elif reason := _no_image(folder):
            self.left_out.append(LeftOut(folder, reason))
        elif is_image_zarr(folder):
            self._zarr.append(folder)
        else:
            return True
        return False

    def _add_dicom(self, folder: Path, files: list[Path]) -> None:
        """The series in a folder. One that has the folder to itself is named after the folder."""
        series, others = group_series(files)
        self.left_out += [LeftOut(p, why_no_scan(p)) for p in others]
        alone = len(series) == 1 and folder not in self._above
        for one in series:
            path = folder if alone else one.main
            self.found.append(Candidate(path, _place(path, self.root), series=one))


def listed(left_out: Sequence[LeftOut]) -> list[dict[str, str]]:
    """What was left out, for the record of a run: names without folders, and reasons.

    Files that are not slides by their names are not listed.
    """
    return [
        {"file": printable(one.path.name), "reason": one.reason}
        for one in left_out
        if one.reason != NO_SLIDE
    ]


def _log_left_out(item: str, left_out: Sequence[LeftOut]) -> None:
    others = [one.path.name for one in left_out if one.reason == NO_SLIDE]
    if others:
        shown = _some([printable(name) for name in others])
        text = "%s: skipped %d files that are not slides: %s"
        log.info(text, printable(item), len(others), shown)
    named = [one for one in left_out if one.reason != NO_SLIDE]
    if named:
        shown = _some([f"{printable(one.path.name)} ({one.reason})" for one in named])
        log.info("%s: left out %d: %s", printable(item), len(named), shown)


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_SHOWN]) + (" ..." if len(texts) > _SHOWN else "")


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path != root else path.name


def _is_meant(path: Path, pattern: str) -> bool:
    """Whether a file that a glob matches is a slide by its name, or by the pattern's own suffix."""
    suffix = path.suffix.lower()
    return suffix in SLIDE_SUFFIXES or bool(suffix and pattern.lower().endswith(suffix))


def _no_image(folder: Path) -> str | None:
    """Why a folder is not a slide, nor holds any; None where it may."""
    if RESULT.own(folder):
        return "a result of wsikd"
    if not is_zarr(folder) or is_image_zarr(folder):
        return None
    attributes = zarr_attributes(folder)
    if "wsikd" in attributes:
        return "a tile store of wsikd, no slide"
    if "wsikd_bag" in attributes:
        return "a bag of wsikd embed, no slide"
    return "a Zarr folder without multiscales, so no OME-Zarr image"


def _grouped(files: Iterable[Path]) -> list[tuple[Series, list[Path]]]:
    """DICOM files by their series; those without one stay alone."""
    groups: dict[object, tuple[Series, list[Path]]] = {}
    for file in files:
        header = header_of(file)
        key = (file.parent, header.series) if header and header.is_scan else file
        if key not in groups:
            groups[key] = (series_of(file), [])
        groups[key][1].append(file)
    return list(groups.values())


def _without_companions(files: Sequence[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Slides, and the masks, overviews and thumbnails of slides that are there too."""
    known: dict[str, Path] = {}
    for path in files:
        for text in (path.name, path.stem, _plain_stem(path)):
            known.setdefault(text.casefold(), path)
    kept, companions = [], []
    for path in files:
        match = _COMPANION.fullmatch(_plain_stem(path))
        owner = known.get(match["stem"].casefold()) if match else None
        if match and owner and owner != path:
            reason = f"{match['what'].lower()} of {printable(owner.name)}"
            companions.append(LeftOut(path, reason))
        else:
            kept.append(path)
    return kept, companions


def _plain_stem(path: Path) -> str:
    return path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem
