"""The only file of the package that deletes, replaces or renames anything.

It acts on what wsikd has made, which ``wsikd.core.output.markers`` recognises, and on nothing else.
Folders are put into place by ``wsikd.core.output.place``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Self

from wsikd.core.about import __version__
from wsikd.core.errors import OutputError
from wsikd.core.output.markers import MARKER, is_empty, stranger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from wsikd.core.output.markers import FileKind, Kind

REMEDY = "choose another -o, or remove it"
_ELSEWHERE = "choose another -o"


def not_ours(path: Path, kind: str) -> OutputError:
    """The error for a file that wsikd does not recognise; ``kind`` with its article."""
    return OutputError(path, f"was not written by wsikd as {kind}", REMEDY)


@contextmanager
def aside(
    path: Path,
    kind: FileKind | None = None,
    *,
    within: Path | None = None,
    keep_suffix: bool = False,
) -> Iterator[Path]:
    """A place for a file beside ``path``, moved onto ``path`` if the block ends well.

    Otherwise it is removed. So the file at ``path`` is always complete.

    Args:
        path: the file; its folder is made if missing.
        kind: what a file that is already there must be; None where the folder is known to be
            wsikd's own.
        within: folder that ``path`` must not leave through a link.
        keep_suffix: let the place aside end as ``path`` does, for writers that go by that.

    Raises:
        OutputError: something else is there, or the place cannot be written.
    """
    check_file(path, kind, within=within)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _free_name(path, path.suffix if keep_suffix else "")
        yield part
        part.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def check_file(path: Path, kind: FileKind | None = None, *, within: Path | None = None) -> None:
    """Refuse a file's place where :func:`aside` may not write; raises OutputError."""
    if within is not None:
        check_below(path, within)
    name = kind.name if kind else "a file"
    if path.is_symlink():
        raise OutputError(path, "is a symbolic link, which wsikd does not replace", REMEDY)
    if path.exists() and (not path.is_file() or (kind is not None and not kind.own(path))):
        raise not_ours(path, name)


def check_names(folder: Path, names: Sequence[str], kind: FileKind) -> None:
    """Refuse a folder that holds files of these names which wsikd did not write.

    Args:
        folder: where they are about to be written.
        names: the first is the file that is written first, and says whose the others are.
        kind: what that one must be.

    Raises:
        OutputError: one is there without the first, or the first is something else.
    """
    first = folder / names[0]
    check_file(first, kind)
    for name in names[1:]:
        check_file(folder / name)
        if (folder / name).exists() and not first.exists():
            raise not_ours(folder / name, kind.name)


def drop_file(path: Path, kind: FileKind) -> None:
    """Remove a file of a kind if there is one; raises OutputError where it is none, OSError."""
    check_file(path, kind)
    path.unlink(missing_ok=True)


def _free_name(path: Path, suffix: str) -> Path:
    """An unused name beside ``path``, unique in all processes."""
    for number in count():
        tail = f".{number}" if number else ""
        part = path.with_name(f"{path.name}.{os.getpid()}{tail}.part{suffix}")
        if not os.path.lexists(part):
            return part
    raise AssertionError


def not_written(path: Path, error: OSError) -> OutputError:
    """The error of a disk that does not take it."""
    fault = f"cannot be written ({error.strerror or error})"
    return OutputError(path, fault, "free space or check its permissions, or choose another -o")


def remove_tree(folder: Path, kind: Kind) -> None:
    """Remove a folder of wsikd's whole making, its mark last.

    Raises:
        OutputError: something in it is not of that kind; nothing is removed.
        OSError: it cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise not_ours(folder, kind.name)
    refuse_strangers(folder, kind)
    if not is_empty(folder):
        mark(folder, kind, "removed")  # a kill from here on leaves what is recognised
    for child in folder.iterdir():
        if child.name == MARKER:
            continue
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()


def drop_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; raises OSError where it does."""
    folder.rmdir()


def drop_inner(folder: Path) -> None:
    """Remove a folder, if it is there, within one that is known to be wsikd's. Raises OSError."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def refuse_strangers(folder: Path, kind: Kind) -> None:
    """Refuse a folder that holds what wsikd did not write; raises OutputError."""
    found = stranger(folder, kind)
    if found is not None:
        fault = f"is in {kind.name}, but was not written there by wsikd"
        raise OutputError(found, fault, "move it elsewhere, or choose another -o")


def make_marked(folder: Path, kind: Kind) -> None:
    """Make a folder that is recognised as wsikd's from the beginning; raises OSError."""
    folder.mkdir()
    mark(folder, kind, "begun")


