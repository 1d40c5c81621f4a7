"""Open sets: a table maps a name to ``"module:attribute"``, imported when it is asked for.

Other packages add names through entry points of the group ``wsikd.<kind>``. A name of wsikd's own
table always means wsikd's own entry; ``wsikd doctor`` reports a package that offers the same name.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import distributions, entry_points
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, WsikdError, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from importlib.metadata import EntryPoint

GROUP = "wsikd."
_SECTION = f"[{GROUP}"
KINDS: dict[str, str] = {
    "readers": "wsikd.slides.base:READERS",
    "maskers": "wsikd.slides.tissue.maskers:MASKERS",
    "backbones": "wsikd.models.tables:BACKBONES",
    "graders": "wsikd.models.tables:GRADERS",
    "aggregators": "wsikd.models.tables:AGGREGATORS",
    "encoders": "wsikd.models.tables:ENCODERS",
    "methods": "wsikd.learn.methods:METHODS",
    "loggers": "wsikd.learn.engine.loggers:LOGGERS",
    "engines": "wsikd.grade.engines:ENGINES",
    "exporters": "wsikd.grade.exports:EXPORTERS",
    "store_exporters": "wsikd.tiles.exports:EXPORTS",
    "detectors": "wsikd.learn.ts2g.detectors:DETECTORS",
}
"""What a package can add: kind -> wsikd's own table. The group is ``wsikd.<kind>``."""


@dataclass(frozen=True)
class Extension:
    """An entry point of an installed package.

    ``kind`` is what its group names, one of ``KINDS`` unless the package is mistaken; ``package``
    and ``version`` are those of the distribution.
    """

    kind: str
    name: str
    package: str
    version: str
    point: EntryPoint

    @property
    def source(self) -> str:
        """Package and version, as messages and cards name them."""
        return f"{self.package} {self.version}"

    def load(self) -> Any:
        """Import it. Raises ConfigError where that fails."""
        try:
            return self.point.load()
        except WsikdError:
            raise
        except Exception as error:  # whatever another package's module raises
            cause = one_line(f"{type(error).__name__}: {error}")
            raise ConfigError(
                f"{self.kind} '{self.name}'",
                f"cannot be imported from the package {self.source} ({cause:.300})",
                f"install its dependencies or update it: pip install --upgrade {self.package}",
            ) from error


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Any:
    """Import the entry ``name`` of ``table``, or of an installed package.

    Args:
        table: name -> "module:attribute". What is named in it is never looked for elsewhere.
        name: what the user asked for.
        kind: what the table holds, e.g. ``"readers"``; entry points are those of ``wsikd.<kind>``.

    Raises:
        ConfigError: the name is unknown (the message lists the known ones), two packages offer it,
            or the package's module cannot be imported.
    """
    if name in table:
        return load_target(table[name])
    found = extension(name, kind)
    if found is None:
        raise _unknown(table, name, kind)
    return found.load()


def load_target(target: str) -> Any:
    """The attribute that ``"module:attribute"`` names."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def check_known(table: Mapping[str, str], name: str, *, kind: str) -> None:
    """Refuse an unknown name as :func:`resolve` does; nothing is imported."""
    if name not in table and extension(name, kind) is None:
        raise _unknown(table, name, kind)


def known_names(
    table: Mapping[str, str], kind: str, asked: Collection[str] | None = None
) -> list[str]:
    """The names of a table in its order, then those of installed packages, sorted.

    If the table has all names that are ``asked`` for, no package is looked at.
    """
    if asked is not None and table.keys() >= set(asked):
        return [*table]
    others = {one.name for one in extensions(kind)} - set(table)
    return [*table, *sorted(others)]


def extension(name: str, kind: str) -> Extension | None:
    """The entry point of this name and kind, None without any.

    Raises:
        ConfigError: two packages offer the name.
    """
    found = [one for one in extensions(kind) if one.name == name]
    if len(found) > 1:
        fault = f"is offered by several packages: {', '.join(one.source for one in found)}"
        raise ConfigError(f"{kind} '{name}'", fault, "uninstall all but one")
    return found[0] if found else None


def extensions(kind: str | None = None) -> tuple[Extension, ...]:
    """What installed packages offer of one kind, or of any; nothing is imported."""
    found = _installed(tuple(sys.path))
    return found if kind is None else tuple(one for one in found if one.kind == kind)


def source_of(table: Mapping[str, str], name: str, *, kind: str) -> str | None:
    """Package and version that an entry comes from; None for wsikd's own. Imports nothing."""
    found = None if name in table else extension(name, kind)
    return None if found is None else found.source


def culprit(error: BaseException) -> Extension | None:
    """The extension whose code raised an exception, the innermost one; else None."""
    roots = {one.point.module.partition(".")[0]: one for one in extensions()}
    found, trace = None, error.__traceback__
    while trace is not None:
        root = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = roots.get(root, found)
        trace = trace.tb_next
    return found


@lru_cache(maxsize=4)
def _installed(_path: tuple[str, ...]) -> tuple[Extension, ...]:
    """Every entry point for wsikd on this ``sys.path``: reading them takes tens of milliseconds."""
    texts = (one.read_text("entry_points.txt") for one in distributions())
    if not any(text and _SECTION in text for text in texts):
        return ()  # in a fifth of the time that it takes to parse all of them
    points = entry_points()
    found = []
    for group in sorted(points.groups):
        if group.startswith(GROUP):
            found += [_extension(point) for point in points.select(group=group)]
    return tuple(sorted(found, key=lambda one: (one.kind, one.name, one.package)))


def _extension(point: EntryPoint) -> Extension:
    package, version = ("an unknown package", "?")
    if point.dist is not None:
        package, version = point.dist.name, point.dist.version
    return Extension(point.group.removeprefix(GROUP), point.name, package, version, point)


def _unknown(table: Mapping[str, str], name: str, kind: str) -> ConfigError:
    names = known_names(table, kind)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"did you mean '{close[0]}'? " if close else ""
    what = kind.replace("_", " ")
    return ConfigError(
        name, f"not among the known {what}", f"{meant}choose one of {', '.join(names)}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the closest known one, or the whole list."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
