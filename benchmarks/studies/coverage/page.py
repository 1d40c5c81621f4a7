"""The tables of ``docs/how-sure.md``, from the CSV of ``run``.

``python -m benchmarks.studies.coverage.page`` writes them into the page.
"""

from __future__ import annotations

import csv
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILE = ROOT / "benchmarks" / "results" / "coverage_cpu-2core_2026-11-30.csv"
PAGE = ROOT / "docs" / "how-sure.md"
RARE = 0.01
"""Where fewer cohorts have an interval, its coverage is not known."""
START, END = "<!-- coverage: made by benchmarks/studies/coverage/page.py -->", "<!-- end -->"


def tables(file: Path = FILE) -> str:
    """Coverage by figure and number of slides, one table a distance over which fields err alike."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    parts = []
    for reach in dict.fromkeys(row["reach_mm"] for row in rows):
        own = [row for row in rows if row["reach_mm"] == reach]
        about = f"Fields, errors alike over {reach} mm" if reach else "Slides, patients and seeds"
        parts += [f"**{about}.**", "", *_table(own), ""]
    return "\n".join(parts)


def _table(rows: list[dict[str, str]]) -> list[str]:
    counts = sorted({int(row["groups"]) for row in rows})
    head = ["figure", *(f"{n}" for n in counts), "width at 100"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for name in dict.fromkeys(row["figure"] for row in rows):
        own = {int(row["groups"]): row for row in rows if row["figure"] == name}
        cells = [_cell(own.get(n)) for n in counts]
        wide = own.get(100, {}).get("of_oracle", "")
        cells.append(f"{float(wide):.2f}" if wide not in ("", "nan") else "")
        lines.append("| " + " | ".join([name.replace("auc", "AUC"), *cells]) + " |")
    return lines


def _cell(row: dict[str, str] | None) -> str:
    """Coverage and its Monte Carlo error; in brackets the share of cohorts with an interval."""
    if row is None:
        return ""
    some = float(row["defined"])
    if row["shown"] == "no" or row["coverage"] == "nan" or some < RARE:
        return "none"
    told = f"{float(row['coverage']):.3f} ± {float(row['error']):.3f}"
    return told if some > 0.995 else f"{told} ({some:.0%})"


def whole(text: str) -> str:
    """The page with its tables made again."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(whole(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
