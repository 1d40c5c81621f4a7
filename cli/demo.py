"""``wsikd demo``: all steps on synthetic slides, from pixels to a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.listing.manifest import SlideEntry

_SPLITS = ("train", "train", "train", "train", "train", "val", "test", "test")
_FULL_PX, _SMALL_PX = 6144, 2560


@click.command(short_help="Draw slides, train, grade and compare, end to end.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for everything the demo makes.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the slides and of the training.",
)
@click.option(
    "--small",
    is_flag=True,
    help="Use smaller slides and very little training: it takes a minute, and the maps are poor.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.pass_context
def demo(ctx: click.Context, output: Path, seed: int, small: bool, device: str) -> None:
    """Make eight synthetic slides, train teacher and student, grade two test slides, report.

    It takes some minutes on two cores. An interrupted demo continues after its last finished step.
    """
    from wsikd.core.faults import require
    from wsikd.slides.listing.manifest import find_slides

    require("wsikd demo", "torch", "torchvision", "lightning", "dask")
    begun = time.perf_counter()
    group = ctx.find_root().command
    _check_same(output, seed, small)
    slides = output / "slides"
    click.echo(f"# eight synthetic slides in {slides}")
    manifest, test = _cohort(slides, seed, _SMALL_PX if small else _FULL_PX)
    training = ["--set", "optim.epochs=2"] if small else []
    runs, maps = output / "runs", output / "maps"
    teacher, student = runs / "teacher", runs / "student"
    steps: list[list[str]] = [
        ["tile", "-i", str(manifest), "-o", str(output / "stores"), "--mag", "10", "--mag", "2.5",
         "--patch-size", "256"],
        ["init", "demo", "-o", str(output / "configs")],
        ["distill", "-c", str(output / "configs/1_teacher.yaml"), "--data", str(output / "stores"),
         "-o", str(teacher), "--seed", str(seed), "--device", device, *training],
        ["distill", "-c", str(output / "configs/2_student.yaml"), "--data", str(output / "stores"),
         "--teacher", str(teacher), "-o", str(student), "--seed", str(seed), "--device", device,
         *training],
        *(["infer", "-i", str(test), "-m", str(model), "-o", str(maps / model.name), "--device",
           device] for model in (teacher, student)),
        ["bench", "-i", str(test), "--teacher", str(teacher), "--student", str(student),
         "-o", str(output / "bench"), "--device", device],
    ]  # fmt: skip
    commands = [f"wsikd demo -o {output} --seed {seed}{' --small' if small else ''}",
                "# which runs, after drawing the slides:"]  # fmt: skip
    for step in steps:
        command = f"wsikd {' '.join(step)}"
        commands.append(command)
        click.echo(f"\n$ {command}")
        if _done(step):
            click.echo("done before")
            continue
        made = Path(step[step.index("-o") + 1])
        resumed = step[0] == "distill" and made.exists()
        group.main([*step, *(["--resume"] if resumed else [])], standalone_mode=False)
    entries = find_slides([test])
    html = _report(output, entries, maps, commands, seed)
    click.echo(f"\n# {html}: open it in a browser ({time.perf_counter() - begun:.0f} s in all)")


def _done(step: Sequence[str]) -> bool:
    """Whether a step's last file is there. Tiling and inference check this themselves."""
    made = Path(step[step.index("-o") + 1])
    if step[0] == "distill":
        return (made / "student" / "card.json").exists()
    if step[0] == "bench":
        return (made / "bench.png").exists()
    if step[0] == "init":
        return (made / "1_teacher.yaml").exists() and (made / "2_student.yaml").exists()
    return False


def _check_same(output: Path, seed: int, small: bool) -> None:
    """Refuse a folder of other settings, of another version, or of something else."""
    import json
    from hashlib import sha256
    from importlib.resources import files

    from wsikd.core.about import __version__
    from wsikd.core.errors import OutputError
    from wsikd.core.run import write_json_atomic

    configs = sorted(files("wsikd.configs").joinpath("demo").iterdir(), key=lambda f: f.name)
    text = "".join(f.read_text(encoding="utf-8") for f in configs if f.name.endswith(".yaml"))
    wanted = {"seed": seed, "small": small, "version": __version__,
              "configs": sha256(text.encode()).hexdigest()[:12]}  # fmt: skip
    mark = output / "demo.json"
    if mark.exists():
        try:
            found = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            fault = f"holds another demo ({found}, not {wanted})"
            raise OutputError(output, fault, "choose another -o")
    elif output.exists() and any(output.iterdir()):
        raise OutputError(output, "is not empty and holds no demo", "choose another -o")
    else:
        write_json_atomic(mark, wanted)


