"""Which score finds slides unlike the training, and at how many false alarms.

    python benchmarks/studies/guard/run.py DATA -o DIR --json FILE

DATA has the folders ``prostate_gleason_10x``, ``colon_ebhi_10x`` and ``osteosarcoma_10x``. Features
are kept in DIR and used again. FILE gets every figure; the table is printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.guard.data import read_bone, read_set
from benchmarks.studies.guard.features import FOLDS, fold_features
from benchmarks.studies.guard.scores import candidates
from wsikd.models.guard import threshold

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SETS = {"prostate": "prostate_gleason_10x", "colon": "colon_ebhi_10x"}
BONE = "osteosarcoma_10x"
CHOSEN = "Mahalanobis, all maps; mean of fields"
FEW = (3, 6, 10)
"""Validation slides of a weak guard that are tried."""


def gather(data: Path, out: Path, folds: int) -> None:
    """Train and keep the features of every fold."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = {name: read_set(data / folder) for name, folder in SETS.items()}
    bone = read_bone(data / BONE)
    out.mkdir(parents=True, exist_ok=True)
    slides = {name: own.slide for name, own in {**sets, "bone": bone}.items()}
    np.savez(out / "slides.npz", **slides)  # type: ignore[arg-type]
    for fold in range(folds):
        for name, own in sets.items():
            if (out / f"{name}_{fold}.npz").exists():
                continue
            others = {"bone": bone, **{k: v for k, v in sets.items() if k != name}}
            found = fold_features(own, others, fold)
            np.savez(out / f"{name}_{fold}.npz", **found)  # type: ignore[arg-type]


def judge(out: Path, name: str, folds: int) -> dict[str, Any]:
    """Every candidate on one set."""
    slides = dict(np.load(out / "slides.npz"))
    rows: dict[str, dict[str, list[Any]]] = {}
    altered: dict[str, dict[str, list[Any]]] = {}
    weak: dict[int, dict[str, list[Any]]] = {n: {"alarm": [], "caught": []} for n in FEW}
    for fold in range(folds):
        kept = np.load(out / f"{name}_{fold}.npz")
        own, part = kept["own"], kept["part"]
        chosen = {p: part == p for p in ("train", "val", "test")}
        scores = candidates(own[chosen["train"]], slides[name][chosen["train"]])
        for score, of in scores.items():
            row = rows.setdefault(score, {"like": [], "alarm": []})
            like = of(own[chosen["test"]], slides[name][chosen["test"]])
            usual = of(own[chosen["val"]], slides[name][chosen["val"]])
            limit = _limit(usual, score)
            row["like"].append(like / limit)
            row["alarm"].append(like > limit)
            for other in (k for k in slides if k != name):
                found = of(kept[f"other/{other}"], slides[other])
                row.setdefault(other, []).append(found / limit)
                if score == CHOSEN:
                    _try_few(weak, usual, like, found)
            if score == CHOSEN:
                _alterations(altered, kept, slides[name], of, limit)
    return {
        "slides": len(np.concatenate(rows[CHOSEN]["like"])),
        "scores": {score: _figures(row) for score, row in rows.items()},
        "altered": {k: {f: round(float(np.mean(v)), 3) for f, v in row.items()}
                    for k, row in altered.items()},
        "weak": {n: {k: round(float(np.mean(v)), 3) for k, v in row.items()}
                 for n, row in weak.items()},
    }  # fmt: skip


def _limit(usual: NDArray[np.float64], score: str) -> float:
    """The product's rule; the plain order statistic where a score is not positive."""
    if (usual > 0).all():
        return threshold(usual)
    ordered = np.sort(usual)
    return float(max(ordered[min(int(np.ceil((len(usual) + 1) * 0.975)), len(usual)) - 1], 1e-9))


def _try_few(
    weak: dict[int, dict[str, list[Any]]],
    usual: NDArray[np.float64],
    like: NDArray[np.float64],
    other: NDArray[np.float64],
) -> None:
    rng = np.random.default_rng(5)
    for count, row in weak.items():
        for _ in range(50):
            limit = threshold(rng.choice(usual, count, replace=False))
            row["alarm"].append(np.mean(like > limit))
            row["caught"].append(np.mean(other > limit))


def _alterations(
    altered: dict[str, dict[str, list[Any]]],
    kept: Mapping[str, NDArray[Any]],
    slides: NDArray[np.str_],
    of: Any,
    limit: float,
) -> None:
    index = kept["altered_index"]
    shown = {"none": (kept["own"][index], kept["hit"][index])}
    names = [k.removeprefix("altered/") for k in kept if k.startswith("altered/")]
    shown |= {n: (kept[f"altered/{n}"], kept[f"hit/{n}"]) for n in names}
    for name, (features, hit) in shown.items():
        row = altered.setdefault(name, {"accuracy": [], "withheld": []})
        row["accuracy"] += hit.tolist()
        row["withheld"] += (of(features, slides[index]) > limit).tolist()


def _figures(row: Mapping[str, list[Any]]) -> dict[str, Any]:
    alarm = np.concatenate(row["alarm"])
    low, high = _wilson(int(alarm.sum()), len(alarm))
    found: dict[str, Any] = {
        "false_alarms": round(float(alarm.mean()), 4), "low": low, "high": high,
        "count": int(alarm.sum()),
    }  # fmt: skip
    like = np.concatenate(row["like"])
    for other in (k for k in row if k not in ("like", "alarm")):
        far = np.concatenate(row[other])
        truth = np.r_[np.zeros(len(like)), np.ones(len(far))]
        found[other] = {
            "auc": round(float(roc_auc_score(truth, np.r_[like, far])), 4),
            "auc_of_folds": [
                round(float(roc_auc_score(np.r_[0 * a, 0 * b + 1], np.r_[a, b])), 4)
                for a, b in zip(row["like"], row[other], strict=True)
            ],
            "caught": round(float((far > 1).mean()), 4),
        }
    return found


def _wilson(count: int, of: int) -> tuple[float, float]:
    z, p = 1.96, count / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return round(max(middle - half, 0.0), 4), round(middle + half, 4)


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print the tables of a set."""
    print(f"\n{name}, {found['slides']} slides out of fold\n")
    for score, row in found["scores"].items():
        others = ", ".join(
            f"{k}: AUC {v['auc']:.3f}, caught {v['caught']:.2f}"
            for k, v in row.items() if isinstance(v, dict)
        )  # fmt: skip
        print(f"{score}: false alarms {row['false_alarms']:.3f} "
              f"({row['low']:.3f} to {row['high']:.3f}); {others}")  # fmt: skip
    for kind, row in found["altered"].items():
        print(f"{kind}: accuracy {row['accuracy']:.3f}, slides withheld {row['withheld']:.3f}")
    for count, row in found["weak"].items():
        print(f"{count} validation slides: false alarms {row['alarm']:.3f}, "
              f"others caught {row['caught']:.3f}")  # fmt: skip


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folds", type=int, default=FOLDS, help="Take the first folds only.")
    options = parser.parse_args()
    logging.basicConfig(level="INFO")
    if not all((options.output / f"{s}_{options.folds - 1}.npz").exists() for s in SETS):
        gather(options.data, options.output, options.folds)
    found = {name: judge(options.output, name, options.folds) for name in SETS}
    for name, one in found.items():
        show(name, one)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
