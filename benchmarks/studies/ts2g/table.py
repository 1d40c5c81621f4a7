"""What a study of TS2G-KD came to, as JSON values and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.study_folder import read_json
from benchmarks.studies.ts2g.figures import agreement, difference, figures
from benchmarks.studies.ts2g.settings import TEACHER
from wsikd.core.output.markdown import table_lines
from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.mil.train import figure
from wsikd.models.files.bundle import CARD

if TYPE_CHECKING:
    from benchmarks.studies.ts2g.figures import Said
    from benchmarks.studies.ts2g.study import Study

FIGURES = ("auc", "sensitivity", "specificity")


def make_table(study: Study) -> dict[str, Any]:
    """Sum up a finished study.

    Returns:
        JSON values: ``teacher`` (on its own task), ``detector`` (mAP on validation and test),
        ``selection``, ``encoders`` (time, and fit to the teacher on test patches), ``heads``
        (figures on the test slides), ``drop_in`` (the teacher's heads on students' bags),
        ``settings`` and ``provenance``.

    Raises:
        WsikdError: a stage's results cannot be read.
    """
    speed = read_json(study.out / "speed.json")["ms_per_patch"]
    own = {name: float(np.median(spent)) for name, spent in speed.items()}
    encoders: dict[str, Any] = {TEACHER: {"ms_per_patch": own[TEACHER]}}
    for name in study.config.students:
        found = [read_json(study.fit(name, seed)) for seed in study.seeds]
        ratios = np.asarray(speed[TEACHER]) / np.asarray(speed[name])
        encoders[name] = {
            "ms_per_patch": own[name], "speed_ratio": float(np.median(ratios)),
            "speed_ratios": [float(ratios.min()), float(ratios.max())],
            **{part: {k: [one[part][k] for one in found] for k in ("cosine", "r2")}
               for part in ("test", "rare") if all(part in one for one in found)},
        }  # fmt: skip
    heads, dropped = [], []
    for arch in study.config.heads:
        teacher = _said(study, TEACHER, TEACHER, arch)
        first = _said(study, TEACHER, next(iter(study.config.students)), arch)
        heads += [
            {"encoder": name, "head": arch, **figures(_said(study, name, name, arch))}
            for name in study.encoders
        ]
        for name in study.config.students:
            said = _said(study, TEACHER, name, arch)
            dropped.append({
                "encoder": name, "head": arch, **figures(said),
                "to_teacher": difference(said, teacher),
                "to_first": difference(said, first),
                "agreement": agreement(said, teacher),
            })  # fmt: skip
    cards = {n: study.out / "runs" / n / "student" / CARD for n in (TEACHER, "detector")}
    return {
        "teacher": read_json(cards[TEACHER])["metrics"],
        "detector": {"val": read_json(cards["detector"])["metrics"],
                     "test": read_json(study.out / "detector.json")},
        "selection": read_json(study.out / "selection.json"),
        "encoders": encoders,
        "heads": heads,
        "drop_in": dropped,
        "settings": study.config.model_dump(mode="json"),
        "provenance": provenance(),
    }  # fmt: skip


def _said(study: Study, head_of: str, encoder: str, arch: str) -> list[Said]:
    return [read_json(study.said(head_of, encoder, arch, seed)) for seed in study.seeds]


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


ENCODER_HEADS = (
    "encoder", "cosine", "variance explained", "with a rare cell", "ms a patch", "times faster",
)  # fmt: skip
HEAD_HEADS = ("trained and tested on bags of", "head", "AUC", "sensitivity", "specificity")


def to_markdown(table: dict[str, Any]) -> str:
    """The tables of a study, each with what it needs to be read."""
    settings, picked = table["settings"], table["selection"]
    share = picked["chosen"] / max(picked["rare_patches"], 1)
    by_chance = picked["taken"] / max(picked["patches"], 1)
    test = table["detector"]["test"]
    lines = [
        (
            f"Stage 1, detector: mAP {_or_dash(table['detector']['val']['map'])} on validation, "
            f"{_or_dash(test['map'])} on the test slides' {test['boxes']} cells "
            f"({_or_dash(test['map_50'])} at IoU 0.50)."
        ),
        "",
        (
            f"Patch selection, training slides: the chosen {settings['count']} a slide hold "
            f"{picked['chosen']} of {picked['rare_patches']} patches with a rare cell "
            f"({share:.0%}; by chance {by_chance:.0%})."
        ),
        "",
    ]
    rows = []
    for name, row in table["encoders"].items():
        fit = ["-"] * 3
        if name != TEACHER:
            rare = _over(row["rare"]["r2"], "%") if "rare" in row else "-"
            fit = [_over(row["test"]["cosine"]), _over(row["test"]["r2"], "%"), rare]
        ratio = "-" if name == TEACHER else f"{row['speed_ratio']:.1f}"
        rows.append([name, *fit, f"{row['ms_per_patch']:.2f}", ratio])
    lines += table_lines(ENCODER_HEADS, rows)
    rows = [
        [row["encoder"], row["head"], *(figure(row[k]) for k in FIGURES)] for row in table["heads"]
    ]
    lines += ["", *table_lines(HEAD_HEADS, rows)]
    first = next(iter(settings["students"]))
    rows = []
    for row in table["drop_in"]:
        kappa = row["agreement"]["kappa"]
        cells = [
            row["encoder"], row["head"], figure(row["auc"]), figure(row["to_teacher"]),
            "-" if row["encoder"] == first else figure(row["to_first"]),
            f"{row['agreement']['share']:.0%}", _or_dash(kappa),
        ]  # fmt: skip
        rows.append(cells)
    heads = [
        "drop-in: the teacher's head on bags of", "head", "AUC", "difference to the teacher's",
        f"to {first}", "agree", "kappa",
    ]  # fmt: skip
    return "\n".join([*lines, "", *table_lines(heads, rows), "", _note(table)]) + "\n"


def _note(table: dict[str, Any]) -> str:
    settings = table["settings"]
    return (
        f"{table['heads'][0]['slides']} test slides of one cohort; {settings['repeats']} trainings "
        "of each adapter and head: means over them, in brackets 95 % intervals over slides, or the "
        "lowest and highest for the fit. Epochs and thresholds are chosen on validation. The "
        "teacher is a ResNet-18 trained to tell shapes on further generated slides without rare "
        f"cells (kappa {table['teacher']['kappa']:.3f} there): no foundation model. Variance "
        "explained with a rare cell is around the mean of all test patches. Times are CPU time of "
        "the encoders alone, in turns in one process; students stop at the third group of the same "
        "ResNet-18, and read 1 or 2 um per pixel, the teacher 1."
    )


def _over(values: list[float], unit: str = "") -> str:
    """Mean, lowest and highest."""
    low, mean, high = min(values), float(np.mean(values)), max(values)
    if unit:
        return f"{mean:.1%} ({low:.1%} to {high:.1%})"
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
