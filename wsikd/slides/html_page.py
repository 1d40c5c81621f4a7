"""HTML pages of wsikd: their templates and common style, and pictures inside them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def templates(package: str) -> Environment:
    """The page templates in a package's folder, and ``page.css.j2``; values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__package__, ".")]),
        autoescape=select_autoescape(["html", "html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """An image as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
