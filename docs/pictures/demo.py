"""Draw the picture of the README from a finished demo.

make demo
python docs/pictures/demo.py demo docs/pictures/demo.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from wsikd.grade.reports.class_colours import class_colour

PANELS = {
    "tissue": "slide",
    "truth": "drawn classes",
    "teacher": "teacher, 10x",
    "student": "student, 2.5x",
}
CLASSES = ("NC", "G3", "G4", "G5")


def draw(demo: Path, out: Path, slide: str) -> None:
    """Four panels of one test slide; under the maps times and kappa of both test slides.

    Args:
        demo: folder of ``wsikd demo``.
        out: the picture.
        slide: name of a test slide.
    """
    bench = json.loads((demo / "bench" / "bench.json").read_text(encoding="utf-8"))
    shown = {name: _figures(bench, name) for name in ("teacher", "student")}
    shown["tissue"] = "synthetic, not used in training"
    shown["truth"] = "only where one class covers the field"
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        axis.imshow(plt.imread(demo / "report_files" / f"{slide}-{name}.png"))
        axis.set_title(title, fontsize=11)
        axis.set_xlabel(shown[name], fontsize=8.5)
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
    colours = [[v / 255 for v in class_colour(name, i)] for i, name in enumerate(CLASSES)]
    handles = [plt.Rectangle((0, 0), 1, 1, color=c, alpha=0.75) for c in colours]
    names = ["benign", "Gleason 3", "Gleason 4", "Gleason 5"]
    figure.legend(handles, names, ncols=4, loc="outside lower center", frameon=False, fontsize=9)
    figure.savefig(out, dpi=100)


def _figures(bench: dict[str, Any], name: str) -> str:
    total = bench["totals"][name]
    wall, cpu = total["wall_s"]["median"], total["cpu_s"]["median"]
    kappa = next(p for p in bench["points"] if _who(p) == name)["kappa"]
    value = kappa["value"] if isinstance(kappa, dict) else kappa
    return f"{wall:.2f} s, {cpu:.2f} CPU s for 2 slides\nquadratic kappa {value:.2f}"


def _who(point: dict[str, Any]) -> str:
    return str(point.get("name", point.get("reads")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slide", default="demo-07")
    given = parser.parse_args()
    draw(given.demo, given.out, given.slide)
