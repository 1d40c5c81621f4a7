"""Figures of a finished block, from kept predictions alone; see docs/decisions/0025."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.real.arms import CE, SELF, TEACHER
from benchmarks.studies.real.plan import ABOUT, TEST
from wsikd.core.errors import DataError
from wsikd.grade.bench.margin_bound import bounds_of
from wsikd.learn.reproduce.gains import holm, is_gap, share_interval
from wsikd.learn.reproduce.run_rows import Predictions, join_folds, read_predictions
from wsikd.learn.reproduce.table import difference_of, leave_out_of, point_of, summary_of
from wsikd.learn.score.metrics import least_groups

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.studies.real.plan import Plan
    from wsikd.learn.reproduce.table import Without

    Units = dict[tuple[int, int], Predictions]

COLOUR = "colour"
SHOWN = ("kappa", "balanced_accuracy", "auc_cancer")
MARGINS = {"kappa": 0.03, "auc_cancer": 0.015}
P1 = (("kd", CE), ("kd", SELF))


class Figures:
    """Predictions of a block by row and seed, and what is made of them.

    Attributes:
        units: row -> (seed, 0) -> predictions of all folds; the teacher is that of the seed.
        points: the same -> figures.
        without: row -> figures with all groups and without each.
        groups: patients or slides.
    """

    def __init__(self, plan: Plan, block: str) -> None:
        """Read a block.

        Raises:
            DataError: it is not complete, or its rows were scored on other patches.
        """
        if not plan.is_scored(block):
            raise DataError(f"block {block}", "is not complete", "run the study further")
        self.plan, self.block = plan, block
        self.units = _units(plan, block)
        first = next(iter(self.units[TEACHER].values()))
        for name, units in self.units.items():
            for own in units.values():
                if not np.array_equal(own.index, first.index):
                    raise DataError(f"block {block}, {name}", "has other patches", "run it again")
        self.groups = sorted(set(first.group.tolist()))
        self.points = {
            name: {key: point_of(p) for key, p in units.items()}
            for name, units in self.units.items()
        }
        self.without: dict[str, Without] = {
            name: leave_out_of(units, self.groups) for name, units in self.units.items()
        }

    def rows(self) -> list[dict[str, Any]]:
        """Each row's figures with deviation over seeds and interval over groups."""
        return [
            {"name": name, "macs": self._macs(name)}
            | summary_of(self._distinct(name), self.without[name])
            for name in self.units
        ]

    def _distinct(self, name: str) -> dict[tuple[int, int], dict[str, float]]:
        """Points of different trainings: a teacher's once, the colour baseline's once."""
        points, study = self.points[name], self.plan.study
        if name == COLOUR:
            return dict(list(points.items())[:1])
        if name != TEACHER:
            return points
        own = {
            self.plan.teacher_at(self.block, 0, seed).seed: seed for seed in reversed(study.seeds)
        }
        return {key: p for key, p in points.items() if key[0] in own.values()}

    def _macs(self, name: str) -> float | None:
        if name == COLOUR:
            return None
        job = next(j for j in self.plan.compared(self.block) if j.arm == name)
        content = (self.plan.kept(job) / ABOUT).read_text(encoding="utf-8")
        return float(json.loads(content)["macs"])

    def difference(self, one: str, other: str, metric: str) -> dict[str, Any]:
        """One row minus another, see ``wsikd.learn.reproduce.table.difference_of``."""
        return difference_of(one, other, metric, self.points, self.without)

    def gains(self) -> list[dict[str, Any]]:
        """Distilled arms over labels and self-distillation, with gap closed and Holm's p."""
        found = []
        for base in (CE, SELF):
            for name in self.units:
                if base in self.units and name not in (TEACHER, COLOUR, "ce_scratch", CE, base):
                    found += [self._gain(name, base, metric) for metric in SHOWN]
        for entry, corrected in zip(found, holm([g["p"] for g in found]), strict=True):
            entry["p_holm"] = corrected
        return found

    def _gain(self, name: str, base: str, metric: str) -> dict[str, Any]:
        entry = self.difference(name, base, metric)
        values = {row: self.without[row].values[metric] for row in (name, base, TEACHER)}
        part, whole = values[name] - values[base], values[TEACHER] - values[base]
        entry["gap"] = float(whole[0])
        entry["gap_closed"] = float(part[0] / whole[0]) if is_gap(whole) else None
        entry["gap_closed_interval"] = share_interval(part, whole, least=least_groups(metric))
        return entry

    def first_endpoint(self) -> dict[str, Any]:
        """P1: AUC of kd over labels and over self-distillation."""
        found = [self.difference(one, other, "auc_cancer") for one, other in P1]
        return {"comparisons": found, "holds": all(bool(entry["gain"]) for entry in found)}

    def second_endpoint(self, name: str = "kd") -> dict[str, Any]:
        """P2: an arm is not inferior to its teacher."""
        found = [
            not_inferior(self.difference(name, TEACHER, metric), margin)
            for metric, margin in MARGINS.items()
        ]
        return {
            "comparisons": found,
            "bench_margin_bound": margin_bound(self.units[TEACHER], self.units[name], self.groups),
            "holds": all(entry["holds"] for entry in found),
        }

    def aim(self) -> dict[str, Any]:
        """Whether kd closes half of the gap of kappa between labels and teacher."""
        entry = self._gain("kd", CE, "kappa")
        closed = entry["gap_closed"]
        return entry | {"holds": bool(closed is not None and closed >= 0.5 and entry["gain"])}


