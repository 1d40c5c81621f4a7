"""``wsikd evaluate``: how good a grader is on labelled patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(short_help="Score a run on patches, or graded slides on labels.")
@click.argument("subject", metavar="[RUN|BUNDLE]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--slides",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Instead of a run: slides that wsikd infer has graded into OUT, against --labels.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="With --slides: columns slide, grade_group (0 to 5) or gleason (3+4, benign), and patient "
    "where known.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Labelled patches: tile stores, class folders, a labels CSV, SICAPv2. May be given again. "
    " [default: the run's own]",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="The test part is scored once; that it was is kept in RUN/scores.json.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="BAGS",
    help="For a run of method mil: bags of the same slides by another encoder, which the same "
    "network then reads.",
)
@click.option("--again", is_flag=True, help="Score the test part once more; that is kept too.")
@click.option(
    "--allow-seen",
    is_flag=True,
    help="Score data although the network or its teacher was trained on some; that is kept too.",
)
@click.option("--by", metavar="NAME", help="Who asks, for the record.  [default: your login]")
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="um per pixel of the patches in --data, for a bundle alone.  [default: the network's]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the pictures.  [default: RUN/report; none for a bundle alone]",
)
@click.option("--no-report", is_flag=True, help="Draw no pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
def evaluate(
    subject: Path | None,
    slides: Path | None,
    labels: Path | None,
    data: tuple[Path, ...],
    split: str,
    against: tuple[Path, ...],
    again: bool,
    allow_seen: bool,
    by: str | None,
    mpp: float | None,
    report: Path | None,
    no_report: bool,
    as_json: bool,
    device: str,
) -> None:
    """Score a run or bundle on labelled patches, or graded slides on a pathologist's grades.

    Intervals (95 %) are over patients where they are known, else slides; fewer than ten have none.
    The baseline is a logistic regression on colour histograms: a network that does not beat it may
    have learnt the stain. A student's teacher stands beside it; on the test part, as its own record
    has it.

    With --slides: quadratic kappa of the ISUP grade groups, AUC of cancer against none, confusion.
    """
    import json

    if slides is not None or labels is not None:
        if subject is not None or slides is None or labels is None:
            raise click.UsageError("give RUN|BUNDLE, or both --slides OUT and --labels CSV")
        from wsikd.slides.what_is import RESULTS, check_role

        from . import evaluate_slides

        check_role(slides, "--slides", RESULTS)
        record = evaluate_slides.scored(slides, labels)
        click.echo(json.dumps(record, indent=2) if as_json else evaluate_slides.text(record))
        return
    if subject is None:
        raise click.UsageError("give RUN|BUNDLE, or --slides OUT and --labels CSV")

    from . import evaluate_bags

    if evaluate_bags.is_bag_run(subject):
        record = evaluate_bags.scored(
            subject, split, by=by or _login(), data=data, against=against, again=again
        )
        click.echo(json.dumps(record, indent=2) if as_json else evaluate_bags.text(record))
        return
    if against:
        raise click.UsageError("--against is for runs of method mil")

    from wsikd.core.ranks import refuse_team
    from wsikd.learn.preflight import check_data
    from wsikd.models.files.peek import peek_grader
    from wsikd.slides.what_is import PATCHES

    refuse_team("wsikd evaluate", "start it once")
    peek_grader(subject, "RUN")
    if data:
        check_data(data, *PATCHES)

    from wsikd.learn.score import test_record as scoring
    from wsikd.learn.score.pictures import write_pictures
    from wsikd.models.device import pick_device

    where = str(pick_device(device))
    opened = scoring.open_subject(subject)
    patches = scoring.load_for(opened, [str(p) for p in data], mpp=mpp)
    scored = scoring.score(
        opened, patches, split, by=by or _login(), again=again, device=where, allow_seen=allow_seen
    )
    told = dict(scored.record)
    folder = report or (opened.place / "report" if opened.config is not None else None)
    if folder is not None and not no_report:
        told["report"] = write_pictures(opened, scored, folder, device=where)
    click.echo(json.dumps(told, indent=2) if as_json else _text(told, folder))


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in the container
        return "unknown"


def _text(record: dict[str, Any], folder: Path | None) -> str:
    """The record as lines of a fixed width."""
    from wsikd.core.intervals import MIN_GROUPS, NO_INTERVAL
    from wsikd.learn.score.over_colour import OverColour

    colour, teacher = record["colour_histogram"] or {}, record["teacher"]
    theirs = teacher["figures"] if teacher else {}
    head = (
        f"{record['split']}: {record['patches']} patches of {record['groups']} slides or patients"
    )
    columns = f"{'':<20}{'network':>8}  {'95 % interval':<16}{'colour alone':>12}"
    lines = [head, columns + (f"{'teacher':>10}" if teacher else "")]

    def add(title: str, name: str, value: float | None, reach: list[float] | None) -> None:
        row = _row(title, value, reach, colour.get(name))
        lines.append(row + (f"{_three(theirs.get(name)):>10}" if teacher else ""))

    for name, value in record["figures"].items():
        title = name.replace("_", " ").replace("auc", "AUC")
        add(title, name, value, record["intervals"][name])
    for name, value in record["f1"].items():
        place = record["classes"].index(name)
        add(f"F1 {name}", f"f1_{place}", value, record["f1_intervals"][name])
    if record.get("over_colour"):
        lines.append(OverColour(**record["over_colour"]).summary)
    if record["groups"] < MIN_GROUPS:
        lines.append(NO_INTERVAL)
    lines += _cost(record)
    if not record["benign"]:
        lines.append("AUC cancer is not given: no class is known as benign; set data.benign")
    lines += ["confusion (true class in rows):", *_confusion(record)]
    if made := record["calibration"]:
        lines.append(
            f"calibration error {made['ece_before']:.3f}, with temperature "
            f"{made['temperature']:.2f} {made['ece_after']:.3f}"
        )
    if "report" in record:
        agreement = record["report"]["attention_agreement"]
        if agreement is not None:
            lines.append(f"attention agrees with the teacher's: mean correlation {agreement:.3f}")
        lines.append(f"pictures: {folder}")
    return "\n".join(lines)


def _cost(record: dict[str, Any]) -> list[str]:
    """Work on a patch, beside the teacher's; nothing for a card that does not say."""
    own, teacher = record["macs"], record["teacher"]
    if own is None:
        return []
    line = (
        f"{own / 1e9:.3g} G multiply-accumulates a patch ({record['mpp']:g} um/px, "
        f"{record['input']})"
    )
    if teacher and teacher["macs"]:
        line += (
            f", {own / teacher['macs']:.3g} times the teacher's {teacher['macs'] / 1e9:.3g} G"
            f" ({teacher['mpp']:g} um/px)"
        )
    return [line]


def _row(name: str, value: float | None, reach: list[float] | None, colour: float | None) -> str:
    span = f"{reach[0]:.3f} to {reach[1]:.3f}" if reach else "-"
    return f"{name:<20}{_three(value):>8}  {span:<16}{_three(colour):>12}"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _confusion(record: dict[str, Any]) -> list[str]:
    names = record["classes"]
    width = max(6, *(len(n) + 1 for n in names))
    head = " " * width + "".join(f"{n:>{width}}" for n in names)
    rows = zip(names, record["confusion"], strict=True)
    return [head, *(f"{n:<{width}}" + "".join(f"{v:>{width}}" for v in row) for n, row in rows)]
