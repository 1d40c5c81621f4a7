"""Change the code at random places, and count how many changes the tests of their wing catch.

The changes are drawn once, from one commit and with a fixed seed. Each is then made in a checkout
of that commit and, in the same code, in a checkout of a later one. Start `test` in the checkout,
with its interpreter:

    python benchmarks/studies/mutations/run.py draw OLD NEW table.csv
    cd OLD; python benchmarks/studies/mutations/run.py test table.csv old
    cd NEW; python benchmarks/studies/mutations/run.py test table.csv new

`test` first runs the tests that name the changed module, then (`--rest`) the others of the wing. It
writes a verdict as soon as it is known and skips those that it finds in the table.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINGS = ("core", "slides", "tiles", "bags", "models", "learn", "grade", "cli")
MUTATIONS, LEAST, SEED = 40, 3, 15
HANGS_S = 120  # one test
LIMIT_S = 900  # all tests of one run
SWAPS: dict[type[ast.AST], Any] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
MESSAGES = {"debug", "info", "warning", "error", "exception", "log", "echo"}
LEFT_OUT = ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr | ast.Assert
FIELDS = ("wing", "file", "line", "function", "before", "after", "file_now", "line_now",
          "old", "old_by", "new", "new_by")  # fmt: skip
IMPORTED_ONCE = ("pytest", "numpy", "torch", "torchvision", "lightning", "timm", "zarr", "tifffile",
                 "scipy.stats", "sklearn.metrics", "pandas", "pydantic", "click", "openslide",
                 "PIL.Image", "dask.array", "shapely", "cv2")  # fmt: skip

OPTIONS = ("-x", "-q", "-n0", "-p", "no:randomly", "-p", "no:cacheprovider",
           "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
           "-o", f"faulthandler_timeout={HANGS_S}",
           "-o", "faulthandler_exit_on_timeout=true")  # fmt: skip


class Site(NamedTuple):
    """Code that can be changed: its place, its text, and what replaces it."""

    function: str
    start: tuple[int, int]
    end: tuple[int, int]
    before: str
    after: str


def sites(source: str) -> Iterator[Site]:
    """Every possible change in a module."""
    yield from _inside(ast.parse(source), source.encode().splitlines(keepends=True), "")


def _inside(node: ast.AST, lines: list[bytes], function: str) -> Iterator[Site]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _left_out(child):
                continue
            inner = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".lstrip(".")
            elif (
                function
                and isinstance(child, ast.expr | ast.stmt)
                and (after := _changed(child, node)) is not None
            ):
                yield _site(child, lines, function, after)
            yield from _inside(child, lines, inner)


def _site(node: ast.expr | ast.stmt, lines: list[bytes], function: str, after: str) -> Site:
    start = (node.lineno, node.col_offset)
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    text = lines[start[0] - 1 : end[0]]
    text[-1] = text[-1][: end[1]]
    text[0] = text[0][start[1] :]
    return Site(function, start, end, b"".join(text).decode(), after)


def _left_out(node: ast.AST) -> bool:
    """Type-checking blocks, messages, ``__repr__``."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    if isinstance(node, LEFT_OUT) or (
        isinstance(node, ast.FunctionDef) and node.name == "__repr__"
    ):
        return True
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in MESSAGES


def _changed(node: ast.AST, parent: ast.AST) -> str | None:
    """The text that replaces a node, if it is of a kind that is changed."""
    match node:
        case ast.Compare(left, [op], right) if type(op) in SWAPS:
            return f"({ast.unparse(ast.Compare(left, [SWAPS[type(op)]()], right))})"
        case ast.BinOp(left, op, right) if type(op) in SWAPS:
            return f"({ast.unparse(ast.BinOp(left, SWAPS[type(op)](), right))})"
        case ast.BoolOp(op, values):
            return f"({ast.unparse(ast.BoolOp(SWAPS[type(op)](), values))})"
        case ast.UnaryOp(ast.Not(), operand):
            return f"({ast.unparse(operand)})"
        case ast.Constant(bool(value)):
            return str(not value)
        case ast.Constant(int(value) | float(value)):
            return repr(value + 1)
        case ast.Expr(ast.Call() as call) if not _left_out(call):
            return "pass"
        case ast.Return() if isinstance(parent, ast.If):
            return "pass"
        case ast.Call(ast.Name("min" | "max" as name), arguments, keywords):
            other = ast.Name("max" if name == "min" else "min")
            return ast.unparse(ast.Call(other, arguments, keywords))
    return None


