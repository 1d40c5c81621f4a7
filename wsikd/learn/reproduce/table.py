"""The table of a comparison: means over seeds, intervals over slides, and paired gains.

Three kinds of chance are distinguished. The deviation over seeds (n - 1), each seed
the mean of its repeats, says what another training would give on the same slides; that over
repeats, what another dealing of the folds would; the interval, over slides or patients, what other
slides would give with the same trainings averaged. Where each seed has its own dealing of the
folds, the deviation over seeds holds that over dealings too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.config import first_difference
from wsikd.core.intervals import (
    MIN_GROUPS_AUC,
    NO_INTERVAL,
    difference_interval,
    interval,
    leave_out,
)
from wsikd.core.output.cells import csv_text
from wsikd.core.output.files import check_names
from wsikd.core.output.looks import looks_text
from wsikd.core.output.markdown import table_lines
from wsikd.core.output.markers import TABLE, TABLE_FILES
from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.reproduce.gains import (
    holm,
    is_gain,
    is_gap,
    p_seeds,
    p_slides,
    share_interval,
)
from wsikd.learn.reproduce.run_rows import COLOUR, TEACHER, collect, looks_of, read_card
from wsikd.learn.score.cost_curve import PICTURE, Costed, has_curve
from wsikd.learn.score.metrics import METRICS, least_groups, measure, scale_of, supports, weighted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.patch.settings import RunConfig
    from wsikd.learn.reproduce.run_rows import Plan, Predictions, Row

    Key = tuple[int, int]
    Units = Mapping[Key, Predictions]
    Points = dict[Key, dict[str, float]]
    Values = dict[str, NDArray[np.float64]]

SHOWN = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "kappa": "quadratic kappa",
    "auc_cancer": "AUC benign/cancer",
}
GAINS = ("kappa", "balanced_accuracy", "auc_cancer")


def make_table(plan: Plan, out: Path) -> dict[str, Any]:
    """Sum up what ``reproduce.run_all`` made.

    Args:
        plan: what was run.
        out: folder of the table.

    Returns:
        JSON values: ``rows`` (name, mpp, input, macs, units, mean, deviation and interval of each
        figure), ``gains`` of distilled rows over cross-entropy alone with the same input, network,
        schedule and augmentation, paired by seed, ``warnings``, ``plan`` and ``provenance``.

    Raises:
        DataError: predictions are missing.
    """
    found = collect(plan, out)
    groups = sorted({g for units in found.values() for p in units.values() for g in set(p.group)})
    without = {name: leave_out_of(units, groups) for name, units in found.items()}
    points = {n: {k: point_of(p) for k, p in _distinct(n, u).items()} for n, u in found.items()}
    rows = [_row(row, plan, out, points[row.name], without[row.name]) for row in plan.rows]
    colour = {"name": COLOUR, "mpp": None, "input": "colours only", "macs": None}
    rows.append(colour | summary_of(points[COLOUR], without[COLOUR]))
    gains = _gains(plan, points, without)
    return {
        "rows": rows,
        "gains": gains,
        "warnings": [*_warnings(plan, rows), *_unpaired(plan), *_unnamed(found[COLOUR])],
        "looks": looks_of(plan, out),
        "plan": {
            "seeds": list(plan.seeds), "folds": plan.folds, "repeats": plan.repeats,
            "redeal": plan.redeal,
            "groups": len(groups),
            "test_patches": len(next(iter(found[COLOUR].values())).truth),
        },
        "provenance": provenance(),
    }  # fmt: skip


def _distinct(name: str, units: Units) -> Units:
    """Runs of a row; the colour baseline depends on the dealing of the folds, not on the seed."""
    if name != COLOUR:
        return units
    first = {repeat: seed for seed, repeat in sorted(units, reverse=True)}
    return {key: p for key, p in units.items() if key[0] == first[key[1]]}


def point_of(p: Predictions) -> dict[str, float]:
    """Every figure of one set of predictions, see ``metrics.measure``."""
    return measure(p.truth, p.probability, benign=p.benign, fold=p.fold)


@dataclass(frozen=True)
class Without:
    """Figures of a row, with all groups and without some, as means over its units.

    Attributes:
        values: name -> float64 (1 + R,), see :mod:`wsikd.core.intervals`.
        support: groups that carry each figure.
    """

    values: Values
    support: Mapping[str, int]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The 95 % interval of a figure."""
        return interval(
            self.values[metric],
            scale_of(metric),
            support=self.support[metric],
            least=least_groups(metric),
        )


