"""The studies' scripts run, and their records say what their tables hold."""

import io
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

STUDIES = Path(__file__).parent.parent / "benchmarks" / "studies"
RECORDS = sorted((STUDIES.parent / "results").glob("controlled_*.json")) + sorted(
    (STUDIES.parent / "results").glob("real_*.json")
)


def run(script, *arguments, fails=False):
    """Run a script as Python runs a file, in this process: its imports take seconds in each."""
    told, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.syspath_prepend(STUDIES)
        try:
            runpy.run_path(str(STUDIES / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
    assert bool(code) == fails, (code, told.getvalue())
    return told.getvalue() + (code if isinstance(code, str) else "")


def kappa_of(reach):
    """Quadratic kappa of three equal grades at -d', 0, d', cut half way between them."""
    edges = np.array([-np.inf, -reach / 2, reach / 2, np.inf])
    matrix = np.diff(norm.cdf(edges[None] - reach * np.array([-1, 0, 1])[:, None])) / 3
    distance = (np.arange(3)[:, None] - np.arange(3)) ** 2
    chance = matrix.sum(1)[:, None] * matrix.sum(0)
    return 1 - (distance * matrix).sum() / (distance * chance).sum()


def test_a_set_and_its_oracle(tmp_path):
    run(
        "controlled.py", "--shares", "0.7,0.2,0.07,0.03", "--patches", "24,12,60", "--many", "90",
        "-o", tmp_path / "set",
    )  # fmt: skip
    told = json.loads((tmp_path / "set" / "oracle.json").read_text())["magnifications"]
    assert [told[m]["survives"] for m in ("10x", "5x", "2.5x", "1.25x")] == [1.0, 0.3, 0.1, 0.03]
    kappas = [told[m]["bayes"]["kappa"] for m in ("10x", "5x", "2.5x", "1.25x")]
    assert kappas == sorted(kappas, reverse=True)
    for share, kappa in zip((1.0, 0.3, 0.1, 0.03), kappas, strict=True):
        assert kappa == pytest.approx(kappa_of(2.5 * share**0.5), abs=0.01)
    assert told["10x"]["oracle"]["kappa"] > 0.6 > told["1.25x"]["oracle"]["kappa"]


def lay_out(record, folder):
    """Tables as ``wsikd reproduce`` leaves them, from what a record holds."""
    places = []
    for n, entry in enumerate(record["tables"]):
        place = folder / f"t{n}"
        place.mkdir()
        (place / "runs").mkdir()
        (place / "table.json").write_text(json.dumps(entry))
        if "oracle" in entry:
            (place / "oracle.json").write_text(json.dumps(entry["oracle"]))
        places.append(f"{entry['title']}={place}" + (f"+{place}" if "oracle" in entry else ""))
    return places


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.stem)
def test_the_markdown_is_that_of_the_record(file, tmp_path):
    record = json.loads(file.read_text())
    head = tmp_path / "head.md"
    head.write_text("Head\n")
    run("record.py", record["theme"], "-o", tmp_path / "again", "--head", head,
        *lay_out(record, tmp_path))  # fmt: skip
    kept = file.with_suffix(".md").read_text()
    for part in (tmp_path / "again.md").read_text().removeprefix("Head").split("Epochs done")[:-1]:
        tables = part[part.index("## ") :]
        assert tables in kept


def test_too_few_seeds_are_not_recorded(tmp_path):
    record = json.loads(RECORDS[0].read_text())
    record["tables"] = record["tables"][:1]
    record["tables"][0]["plan"]["seeds"] = [1, 2, 3, 4]
    head = tmp_path / "head.md"
    head.write_text("Head\n")
    told = run("record.py", "x", "-o", tmp_path / "x", "--head", head,
               *lay_out(record, tmp_path), fails=True)  # fmt: skip
    assert "4 seeds; run 5" in told
    assert not (tmp_path / "x.md").exists()
