"""A folder of results is computed with one engine in one precision, whoever adds to it."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import tissue_rgb
from wsikd.grade.engines import check, choose
from wsikd.grade.engines.check import Checked
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs import resume_engine as module
from wsikd.grade.runs.resume_engine import Computing, settle
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid

SPEC = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides of some 80 fields, named a and b."""
    folder = tmp_path_factory.mktemp("slides")
    rgb = tissue_rgb(1200, 900, (100, 100, 900, 700), seed=4)
    write_pyramid(folder / "a.svs", rgb, mpp=0.5, power=20, downsamples=(1,))
    shutil.copy(folder / "a.svs", folder / "b.svs")
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    torch.manual_seed(1)
    network = build_grader("vgg_small", 4, width=0.25)
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(
        folder, network, SPEC, arch="vgg_small", width=0.25, min_area_mm2=0.0, temperature=1.0
    )


@pytest.fixture
def machine(monkeypatch):
    """What this machine computes in, as a function to set it; bf16 passes every check."""
    monkeypatch.setattr(choose, "_verdict", lambda *_: None)
    monkeypatch.setattr(check, "SAME_SHARE", 0.0)
    monkeypatch.setattr(module, "CHECK_FIELDS", 32)

    def computes_in(precision):
        monkeypatch.setattr(choose, "default_precision", lambda *_: precision)

    return computes_in


def infer(slides, name, student, out, *more):
    given = ["-i", slides / f"{name}.svs", "-m", student, "-o", out, "--format", "csv", *more]
    given += ["--threads", "1", "--jobs", "0", "--device", "cpu"]
    return CliRunner().invoke(main, ["infer", *map(str, given)])


def made(out, name):
    record = json.loads((out / name / "result.json").read_text())
    return record["engine"], record["made_with"]["engine"], record["made_with"]["precision"]


@pytest.mark.parametrize(("first", "then"), [("fp32", "bf16"), ("bf16", "bf16")])
def test_a_folder_goes_on_as_it_was_begun(slides, student, tmp_path, machine, first, then):
    machine(first)
    begun = infer(slides, "a", student, tmp_path, "--engine", "torch")
    assert begun.exit_code == 0, begun.output
    machine(then)
    done = infer(slides, "b", student, tmp_path)  # auto would be OpenVINO
    assert done.exit_code == 0, done.output
    for name in "ab":
        assert made(tmp_path, name) == (f"torch {first}", "torch", first)
    tables = [(tmp_path / name / "tiles.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1]
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    column = rows[0].split(",").index("engine")
    assert [row.split(",")[column] for row in rows[1:]] == [f"torch {first}"] * 2
    again = infer(slides, "a", student, tmp_path)
    assert "0 graded, 1 already there" in again.output


def test_a_machine_without_the_folders_precision_is_told_in_a_line(
    slides, student, tmp_path, machine
):
    machine("bf16")
    assert infer(slides, "a", student, tmp_path, "--engine", "torch").exit_code == 0
    machine("fp32")
    done = infer(slides, "b", student, tmp_path)
    assert done.exit_code == 2
    line = done.output.strip().splitlines()[-1]
    assert line.startswith(
        f"ConfigError: {tmp_path}: its results were made by torch in bf16, which"
    )
    assert line.endswith("give --precision fp32, or choose another -o")
    assert not (tmp_path / "b").exists()
    asked = infer(slides, "a", student, tmp_path, "--precision", "fp32")
    assert asked.exit_code == 3
    assert "precision bf16 there, fp32 asked" in (tmp_path / "failures.csv").read_text()
    other = infer(slides, "b", student, tmp_path, "--precision", "fp32")  # is told in summary.csv
    assert other.exit_code == 0, other.output
    assert made(tmp_path, "b") == ("torch fp32", "torch", "fp32")


def test_bf16_asked_for_goes_on_in_what_the_check_made_of_it(
    slides, student, tmp_path, machine, caplog
):
    machine("fp32")
    assert infer(slides, "a", student, tmp_path, "--engine", "torch").exit_code == 0
    machine("bf16")
    with caplog.at_level(logging.WARNING):
        done = infer(slides, "b", student, tmp_path, "--precision", "bf16")
    assert done.exit_code == 0, done.output
    assert "its results are in fp32, so new ones are too" in caplog.text
    assert made(tmp_path, "b") == ("torch fp32", "torch", "fp32")
    replaced = infer(slides, "b", student, tmp_path, "--engine", "torch", "--precision", "bf16",
                     "--overwrite")  # fmt: skip
    assert replaced.exit_code == 0, replaced.output
    assert made(tmp_path, "b") == ("torch bf16", "torch", "bf16")


class Plain:
    """An engine with one opinion; ``wrong`` is how many of its first fields have another."""

    name = "torch"

    def __init__(self, precision, wrong=0):
        self.precision, self.wrong, self.seen = precision, wrong, 0

    def __call__(self, patches):
        logits = np.tile(np.array([1, 0, 0, 0], np.float32), (len(patches), 1))
        logits[: max(0, self.wrong - self.seen)] = (0, 1, 0, 0)
        self.seen += len(patches)
        return logits


@pytest.mark.parametrize(("wrong", "precision"), [(0, "bf16"), (2, "fp32")])
def test_the_check_comes_before_the_first_slide_and_a_bad_slide_is_no_bar(
    slides, tmp_path, wrong, precision, caplog
):
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    entries = [SlideEntry(tmp_path / "bad.svs", "bad")]
    entries += [SlideEntry(slides / f"{name}.svs", name) for name in "ab" * 3]
    full, low = Plain("fp32"), Plain("bf16", wrong)
    own = SlidePredictor(torch.nn.Identity(), SPEC, device="cpu", settings=PredictSettings())
    own.engine = Checked(low, lambda: full)
    with caplog.at_level(logging.WARNING):
        found = settle(own, entries, None, tmp_path)
    assert found.student == Computing("torch", precision)
    assert own.engine is {"fp32": full, "bf16": low}[precision]
    assert (own.settings.engine, own.settings.precision) == ("torch", precision)
    assert wrong or full.seen >= check.CHECK_FIELDS
    before = full.seen, low.seen
    fields = own.predict_entry(entries[1]).valid_hw.sum()
    used = {"fp32": (fields, 0), "bf16": (0, fields)}[precision]
    assert (full.seen - before[0], low.seen - before[1]) == used


def test_too_few_fields_for_the_check_leave_it_at_fp32(slides, tmp_path):
    own = SlidePredictor(torch.nn.Identity(), SPEC, device="cpu", settings=PredictSettings())
    own.engine = Checked(Plain("bf16"), lambda: Plain("fp32"))
    entry = SlideEntry(slides / "a.svs", "a")
    assert settle(own, [entry], None, tmp_path).student == Computing("torch", "fp32")
    assert own.engine.precision == "fp32"