def _cohort(folder: Path, seed: int, side_px: int) -> tuple[Path, Path]:
    """Draw the slides once; returns manifests of all slides and of the test slides."""
    from wsikd.synthetic.cohort import write_cohort

    manifest, test = folder / "slides.csv", folder / "test.csv"
    if not manifest.exists():
        made = write_cohort(folder, seed=seed, slides=len(_SPLITS), size_px=(side_px, side_px))
        rows = [
            [slide.path.name, slide.annotation.name, split]
            for slide, split in zip(made, _SPLITS, strict=True)
        ]
        _write_manifest(test, [row for row in rows if row[2] == "test"])
        _write_manifest(manifest, rows)
    return manifest, test


def _write_manifest(path: Path, rows: Sequence[Sequence[str]]) -> None:
    from wsikd.core.output.cells import csv_text
    from wsikd.core.run import aside

    with aside(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        stream.write(csv_text(["slide", "annotation", "split"], rows))


def _report(
    output: Path,
    entries: Sequence[SlideEntry],
    maps: Path,
    commands: Sequence[str],
    seed: int,
) -> Path:
    import json

    from wsikd.grade.exports.ome_zarr import read
    from wsikd.grade.reports.compare_drawn import score_maps, truth_map
    from wsikd.grade.reports.demo_report import Report, only_where, slide_row, write_report
    from wsikd.slides.annotations.geojson import read_geojson
    from wsikd.slides.base import open_slide

    bench = json.loads((output / "bench" / "bench.json").read_text(encoding="utf-8"))
    teacher_spec, student_spec = bench["contenders"]
    high, low = (f"{c['magnification']:g}x" for c in bench["contenders"])
    titles = {"teacher": f"teacher {high}", "student": f"student {low}"}
    rows, truths = [], []
    found: dict[str, list[GradeMap]] = {"teacher": [], "student": []}
    for entry in entries:
        assert entry.annotation is not None
        with open_slide(entry.path, name=entry.name) as slide:
            own = {who: read(maps / who / entry.name / "grades.zarr", slide.info) for who in found}
            truth = truth_map(own["student"], read_geojson(entry.annotation))
            shown = {titles[who]: only_where(own[who], truth) for who in found}
            readings = {titles[who]: _reading(maps / who / entry.name) for who in found}
            rows.append(slide_row(slide, {"truth": truth, **shown}, readings))
        truths.append(truth)
        for who, grade_map in own.items():
            found[who].append(grade_map)
    pixels = (teacher_spec["patch_px"] / student_spec["patch_px"]) ** 2
    report = Report(
        slides=rows,
        scores={who: score_maps(truths, graded) for who, graded in found.items()},
        colour_kappa=_colour_kappa(output / "stores", student_spec["mpp"]),
        bench=bench,
        commands=commands,
        looks=_looks(output, found),
        facts={
            "high": high,
            "low": low,
            "pixels": f"one in {pixels:.0f}",
            "field": f"{student_spec['patch_px'] * student_spec['mpp']:.0f} um",
            "seed": str(seed),
            "lesson": _LESSON,
        },
    )
    return write_report(report, output)[0]


def _looks(output: Path, maps: Mapping[str, Sequence[GradeMap]]) -> str:
    """Note that both networks are compared with the truth; how often that was done by now."""
    from wsikd.core.output.looks import Part, note, tally
    from wsikd.models.files.bundle import load_bundle

    looks = []
    for who, graded in maps.items():
        part = Part.of(grade_map.slide.fingerprint for grade_map in graded)
        digest = load_bundle(output / "runs" / who).sha256
        looks = note(part, command="wsikd demo", network=digest[:12], folders=[output])
    return tally(looks, [part.key]).text


def _reading(result: Path) -> str:
    """The Gleason score that `wsikd infer` wrote for a slide, or why there is none."""
    from wsikd.grade.runs.record import read_record
    from wsikd.grade.score_text import score_text

    record = read_record(result)
    if record is None:
        return "no score"
    return score_text(record.summary) or "no score"


def _colour_kappa(stores: Path, mpp: float) -> float:
    """Quadratic kappa of a classifier by colour histograms on the test slides."""
    from wsikd.learn.data.patches import load_patches
    from wsikd.learn.data.settings import Data, Split
    from wsikd.learn.score.colour_baseline import histogram_kappa

    patches = load_patches(Data(paths=[str(stores)], mpp=mpp), Split())
    kappa = histogram_kappa(patches, patches.indices("train"), patches.indices("test"))
    return float("nan") if kappa is None else kappa


_LESSON = (
    "This shows that every step runs: slides, tile stores, training, grade maps, times. It says "
    "nothing about real tissue. The slides come from one program, a part of the cue was drawn so "
    "that only the higher "
    "magnification shows it, the networks are small and trained for minutes from one seed, and two "
    "test slides are few."
)