def not_inferior(difference: dict[str, Any], margin: float) -> dict[str, Any]:
    """A difference with the verdict that both lower limits lie above minus the margin."""
    both = difference["interval_slides"], difference["interval_seeds"]
    holds = all(reach is not None and reach[0] > -margin for reach in both)
    return difference | {"margin": margin, "holds": holds}


def margin_bound(teacher: Units, student: Units, groups: list[str]) -> float | None:
    """The bound of ``bench --margin`` for kappa, at the mean counts of the seeds."""
    both = np.stack([_tables(units, groups) for units in (teacher, student)])
    found = float(bounds_of(both, "field"))
    return found if np.isfinite(found) else None


def _tables(units: Units, groups: list[str]) -> NDArray[np.float64]:
    """Confusions by group, mean over seeds: float64 (G, C, C), truth in rows."""
    place = {name: i for i, name in enumerate(groups)}
    tables = []
    for p in units.values():
        classes = p.probability.shape[1]
        own = np.array([place[g] for g in p.group.tolist()])
        flat = (own * classes + p.truth) * classes + p.probability.argmax(1)
        counts = np.bincount(flat, minlength=len(groups) * classes**2)
        tables.append(counts.reshape(len(groups), classes, classes))
    return np.asarray(np.mean(tables, 0), np.float64)


def _units(plan: Plan, block: str) -> dict[str, Units]:
    """Predictions of every row, the teacher first and the colour baseline last."""
    spec, study = plan.blocks[block], plan.study
    seeds = study.few_seeds if spec.few else study.seeds
    folds = range(study.folds)
    found: dict[str, Units] = {name: {} for name in (*plan.rows(block), COLOUR)}
    colour = plan.out / "predictions" / (block if spec.own_teacher else "A") / COLOUR
    for seed in seeds:
        for arm in plan.rows(block):
            files = [plan.kept(plan.row_at(block, arm, f, seed)) / TEST for f in folds]
            found[arm][seed, 0] = _joined(files)
        found[COLOUR][seed, 0] = _joined([colour / f"fold{f}.npz" for f in folds])
    return found


def _joined(files: list[Path]) -> Predictions:
    return join_folds([read_predictions(file, fold) for fold, file in enumerate(files)])
