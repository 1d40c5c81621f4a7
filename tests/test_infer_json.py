"""wsikd infer --json: one object a slide on standard output, nothing else there."""

import json

import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import copy_slide
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader


@pytest.fixture
def line(slide_file, tmp_path):
    torch.manual_seed(1)
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    student = save_bundle(
        tmp_path / "student", network, spec, arch="vgg_small", width=0.25, temperature=1.0
    )
    slides = tmp_path / "slides"
    slides.mkdir()
    copy_slide(slide_file, slides / "good.svs")
    (slides / "bad.svs").write_bytes(slide_file.read_bytes()[:5000])
    out = tmp_path / "out"
    more = ("--format", "csv", "--jobs", "0", "--json")
    return ["infer", "-i", str(slides), "-m", str(student), "-o", str(out), *more], out


def test_slides_are_objects_and_all_else_is_on_standard_error(line):
    arguments, out = line
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 3
    found = {one["slide"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert {name: one["status"] for name, one in found.items()} == {
        "good": "graded", "bad": "failed",
    }  # fmt: skip
    assert found["good"]["folder"] == str(out / "good")
    summary = json.loads((out / "good" / "result.json").read_text(encoding="utf-8"))["summary"]
    assert found["good"]["summary"] == summary
    assert found["bad"]["error"] == "SlideError"
    assert found["bad"]["fault"]
    assert "1 graded, 0 already there, 1 failed" in done.stderr
    again = CliRunner().invoke(main, arguments)
    assert '"status": "already there"' in again.stdout
