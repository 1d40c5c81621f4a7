"""``wsikd evaluate``: how good a grader is on labelled patches."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Score a run on patches, or graded slides on labels.")
@click.argument("subject", metavar="[RUN|BUNDLE]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--slides",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Instead of RUN: compare the slides that wsikd infer has graded in OUT with --labels.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="With --slides: columns slide, grade_group (0 to 5) or gleason (3+4, benign), and patient "
    "if known.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Labelled patches: tile stores, class folders, a labels CSV, SICAPv2. Repeatable. "
    " [default: the run's own]",
)
@click.option(
    "--split",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="The test part can be scored once; RUN/scores.json records it.",
)
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="BAGS",
    help="For a run of method mil: bags of the same slides by another encoder; the network is "
    "scored on these too.",
)
@click.option("--again", is_flag=True, help="Score the test part again; this is recorded too.")
@click.option(
    "--allow-seen",
    is_flag=True,
    help="Score data even if the network or its teacher was trained on some; this is recorded too.",
)
@click.option("--by", metavar="NAME", help="Your name, for the record.  [default: your login]")
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="For a bundle: um per pixel of the patches in --data.  [default: the network's]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the pictures.  [default: RUN/report; none for a bundle]",
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
    """Score a run or bundle on labelled patches, or graded slides by a pathologist's grades.

    Intervals (95 %) are over patients where they are known, else slides; fewer than ten have none.
    The baseline is a logistic regression on colour histograms: a network that does not beat it may
    have learned the stain. The figures of a student's teacher are shown too; on the test part, only
    those of its own record.

    With --slides: quadratic kappa of the ISUP grade groups, AUC for cancer, confusion table.
    """
    import json

    if slides is not None or labels is not None:
        if subject is not None or slides is None or labels is None:
            raise click.UsageError("give RUN|BUNDLE, or both --slides OUT and --labels CSV")
        from wsikd.api.slide_scores import evaluate_slides

        graded = evaluate_slides(slides, labels)
        click.echo(json.dumps(graded.record, indent=2) if as_json else graded.to_text())
        return
    if subject is None:
        raise click.UsageError("give RUN|BUNDLE, or --slides OUT and --labels CSV")

    from wsikd.api.scores import evaluate as score
    from wsikd.slides.what_is import CLASSIFIER, what_is

    if against and what_is(subject) != CLASSIFIER:
        raise click.UsageError("--against is for runs of method mil")
    found = score(
        subject, data=data, split=split, against=against, again=again, allow_seen=allow_seen,
        by=by, mpp=mpp, pictures=not no_report and (report or True), device=device,
    )  # fmt: skip
    click.echo(json.dumps(found.record, indent=2) if as_json else found.to_text())