def changed(source: str, site: Site) -> str:
    """The source with one change."""
    lines = source.encode().splitlines(keepends=True)
    (first, left), (last, right) = site.start, site.end
    head = b"".join(lines[: first - 1]) + lines[first - 1][:left]
    tail = lines[last - 1][right:] + b"".join(lines[last:])
    return (head + site.after.encode() + tail).decode()


def modules(checkout: Path) -> Iterator[Path]:
    """Files that may be changed, or to which code may have moved."""
    for folder in ("wsikd", "cli", "benchmarks/studies"):
        yield from (x.relative_to(checkout) for x in sorted((checkout / folder).rglob("*.py")))


def draw(old: Path, new: Path, table: Path) -> None:
    """Three changes in each wing, the others by lines of code; only code that is the same today."""
    today = defaultdict(list)
    for file in modules(new):
        for key, site in _keyed((new / file).read_text()):
            today[key].append((file, site))
    found: dict[str, list[tuple[Path, Site, Path, Site]]] = defaultdict(list)
    lines, gone = dict.fromkeys(WINGS, 0), 0
    for file in modules(old):
        text = (old / file).read_text()
        known = [(site, today.get(key, [])) for key, site in _keyed(text)]
        wing = _wing(file, [places[0][0] for _, places in known if len(places) == 1])
        if wing not in WINGS:
            continue
        lines[wing] += len(text.splitlines())
        found[wing] += [(file, site, *places[0]) for site, places in known if len(places) == 1]
        gone += sum(len(places) != 1 for _, places in known)
    print(
        f"{sum(map(len, found.values()))} possible changes; {gone} more are gone or ambiguous today"
    )
    chance, rows = random.Random(SEED), []
    for wing, count in _counts(lines).items():
        for file, site, file_now, site_now in sorted(chance.sample(found[wing], count)):
            place, now = (file, site.start[0]), (file_now, site_now.start[0])
            entry = (wing, *place, site.function, site.before, site.after, *now)
            rows.append(dict(zip(FIELDS, map(str, entry), strict=False)))
    _write(table, rows)


def _wing(file: Path, places: list[Path]) -> str:
    """The wing of a file; `bags` where most of its code is there today."""
    if sum(x.parts[1] == "bags" for x in places) > len(places) / 2:
        return "bags"
    return file.parts[0] if file.parts[0] == "cli" else file.parts[1]


def _counts(lines: dict[str, int]) -> dict[str, int]:
    counts = dict.fromkeys(WINGS, LEAST)
    for _ in range(MUTATIONS - LEAST * len(WINGS)):
        counts[max(WINGS, key=lambda wing: lines[wing] / (counts[wing] + 0.5))] += 1
    return counts


def _keyed(source: str) -> Iterator[tuple[tuple[str, ...], Site]]:
    """Each change with what it is recognised by elsewhere: function, text, lines around it."""
    lines = [line.strip() for line in source.splitlines()]
    for site in sites(source):
        around = lines[max(0, site.start[0] - 2) : site.end[0] + 1]
        column = str(site.start[1])
        yield (site.function.split(".")[-1], site.before, site.after, column, *around), site


