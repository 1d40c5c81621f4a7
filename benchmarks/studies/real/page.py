"""The record of the study: tables of finished blocks as Markdown and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.studies.real.arms import PRIMARY, TEACHER
from benchmarks.studies.real.figures import MARGINS, Figures
from benchmarks.studies.real.meter import spent_s
from benchmarks.studies.real.plot import plot_cost
from benchmarks.studies.real.system import make_system
from wsikd.core.errors import DataError
from wsikd.core.output.markdown import table_lines
from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.reproduce.table import span_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.studies.real.plan import Plan

HEADS = ("row", "GMAC", "kappa", "balanced accuracy", "AUC benign/others")
SHOWN = ("kappa", "balanced_accuracy", "auc_cancer")
GAIN_HEADS = (
    "gain", "over", "figure", "mean", "over groups", "over seeds", "p, Holm", "gap closed",
)  # fmt: skip
LICENCES = {
    "colon": "Colon: EBHI-Seg (Shi et al., Front. Med. 2023), licence to be read by a person "
    "before anything of this is published.",
    "prostate": "Prostate: PANDA challenge, CC BY-NC-SA 4.0.",
}


def make_record(plan: Plan) -> dict[str, Any]:
    """Tables of all finished blocks, as JSON values. Raises DataError where none is finished."""
    done = [name for name in plan.blocks if plan.is_scored(name)]
    if not done:
        raise DataError(plan.out, "has no finished block", "run the study further")
    return {
        "study": plan.study.model_dump(mode="json", exclude={"colon", "prostate"}),
        "cpu_hours": round(spent_s(plan.out) / 3600, 2),
        "blocks": {name: make_block(plan, name) for name in done},
        "not_run": [name for name in plan.blocks if name not in done],
        "provenance": provenance(),
    }


def make_block(plan: Plan, name: str) -> dict[str, Any]:
    """The table of a block with its endpoints."""
    figures = Figures(plan, name)
    found: dict[str, Any] = {
        "title": plan.blocks[name].title, "data": plan.blocks[name].data,
        "groups": len(figures.groups), "rows": figures.rows(), "gains": figures.gains(),
    }  # fmt: skip
    if name == "B":
        found["P1"] = figures.first_endpoint()
    if "kd" in plan.blocks[name].arms:
        found["P2"] = figures.second_endpoint()
        found["aim"] = figures.aim()
    if name == PRIMARY:
        found["tuned"] = {
            arm: plan.trial(arm, plan.winner(arm) or 0)
            for arm in (TEACHER, *plan.blocks[name].arms)
        }
        found["system"] = make_system(figures)
    return found


def write_record(plan: Plan, file: Path) -> str:
    """Write FILE.md, FILE.json and, with block A, FILE.png.

    Returns the Markdown. Raises DataError, OutputError.
    """
    record = make_record(plan)
    text = to_markdown(record)
    write_json_atomic(file.with_suffix(".json"), record)
    write_text_atomic(file.with_suffix(".md"), text)
    if PRIMARY in record["blocks"]:
        plot_cost(record, file.with_suffix(".png"))
    return text


def to_markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    lines = ["# Evidence on real tissue", ""]
    lines += ["Protocol: decision 25. Mean ± deviation over seeds, then the 95 % interval over", ""]
    lines[-2] += " patients or slides."
    for name, block in record["blocks"].items():
        lines += _block_lines(name, block)
    if record["not_run"]:
        lines += [f"Not run within the budget: blocks {', '.join(record['not_run'])}.", ""]
    lines += [f"{record['cpu_hours']} CPU-hours.", ""]
    used = dict.fromkeys(block["data"] for block in record["blocks"].values())
    return "\n".join([*lines, *(LICENCES[name] for name in used)]) + "\n"


def _block_lines(name: str, block: dict[str, Any]) -> list[str]:
    lines = [f"## {name}. {block['title']}", ""]
    lines += [*table_lines(HEADS, map(_row_cells, block["rows"])), ""]
    lines += (
        [*table_lines(GAIN_HEADS, map(_gain_cells, block["gains"])), ""] if block["gains"] else []
    )
    if "P1" in block:
        lines += _verdict("P1, kd over labels and over self-distillation", block["P1"])
    if "P2" in block:
        lines += _verdict("P2, kd is not inferior to its teacher", block["P2"])
    if "aim" in block:
        lines += _aim(block["aim"])
    if "system" in block:
        lines += _system_lines(block["system"])
    return lines


def _row_cells(row: dict[str, Any]) -> list[str]:
    cells = []
    for metric in SHOWN:
        mean, apart = row["mean"][metric], row["deviation"][metric]
        text = "-" if mean is None else f"{mean:.3f}"
        text += "" if apart is None else f" ± {apart:.3f}"
        cells.append(f"{text} {span_of(row['interval'][metric])}")
    return [row["name"], "-" if row["macs"] is None else f"{row['macs'] / 1e9:.3g}", *cells]


def _gain_cells(gain: dict[str, Any]) -> list[str]:
    closed, chance = gain["gap_closed"], gain["p_holm"]
    return [
        gain["row"], gain["over"], gain["metric"],
        "-" if gain["mean"] is None else f"{gain['mean']:+.3f}{' *' if gain['gain'] else ''}",
        span_of(gain["interval_slides"]), span_of(gain["interval_seeds"]),
        "-" if chance is None else f"{chance:.2g}",
        "-" if closed is None else f"{closed:.2f} {span_of(gain['gap_closed_interval'])}",
    ]  # fmt: skip


def _aim(entry: dict[str, Any]) -> list[str]:
    closed = entry["gap_closed"]
    share = "no gap" if closed is None else f"{closed:.2f} {span_of(entry['gap_closed_interval'])}"
    verdict = "holds" if entry["holds"] else "does not hold"
    title = "Aim, kd closes half of the gap of kappa from labels to teacher"
    return [f"**{title}: {verdict}.** Gap closed: {share}.", ""]


def _verdict(title: str, endpoint: dict[str, Any]) -> list[str]:
    parts = [
        f"{c['row']} minus {c['over']}, {c['metric']}: "
        + ("-" if c["mean"] is None else f"{c['mean']:+.3f}")
        + f", over groups {span_of(c['interval_slides'])}"
        + f", over seeds {span_of(c['interval_seeds'])}"
        for c in endpoint["comparisons"]
    ]
    return [
        f"**{title}: {'holds' if endpoint['holds'] else 'does not hold'}.** {'; '.join(parts)}.",
        "",
    ]


def _system_lines(system: dict[str, Any]) -> list[str]:
    heads = ("read again", "cost", *(f"{m}, lower limits" for m in MARGINS), "P2")
    rows = []
    for entry in system["curve"]:
        limits = [
            " and ".join("-" if r is None else f"{r[0]:+.3f}" for r in
                         (c["interval_slides"], c["interval_seeds"]))
            for c in entry["comparisons"]
        ]  # fmt: skip
        share = f"{entry['read_again']:.3f} {span_of(entry['read_again_interval'])}"
        rows.append([share, f"{entry['cost']:.3f}", *limits, "yes" if entry["holds"] else "no"])
    least = system["least"]
    found = "P2 holds at none" if least is None else f"least cost {least['cost']:.3f}"
    goal = "reached" if system["reached"] else "not reached"
    return [
        "### Student with escalation", "", *table_lines(heads, rows), "",
        f"{found}; goal {system['goal']} of the teacher's multiply-accumulates: {goal}.", "",
    ]  # fmt: skip
