"""What a guard adds to the CPU time of ``wsikd infer``, from opening slides to written results.

    python benchmarks/studies/guard/cost.py STUDENT SLIDE [SLIDE ...] --json FILE

One slide and one thread at a time, after a warm-up. "added": CPU time in the guard (looking at
fields, the distance) over the rest of the same run, which other work on the machine hardly moves.
"pairs": two copies of the student, one without its guard, in alternating order.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from wsikd.cli.main import main as wsikd

from wsikd.models import guard as guards
from wsikd.slides.texture import look

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 12
own = [0.0]
"""CPU seconds in the guard."""


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose CPU time is added to ``own``."""

    def call(*args: Any, **more: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*args, **more)
        finally:
            own[0] += time.thread_time() - begun

    return call


def without_guard(student: Path, folder: Path) -> Path:
    """A copy of a bundle whose card has no guard."""
    shutil.copytree(student, folder)
    card = json.loads((folder / "card.json").read_text())
    card.pop("guard", None)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def infer(student: Path, slide: Path, out: Path) -> float:
    """CPU seconds of grading a slide."""
    shutil.rmtree(out, ignore_errors=True)
    begun = time.process_time()
    wsikd(
        ["infer", "-i", str(slide), "-m", str(student), "-o", str(out), "--jobs", "0",
         "--threads", "1"],
        standalone_mode=False,
    )  # fmt: skip
    return time.process_time() - begun


def measure(student: Path, slide: Path, folder: Path, repeats: int) -> dict[str, object]:
    """Pairs in alternating order: median of the differences over the median without a guard."""
    plain = folder / "plain"
    if not plain.exists():
        without_guard(student, plain)
    pairs, shares = [], []
    for turn in range(repeats + 1):
        both = [("with", student), ("without", plain)][:: 1 if turn % 2 else -1]
        pair = {}
        for name, one in both:
            own[0] = 0.0
            pair[name] = infer(one, slide, folder / "out")
            if name == "with":
                shares.append(own[0] / (pair[name] - own[0]))
        pairs.append(pair)
    taken = np.array([[pair["with"], pair["without"]] for pair in pairs[1:]])
    usual = float(np.median(taken[:, 1]))
    share = (taken[:, 0] - taken[:, 1]) / usual
    return {"slide": slide.name, "seconds_without": round(usual, 4), "added": _spread(shares[1:]),
            "pairs": _spread(share), "seconds": taken.round(4).tolist()}  # fmt: skip


def _spread(values: Any) -> list[float]:
    """Quartiles."""
    return [round(float(v), 4) for v in np.quantile(values, (0.25, 0.5, 0.75))]


def main() -> None:
    """Measure every slide."""
    parser = argparse.ArgumentParser()
    parser.add_argument("student", type=Path)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    guards.Reading.watch = timed(guards.Reading.watch)  # type: ignore[method-assign]
    guards.look = timed(look)  # type: ignore[attr-defined]
    guards.Guard.distance = timed(guards.Guard.distance)  # type: ignore[method-assign]
    found = []
    for slide in options.slides:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(options.student, slide, Path(folder), options.repeats))
        row = found[-1]
        print(f"{row['slide']}: {row['seconds_without']} s of CPU without a guard; it adds "
              f"{row['added']} of it (quartiles), by pairs {row['pairs']}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