def leave_out_of(units: Units, groups: list[str]) -> Without:
    """The figures of a row without some of the groups."""
    place, rows = {name: i for i, name in enumerate(groups)}, leave_out(len(groups))
    every: list[Values] = []
    seen: dict[int, Values] = {}
    carried: list[dict[str, int]] = []
    for p in units.values():
        if id(p) not in seen:
            group = np.array([place[g] for g in p.group.tolist()], np.int64)
            seen[id(p)] = weighted(
                p.truth, p.probability, group, rows, benign=p.benign, fold=p.fold
            )
            carried.append(supports(p.truth, group, p.probability.shape[1], p.benign))
        every.append(seen[id(p)])
    values = {k: np.mean([v[k] for v in every], 0) for k in METRICS}
    return Without(values, {k: min(c[k] for c in carried) for k in METRICS})


def _row(row: Row, plan: Plan, out: Path, points: Points, without: Without) -> dict[str, Any]:
    config = row.config
    card = read_card(out, row.name, plan.units()[0])
    fixed: dict[str, Any] = {"name": row.name, "mpp": config.low_mpp, "input": config.student_input}
    if row.taught_by:
        fixed["taught_by"] = list(row.taught_by)
        fixed["self_distilled"] = row.is_self_distilled
    return fixed | {"macs": card["macs"]} | summary_of(points, without)


def summary_of(points: Points, without: Without) -> dict[str, Any]:
    """Mean, deviations and interval of each figure of a row, as JSON values."""
    values = {m: {key: p[m] for key, p in points.items()} for m in METRICS}
    return {
        "units": len(points),
        "mean": {m: _number(_over(v, 0).mean()) for m, v in values.items()},
        "deviation": {m: _number(_deviation(_over(v, 0))) for m, v in values.items()},
        "deviation_repeats": {m: _number(_deviation(_over(v, 1))) for m, v in values.items()},
        "interval": {m: without.interval(m) for m in METRICS},
        "each": {m: [_number(x) for x in v.values()] for m, v in values.items()},
        "each_is": [{"seed": seed, "repeat": repeat} for seed, repeat in points],
    }


def _over(values: Mapping[Key, float], part: int) -> NDArray[np.float64]:
    """Means by seed, over its repeats (part 0), or by repeat, over its seeds (part 1)."""
    kinds = sorted({key[part] for key in values})
    return np.array([np.mean([v for k, v in values.items() if k[part] == own]) for own in kinds])


