"""Where a folder of wsikd goes, and how it gets there: whole, or not at all.

A store, a bag, a result or a bundle is made in ``<name>.part``, which says so before it holds
anything else. What it replaces is renamed to ``<name>.replaced`` first and removed last. A run that
is killed in between leaves one of the two whole; the next run puts it back or clears it away.
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
    """Where a folder of wsikd goes.

    Attributes:
        path: the folder.
        kind: what it is.
        within: the folder of all outputs, which ``path`` must lie below.
        inputs: files and folders that are read: those of slides, annotations, masks, networks.
        whole: whether ``path`` may be ``within`` itself, as runs and exports are.
    """

    path: Path
    kind: Kind
    within: Path
    inputs: Sequence[Path] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        """Follow a link that the user named as the output itself, and give "." its name."""
        if self.whole and (self.path.is_symlink() or self.path.name in ("", "..")):
            object.__setattr__(self, "path", resolved(self.path))

    @property
    def part(self) -> Path:
        """Where it is made, to be resumed or restarted after a kill."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def replaced(self) -> Path:
        """Where the old one is until the new one is in place."""
        return self.path.with_name(f"{self.path.name}.replaced")

    def check(self) -> None:
        """Refuse a place that is not an output of its own, whatever is there; raises
        OutputError."""
        check_below(self.path, self.within, whole=self.whole)
        if self.inputs:
            check_inputs(self.path, self._inputs)

    @cached_property
    def _inputs(self) -> list[Input]:
        """The inputs on the disk, looked at once: a slide's place is checked ten times."""
        return [Input.at(path) for path in self.inputs]

    def taken(self) -> bool:
        """Whether one of wsikd's making is there; an empty folder does not count.

        Raises:
            OutputError: something else is there, or the place is refused.
        """
        self.check()
        if not os.path.lexists(self.path) or is_empty(self.path):
            return False
        if not self._is_own(self.path):
            raise not_ours(self.path, self.kind.name)
        return True

    def may_replace(self) -> None:
        """Refuse to replace what is there unless all of it is wsikd's; raises OutputError."""
        if self.taken():
            refuse_strangers(self.path, self.kind)
            if os.path.lexists(self.replaced) and not self.is_left(self.replaced):
                raise not_ours(self.replaced, f"{self.kind.name} being replaced")

    def left(self) -> bool:
        """Whether a killed run has left anything here: call :meth:`recover` under the lock then."""
        return os.path.lexists(self.replaced) or os.path.lexists(self.part)

    def recover(self) -> None:
        """Undo or complete a replacement that was killed. Raises OSError.

        It must be called under the lock of ``path``.
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
        """The folder aside, empty and marked as being made. Call it under the lock.

        Args:
            fresh: remove what a killed run left in it; else that stays.

        Raises:
            OutputError: somebody else's folder is there, or it cannot be written.
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
        """Take the mark of the beginning away, once the folder has its own marker."""
        drop_temporary(self.part / MARKER, re.escape(MARKER))

    def discard(self) -> None:
        """Remove the unfinished output; raises OutputError if it is not ours, OSError."""
        if not os.path.lexists(self.part):
            return
        if not self.is_left(self.part):
            raise not_ours(self.part, f"{self.kind.name} being made")
        remove_tree(self.part, self.kind)

    def put(self) -> None:
        """Move the finished output into place, and remove the one that it replaces.

        Raises:
            OutputError: what is there is not wsikd's, and stays.
            OSError: the disk does not take it; the old one stays.
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
        """Remove a folder within the folder aside, which :meth:`begin` has checked."""
        drop_inner(self.part / name)

    @contextmanager
    def made(self) -> Iterator[Path]:
        """An empty folder aside, put into place if the block ends well, else removed.

        Call it under the lock of ``path``, or where nothing else writes.

        Raises:
            OutputError: the place is not free to be written, or the disk does not take it.
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
        """Whether ``part`` or ``replaced`` was left there by a run of wsikd."""
        if not folder.is_dir() or folder.is_symlink():
            return False
        marked = read_json(folder / MARKER).get("kind") == self.kind.name
        known = marked or is_empty(folder) or self.kind.own(folder)
        if not known and folder == self.part:
            known = self.kind.early(folder)
        return known and stranger(folder, self.kind) is None
