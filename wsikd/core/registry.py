"""Open sets: a table maps a name to ``"module:attribute"``, imported when it is asked for."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Any:
    """Import the entry ``name`` of ``table``.

    On a miss, installed packages are asked for an entry point of group ``wsikd.<kind>``.

    Args:
        table: name -> "module:attribute".
        name: what the user asked for.
        kind: what the table holds, e.g. ``"readers"``; names the entry-point group.

    Raises:
        ConfigError: the name is unknown; the message lists the known ones.
    """
    if name in table:
        module, _, attribute = table[name].partition(":")
        return getattr(import_module(module), attribute)
    for point in entry_points(group=f"wsikd.{kind}"):
        if point.name == name:
            return point.load()
    raise _unknown(table, name, kind)


def check_known(table: Mapping[str, str], name: str, *, kind: str) -> None:
    """Raise what :func:`resolve` would for an unknown name; nothing is imported."""
    if name not in table and all(p.name != name for p in entry_points(group=f"wsikd.{kind}")):
        raise _unknown(table, name, kind)


def _unknown(table: Mapping[str, str], name: str, kind: str) -> ConfigError:
    return ConfigError(name, f"not among the known {kind}", f"choose one of {', '.join(table)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the closest known one, or the whole list."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
