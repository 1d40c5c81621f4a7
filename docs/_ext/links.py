"""What changes in a page before Sphinx reads it: links into the repository, empty lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MOVED = {ROOT / "benchmarks" / "results": DOCS / "measurements"}
"""Folders of the repository whose Markdown is copied into the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


_GLOB = re.compile(r"```\{toctree\}\n(?::.*\n)*:glob:\n(?::.*\n)*(.+)\n```\n")


def before_reading(app: Any, docname: str, source: list[str]) -> None:
    """Resolve the links of a page; drop a list of pages that matches none (Sphinx warns of it)."""
    page = DOCS / docname

    def kept(match: re.Match[str]) -> str:
        pages = [*page.parent.glob(f"{match[1]}.md"), *page.parent.glob(f"{match[1]}.ipynb")]
        return match[0] if any(p.stem != "index" for p in pages) else ""

    text = _GLOB.sub(kept, source[0])
    source[0] = replaced(text, page.parent, page.parent)


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
        if file.parent.name == "extending" and not file.exists():
            return label  # a page that its part of wsikd brings
        if file.is_relative_to(DOCS):
            return f"[{label}]({_relative(file, folder)}{anchor})"
        if not file.is_relative_to(ROOT):
            return match[0]
        return f"{label} (`{file.relative_to(ROOT)}` in the repository)"

    return _LINK.sub(one, text)


def _relative(file: Path, folder: Path) -> str:
    import os

    return os.path.relpath(file, folder)
