"""The tables of guards in ``docs/how-sure.md``, from the JSON of ``run``.

``python -m benchmarks.studies.guard.page`` writes them into the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
FILE = ROOT / "benchmarks" / "results" / "guard_cpu-2core_2026-11-30.json"
PAGE = ROOT / "docs" / "how-sure.md"
START = "<!-- guards: made by benchmarks/studies/guard/page.py -->"
END = "<!-- end of guards -->"


def tables(file: Path = FILE) -> str:
    """False alarms and AUC, small cohorts, and altered slides, of every set."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return "\n".join([*_seeds(found), "", *_few(found), "", *_altered(found), ""])


def _seeds(found: dict[str, Any]) -> list[str]:
    lines = ["| trained on | slides | false alarms | others | AUC | withheld |",
             "|---|---:|---:|---|---:|---:|"]  # fmt: skip
    for name, one in _real(found).items():
        rows = list(one["seeds"].values())
        alarms = _range([row["false_alarms"] for row in rows], "{:.1%}")
        for other in sorted(k for k, v in rows[0].items() if isinstance(v, dict)):
            auc = _range([row[other]["auc"] for row in rows], "{:.3f}")
            withheld = _range([row[other]["withheld"] for row in rows], "{:.0%}")
            cells = (name, str(rows[0]["slides"]), alarms, other, auc, withheld)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _real(found: dict[str, Any]) -> dict[str, Any]:
    """The sets of real tissue."""
    return {name: one for name, one in found.items() if "seeds" in one}


def _few(found: dict[str, Any]) -> list[str]:
    kinds = list(next(iter(found.values()))["few"])
    lines = [f"| training + validation slides | {' | '.join(kinds)} |",
             "|---" + "|---:" * len(kinds) + "|"]  # fmt: skip
    for name, one in found.items():
        for few, fields in (("few", ""), ("few_fields", ", ten fields a slide")):
            for figure in ("false_alarms", "withheld"):
                label = "false alarms" if figure == "false_alarms" else "others withheld"
                cells = [f"{one[few][kind][figure]:.0%}" for kind in kinds]
                lines.append(f"| {name}{fields}, {label} | {' | '.join(cells)} |")
    return lines


def _altered(found: dict[str, Any]) -> list[str]:
    names = list(_real(found))
    heads = [f"{name}: {what}" for name in names for what in ("accuracy", "withheld")]
    lines = [f"| slides altered | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for kind in found[names[0]]["altered"]:
        rows = [found[name]["altered"][kind] for name in names]
        cells = [text for row in rows for text in (_accuracy(row), f"{row['withheld']:.0%}")]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _accuracy(row: dict[str, Any]) -> str:
    return "" if row["accuracy"] is None else f"{row['accuracy']:.2f}"


def _range(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def whole(text: str) -> str:
    """The page with its tables made again."""
    before, rest = text.split(START)
    return f"{before}{START}\n\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(whole(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
