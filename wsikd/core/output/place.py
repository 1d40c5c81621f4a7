"""Atomic creation and replacement of the folders that wsikd writes.

A store, a bag, a result or a bundle is made in ``<name>.part``, which has a marker before anything
else. The folder that it replaces is renamed to ``<name>.replaced`` first and removed last. A run
that is killed in between leaves one of the two complete; the next run restores or removes it.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from wsikd.core.errors import OutputError
from wsikd.core.output.files import (
    Input,
    check_below,
    check_inputs,
    drop_empty,
    drop_inner,
    drop_temporary,
    into_place,
    mark,
    not_ours,
    not_written,
    refuse_strangers,
    remove_tree,
    resolved,
)
from wsikd.core.output.markers import MARKER, Kind, is_empty, read_json, stranger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The path of a folder that wsikd writes.

    Attributes:
        path: the folder.
        kind: its kind.
        within: the folder of all outputs; ``path`` must be below it.
        inputs: files and folders that are read: those of slides, annotations, masks, networks.
        whole: whether ``path`` may be ``within`` itself, as for runs and exports.
    """

    path: Path
    kind: Kind
    within: Path
    inputs: Sequence[Path] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        """Resolve the path if the user gave a link or "." as the output."""
        if self.whole and (self.path.is_symlink() or self.path.name in ("", "..")):
            object.__setattr__(self, "path", resolved(self.path))

    @property
    def part(self) -> Path:
        """The unfinished folder, to be resumed or restarted after a kill."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def replaced(self) -> Path:
        """The old folder, until the new one is in place."""
        return self.path.with_name(f"{self.path.name}.replaced")

    def check(self) -> None:
        """Refuse a path outside the output folder, or in an input. Raises OutputError."""
        place = check_below(self.path, self.within, whole=self.whole, root=self._root)
        if self.inputs:
            check_inputs(self.path, place, self._inputs)

    @cached_property
    def _root(self) -> Path:
        """The folder of all outputs without links, as it was at the first check."""
        return resolved(self.within)

    @cached_property
    def _inputs(self) -> list[Input]:
        """Identities of the inputs, cached, since a slide's path is checked ten times."""
        return [Input.at(path) for path in self.inputs]

    def taken(self) -> bool:
        """Whether a folder of this kind is there; an empty folder does not count.

        Raises:
            OutputError: something else is there, or the path is refused.
        """
        self.check()
        if not os.path.lexists(self.path) or is_empty(self.path):
            return False
        if not self._is_own(self.path):
            raise not_ours(self.path, self.kind.name)
        return True

    def may_replace(self) -> None:
        """Refuse to replace a folder that has files of others. Raises OutputError."""
        if self.taken():
            refuse_strangers(self.path, self.kind)
            if os.path.lexists(self.replaced) and not self.is_left(self.replaced):
                raise not_ours(self.replaced, f"{self.kind.name} being replaced")

    def left(self) -> bool:
        """Whether a killed run has left files; if so, call :meth:`recover` under the lock."""
        return os.path.lexists(self.replaced) or os.path.lexists(self.part)

    def recover(self) -> None:
        """Undo or complete a replacement that a kill interrupted. Raises OSError.

        Call it under the lock of ``path``.
        """
        self.check()
        old = self.replaced
        if not os.path.lexists(old) or not self.is_left(old):
            return
        if (old / MARKER).exists() or is_empty(old) or self._is_own(self.path):
            remove_tree(old, self.kind)
        elif not os.path.lexists(self.path):
            into_place(old, self.path)

    def begin(self, *, fresh: bool = True) -> Path:
        """Make ``part``, empty and with a marker; returns it. Call it under the lock.

        Args:
            fresh: remove files that a killed run left in it; else they stay.

        Raises:
            OutputError: a folder that wsikd did not make is there, or it cannot be written.
        """
        self.check()
        part = self.part
        try:
            if fresh:
                self.discard()
            elif os.path.lexists(part) and not self.is_left(part):
                raise not_ours(part, f"{self.kind.name} being made")
            part.mkdir(parents=True, exist_ok=not fresh)
            if is_empty(part):
                mark(part, self.kind, "begun")
        except OSError as error:
            raise not_written(self.path, error) from error
        return part

    def marked(self) -> None:
        """Remove ``.wsikd`` from ``part``, once the folder has the marker of its kind."""
        drop_temporary(self.part / MARKER, re.escape(MARKER))

    def discard(self) -> None:
        """Remove ``part``. Raises OutputError if wsikd did not make it, OSError."""
        if not os.path.lexists(self.part):
            return
        if not self.is_left(self.part):
            raise not_ours(self.part, f"{self.kind.name} being made")
        remove_tree(self.part, self.kind)

    def put(self) -> None:
        """Move the finished folder into place, and remove the one that it replaces.

        Raises:
            OutputError: the folder that is there has files of others; it stays.
            OSError: the move failed; the old folder stays.
        """
        self.marked()
        if is_empty(self.path):
            drop_empty(self.path)
        if not os.path.lexists(self.path):
            into_place(self.part, self.path)
            self.recover()
            return
        self.may_replace()
        self.recover()
        old = self.replaced
        into_place(self.path, old)
        try:
            into_place(self.part, self.path)
        except BaseException:
            into_place(old, self.path)
            raise
        remove_tree(old, self.kind)

    def drop_within(self, name: str) -> None:
        """Remove a folder in ``part``, which :meth:`begin` has checked."""
        drop_inner(self.part / name)

    @contextmanager
    def made(self) -> Iterator[Path]:
        """Yield an empty folder that is moved into place after success, and removed after an error.

        Call it under the lock of ``path``, or if no other process writes there.

        Raises:
            OutputError: the path may not be written, or writing failed.
        """
        self.may_replace()
        part = self.begin()
        try:
            yield part
            self.put()
        except OSError as error:
            raise not_written(self.path, error) from error
        finally:
            with suppress(OSError, OutputError):
                self.discard()

    def _is_own(self, folder: Path) -> bool:
        return folder.is_dir() and not folder.is_symlink() and self.kind.own(folder)

    def is_left(self, folder: Path) -> bool:
        """Whether a run of wsikd left ``folder``, which is ``part`` or ``replaced``."""
        if not folder.is_dir() or folder.is_symlink():
            return False
        marked = read_json(folder / MARKER).get("kind") == self.kind.name
        known = marked or is_empty(folder) or self.kind.own(folder)
        if not known and folder == self.part:
            known = self.kind.early(folder)
        return known and stranger(folder, self.kind) is None