def _deviation(values: NDArray[np.float64]) -> float:
    """With n - 1; NaN of a single value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _alike(config: RunConfig) -> dict[str, Any]:
    """The settings that a distilled row and its baseline must share."""
    content = config.model_dump(mode="json")
    left_out = {
        "network": ("init", "weights", "weights_licence", "weights_file"),
        "data": ("paths", "cache_gb", "device_gb"),
    }
    parts = ("student_input", "network", "data", "split", "optim", "augment")
    shared = {k: content[k] for k in parts} | {"student_input": config.upsample}
    for part, names in left_out.items():
        shared[part] = {k: v for k, v in content[part].items() if k not in names}
    return shared


def _alone(row: Row, plan: Plan) -> list[Row]:
    """Rows of cross-entropy alone at the magnification and input of a distilled row."""
    same = (row.config.low_mpp, row.config.upsample)
    return [
        other
        for other in plan.rows
        if not other.config.needs_teacher
        and other.name != TEACHER
        and (other.config.low_mpp, other.config.upsample) == same
    ]


def _baseline(row: Row, plan: Plan) -> Row | None:
    """Cross-entropy alone with the same input, network, schedule and augmentation."""
    mine = _alike(row.config)
    return next((r for r in _alone(row, plan) if _alike(r.config) == mine), None)


def _unpaired(plan: Plan) -> list[str]:
    """Distilled rows without an equal baseline, and the difference from the nearest."""
    notes = []
    for row in plan.rows:
        others = _alone(row, plan)
        if not row.config.needs_teacher or not others or _baseline(row, plan):
            continue
        key = first_difference(_alike(others[0].config), _alike(row.config))
        notes.append(f"{row.name}: no gain is given, since {others[0].name} has another {key}")
    return notes


def _gains(
    plan: Plan, points: dict[str, Points], without: dict[str, Without]
) -> list[dict[str, Any]]:
    """Distilled minus cross-entropy alone, seed by seed, and the share of the teacher's gap.

    *Gap closed* is (distilled - CE) / (teacher - CE), given only where teacher - CE is shown to lie
    above zero; it has an interval where it lies between 0 and 1. ``gain`` is whether the intervals
    over slides and over seeds both lie above zero; ``p`` the greater of the p-values over slides
    and over seeds, ``p_holm`` corrected for all comparisons of the table.
    """
    gains = []
    for row in plan.rows:
        base = _baseline(row, plan)
        if not row.config.needs_teacher or base is None:
            continue
        for metric in GAINS:
            entry = difference_of(row.name, base.name, metric, points, without)
            if TEACHER in points:
                gap = difference_of(TEACHER, base.name, metric, points, without)
                base_values = without[base.name].values[metric]
                part, whole = (
                    without[name].values[metric] - base_values for name in (row.name, TEACHER)
                )
                entry["gap"] = gap["mean"]
                entry["gap_closed"] = entry["mean"] / gap["mean"] if is_gap(whole) else None
                entry["gap_closed_interval"] = share_interval(
                    part, whole, least=least_groups(metric)
                )
            gains.append(entry)
    for entry, corrected in zip(gains, holm([g["p"] for g in gains]), strict=True):
        entry["p_holm"] = corrected
    return gains


def difference_of(
    one: str,
    other: str,
    metric: str,
    points: dict[str, Points],
    without: dict[str, Without],
) -> dict[str, Any]:
    """A figure of row ``one`` minus that of ``other``, paired by (seed, repeat), as JSON values."""
    from scipy.special import stdtrit

    one_by_one = {key: p[metric] - points[other][key][metric] for key, p in points[one].items()}
    each, reach = _over(one_by_one, 0), None
    if len(each) > 1 and np.isfinite(each).all():
        half = float(stdtrit(len(each) - 1, 0.975) * each.std(ddof=1) / math.sqrt(len(each)))
        reach = (float(each.mean()) - half, float(each.mean()) + half)
    pair = (without[one].values[metric], without[other].values[metric], scale_of(metric))
    slides = difference_interval(*pair, least=least_groups(metric))
    chances = (p_slides(*pair, least=least_groups(metric)), p_seeds(each))
    return {
        "row": one,
        "over": other,
        "metric": metric,
        "mean": _number(each.mean()),
        "interval_slides": slides,
        "interval_seeds": reach,
        "gain": is_gain(slides, reach),
        "p": None if None in chances else max(p for p in chances if p is not None),
        "each": [_number(v) for v in one_by_one.values()],
    }


def _unnamed(units: Units) -> list[str]:
    """Why there is no AUC of benign against cancer."""
    if all(p.benign for p in units.values()):
        return []
    return ["no AUC of benign against cancer: no class is known as benign (data.benign)"]


def _warnings(plan: Plan, rows: list[dict[str, Any]]) -> list[str]:
    """Rows that colour alone equals, and magnifications that bring nothing."""
    notes = []
    kappa = {row["name"]: row["mean"]["kappa"] for row in rows}
    for name, value in kappa.items():
        if name != COLOUR and None not in (value, kappa[COLOUR]) and value <= kappa[COLOUR]:
            notes.append(
                f"{name}: kappa {value:.3f} is no better than the {kappa[COLOUR]:.3f} of colour "
                "histograms alone"
            )
    alone = sorted(
        (r for r in plan.rows if not r.config.needs_teacher), key=lambda r: r.config.low_mpp
    )
    for fine, coarse in pairwise(alone):
        values = kappa[fine.name], kappa[coarse.name]
        if None not in values and fine.config.low_mpp < coarse.config.low_mpp:
            if values[0] > values[1]:
                continue
            notes.append(
                f"{fine.name} ({fine.config.low_mpp:g} um/px): kappa {values[0]:.3f} is no better "
                f"than the {values[1]:.3f} of {coarse.name} ({coarse.config.low_mpp:g} um/px): on "
                "these data the finer resolution gives no gain"
            )
    return notes


def write_table(table: dict[str, Any], out: Path) -> str:
    """Write ``table.md``, ``table.csv``, ``table.json`` and ``cost.png``; returns the Markdown.

    The picture shows kappa over the cost of a patch, where the rows have several costs.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = to_markdown(table)
    check_names(out, (*TABLE_FILES, PICTURE), TABLE)
    write_json_atomic(out / "table.json", table)
    write_text_atomic(out / "table.csv", _to_csv(table))
    write_text_atomic(out / "table.md", text)
    if has_curve(points := costed(table)):
        from wsikd.learn.score.plots import plot_cost

        plot_cost(points, SHOWN["kappa"], out / PICTURE)
    return text


