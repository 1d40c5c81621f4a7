"""Each slide once: detection of copies, and the names of results.

A slide is its content, see :func:`wsikd.slides.file_format.fingerprint`: links, hard links and
copies of one file are one slide. Contents are only read where two slides have the same size.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError
from wsikd.core.output.names import HASH_DIGITS, hashed_name, name_key, safe_name
from wsikd.slides.base import printable
from wsikd.slides.file_format import fingerprint, is_zarr, slide_stem
from wsikd.slides.listing.search import LeftOut

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from pathlib import Path

    from wsikd.slides.dicom.grouping import Series
    from wsikd.slides.listing.entry import SlideEntry

_SAID = ("label", "mpp", "patient", "split", "annotation", "mask")
_HASHED = re.compile(rf"(?P<stem>.+)-[0-9a-f]{{{HASH_DIGITS},}}", re.DOTALL)


@dataclass(frozen=True)
class Given:
    """A slide as an input gives it.

    ``place`` is its path below the input, ``row`` names file and line of a manifest, ``named``:
    whether this exact path was given; ``series`` are the files of a DICOM slide.
    """

    entry: SlideEntry
    place: str
    row: str | None = None
    named: bool = False
    series: Series | None = None


def each_once(given: Iterable[Given]) -> tuple[list[Given], list[LeftOut]]:
    """Every slide once, and the copies that were left out.

    Of two that are the same slide, a manifest's row is kept rather than a file that was found, a
    path that was named rather than one that was found, and a file rather than a link to it. What
    only the other one says, is kept too.

    Raises:
        ConfigError: two rows of a manifest say different things of one slide.
    """
    kept: list[Given] = []
    left_out: list[LeftOut] = []
    known: dict[Hashable, int] = {}
    for one in sorted(given, key=_preference):
        keys = _places(one)
        index = next((known[key] for key in keys if key in known), None)
        if index is None:
            index = len(kept)
            kept.append(one)
        else:
            kept[index] = _merged(kept[index], one, "the same file as", left_out)
        known.update(dict.fromkeys(keys, index))
    return _without_copies(kept, left_out), left_out


def _preference(one: Given) -> tuple[Any, ...]:
    path = one.entry.path
    link = os.path.islink(path)  # noqa: PTH114 - never raises
    found = (one.row is None, not one.named, link)
    return (*found, one.entry.name, one.place, path.absolute())


def _places(one: Given) -> list[Hashable]:
    """What is the same for two paths to one file or folder, or to one series in a folder."""
    path = one.entry.path
    keys: list[Hashable] = [path.absolute()]
    try:
        state = path.stat()
        keys.append((state.st_dev, state.st_ino))
        if one.series and one.series.uid:
            folder = (path if path.is_dir() else path.parent).stat()
            keys.append((folder.st_dev, folder.st_ino, one.series.uid))
    except OSError:  # the reader says what is wrong with it
        return keys
    return keys


def _without_copies(given: Sequence[Given], left_out: list[LeftOut]) -> list[Given]:
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for index, one in enumerate(given):
        size = _size(one)
        if size is not None:
            alike[size].append(index)
    kept = dict(enumerate(given))
    for indices in alike.values():
        known: dict[str, int] = {}
        for index in indices if len(indices) > 1 else ():
            content = _content(given[index].entry.path)
            first = known.setdefault(content, index) if content else index
            if first != index:
                kept[first] = _merged(kept[first], kept.pop(index), "a copy of", left_out)
    return list(kept.values())


def _size(one: Given) -> Hashable:
    """A cheap key that copies of a slide share; None if it has no copies."""
    path = one.entry.path
    try:
        if one.series:
            return tuple(sorted(file.stat().st_size for file in one.series.files))
        if path.is_dir():
            return _zarr_size(path) if is_zarr(path) else None
        if path.suffix.lower() in (".vms", ".vmu"):  # a list of files, whose names may recur
            return None
        return path.stat().st_size or None
    except OSError:
        return None


def _zarr_size(folder: Path) -> Hashable:
    names = (".zattrs", "zarr.json", "0/.zarray", "0/zarr.json")
    return tuple((folder / n).read_bytes() if (folder / n).is_file() else b"" for n in names)


def _content(path: Path) -> str | None:
    """The identity of a slide; None where it cannot be read, which its reader says in time."""
    try:
        content = known_fingerprint(path)
        if path.suffix.lower() == ".mrxs":
            beside = path.with_suffix("")
            return content + known_fingerprint(beside) if beside.is_dir() else None
    except OSError:
        return None
    return content


def known_fingerprint(path: Path) -> str:
    """As :func:`fingerprint`; a file that has not changed is read once. Raises OSError."""
    state = path.stat()
    return _fingerprint(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _fingerprint(path: Path, _size: int, _modified_ns: int) -> str:
    return fingerprint(path)


def _merged(kept: Given, other: Given, what: str, left_out: list[LeftOut]) -> Given:
    """The kept one with what only the other says of the slide. Raises ConfigError."""
    one, two = kept.entry, other.entry
    if kept.row and other.row:
        _check_agree(kept, other)
        _check_one_row(kept, other)
        left_out.append(LeftOut(two.path, f"in {other.row}: the same slide as in {kept.row}"))
    elif one.path.absolute() != two.path.absolute():
        left_out.append(LeftOut(two.path, f"{what} {printable(kept.place)}"))
    more = {k: getattr(two, k) for k in _SAID if getattr(one, k) is None}
    if more.get("mpp") is not None:
        more["mpp_source"] = two.mpp_source
    copies = dict.fromkeys((*one.copies, two.path))
    copies.pop(one.path, None)
    return replace(kept, entry=replace(one, **more, copies=tuple(copies)))


def _check_agree(kept: Given, other: Given) -> None:
    for key in _SAID:
        here, there = getattr(kept.entry, key), getattr(other.entry, key)
        if here is not None and there is not None and here != there:
            first, second = sorted((f"{kept.row} ({key} {here})", f"{other.row} ({key} {there})"))
            fault = f"is given twice with different {key}: {first}, {second}"
            subject = f"slide {printable(other.entry.path.name)}"
            raise ConfigError(subject, fault, "correct one row, or delete it")


def _check_one_row(kept: Given, other: Given) -> None:
    """Refuse two rows of one manifest that name one path; copies under two paths may stay."""
    (first, _, here), (second, _, there) = (str(g.row).rpartition(", line ") for g in (kept, other))
    if first == second and here != there and kept.entry.path == other.entry.path:
        lines = " and ".join(sorted((here, there), key=int))
        subject = f"slide {printable(other.entry.path.name)}"
        raise ConfigError(subject, f"is given twice in {first}, lines {lines}", "delete one row")


def unique_names(given: Iterable[Given]) -> list[SlideEntry]:
    """Sorted entries with safe names; those with the same stem are distinguished by their folder.

    Where two inputs hold the same place, the whole path distinguishes them.
    """
    pairs = [(replace(g.entry, name=safe_name(_stem(g.entry.path))), g.place) for g in given]
    pairs.sort(key=lambda pair: (pair[0].name, pair[1], pair[0].path.absolute()))
    stems = Counter(name_key(entry.name) for entry, _ in pairs)
    places = Counter((name_key(entry.name), place) for entry, place in pairs)
    taken = {stem for stem, count in stems.items() if count == 1}
    entries = []
    for entry, place in pairs:
        stem = name_key(entry.name)
        if stems[stem] > 1:
            text = place if places[stem, place] == 1 else entry.path.absolute().as_posix()
            entry = replace(entry, name=hashed_name(entry.name, text, taken))
            taken.add(name_key(entry.name))
        entries.append(entry)
    return entries


def _stem(path: Path) -> str:
    return slide_stem(path if path.name not in ("", ".", "..") else path.resolve())


@dataclass(frozen=True)
class Made:
    """Results of earlier runs in a folder: ``<name><ending>``, each of one slide.

    ``read`` gives the fingerprint of the slide that a result was made from, None for what is not a
    result. Names with one of ``also`` after the ending count too, as those of unfinished results.
    """

    folder: Path
    ending: str
    read: Callable[[Path], str | None]
    also: tuple[str, ...] = field(default=())

    def names(self) -> set[str]:
        """Names of slides that may have a result there."""
        try:
            inside = os.listdir(self.folder)  # noqa: PTH208 - fast, for thousands
        except OSError:
            return set()
        endings = [self.ending, *(f"{self.ending}{more}" for more in self.also)]
        found = (n.removesuffix(e) for n in inside for e in endings if n.endswith(e))
        return {name for name in found if name}

    def slide(self, name: str) -> str | None:
        """Fingerprint of the slide that a result was made from."""
        paths = (self.folder / f"{name}{self.ending}{more}" for more in ("", *self.also))
        return next((found for path in paths if (found := self.read(path))), None)


def settle_names(entries: Sequence[SlideEntry], made: Made) -> list[SlideEntry]:
    """The entries with the names under which their results are kept already.

    A slide whose stem another one has since, or no longer has, keeps the name of its result. So
    does one whose result bears the name of its copy. Fingerprints are only read where a result of
    the same stem is there that no slide's name claims.
    """
    there = made.names()
    wanted = Counter(key for entry in entries for key in _stem_keys(entry))
    sure = {e.name for e in entries if e.name in there and wanted[name_key(e.name)] < 2}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in sorted(there - sure):
        match = _HASHED.fullmatch(name)
        for stem in {name, match["stem"] if match else name}:
            by_stem[name_key(stem)].append(name)
    found: dict[str, SlideEntry] = {}
    for entry in entries:
        names = [n for k in _stem_keys(entry) for n in by_stem.get(k, ()) if n not in found]
        own = _own_fingerprints(entry) if names else ()
        if not (entry.name in sure and made.slide(entry.name) in own):
            own_name = next((n for n in names if made.slide(n) in own), None)
            if own_name is not None:
                found[own_name] = entry
    return _renamed(entries, found, there)


def _renamed(
    entries: Sequence[SlideEntry], found: dict[str, SlideEntry], there: set[str]
) -> list[SlideEntry]:
    """Entries under the names that were found; another one of such a name gets a new one."""
    names = {entry.path: name for name, entry in found.items()}
    taken = {name_key(name) for name in (*there, *(e.name for e in entries))}
    settled = []
    for entry in entries:
        name = names.get(entry.path, entry.name)
        if entry.path not in names and name in found:
            own = _own_fingerprints(entry) or (str(entry.path.absolute()),)
            name = hashed_name(name, own[0], taken)
        settled.append(replace(entry, name=name))
    return settled


def _stem_keys(entry: SlideEntry) -> dict[str, None]:
    """Keys of the names that a slide and its copies have by their files."""
    stems = (safe_name(_stem(path)) for path in (entry.path, *entry.copies))
    return dict.fromkeys(name_key(stem) for stem in stems)


def _own_fingerprints(entry: SlideEntry) -> tuple[str, ...]:
    """The identity of a slide, and that of its image where one is asked for."""
    try:
        own = known_fingerprint(entry.path)
        if entry.series is None:
            return (own,)
        return own, fingerprint(entry.path, entry.series)
    except OSError:
        return ()
