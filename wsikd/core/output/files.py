"""The only module that deletes, replaces or renames files.

It acts only on files and folders that wsikd has made; ``wsikd.core.output.markers`` recognises
them. ``wsikd.core.output.place`` moves folders into place.
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
    """The error for a file that wsikd did not make; ``kind`` includes its article."""
    return OutputError(path, f"was not written by wsikd as {kind}", REMEDY)


@contextmanager
def aside(
    path: Path,
    kind: FileKind | None = None,
    *,
    within: Path | None = None,
    keep_suffix: bool = False,
) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``, and move it onto ``path`` after success.

    After an error it is removed. So the file at ``path`` is always complete.

    Args:
        path: the file; its folder is made if missing.
        kind: kind that an existing file must have; None if the folder is known to be wsikd's own.
        within: folder that ``path`` must not leave through a link.
        keep_suffix: give the temporary file the suffix of ``path``, for writers that depend on it.

    Raises:
        OutputError: another kind of file is there, or the file cannot be written.
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
    """Refuse a path that :func:`aside` may not write. Raises OutputError."""
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
        folder: folder where they will be written.
        names: names of files; the first is written first and identifies all as wsikd's.
        kind: kind that the first must have.

    Raises:
        OutputError: one is there without the first, or the first is of another kind.
    """
    first = folder / names[0]
    check_file(first, kind)
    for name in names[1:]:
        check_file(folder / name)
        if (folder / name).exists() and not first.exists():
            raise not_ours(folder / name, kind.name)


def drop_file(path: Path, kind: FileKind) -> None:
    """Remove a file if it is there. Raises OutputError if it is of another kind, OSError."""
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
    """The error for output that the disk or the permissions do not allow."""
    fault = f"cannot be written ({error.strerror or error})"
    return OutputError(path, fault, "free space or check its permissions, or choose another -o")


def remove_tree(folder: Path, kind: Kind) -> None:
    """Remove a folder if wsikd wrote every file in it; its marker is removed last.

    Raises:
        OutputError: a file in it does not belong to the kind; nothing is removed.
        OSError: it cannot be removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise not_ours(folder, kind.name)
    refuse_strangers(folder, kind)
    if not is_empty(folder):
        mark(folder, kind, "removed")  # after a kill, the rest is still recognised as wsikd's
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
    """Remove an empty folder. Raises OSError if it is not empty."""
    folder.rmdir()


def drop_inner(folder: Path) -> None:
    """Remove a folder, if it exists, inside one that is known to be wsikd's. Raises OSError."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def refuse_strangers(folder: Path, kind: Kind) -> None:
    """Refuse a folder with files that wsikd did not write. Raises OutputError."""
    found = stranger(folder, kind)
    if found is not None:
        fault = f"is in {kind.name}, but was not written there by wsikd"
        raise OutputError(found, fault, "move it elsewhere, or choose another -o")


def make_marked(folder: Path, kind: Kind) -> None:
    """Make a folder that is recognised as wsikd's from the start. Raises OSError."""
    folder.mkdir()
    mark(folder, kind, "begun")


def check_folder(folder: Path, within: Path) -> None:
    """Refuse a link, or a folder that is neither ``within`` nor below it. Raises OutputError."""
    if folder != within:
        check_below(folder, within)
        if folder.exists() and not folder.is_dir():
            raise OutputError(folder, "is not a folder", REMEDY)


def mark(folder: Path, kind: Kind, state: str) -> None:
    """Write a folder's marker, before anything else is in it. Raises OSError."""
    text = json.dumps({"kind": kind.name, "state": state, "wsikd": __version__})
    (folder / MARKER).write_text(text + "\n", encoding="utf-8")


def check_below(path: Path, within: Path, *, whole: bool = False, root: Path | None = None) -> Path:
    """Refuse a path that leaves a folder, by its name or by a link. Raises OutputError.

    Args:
        path: the path.
        within: the folder.
        whole: whether the path may be the folder itself.
        root: ``within`` without links, if it is known.

    Returns:
        The path without links.
    """
    if path.is_symlink():
        raise OutputError(path, "is a symbolic link, which wsikd does not follow", REMEDY)
    root, place = root or resolved(within), resolved(path)
    if whole and place == root:
        return place
    dots = ".." in path.parts[len(within.parts) :] or path.name in ("", ".", "..")
    if dots or root.parts != place.parts[: len(root.parts)] or root == place:
        raise OutputError(path, f"is outside the output folder {within}", _ELSEWHERE)
    return place


def resolved(path: Path) -> Path:
    """A path with its links resolved. Raises OutputError if that is impossible."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise OutputError(path, f"cannot be resolved ({error})", _ELSEWHERE) from error


@dataclass(frozen=True)
class Input:
    """The identity on the disk of a file or folder that is read.

    Attributes:
        path: path that the user gave.
        chain: device and inode number of it and of each folder above it, if they exist.
        exists: whether it exists.
        folder: whether it is a folder.
    """

    path: Path
    chain: tuple[tuple[int, int], ...]
    exists: bool
    folder: bool

    @classmethod
    def at(cls, path: Path) -> Self:
        """Identify a path. Raises OutputError if it cannot be resolved."""
        return cls(path, tuple(_identities(resolved(path))), path.exists(), path.is_dir())


def check_inputs(path: Path, place: Path, inputs: Iterable[Input]) -> None:
    """Refuse an output that is an input, is in one, or contains one. Raises OutputError.

    Folders are compared by their identity on the disk, whatever the spelling of their paths.

    Args:
        path: the output as the user named it.
        place: the same without links.
        inputs: the inputs.
    """
    chain, exists = [*_identities(place)], path.exists()
    for one in inputs:
        if not one.chain:
            continue
        if exists and chain[0] in one.chain:
            what = "is" if chain[0] == one.chain[0] and one.exists else "holds"
            raise OutputError(path, f"{what} the input {one.path}", _ELSEWHERE)
        if one.folder and one.chain[0] in chain:
            raise OutputError(path, f"is inside the input {one.path}", _ELSEWHERE)


def _identities(place: Path) -> Iterator[tuple[int, int]]:
    """Device and inode number of a path without links and of each folder above it."""
    name, above = "", os.fspath(place)
    while name != above:  # strings, since the output of a slide is checked ten times
        name, above = above, os.path.dirname(above)  # noqa: PTH120
        with suppress(OSError):
            found = os.stat(name)  # noqa: PTH116
            yield found.st_dev, found.st_ino


def place_new(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a complete file unless it exists; if another process was first, its file stays.

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
    """Move a file that this process wrote beside ``file`` onto it, in a folder of its own."""
    part.replace(file)


def drop_temporary(file: Path, pattern: str) -> None:
    """Remove a file that wsikd writes and removes itself, if its name matches. Raises OSError."""
    if re.fullmatch(pattern, file.name) and file.is_file() and not file.is_symlink():
        file.unlink(missing_ok=True)


def keep_newest(folder: Path, pattern: str, most: int) -> None:
    """Remove the oldest files of a cache of wsikd, of those whose names match, beyond ``most``.

    Raises:
        OSError: one cannot be removed.
    """
    named = [f for f in folder.iterdir() if re.fullmatch(pattern, f.name)]
    kept = sorted((f for f in named if f.is_file()), key=lambda one: one.stat().st_mtime)
    for old in kept[:-most]:
        old.unlink(missing_ok=True)
