"""How far the colour of drawn slides gives their grade away: the baseline of the demo.

Three cohorts of eight slides are drawn as `wsikd demo` draws them and tiled at 10x and 2.5x. For
every choice of two test slides, the baseline of colour histograms is fitted on the other six. The
figures are agreements, not times.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Report, options

# isort: split
import numpy as np

from wsikd.core.agreement import confusion, kappa
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.score.colour_baseline import colour_histograms, fit_histograms
from wsikd.synthetic.cohort import write_cohort

MEAN_BAR, MOST_BAR = 0.15, 0.35
TEACHER_MPP, STUDENT_MPP = 1.0, 4.0


def main() -> None:
    """Measure and report."""
    given = options("drawn_colour")
    report = Report(given)
    seeds, slides, side_px = (1, 4, 1536) if given.smallest else (3, 8, 6144)
    found: dict[float, list[float]] = {TEACHER_MPP: [], STUDENT_MPP: []}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="wsikd-benchmark-") as scratch:
            stores = tiled(Path(scratch), seed, slides, side_px)
            for mpp, kappas in found.items():
                kappas += split_kappas(stores, mpp)
    for mpp, kappas in found.items():
        report.raw[f"kappa at {mpp:g} um/px"] = [round(k, 4) for k in kappas]
        where = f"histograms at {mpp:g} um/px, {len(kappas)} splits"
        report.ratio(f"mean quadratic kappa of {where}", float(np.mean(kappas)), MEAN_BAR, "lower")
        most = float(np.quantile(kappas, 0.95))
        report.ratio(f"95 % quantile of the kappa of {where}", most, MOST_BAR, "lower")
    report.finish()


def tiled(folder: Path, seed: int, slides: int, side_px: int) -> Path:
    """Draw a cohort and tile it with the demo's settings: the folder of stores."""
    write_cohort(folder / "slides", seed=seed, slides=slides, size_px=(side_px, side_px))
    line = [sys.executable, "-m", "wsikd", "tile", "-i", folder / "slides", "-o", folder / "stores"]
    line += ["--annotations", folder / "slides"]
    line += ["--mag", "10", "--mag", "2.5", "--patch-size", "256", "--jobs", "0"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return folder / "stores"


def split_kappas(stores: Path, mpp: float) -> list[float]:
    """Quadratic kappa of colour histograms on every pair of slides, fitted on the others."""
    patches = load_patches(Data(paths=[str(stores)], mpp=mpp), Split())
    colour = colour_histograms(patches, np.arange(len(patches.label)))
    label, slide = patches.label, np.array(patches.slide)
    kappas = []
    for pair in itertools.combinations(np.unique(slide), 2):
        test = np.isin(slide, pair)
        model = fit_histograms(colour[~test], label[~test])
        counts = confusion(label[test], model.predict(colour[test]), len(patches.classes))
        kappas.append(kappa(counts, quadratic=True))
    return kappas


if __name__ == "__main__":
    main()
