"""Nothing is asked for that nobody imports."""

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Needed without an import statement: the library behind openslide-python, and what wsikd/tia.py
# imports by name when asked.
UNSEEN = {"openslide-bin", "tiatoolbox"}


def imported():
    for folder in ("wsikd", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    yield node.module.partition(".")[0]


def test_every_dependency_is_imported():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", entry)[0] for entry in listed}
    owners = packages_distributions()
    used = {name.lower() for top in set(imported()) for name in owners.get(top, ())}
    assert names - used - UNSEEN == set()
