"""Run the code cells of a notebook in Markdown, in order, in one namespace, without Jupyter.

    python docs/_ext/cells.py docs/tutorials/front_door.md

The value of a cell's last expression is shown as text, and its HTML is made. Cells that start with
``%%sh`` are run by a shell; a command that fails ends the run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.M | re.S)
OPTION = re.compile(r"^:[\w-]+:.*\n", re.M)


def cells(page: Path) -> list[str]:
    """The code cells of a page, without their options."""
    return [OPTION.sub("", text).strip() for text in CELL.findall(page.read_text("utf-8"))]


def run(page: Path) -> int:
    """Run the cells of a page in the current folder; returns how many there were."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = cells(page)
    for number, text in enumerate(found, start=1):
        if text.startswith("%%sh"):
            subprocess.run(["sh", "-e", "-c", text.partition("\n")[2]], check=True)
        else:
            _python(text, f"{page}, cell {number}", names)
    return len(found)


def _python(text: str, where: str, names: dict[str, Any]) -> None:
    tree = ast.parse(text, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last is None:
        return
    value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    if value is not None:
        print(repr(value))
        if html := getattr(value, "_repr_html_", None):
            html()


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for argument in sys.argv[1:]:
        print(f"{argument}: {run(Path(argument))} cells")
