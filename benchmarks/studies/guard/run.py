"""How often a guard withholds slides like its training, and how often others.

    python benchmarks/studies/guard/run.py DATA -o DIR --json FILE

DATA has the folders ``prostate_gleason_10x``, ``colon_ebhi_10x`` and ``osteosarcoma_10x``. What is
computed once is kept in DIR and used again. FILE gets every figure; the table is printed.

The method was chosen on one half of the slides of every set; figures are of the other half.
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

from benchmarks.studies.guard.accuracy import FOLDS, fold_hits, parts
from benchmarks.studies.guard.data import MOST, read_bone, read_set
from benchmarks.studies.guard.drawn import numbers_of_drawn
from benchmarks.studies.guard.textures import numbers_of, read_numbers, reported
from wsikd.models.guard import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.studies.guard.textures import Set
    from wsikd.models.guard import Guard

SETS = {"prostate": "prostate_gleason_10x", "colon": "colon_ebhi_10x"}
BONE = "osteosarcoma_10x"
SEEDS = (17, 18, 19, 20, 21)
"""Of the folds; the first is also that of the networks."""
FEW = ((3, 1), (5, 1), (5, 3), (10, 5))
"""Training and validation slides of small cohorts that are tried."""
DRAWS = 10
TEN = 10
"""Fields of a slide in cohorts of few fields."""


def gather(data: Path, out: Path, *, networks: bool) -> None:
    """Keep numbers of every set and, if asked, what networks grade right."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name, folder in {**SETS, "bone": BONE}.items():
        hits = [out / f"hits_{name}_{fold}.npz" for fold in range(FOLDS)]
        wanted = networks and name in SETS and not all(file.exists() for file in hits)
        if (out / f"{name}.npz").exists() and not wanted:
            continue
        own = (read_set if name in SETS else read_bone)(data / folder)
        np.savez(out / f"{name}.npz", **numbers_of(own))  # type: ignore[arg-type]
        for fold, file in enumerate(hits if wanted else []):
            np.savez(file, **fold_hits(own, fold))  # type: ignore[arg-type]
    if not (out / "drawn.npz").exists():
        np.savez(out / "drawn.npz", **numbers_of_drawn())  # type: ignore[arg-type]


def judge(sets: Mapping[str, Set], name: str, seed: int, *, slight: bool = True) -> dict[str, Any]:
    """Distances out of fold, of the reported half: of the set's slides, of others, of altered."""
    own = sets[name]
    names = np.array(sorted(own.slides))
    found: dict[str, Any] = {"like": [], "altered": {}}
    for fold in range(FOLDS):
        part = dict(zip(names.tolist(), parts(names, fold, seed).tolist(), strict=True))
        guard = own.guard(*([n for n in part if part[n] == p] for p in ("train", "val")),
                          slight=slight)  # fmt: skip
        test = [n for n in part if part[n] == "test" and reported(n)]
        found["like"] += [seen(guard, own.slides[n]) for n in test]
        for other in sets.keys() - {name}:
            far = [seen(guard, x) for n, x in sets[other].slides.items() if reported(n)]
            found.setdefault(other, []).append(far)
        for kind, numbers in own.altered.items():
            looked = [numbers[own.chosen == n] for n in test]
            withheld = [seen(guard, x) > 1 for x in looked if len(x)]
            found["altered"].setdefault(kind, []).extend(withheld)
    return found


