"""What a study of TS2G-KD came to, as JSON values and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.bag_train import figure
from wsikd.learn.ts2g_study import read_json, scored_test
from wsikd.learn.ts2g_study_settings import TEACHER
from wsikd.models.bundle import CARD
from wsikd.tiles.bags import find_bags, open_bag

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.learn.ts2g_study import Study

FIGURES = ("auc", "sensitivity", "specificity")


def make_table(study: Study) -> dict[str, Any]:
    """Sum up a finished study.

    Returns:
        JSON values: ``detector`` (mAP on validation), ``selection``, ``encoders`` (fit to the
        teacher on validation patches, and time), ``heads`` (figures on the test slides),
        ``drop_in`` (by head and student), ``settings`` and ``provenance``.

    Raises:
        WsikdError: a stage's results cannot be read.
    """
    teacher_ms = _milliseconds(study.bags[TEACHER])
    encoders: dict[str, Any] = {TEACHER: {"ms_per_patch": teacher_ms}}
    for name in study.config.students:
        own = _milliseconds(study.bags[name])
        fit = read_json(study.adapter(name) / "student" / CARD)["metrics"]
        encoders[name] = {"cosine": fit["cosine"], "r2": fit["r2"], "ms_per_patch": own,
                          "speed_ratio": teacher_ms / own}  # fmt: skip
    heads = [
        {"encoder": encoder, "head": arch, **(scored_test(study.head(encoder, arch)) or {})}
        for encoder in study.bags
        for arch in study.config.heads
    ]
    return {
        "detector": read_json(study.detector / "student" / CARD)["metrics"],
        "selection": read_json(study.out / "selection.json"),
        "encoders": encoders,
        "heads": heads,
        "drop_in": {a: read_json(study.out / f"drop_in-{a}.json") for a in study.config.heads},
        "settings": study.config.model_dump(mode="json"),
        "provenance": provenance(seed=study.seed),
    }


def write_table(study: Study) -> str:
    """Write ``table.json`` and ``table.md`` of a finished study; returns the Markdown.

    Raises:
        OutputError: the folder cannot be written.
    """
    table = make_table(study)
    text = to_markdown(table)
    write_json_atomic(study.out / "table.json", table)
    write_text_atomic(study.out / "table.md", text)
    return text


def to_markdown(table: dict[str, Any]) -> str:
    """The tables of a study, each with what it needs to be read."""
    found, picked = table["detector"], table["selection"]
    precision = ["-" if found[k] is None else f"{found[k]:.3f}" for k in ("map", "map_50")]
    share = picked["chosen"] / max(picked["rare_patches"], 1)
    by_chance = picked["taken"] / max(picked["patches"], 1)
    lines = [
        f"Stage 1, detector on validation images: mAP {precision[0]}, at IoU 0.50 {precision[1]}.",
        "",
        (
            f"Patch selection, training slides: the chosen hold {picked['chosen']} of "
            f"{picked['rare_patches']} patches with a rare cell ({share:.0%}; by chance "
            f"{by_chance:.0%})."
        ),
        "",
        "| encoder | cosine | variance explained | ms per patch | times as fast as the teacher |",
        "|---" * 5 + "|",
    ]
    for name, row in table["encoders"].items():
        fit = ["-", "-"] if name == TEACHER else [f"{row['cosine']:.3f}", f"{row['r2']:.1%}"]
        ratio = "-" if name == TEACHER else f"{row['speed_ratio']:.2f}"
        lines.append(f"| {name} | {' | '.join(fit)} | {row['ms_per_patch']:.2f} | {ratio} |")
    lines += ["", "| trained and tested on bags of | head | AUC | sensitivity | specificity |"]
    lines.append("|---" * 5 + "|")
    for row in table["heads"]:
        cells = [figure(row[k]) if k in row else "-" for k in FIGURES]
        lines.append(f"| {row['encoder']} | {row['head']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| drop-in: the teacher's head on bags of | head | AUC | difference | agree | kappa |",
    ]
    lines.append("|---" * 6 + "|")
    for head, students in table["drop_in"].items():
        for name, row in students.items():
            kappa = row["agreement"]["kappa"]
            cells = [
                name, head, figure(row["figures"]["auc"]), figure(row["auc_difference"]),
                f"{row['agreement']['share']:.0%}", "-" if kappa is None else f"{kappa:.3f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    tested = table["heads"][0].get("bags")
    note = (
        f"{tested} test slides; intervals are 95 % over them, thresholds are chosen on validation. "
        "The teacher is a small network trained with supervision on patches of further slides of "
        "the generator, rare cells included: no foundation model. Times are as the bags tell, "
        "reading included, on a machine that may have done other things."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _milliseconds(folder: Path) -> float:
    """Time to a patch: the median over slides, reading and computing."""
    bags = [open_bag(path) for path in find_bags([folder])]
    spent = [1000 * sum(b.seconds.values()) / len(b) for b in bags if b.seconds and len(b)]
    return float(np.median(spent))
