"""The controlled set: write it, and say what an ideal observer would reach on it.

    python benchmarks/studies/controlled/run.py --shares 0.25,0.25,0.25,0.25 -o DIR

writes DIR/labels.csv with its images and DIR/oracle.json: for each magnification the share of the
cue that survives, what Bayes' rule reaches on the true band amplitudes, and what logistic
regression on measured band amplitudes reaches on the test patches when it is given many patches to
learn from ("oracle") or the training patches with their labels alone ("bands_known"). The runs
themselves are those of ``wsikd reproduce``; see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.controlled.bands import (
    CLASSES,
    STRENGTH,
    Cue,
    band_amplitudes,
    draw_texture,
    paint,
    write_bands,
)
from wsikd.learn.score.metrics import measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGNIFICATIONS = {"10x": 1, "5x": 2, "2.5x": 4, "1.25x": 8}
FIGURES = ("kappa", "auc_cancer", "balanced_accuracy")


def averaged(grey: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Means over squares of ``factor`` pixels."""
    side = grey.shape[0] // factor
    return np.asarray(grey.reshape(side, factor, side, factor).mean((1, 3)))


def amplitudes(images: list[NDArray[np.uint8]], factor: int) -> NDArray[np.float64]:
    """Measured log amplitudes of the bands that are seen: (N, bands)."""
    greys = [averaged(image.astype(np.float64).mean(2), factor) for image in images]
    return np.stack([band_amplitudes(grey, float(factor)) for grey in greys])


def read(folder: Path) -> dict[str, tuple[list[NDArray[np.uint8]], NDArray[np.int64]]]:
    """Images and labels by split."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        files = [folder / "images" / row["image"] for row in own]
        images = [np.asarray(cv2.imread(str(file)), np.uint8) for file in files]
        found[split] = images, np.array([int(row["label"]) for row in own])
    return found


def bayes(share: float, draws: int = 200_000) -> dict[str, float]:
    """Figures of the ideal observer, who sees a Gaussian cue of d' = STRENGTH sqrt(share)."""
    truth = np.arange(draws) % len(CLASSES)
    reach = STRENGTH * np.sqrt(share)
    seen = np.random.default_rng(0).normal(reach * (truth - 1.0))
    scores = -0.5 * (seen[:, None] - reach * np.array([-1.0, 0, 1])) ** 2
    probability = np.exp(scores - scores.max(1, keepdims=True))
    return chosen(measure(truth, probability / probability.sum(1, keepdims=True)))


def chosen(figures: dict[str, float]) -> dict[str, float]:
    """The figures of the table, to three places."""
    return {name: round(figures[name], 3) for name in FIGURES}


def oracle(folder: Path, cue: Cue, *, many: int, seed: int) -> dict[str, Any]:
    """See the module's head."""
    rng = np.random.default_rng((seed, 1))
    grade = np.arange(many) % len(CLASSES)
    stain = np.array([0.65, 0.95, 0.55])
    drawn = [paint(draw_texture(int(g), cue, rng), stain) for g in grade]
    parts = read(folder)
    images, truth = parts["test"]
    found = {}
    for name, factor in MAGNIFICATIONS.items():
        cues = amplitudes(images, factor)
        entry: dict[str, Any] = {"survives": round(cue.surviving(factor), 3)}
        entry["bayes"] = bayes(cue.surviving(factor))
        for what, (given, labels) in {
            "oracle": (drawn, grade), "bands_known": parts["train"]
        }.items():  # fmt: skip
            model = LogisticRegression(max_iter=1000).fit(amplitudes(given, factor), labels)
            entry[what] = chosen(measure(truth, model.predict_proba(cues)))
        found[name] = entry
    return found


def main() -> None:
    """Write a set and its oracle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", required=True, help="of the cue in each band, finest first")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--patches", default="300,150,1200", help="of train, val, test")
    parser.add_argument("--wrong", type=float, default=0.0, help="share of wrong training labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--many", type=int, default=3000, help="patches the oracle learns from")
    options = parser.parse_args()
    a, b, c, d = map(float, options.shares.split(","))
    cue = Cue((a, b, c, d))
    counts = dict(zip(("train", "val", "test"), map(int, options.patches.split(",")), strict=True))
    write_bands(options.output, cue, counts, wrong=options.wrong, seed=options.seed)
    record = {"shares": cue.shares, "patches": counts, "wrong": options.wrong, "seed": options.seed}
    record["magnifications"] = oracle(options.output, cue, many=options.many, seed=options.seed)
    (options.output / "oracle.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["magnifications"], indent=1))


if __name__ == "__main__":
    main()