def costed(table: dict[str, Any]) -> list[Costed]:
    """The rows that have a cost and a kappa."""
    return [
        Costed(row["name"], row["macs"], row["mean"]["kappa"], row["interval"]["kappa"])
        for row in table["rows"]
        if row["macs"] is not None and row["mean"]["kappa"] is not None
    ]


GAIN_HEADS = (
    "gain",
    "over",
    "figure",
    "mean",
    "over slides",
    "over seeds",
    "p, Holm",
    "gap closed",
)


GAIN_NOTE = (
    "\\* The intervals over slides and over seeds both lie above zero. p is the greater of the two "
    "p-values, corrected for all gains of this table (Holm)."
)


def to_markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: mean, deviation over seeds, interval over slides."""
    plan = table["plan"]
    head = ["row", "um/px", "input", "GMAC", "runs", *SHOWN.values()]
    rows = [
        [
            row["name"],
            "-" if row["mpp"] is None else f"{row['mpp']:g}",
            row["input"],
            "-" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}",
            str(row["units"]),
            *(_cell(row, metric) for metric in SHOWN),
        ]
        for row in table["rows"]
    ]
    way = "the data's own test part"
    if plan["folds"] is not None:
        dealt = f"{plan['repeats']} x " if not plan.get("redeal") else "each seed's own "
        way = f"{dealt}{plan['folds']}-fold cross-fitting"
    seeds = ", ".join(map(str, plan["seeds"]))
    note = (
        f"Mean ± deviation over seeds ({seeds}; n - 1), then the 95 % interval over "
        f"{plan['groups']} slides or patients; {plan['test_patches']} patches of {way}, scored "
        "once a run."
    )
    lines = [*table_lines(head, rows), "", note]
    for row in table["rows"]:
        if row.get("self_distilled"):
            by = f"learns from {', '.join(row['taught_by'])}, which reads the same patches"
            lines += ["", f"Control of self-distillation: {row['name']} {by}."]
    if plan["groups"] < MIN_GROUPS_AUC:
        lines += ["", f"{plan['groups']} slides or patients: {NO_INTERVAL}."]
    if table.get("looks"):
        lines += ["", f"When it was scored last, {looks_text(table['looks'])}."]
    if table["gains"]:
        lines += ["", *table_lines(GAIN_HEADS, map(_gain_cells, table["gains"])), "", GAIN_NOTE]
    if table["warnings"]:
        lines += ["", *(f"Warning: {text}." for text in table["warnings"])]
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any], metric: str) -> str:
    mean, deviation = row["mean"][metric], row["deviation"][metric]
    if mean is None:
        return "-"
    apart = "-" if deviation is None else f"{deviation:.3f}"
    return f"{mean:.3f} ± {apart} {span_of(row['interval'][metric])}"


def span_of(reach: tuple[float, float] | None) -> str:
    """An interval as "(0.1 to 0.2)"."""
    return "(-)" if reach is None else f"({reach[0]:.3f} to {reach[1]:.3f})"


def _gain_cells(gain: dict[str, Any]) -> list[str]:
    closed, mean, chance = gain.get("gap_closed"), gain["mean"], gain["p_holm"]
    return [
        gain["row"], gain["over"], SHOWN[gain["metric"]],
        "-" if mean is None else f"{mean:+.3f}{' *' if gain['gain'] else ''}",
        span_of(gain["interval_slides"]), span_of(gain["interval_seeds"]),
        "-" if chance is None else f"{chance:.2g}",
        "-" if closed is None else f"{closed:.2f} {span_of(gain['gap_closed_interval'])}",
    ]  # fmt: skip


def _to_csv(table: dict[str, Any]) -> str:
    names = [f"{m}_{k}" for m in METRICS for k in ("mean", "deviation", "low", "high")]
    rows = []
    for row in table["rows"]:
        cells = [row[k] for k in ("name", "mpp", "input", "macs", "units")]
        for metric in METRICS:
            reach = row["interval"][metric] or (None, None)
            cells += [row["mean"][metric], row["deviation"][metric], *reach]
        rows.append(cells)
    return csv_text(["row", "mpp", "input", "macs", "runs", *names], rows)
