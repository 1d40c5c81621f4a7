"""Links from pages to files of the repository that are no pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MOVED = {ROOT / "benchmarks" / "results": DOCS / "measurements"}
"""Folders of the repository whose Markdown is copied into the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def outside_links(app: Any, docname: str, source: list[str]) -> None:
    """Point links at the copy in the site, or turn them into plain text that names the file."""
    page = DOCS / docname
    source[0] = replaced(source[0], page.parent, page.parent)


def replaced(text: str, origin: Path, folder: Path) -> str:
    """A Markdown text with every link resolved.

    Args:
        text: the page.
        origin: folder that its links are relative to.
        folder: folder that the page is in, in the site.
    """

    def one(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        file = (origin / target).resolve()
        for source, copy in MOVED.items():
            if file == source:
                file = copy / "index.md"
            elif file.parent == source and file.suffix == ".md":
                file = copy / file.name
        if file == ROOT / "benchmarks" / "README.md":
            file = DOCS / "measurements" / "benchmarks.md"
        if file.is_relative_to(DOCS):
            return f"[{label}]({_relative(file, folder)}{anchor})"
        if not file.is_relative_to(ROOT):
            return match[0]
        return f"{label} (`{file.relative_to(ROOT)}` in the repository)"

    return _LINK.sub(one, text)


def _relative(file: Path, folder: Path) -> str:
    import os

    return os.path.relpath(file, folder)
