"""How slides, stores and students look in a notebook: a picture beside a short table."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

PICTURE_PX = 360
"""Longest side of a picture; its JPEG stays below 100 kB."""
_QUALITY = 80
_CELL = "text-align:left;padding:1px 10px 1px 0;vertical-align:top"


def card(title: str, rows: Mapping[str, object], picture: NDArray[np.uint8] | None = None) -> str:
    """A title, a table of two columns, and a picture on the left, as HTML.

    Args:
        title: the heading.
        rows: name -> value, shown as text.
        picture: uint8 (height, width, 3); enlarged pictures are reduced to ``PICTURE_PX``.
    """
    lines = "".join(
        f'<tr><th style="{_CELL}">{html.escape(name)}</th>'
        f'<td style="{_CELL}">{html.escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    table = f"<div><b>{html.escape(title)}</b><table>{lines}</table></div>"
    if picture is None:
        return table
    image = f'<img alt="" src="{data_uri(picture)}" style="max-width:{PICTURE_PX}px">'
    return f'<div style="display:flex;gap:16px">{image}{table}</div>'


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = ""
) -> str:
    """A title, a table and a note, as HTML; of a long table the first 50 rows."""
    head = "".join(f'<th style="{_CELL}">{html.escape(c)}</th>' for c in columns)
    shown = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{html.escape(str(v))}</td>' for v in row) + "</tr>"
        for row in rows[:50]
    )
    more = f"<p>and {len(rows) - 50} more</p>" if len(rows) > 50 else ""
    last = f"<p>{html.escape(note)}</p>" if note else ""
    return f"<b>{html.escape(title)}</b><table><tr>{head}</tr>{shown}</table>{more}{last}"


def data_uri(rgb: NDArray[np.uint8]) -> str:
    """A picture as a JPEG in a data URI; uint8 (height, width, 3)."""
    import cv2
    import numpy as np

    height, width = rgb.shape[:2]
    factor = max(height, width) / PICTURE_PX
    if factor > 1:
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    flipped = np.ascontiguousarray(rgb[..., ::-1])
    coded = cv2.imencode(".jpg", flipped, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(coded.tobytes()).decode()
