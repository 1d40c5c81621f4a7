"""A benchmark record as Markdown, and as a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.about import RESEARCH_USE
from wsikd.core.output.markdown import table_lines
from wsikd.grade.bench.choice_report import trade_lines

if TYPE_CHECKING:
    from pathlib import Path

STAGE_NAMES = {
    "open": "open",
    "tissue": "find tissue",
    "read": "read and decode",
    "resize": "resize",
    "forward": "forward",
    "write": "write",
}

_SMALL_FIELDS = 500
"""Fields of a slide below which its fixed costs show."""
MEMORY_NAMES = {
    "rise_mb": "memory: rise during a pass, MB",
    "peak_rss_mb": "memory: peak of the whole process with both networks, MB",
    "cuda_mb": "GPU memory: peak of the tensors of both networks, MB",
}


def stage_rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of (quantity, teacher, student, teacher / student); values are median [min, max]."""
    teacher, student = (record["totals"][c["name"]] for c in record["contenders"])
    up = record["speed_up"]
    rows: list[tuple[str, ...]] = [
        (f"{label}, s", *(_spread(t["stages_s"][key]) for t in (teacher, student)), _times(up[key]))
        for key, label in STAGE_NAMES.items()
    ]
    rows.append(
        (
            "**total, wall s**",
            _spread(teacher["wall_s"]),
            _spread(student["wall_s"]),
            f"**{_times(up['wall'])}**",
        )
    )
    rows.append(
        ("total, CPU s", _spread(teacher["cpu_s"]), _spread(student["cpu_s"]), _times(up["cpu"]))
    )
    rates = {"fields_per_s": "fields/s", "mm2_per_s": "mm2/s", "slides_per_h": "slides/h"}
    if any(c["max_fields"] for c in record["contenders"]):
        del rates["slides_per_h"]  # the fields are a sample of each slide
    rows += [(label, _spread(teacher[k]), _spread(student[k]), "") for k, label in rates.items()]
    for key, label in MEMORY_NAMES.items():
        if teacher[key] is not None:
            rows.append((label, f"{teacher[key]:.0f}", f"{student[key]:.0f}", ""))
    return rows


def agreement_text(record: dict[str, Any]) -> str:
    """One sentence on the agreement of the two maps."""
    found = record.get("agreement")
    if found is None:
        return "Untrained networks (--arch): the times are valid, the grades are meaningless."
    if not found["fields"]:
        return "No field has tissue in both maps; there is nothing to compare."
    if found["kappa"] is None:
        return f"Both predict one class for all {found['fields']} fields; kappa is not defined."
    classes = ", ".join(
        f"{name} {share:.0%}" for name, share in found["by_class"].items() if share is not None
    )
    return (
        f"Over {found['fields']} fields the student agrees with the teacher with kappa "
        f"{found['kappa']:.2f} (quadratic {found['kappa_quadratic']:.2f}), on {found['same']:.0%} "
        f"of the fields; by the teacher's class: {classes}."
    )


def to_markdown(record: dict[str, Any]) -> str:
    """The whole record as Markdown: stage times of a pair, and cost and kappa of everyone."""
    teacher, *students = record["contenders"]
    student = students[-1]
    env = record["environment"]
    totals = record["totals"][student["name"]]
    sampled = teacher["max_fields"]
    what = (
        f"{len(record['slides'])} slide(s), {totals['fields']} fields of "
        f"{student['patch_px'] * student['mpp']:g} um, {totals['tissue_mm2']:.2f} mm2 of tissue"
        f"{f' (a sample of at most {sampled} fields a slide)' if sampled else ''}; "
        f"{record['repeats']} timed passes of each network, interleaved, after one untimed pass. "
        f"Median [minimum, maximum] over the passes."
    )
    where = (
        f"Measured on {env['processor']}, {env['cores']} cores, device {env['device']}, "
        f"{' and '.join(dict.fromkeys(c['engine'] for c in record['contenders']))}, "
        f"torch {env['torch']} ({env['torch_threads']} threads), wsikd {record['wsikd']}; "
        f"file cache {env['cache']}."
    )
    magnifications = [f"{c['magnification']:g}x" for c in record["contenders"]]
    lines = [
        f"# {' against '.join(magnifications)}",
        "",
        what,
        "",
        *(_stage_lines(record, teacher, student) if len(students) == 1 else ()),
        *(trade_lines(record) if "points" in record else ()),
        where,
        "",
        *_size_lines(totals["fields"] / max(1, len(record["slides"])), sampled),
        *_guard_lines(record),
        RESEARCH_USE,
        "",
    ]
    return "\n".join(lines)


def _size_lines(fields: float, sampled: int | None) -> list[str]:
    """A note if the slides are small; empty for large ones, and for samples of their fields."""
    if sampled or fields >= _SMALL_FIELDS:
        return []
    note = (
        f"These slides are small, {fields:.0f} fields each: what a slide costs whatever its size "
        "(opening, tissue, files) is a larger part than on large slides, and the student is fewer "
        "times faster. docs/howto/bench.md has the figures of biopsies and of large slides."
    )
    return [note, ""]


def _guard_lines(record: dict[str, Any]) -> list[str]:
    """The guards of the networks; empty for untrained ones."""
    found = [f"{c['name']}: {c['guard']}" for c in record["contenders"] if "guard" in c]
    if not found:
        return []
    return [
        f"Unlike the training: {'; '.join(found)}. Nothing is withheld here.",
        "",
    ]


def _stage_lines(
    record: dict[str, Any], teacher: dict[str, Any], student: dict[str, Any]
) -> list[str]:
    heads = ["", _title(teacher), _title(student), "times faster"]
    return [
        *table_lines(heads, stage_rows(record), right=(1, 2, 3)),
        "",
        "Reading and computing run in parallel, so the stages may add up to more than the total.",
        "",
        agreement_text(record),
        "",
    ]


def plot(record: dict[str, Any], path: Path) -> None:
    """Plot the stacked stage times of all contenders as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.5 * len(record["contenders"])), layout="constrained")
    draw_stages(record, figure.subplots())
    figure.savefig(path, dpi=150)


def draw_stages(record: dict[str, Any], axes: Any) -> None:
    """Draw the stacked stage times of all contenders into matplotlib axes."""
    names = [_title(c) for c in record["contenders"]]
    left = [0.0] * len(names)
    colours = ("#bbbbbb", "#ddcc77", "#4477aa", "#66ccee", "#aa3377", "#228833")
    for (key, label), colour in zip(STAGE_NAMES.items(), colours, strict=True):
        widths = [
            record["totals"][c["name"]]["stages_s"][key]["median"] for c in record["contenders"]
        ]
        axes.barh(names, widths, left=left, label=label, color=colour)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median over the passes, stages summed over threads")
    axes.legend(ncols=6, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _title(contender: dict[str, Any]) -> str:
    gmacs = contender["macs_per_field"] / 1e9
    return f"{contender['name']} {contender['magnification']:g}x ({gmacs:.3g} GMAC/field)"


def _spread(values: dict[str, float]) -> str:
    digits = 3 if values["median"] < 1 else 2 if values["median"] < 100 else 0
    middle, low, high = (f"{values[k]:.{digits}f}" for k in ("median", "min", "max"))
    return f"{middle} [{low}, {high}]"


def _times(values: dict[str, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values['median']:.1f} [{values['min']:.1f}, {values['max']:.1f}]"