def seen(guard: Guard, numbers: NDArray[np.float64]) -> float:
    """Distance of a slide from the fields that ``infer`` would look at."""
    return guard.distance(numbers[:: -(-len(numbers) // FIELDS)])


def figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """False alarms with their interval, and how well others are told apart."""
    like = np.array(found["like"])
    low, high = wilson(int((like > 1).sum()), len(like))
    made: dict[str, Any] = {
        "slides": len(like), "false_alarms": round(float((like > 1).mean()), 4),
        "low": low, "high": high,
    }  # fmt: skip
    for other in (k for k in found if k not in ("like", "altered")):
        far = np.concatenate(found[other])
        truth = np.r_[np.zeros(len(like)), np.ones(len(far))]
        made[other] = {
            "auc": round(float(roc_auc_score(truth, np.r_[like, far])), 4),
            "withheld": round(float((far > 1).mean()), 4),
        }
    return made


def small(own: Set, names: Sequence[str], others: Iterable[Set], most: int) -> dict[str, Any]:
    """Guards of few slides: false alarms and others withheld, over draws.

    Args:
        own: the set.
        names: its slides that guards are fitted on and tried on.
        others: of their slides the reported half is tried.
        most: fields of a slide that a guard is fitted on, at most.
    """
    rng = np.random.default_rng(5)
    foreign = [x for other in others for n, x in other.slides.items() if reported(n)]
    made = {}
    for train, val in FEW:
        like, far = [], []
        for draw in range(DRAWS):
            order = rng.permutation(names).tolist()
            fewer = own.few_fields(most, draw)
            guard = fewer.guard(order[:train], order[train : train + val])
            like += [seen(guard, own.slides[n]) for n in order[train + val :]]
            far += [seen(guard, x) for x in foreign]
        made[f"{train}+{val}"] = {
            "false_alarms": round(float(np.mean(np.array(like) > 1)), 4),
            "withheld": round(float(np.mean(np.array(far) > 1)), 4),
        }
    return made


def study(out: Path) -> dict[str, Any]:
    """Every figure."""
    sets = {name: read_numbers(out / f"{name}.npz") for name in (*SETS, "bone")}
    drawn = read_numbers(out / "drawn.npz")
    made: dict[str, Any] = {}
    for name in SETS:
        names = [n for n in sorted(sets[name].slides) if reported(n)]
        others = [sets[o] for o in sets if o != name]
        by_seed = [judge(sets, name, seed) for seed in SEEDS]
        plain = judge(sets, name, SEEDS[0], slight=False)
        accuracy = _accuracy(out, name)
        made[name] = {
            "seeds": {seed: figures(one) for seed, one in zip(SEEDS, by_seed, strict=True)},
            "altered": {
                kind: {
                    "accuracy": accuracy.get(kind),
                    "withheld": _share(x for one in by_seed for x in one["altered"][kind]),
                    "withheld_without_alterations": _share(plain["altered"][kind]),
                }
                for kind in by_seed[0]["altered"]
            },
            "without_alterations": figures(plain),
            "few": small(sets[name], names, others, MOST),
            "few_fields": small(sets[name], names, others, TEN),
        }
    made["drawn"] = {
        "few": small(drawn, sorted(drawn.slides), [sets["prostate"]], MOST),
        "few_fields": small(drawn, sorted(drawn.slides), [sets["prostate"]], TEN),
    }
    return made


def _accuracy(out: Path, name: str) -> dict[str, float]:
    files = [out / f"hits_{name}_{fold}.npz" for fold in range(FOLDS)]
    kept = [np.load(file) for file in files if file.exists()]
    kinds = [k for k in kept[0].files if k.startswith("hit/")] if kept else []
    return {k.removeprefix("hit/"): _share(np.concatenate([one[k] for one in kept])) for k in kinds}


def _share(values: Iterable[Any]) -> float:
    return round(float(np.mean(list(values))), 3)


def wilson(count: int, of: int) -> tuple[float, float]:
    """Interval of a rate at 95 %."""
    z, p = 1.96, count / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * np.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return round(max(middle - half, 0.0), 4), round(middle + half, 4)


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print the tables of a set."""
    print(f"\n{name}\n")
    rows = {**found["seeds"], "without alterations": found["without_alterations"]}
    for label, row in rows.items():
        others = ", ".join(
            f"{k}: AUC {v['auc']:.3f}, withheld {v['withheld']:.2f}"
            for k, v in sorted(row.items()) if isinstance(v, dict)
        )  # fmt: skip
        print(f"{label}: {row['slides']} slides, false alarms {row['false_alarms']:.3f} "
              f"({row['low']:.3f} to {row['high']:.3f}); {others}")  # fmt: skip
    for kind, row in found["altered"].items():
        print(f"{kind}: accuracy {row['accuracy']}, slides withheld {row['withheld']:.3f}, "
              f"without alterations {row['withheld_without_alterations']:.3f}")  # fmt: skip


def show_few(name: str, found: Mapping[str, Any]) -> None:
    """Print what guards of few slides did."""
    for what in ("few", "few_fields"):
        for label, row in found[what].items():
            print(f"{name}, {what}, {label} slides: false alarms {row['false_alarms']:.3f}, "
                  f"others withheld {row['withheld']:.3f}")  # fmt: skip


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-networks", action="store_true", help="Leave the accuracy out.")
    options = parser.parse_args()
    logging.basicConfig(level="INFO")
    gather(options.data, options.output, networks=not options.no_networks)
    found = study(options.output)
    for name in SETS:
        show(name, found[name])
    for name, one in found.items():
        show_few(name, one)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
