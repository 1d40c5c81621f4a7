"""The page on runs: figures of validation alone, the patches that it names, no test part read."""

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.grade.reports.test_folder_report import Page
from tests.learn.grading import grading
from wsikd.learn.patch.train import distill
from wsikd.learn.score.predict_patches import evaluate_bundle
from wsikd.learn.score.run_report import HARD_PATCHES, write_run_report
from wsikd.learn.score.test_record import load_for, open_subject

TINY = {"epochs": 1, "epoch_patches": 9, "batch_size": 9, "warmup_epochs": 0}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs(patches_on_disk, tmp_path_factory):
    """A teacher and its student; slides with hostile names in training, validation and test."""
    root = tmp_path_factory.mktemp("runs")
    parts = ("train", "train", "train", "train", "val", "val", "test", "test")
    csv = patches_on_disk.write(root / "set", split=lambda s: parts[s])
    rows = patches_on_disk.rows(csv)
    for row in rows:
        row["slide"] = f"<b>{row['slide']}</b>"
    patches_on_disk.write_rows(csv, rows)
    told = {"method": "supervised", "network": {"width": 0.25}, "optim": TINY}
    told["data"] = {"paths": [str(csv)]}
    distill(grading(told), root / "teacher", device="cpu")
    told |= {"method": "at_plus", "teacher": str(root / "teacher")}
    told["data"] |= {"student_mpp": 2.0}
    distill(grading(told), root / "student", device="cpu")
    return root


def test_the_page_shows_both_runs_and_what_differs(runs, tmp_path):
    path = write_run_report([runs / "student", runs / "teacher"], tmp_path / "page")
    text = path.read_text()
    page = Page(text)
    assert len(page.all("section")) == 2
    titles = [a["alt"] for a in page.all("img", **{"class": "plot"})]
    assert titles == [
        "Curves of student", "Confusion, number of validation patches of student",
        "Where teacher and student look of student", "Curves of teacher",
        "Confusion, number of validation patches of teacher",
    ]  # fmt: skip
    assert "method" in page.text
    assert '"at_plus"' in page.text
    assert "optim.epochs" not in page.text  # the same in both
    assert str(runs) not in text
    assert not re.search(r"https?:|url\(", re.sub(r"base64,[^\"]+", "", text))
    assert not page.all("b")
    assert "<b>s4</b>" in page.text or "<b>s5</b>" in page.text


def test_the_patches_are_those_of_validation_that_the_network_gets_wrong(runs, tmp_path):
    subject = open_subject(runs / "student")
    patches = load_for(subject)
    val = patches.indices("val")
    found = evaluate_bundle(subject.bundle, patches, split="val")
    page = Page(write_run_report([runs / "student"], tmp_path).read_text())
    text = " ".join(page.text.split())
    told = re.findall(r"true (\w+), graded (\w+) \((\d\.\d\d)\)\s*<b>(s\d)</b>", text)
    wrong = [one for one in told if one[0] != one[1]]
    matrix = np.array(found["confusion"])
    misses = int(matrix.sum() - np.trace(matrix))
    assert misses > 0
    assert len(wrong) >= min(misses, HARD_PATCHES)
    assert {slide for *_, slide in told} <= {f"s{n}" for n in (4, 5)}
    assert len(val) == 18
    assert f"{found['kappa']:.3f}" in text


def test_the_test_part_is_not_looked_at(runs, tmp_path):
    before = {p: p.read_bytes() for p in runs.rglob("*.json")}
    write_run_report([runs / "student"], tmp_path)
    assert {p: p.read_bytes() for p in runs.rglob("*.json")} == before
    page = Page((tmp_path / "report.html").read_text())
    assert not {"<b>s6</b>", "<b>s7</b>"} & set(re.findall(r"<b>s\d</b>", page.text))


def test_a_run_whose_data_are_gone_keeps_its_curves(runs, tmp_path):
    moved = shutil.copytree(runs, tmp_path / "moved")
    config = moved / "student" / "config.yaml"
    config.write_text(config.read_text().replace("labels.csv", "gone.csv"))
    page = Page(write_run_report([moved / "student"], tmp_path / "page").read_text())
    assert [a["alt"] for a in page.all("img")] == ["Curves of student"]
    assert "No figures and patches" in page.text
    assert "gone.csv" in page.text


def test_the_command_takes_runs_and_refuses_mixtures(runs, tmp_path):
    def report(*given):
        return CliRunner().invoke(main, ["report", *map(str, given), "--device", "cpu"])

    done = report(runs / "student")
    assert done.exit_code == 0, done.output
    assert (runs / "student" / "report" / "report.html").is_file()
    shutil.rmtree(runs / "student" / "report")
    several = report(runs / "student", runs / "teacher")
    assert (several.exit_code, "-o DIR" in several.output) == (2, True)
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    row = {"format": 1, "summary": {"slide": "a"}, "made_with": {}, "seconds": {}}
    (folder / "result.json").write_text(json.dumps(row))
    mixed = report(runs / "student", tmp_path / "out")
    assert mixed.exit_code == 2
    assert "results of wsikd infer" in mixed.output
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "report.html").write_text("mine")
    taken = report(runs / "student", "-o", tmp_path / "page")
    assert (taken.exit_code, "Traceback" in taken.output) == (2, False)
    assert (tmp_path / "page" / "report.html").read_text() == "mine"