def check_folder(folder: Path, within: Path) -> None:
    """Refuse a folder that is not ``within`` nor below it, or a link; raises OutputError."""
    if folder != within:
        check_below(folder, within)
        if folder.exists() and not folder.is_dir():
            raise OutputError(folder, "is not a folder", REMEDY)


def mark(folder: Path, kind: Kind, state: str) -> None:
    """Write down what a folder is, before anything else is in it. Raises OSError."""
    text = json.dumps({"kind": kind.name, "state": state, "wsikd": __version__})
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def check_below(path: Path, within: Path, *, whole: bool = False) -> None:
    """Refuse a path that is not below a folder, by its name or by a link; raises OutputError."""
    if path.is_symlink():
        raise OutputError(path, "is a symbolic link, which wsikd does not follow", REMEDY)
    root, place = resolved(within), resolved(path)
    if whole and place == root:
        return
    dots = ".." in path.parts[len(within.parts) :] or path.name in ("", ".", "..")
    if dots or root not in place.parents:
        raise OutputError(path, f"is outside the output folder {within}", _ELSEWHERE)


def resolved(path: Path) -> Path:
    """A path without links; raises OutputError where there is no such thing."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(path, f"cannot be resolved ({error})", _ELSEWHERE) from error


@dataclass(frozen=True)
class Input:
    """A file or folder that is read: its identity on the disk.

    Attributes:
        path: as it was named.
        chain: device and number of it and of each folder above it, those that exist.
        exists: whether it does.
        folder: whether it is one.
    """

    path: Path
    chain: tuple[tuple[int, int], ...]
    exists: bool
    folder: bool

    @classmethod
    def at(cls, path: Path) -> Self:
        """Look at a path; raises OutputError where there is no such thing."""
        return cls(path, tuple(_identities(path)), path.exists(), path.is_dir())


def check_inputs(path: Path, inputs: Iterable[Input]) -> None:
    """Refuse a place that is an input, lies in one, or holds one; raises OutputError.

    Folders are compared by their identity on the disk, so that no other spelling hides one.
    """
    chain, exists = [*_identities(path)], path.exists()
    for one in inputs:
        if not one.chain:
            continue
        if exists and chain[0] in one.chain:
            what = "is" if chain[0] == one.chain[0] and one.exists else "holds"
            raise OutputError(path, f"{what} the input {one.path}", _ELSEWHERE)
        if one.folder and one.chain[0] in chain:
            raise OutputError(path, f"is inside the input {one.path}", _ELSEWHERE)


def _identities(path: Path) -> Iterator[tuple[int, int]]:
    """Device and number of a path and of each folder above it, those that exist."""
    place = resolved(path)
    for one in (place, *place.parents):
        with suppress(OSError):
            found = one.stat()
            yield found.st_dev, found.st_ino


def place_new(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file whole unless there is one; another process that was first keeps its own.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = _free_name(file, "")
    handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        try:
            os.link(part, file)
        except FileExistsError:
            return
        except OSError:  # a disk without links
            if not file.exists():
                part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def into_place(part: Path, file: Path) -> None:
    """Move a file that this process wrote beside ``file`` onto it, within a folder of its own."""
    part.replace(file)


def drop_temporary(file: Path, pattern: str) -> None:
    """Remove a file that wsikd writes and removes itself, if its name matches. Raises OSError."""
    if re.fullmatch(pattern, file.name) and file.is_file() and not file.is_symlink():
        file.unlink(missing_ok=True)


def keep_newest(folder: Path, pattern: str, most: int) -> None:
    """Drop the oldest files of a cache of wsikd, whose names match, beyond ``most``.

    Raises:
        OSError: one cannot be removed.
    """
    named = [f for f in folder.iterdir() if re.fullmatch(pattern, f.name)]
    kept = sorted((f for f in named if f.is_file()), key=lambda one: one.stat().st_mtime)
    for old in kept[:-most]:
        old.unlink(missing_ok=True)
