"""The Gleason pattern of a class name, and the default order of classes."""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PATTERN = re.compile(r"(?:g|gp|gleason|gleason pattern) ?([345])")
_COMPOSITE = re.compile(
    r"\b[1-5] ?\+ ?[1-5]\b|\bgleason (?:score|sum)\b|\b(?:grade group|gg|isup(?: grade)?) ?[1-5]\b"
)
_NO_CANCER = frozenset(
    ("nc", "benign", "normal", "non cancer", "noncancer", "no cancer", "non cancerous")
    + ("non tumor", "non tumour", "stroma", "0")
)


@lru_cache(maxsize=1024)
def pattern_of(name: str) -> int | None:
    """Gleason pattern of a class name: 3, 4 or 5; 0 for no cancer; None for neither.

    >>> [pattern_of(name) for name in ("GP4", "non-cancer", "tumour")]
    [4, 0, None]
    """
    plain = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
    if plain in _NO_CANCER:
        return 0
    match = _PATTERN.fullmatch(plain)
    return int(match[1]) if match else None


def is_composite(name: str) -> bool:
    """Whether a name is a score of several patterns, or a grade group, and so no patch's class.

    >>> [is_composite(name) for name in ("Gleason 4+3", "3 + 4 = 7", "grade group 2", "Gleason 3")]
    [True, True, True, False]
    """
    plain = re.sub(r"[\s_-]+", " ", name.casefold()).strip()
    return _COMPOSITE.search(plain) is not None


def plain_key(name: str) -> str:
    """A name without case and spaces, to compare names.

    >>> plain_key("Gleason 3") == plain_key("gleason3 ")
    True
    """
    return "".join(name.casefold().split())


def benign_of(classes: Sequence[str], named: Sequence[str] | None = None) -> tuple[int, ...]:
    """Places of the classes that are not cancer: those named, else those whose names say so.

    >>> benign_of(("stroma", "benign", "G3"))
    (0, 1)
    >>> benign_of(("a", "b"))
    ()
    >>> benign_of(("a", "b"), ["b"])
    (1,)
    """
    if named is not None:
        return tuple(i for i, name in enumerate(classes) if name in named)
    return tuple(i for i, name in enumerate(classes) if pattern_of(name) == 0)


def in_order(classes: Sequence[str]) -> bool:
    """Whether a mistake between distant classes is worse: two classes, or ascending patterns.

    >>> [in_order(c) for c in (("NC", "G3", "G5"), ("G3", "NC"), ("ADI", "LYM", "TUM"))]
    [True, True, False]
    """
    if len(classes) < 3:
        return True
    patterns = [pattern_of(name) for name in classes]
    known = [p for p in patterns if p is not None]
    return len(known) == len(patterns) and all(a < b for a, b in itertools.pairwise(known))


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in order of grade: no cancer, Gleason 3, 4, 5, then the rest by name.

    >>> ordered_classes(["G5", "G3", "NC", "G4", "NC"])
    ('NC', 'G3', 'G4', 'G5')
    """
    return tuple(sorted(set(names), key=_rank))


def _rank(name: str) -> tuple[int, str, str]:
    pattern = pattern_of(name)
    return 9 if pattern is None else pattern, name.casefold(), name
