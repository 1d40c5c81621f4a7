"""Methods of learning: each turns a batch into loss terms, and is described by its class alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.core.registry import resolve

if TYPE_CHECKING:
    from wsikd.learn.methods.base import Method

METHODS: dict[str, str] = {
    "supervised": "wsikd.learn.methods.supervised:Supervised",
    "at_plus": "wsikd.learn.methods.at_plus:AtPlus",
    "hdkd": "wsikd.learn.methods.hdkd:Hdkd",
    "mil": "wsikd.learn.mil.method:Mil",
    "ts2g": "wsikd.learn.ts2g.method:Ts2g",
    "detector": "wsikd.learn.ts2g.detect_method:Detect",
    "slpd": "wsikd.learn.slpd.method:Slpd",
}
"""Other packages add theirs through entry points of the group ``wsikd.methods``."""


def find_method(name: str) -> type[Method]:
    """The class of a method, which imports torch. Raises ConfigError for an unknown name."""
    found: type[Method] = resolve(METHODS, name, kind="methods")
    return found
