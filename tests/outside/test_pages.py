"""The pages on extending wsikd show the files that the other tests of this folder run."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.outside.commands import PACKAGE
from wsikd.core.registry import KINDS

PAGES = Path(__file__).parents[2] / "docs/extending"
NAMES = sorted(p.stem for p in (PACKAGE / "wsikd_outside").glob("[!_]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_its_file_and_its_entry_point(name):
    page = (PAGES / f"{name}.md").read_text()
    assert len(page.splitlines()) <= 60
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks == [(PACKAGE / f"wsikd_outside/{name}.py").read_text()]
    points = ConfigParser()
    points.read(PACKAGE / "wsikd_outside-1.0.dist-info/entry_points.txt")
    group, key, target = next(
        (group, key, target)
        for group in points
        for key, target in points[group].items()
        if target.startswith(f"wsikd_outside.{name}:")
    )
    assert f'[project.entry-points."{group}"]' in page
    assert f'{key} = "{target}"' in page


def test_the_index_names_every_page_and_kind():
    index = (PAGES / "README.md").read_text()
    assert sorted(p.stem for p in PAGES.glob("*.md") if p.stem != "README") == NAMES
    assert all(f"({name}.md)" in index for name in NAMES)
    assert all(f"`wsikd.{kind}`" in index for kind in KINDS)