def test(table: Path, column: str, *, rest: bool) -> None:
    """Make each change in turn in this checkout, and run the tests of its wing until one fails."""
    _import_once()
    rows = list(csv.DictReader(table.open()))
    place, line = ("file", "line") if column == "old" else ("file_now", "line_now")
    for number, row in enumerate(rows):
        if row[column] not in (("", "named pass") if rest else ("",)):
            continue
        file, begun = Path(row[place]), time.monotonic()
        named, others = _tests(file)
        chosen = others if rest else named
        row[column] = "survived" if rest else "named pass"
        with _change(file, int(row[line]), row["before"], row["after"]):
            if chosen and (by := _run(chosen)) is not None:
                row[column], row[f"{column}_by"] = "caught", by
        _write(table, rows)
        spent = time.monotonic() - begun
        print(
            f"{number} {row['wing']} {file}:{row[line]} {row[column]}",
            f"{row[f'{column}_by']} {spent:.0f} s",
            flush=True,
        )


class _change:
    """The file changed, with its first time of change put back after: its byte code stays valid."""

    def __init__(self, file: Path, line: int, before: str, after: str) -> None:
        self.file, self.text, self.stat = file, file.read_text(), file.stat()
        site = next(s for s in sites(self.text)
                    if (s.start[0], s.before, s.after) == (line, before, after))  # fmt: skip
        self.changed = changed(self.text, site)

    def __enter__(self) -> None:
        self.file.write_text(self.changed)

    def __exit__(self, *_: object) -> None:
        self.file.write_text(self.text)
        os.utime(self.file, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))


def _tests(file: Path) -> tuple[list[str], list[str]]:
    """The tests of a file's wing: those that name its module, best first, and the others."""
    inside = file.parts[1:-1]
    folder = Path("tests") / (inside[0] if inside else "")
    tests = sorted(
        folder.glob("test_*.py") if file.parts[0] == "cli" else folder.rglob("test_*.py")
    )
    parent = ".".join((("wsikd",) if file.parts[0] == "cli" else ()) + file.parts[:-1])

    def rank(path: Path) -> int:
        text = path.read_text()
        used = f"{parent}.{file.stem}" in text or f"from {parent} import {file.stem}" in text
        named = path.stem.removeprefix("test_").removeprefix("cli_") == file.stem
        return 0 if named and used else 1 if named else 2 if used else 3

    ranked = sorted((rank(path), str(path)) for path in tests)
    return [x for r, x in ranked if r < 3], [x for r, x in ranked if r == 3]


def _import_once() -> None:
    """What the tests import beside wsikd, so that each run starts at once."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTED_ONCE:
            try:
                importlib.import_module(name)
            except ImportError:
                print(f"without {name}")


def _run(tests: list[str]) -> str | None:
    """The first test that fails in a process of its own."""
    with tempfile.TemporaryFile("w+") as out:
        if (child := os.fork()) == 0:
            _in_child(tests, out.fileno())
        end = time.monotonic() + LIMIT_S
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.1)
        _kill(child)
        if ended[0] == 0:
            os.waitpid(child, 0)
            return f"no end after {LIMIT_S} s"
        out.seek(0)
        text = out.read()
    if "Timeout (" in text:
        return f"a test without end ({HANGS_S} s)"
    code = os.waitstatus_to_exitcode(ended[1])
    if code in (0, 5):  # passed, none collected
        return None
    failed = [x for x in text.splitlines() if x.startswith(("FAILED ", "ERROR "))]
    if not failed and "while loading conftest" not in text:
        raise RuntimeError(text[-3000:])  # pytest did not run the tests: no verdict
    return failed[0].split(" - ")[0] if failed else "conftest.py"


def _in_child(tests: list[str], out: int) -> None:
    import pytest

    code = 3  # not pytest's
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = pytest.main([*OPTIONS, *tests])
        sys.stdout.flush()
    finally:
        os._exit(int(code))


def _kill(group: int) -> None:
    """Also what the tests left running."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _write(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("draw")
    for name in ("old", "new", "table"):
        drawing.add_argument(name, type=Path)
    drawing.set_defaults(run=draw)
    testing = commands.add_parser("test")
    testing.add_argument("table", type=Path)
    testing.add_argument("column", choices=("old", "new"))
    testing.add_argument("--rest", action="store_true")
    testing.set_defaults(run=test)
    given = vars(parser.parse_args())
    run: Callable[..., None] = given.pop("run")
    run(**given)


if __name__ == "__main__":
    main()
