"""Write the generated pages: command line, Python, configuration, file formats, measurements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import models
from links import MOVED, ROOT, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import click


def write_all(docs: Path) -> None:
    """Write every generated page below the folder ``docs``; equal files are left as they are."""
    reference = docs / "reference"
    _write(reference / "cli.md", command_line())
    _write(reference / "api.md", python())
    _write(reference / "configuration.md", models.configuration())
    text, schemas = models.formats()
    _write(reference / "formats.md", text)
    for name, schema in schemas.items():
        _write(docs / "_static" / "schemas" / name, schema)
    for page, content in measurements():
        _write(docs / "measurements" / page, content)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def command_line() -> str:
    """The help text of every command."""
    from wsikd.cli.main import main

    lines = ["# Command line", "", "Generated from `wsikd COMMAND --help`.", ""]
    for name, text in _helps(main, "wsikd"):
        lines += [f"## {name}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(lines)


def _helps(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    import click

    context = click.Context(command, info_name=name, terminal_width=96, max_content_width=96)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _helps(found, f"{name} {inner}")


_CODE = """```{{eval-rst}}
.. {kind}:: {name}
   :no-index-entry:
```
"""


def python() -> str:
    """The public names of ``import wsikd``."""
    import wsikd

    lines = [
        "# Python",
        "",
        "Public names: `import wsikd`, then `wsikd.NAME`. Other names may move between versions.",
        "",
    ]
    for name in getattr(wsikd, "__all__", ()):
        value = getattr(wsikd, name)
        if isinstance(value, str):
            continue
        kind = "autoclass" if isinstance(value, type) else "autofunction"
        if isinstance(value, type) and issubclass(value, Exception):
            kind = "autoexception"
        lines += [f"## {name}", "", _CODE.format(kind=kind, name=f"wsikd.{name}")]
    return "\n".join(lines)


_QUESTIONS = {
    "infer": "How much faster is a student at 2.5x than a teacher at 10x, and than TIAToolbox?",
    "tiling": "How fast are tiles read and stored, against OpenSlide, TIAToolbox and cuCIM?",
    "distill_step": "What does a training step of AT+ cost?",
    "gpu": "How near does a GPU come to its own limits?",
    "controlled": "What does distillation gain if the information at each magnification is known?",
    "real": "What does distillation gain on real prostate patches (PANDA), with or without colour?",
    "hdkd": "Does HDKD help with few training slides?",
    "ts2g": "Can an adapter at a lower magnification replace its teacher's embeddings?",
    "slpd": "Do slide prototypes improve region vectors?",
    "slpd_step": "What does a training step of SLPD cost, and its clustering and matching?",
    "drawn_colour": "Can colour alone grade the synthetic slides of the demo?",
}
"""Theme of a record -> its question in the index."""


def _asked(stem: str) -> str:
    return _QUESTIONS.get(stem.split("_cpu")[0].split("_gpu")[0], "")


def measurements() -> Iterator[tuple[str, str]]:
    """(page, Markdown) of every record in ``benchmarks/results``, of its README, and an index."""
    source = ROOT / "benchmarks" / "results"
    titles = {}
    for file in sorted(source.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        titles[file.stem] = text.splitlines()[0].lstrip("# ")
        text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
        yield file.name, _levelled(replaced(text, source, MOVED[source]))
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    yield "benchmarks.md", replaced(readme, ROOT / "benchmarks", MOVED[source])
    index = [
        "# Measurements",
        "",
        "Each record holds command, hardware, date and result. The raw values are",
        "in `benchmarks/results/*.json` of the repository. All are from two CPU cores.",
        "",
        "| record | question |",
        "|---|---|",
        *(f"| [{s.split('_cpu')[0]}]({s}.md) | {_asked(s)} |" for s in titles),
        "",
        "```{toctree}",
        ":maxdepth: 1",
        "benchmarks",
        *titles,
        "```",
        "",
    ]
    yield "index.md", "\n".join(index)


def _levelled(text: str) -> str:
    """The text without jumps in the level of its headings."""
    lines, level, fenced = [], 0, False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        match = None if fenced else re.match(r"(#+) (.*)", line)
        if match:
            level = min(len(match[1]), level + 1)
            line = f"{'#' * level} {match[2]}"
        lines.append(line)
    return "\n".join(lines) + "\n"
