"""Records of the studies say what their tables hold."""

import json

import pytest

from tests.studies.scripts import STUDIES, run

RECORDS = sorted((STUDIES.parent / "results").glob("controlled_*.json")) + sorted(
    (STUDIES.parent / "results").glob("real_*.json")
)


def lay_out(record, folder):
    """Tables as ``wsikd reproduce`` leaves them, from what a record holds."""
    places = []
    for n, entry in enumerate(record["tables"]):
        place = folder / f"t{n}"
        place.mkdir()
        (place / "runs").mkdir()
        gains = [gain for gain in entry["gains"] if "gain" in gain]
        (place / "table.json").write_text(json.dumps(entry | {"gains": gains}))
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
    of_today = all("gain" in gain for table in record["tables"] for gain in table["gains"])
    for part in (tmp_path / "again.md").read_text().removeprefix("Head").split("Epochs done")[:-1]:
        tables = part[part.index("## ") :]
        if of_today:
            assert tables in kept
        else:  # its gains have other intervals, as the note in the record says
            assert "percentile bootstrap" in kept
            rows = {line for line in tables.splitlines() if line.startswith("| ")}
            assert rows <= set(kept.splitlines())


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
