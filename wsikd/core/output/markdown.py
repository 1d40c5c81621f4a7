"""Tables as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def table_lines(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> list[str]:
    """The lines of a Markdown table.

    Args:
        heads: titles of the columns.
        rows: rows with one cell per column.
        right: indices of the columns that are aligned to the right.
    """
    rule = "".join("|---:" if n in right else "|---" for n in range(len(heads))) + "|"
    return [_line(heads), rule, *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
