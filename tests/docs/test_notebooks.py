"""Tutorials are notebooks in Markdown. ``make docs`` runs them, ``.ci/wheel`` the front door's."""

import ast
import importlib.util
from pathlib import Path

import pytest

import wsikd

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(p for p in (ROOT / "docs/tutorials").glob("*.md") if p.name != "index.md")


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("cells", ROOT / "docs/_ext/cells.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_cells_are_code_and_name_what_there_is(page, runner):
    assert "file_format: mystnb" in page.read_text("utf-8")
    found = runner.cells(page)
    assert len(found) > 5
    for text in found:
        if text.startswith("%%sh\n"):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "wsikd":
                assert node.attr in wsikd.__all__


def test_cells_run_in_one_namespace(tmp_path, runner, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "```{code-cell} python\n:tags: [hide-input]\na = 6\n```\n"
        "```{code-cell} python\na * 7\n```\n"
        "```{code-cell} python\n%%sh\necho from a shell\n```\n"
    )
    assert runner.run(page) == 3
    assert capfd.readouterr().out.split("\n")[:2] == ["42", "from a shell"]
    page.write_text("```{code-cell} python\n%%sh\nfalse\necho on\n```\n")
    with pytest.raises(runner.subprocess.CalledProcessError):
        runner.run(page)
