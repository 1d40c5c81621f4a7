"""Put finished tables of ``wsikd reproduce`` into one record of benchmarks/results.

    python benchmarks/studies/record.py THEME -o benchmarks/results/THEME_cpu-2core_DATE \\
      --head head.md TITLE=DIR ...

writes the JSON (every table with its seeds, gains, warnings and provenance, the oracle of a
generated set where DIR/oracle.json is given as TITLE=DIR+SET) and the Markdown. A table without all
its rows and seeds is not taken.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score

from wsikd.core.output.markdown import table_lines
from wsikd.learn.reproduce.run_rows import read_predictions
from wsikd.learn.reproduce.table import to_markdown

SHOWN = ("kappa", "auc_cancer", "balanced_accuracy")
LEAST_SEEDS = 5


def epochs(folder: Path) -> dict[str, dict[str, float]]:
    """How the runs of each row ended: epochs done, the best one, and whether validation was flat.

    *flat* is the share of runs whose last ten epochs brought no better validation kappa.
    """
    found: dict[str, dict[str, float]] = {}
    for row in sorted(p for p in (folder / "runs").iterdir() if p.name != "colour_histogram"):
        done, best, flat = [], [], []
        for file in sorted(row.glob("*/metrics.jsonl")):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            kappas = [line["val"]["kappa"] or -1.0 for line in lines if "epoch" in line]
            if kappas:
                done.append(len(kappas))
                best.append(kappas.index(max(kappas)) + 1)
                flat.append(len(kappas) - best[-1] >= 10)
        if done:
            count = len(done)
            found[row.name] = {
                "runs": count, "epochs_mean": round(sum(done) / count, 1),
                "best_epoch_mean": round(sum(best) / count, 1), "flat": round(sum(flat) / count, 2),
            }  # fmt: skip
    return found


def cancer_kappas(folder: Path, seeds: list[int]) -> dict[str, list[float]]:
    """Cohen's kappa of benign (class 0) against cancer by row, seed by seed, folds together."""
    found = {}
    for row in sorted(p for p in (folder / "runs").iterdir() if p.name != "colour_histogram"):
        parts = [[read_predictions(f) for f in sorted(row.glob(f"seed{s}*/*.npz"))] for s in seeds]
        if all(parts):
            found[row.name] = [
                cohen_kappa_score(
                    np.concatenate([p.truth for p in of_seed]) > 0,
                    np.concatenate([p.probability.argmax(1) for p in of_seed]) > 0,
                )
                for of_seed in parts
            ]
    return found


def oracle_lines(oracle: dict[str, Any]) -> list[str]:
    """The oracle of a generated set as a Markdown table."""
    head = ["magnification", "cue that survives", "Bayes", "oracle", "bands known, same labels"]
    rows = []
    for name, entry in oracle["magnifications"].items():
        cells = [name, f"{entry['survives']:.2f}"]
        seen = (entry[who] for who in ("bayes", "oracle", "bands_known"))
        cells += [f"kappa {e['kappa']:.3f}, AUC {e['auc_cancer']:.3f}" for e in seen]
        rows.append(cells)
    return table_lines(head, rows)


def main() -> None:
    """Read the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("theme")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--head", type=Path, required=True, help="text before the tables")
    parser.add_argument("tables", nargs="+", metavar="TITLE=DIR[+SET]")
    options = parser.parse_args()
    record: dict[str, Any] = {"theme": options.theme, "tables": []}
    lines = [options.head.read_text().rstrip(), ""]
    for text in options.tables:
        title, _, place = text.partition("=")
        folder, _, made = place.partition("+")
        table = json.loads((Path(folder) / "table.json").read_text())
        if len(table["plan"]["seeds"]) < LEAST_SEEDS:
            raise SystemExit(f"{folder}: {len(table['plan']['seeds'])} seeds; run {LEAST_SEEDS}")
        entry = {"title": title, **table, "epochs": epochs(Path(folder))}
        lines += [f"## {title}", ""]
        if made:
            entry["oracle"] = json.loads((Path(made) / "oracle.json").read_text())
            lines += [*oracle_lines(entry["oracle"]), ""]
        lines += [to_markdown(table).rstrip(), ""]
        shown = ", ".join(
            f"{name} {e['epochs_mean']:g} ({e['best_epoch_mean']:g}; {e['flat']:.0%})"
            for name, e in entry["epochs"].items()
        )
        entry["kappa_cancer"] = cancer_kappas(Path(folder), table["plan"]["seeds"])
        if entry["kappa_cancer"]:
            binary = ", ".join(
                f"{name} {np.mean(each):.3f} ± {np.std(each):.3f}"
                for name, each in entry["kappa_cancer"].items()
            )
            lines += [f"Kappa of benign against cancer, by argmax, over seeds: {binary}.", ""]
        lines += [f"Epochs done (best; runs flat for ten epochs at the end): {shown}.", ""]
        record["tables"].append(entry)
    for suffix, content in (("json", json.dumps(record, indent=1)), ("md", "\n".join(lines))):
        options.output.with_suffix(f".{suffix}").write_text(content.rstrip() + "\n")


if __name__ == "__main__":
    main()
