"""Teacher and students judged by the grade groups of whole slides."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score
from wsikd.cli.main import main

from tests.grade.bench.test_run import contender, pair
from tests.grade.graded import infer_slide
from tests.grade.maps import map_of
from wsikd.core.errors import ConfigError
from wsikd.grade.bench.choice import choose, graded
from wsikd.grade.bench.choice_report import plot_trade, trade_lines
from wsikd.grade.bench.report import to_markdown
from wsikd.grade.bench.run import run_bench
from wsikd.grade.bench.slide_grades import check_labels, gather_slides, grade_group
from wsikd.grade.bench.types import Benched, Gradings, Question
from wsikd.grade.runs.compare_labels import SlideLabel
from wsikd.grade.runs.results import ResultSettings
from wsikd.models.files.bundle import save_bundle
from wsikd.models.files.card import GraderCard
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.listing.manifest import SlideEntry, open_entry

# by hand: the greatest pattern, then the highest other one
FIELDS = {
    0: [[0, 0, 0]],
    1: [[0, 1, 1]],
    2: [[1, 1, 2]],
    3: [[2, 2, 1]],
    4: [[2, 2, 0]],
    5: [[3, 3, 2]],
}


def labelled(*groups, patients=None):
    return {
        f"s{n}": SlideLabel(f"s{n}", group, patients and patients[n])
        for n, group in enumerate(groups)
    }


def slides(count):
    return [Benched(SlideEntry("x", f"s{n}"), (), None) for n in range(count)]


def test_kappa_of_slides_equals_sklearn_and_patients_are_groups():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 6, 14)
    said = {name: rng.integers(0, 6, 16) for name in ("teacher", "student")}
    maps = {name: [map_of(FIELDS[g]) for g in groups] for name, groups in said.items()}
    everyone = [contender(name, 1.0, 64) for name in said]
    question = Question(labels=labelled(*truth, 3, patients=[f"p{n // 2}" for n in range(15)]))
    done = [*slides(14), *(Benched(SlideEntry("x", f"more{n}"), (), None) for n in range(2))]
    found, told = gather_slides(everyone, question, done, maps)
    for name, groups in said.items():
        expected = cohen_kappa_score(truth, groups[:14], weights="quadratic", labels=range(6))
        assert graded(found, name)["kappa"] == pytest.approx(expected)
    assert (found.unit, found.slides, found.groups) == ("slide", 14, 7)
    assert told["missing"] == ["s14"]
    assert [row["label"] for row in told["grade_groups"][-2:]] == [None, None]
    assert told["grade_groups"][4] == {
        "slide": "s4", "label": truth[4], "found": {n: g[4] for n, g in said.items()},
    }  # fmt: skip


def card(least):
    return GraderCard.model_construct(min_area_mm2=least)


def test_a_grade_group_is_that_of_infer(slide_file, tmp_path):
    one = contender("student", 4.0, 16)
    entry = SlideEntry(slide_file, "odd")
    for least, specimen in ((0.0, "biopsy"), (0.05, "prostatectomy")):
        one = replace(one, card=card(least))
        settings = ResultSettings(formats=("csv",), specimen=specimen, min_area_mm2=least)
        row, _ = infer_slide(one.predictor, entry, tmp_path / specimen, settings, student="x")
        found = grade_group(one, one.predictor.predict(open_entry(entry)), specimen)
        assert found == (row["isup_grade_group"] or 0)
    assert grade_group(replace(one, card=card(9.0)), map_of(FIELDS[5]), "biopsy") == 0
    assert grade_group(replace(one, card=None), map_of(FIELDS[5]), "biopsy") == 5


def test_both_units_are_told_and_the_choice_is_by_slides(slide_file, tmp_path, caplog):
    entry = SlideEntry(slide_file, "odd", label="G4")
    question = Question((0.5,), 0.05, labels=labelled(2) | {"odd": SlideLabel("odd", 4)})
    record = run_bench([entry], *pair(), question=question, repeats=1)
    assert record["compared"]["unit"] == "field"
    told = record["compared_slides"]
    assert (told["unit"], told["slides"], told["missing"]) == ("slide", 1, ["s0"])
    assert {"kappa", "interval", "slide_kappa", "slide_interval"} <= set(record["points"][0])
    json.dumps(record, allow_nan=False)
    text = to_markdown(record)
    assert "| kappa of slides [95 %] | kappa of fields [95 %] |" in text
    assert "over 1 slide(s); no intervals: 1 slides or patients are not enough" in text
    why = "no conclusion: 1 slide(s) or patient(s) with a reference are too few for a bound"
    assert f"**A margin of 0.05: {why}" in text
    assert "Not inferior" not in text
    assert why in caplog.text
    assert (record["choice"]["chosen"], record["choice"]["unit"]) == (None, "slide")
    assert [t["not_inferior"] for t in record["choice"]["tests"]] == [None]
    plot_trade(record, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def tables(said, truth):
    made = {name: np.zeros((len(truth), 6, 6), np.int64) for name in said}
    for name, groups in said.items():
        made[name][np.arange(len(truth)), truth, groups] = 1
    return Gradings(made, "labels", len(truth), len(truth), quadratic=True)


def test_slides_too_much_alike_conclude_nothing():
    alike = np.zeros(12, np.int64)
    found = choose(tables({"teacher": alike, "s": alike}, alike), "teacher", ["s"], 0.1)
    assert found["chosen"] is None
    assert "undefined without one of 12 slides" in found["refused"]


def test_a_student_without_a_bound_ends_the_testing_but_not_the_answer():
    truth = np.arange(24) % 6
    found = choose(tables({"teacher": truth, "a": truth}, truth), "teacher", ["a"], 0.5)
    assert (found["chosen"], found["refused"], found["unit"]) == ("a", None, "slide")
    low, high = found["tests"][0]["interval"]
    assert low == -high < 0
    wrong = np.where(np.arange(24) < 8, 5 - truth, truth)
    found = choose(tables({"teacher": truth, "a": wrong}, truth), "teacher", ["a"], 0.1)
    (test,) = found["tests"]
    assert test["interval"][0] < test["difference"] < test["interval"][1]
    assert -2 <= test["lower"] < test["difference"]
    assert (found["chosen"], test["not_inferior"]) == (None, False)


def test_labels_that_cannot_be_used_are_refused_before_anything_runs(slide_file):
    entries = [SlideEntry(slide_file, "odd")]
    with pytest.raises(ConfigError, match=r"none of its 1 slides was compared .such as 's0'; "):
        run_bench(entries, *pair(), question=Question(labels=labelled(1)), repeats=1)
    with pytest.raises(ConfigError, match=r"classes \(a, b\) are not Gleason patterns"):
        check_labels(Question(labels=labelled(1)), ("a", "b"), entries)
    check_labels(Question(), ("a", "b"), entries)


def test_the_command_reads_labels(slide_file, tmp_path):
    (tmp_path / "labels.csv").write_text("slide,gleason\nodd.svs,4+4\nother,benign\n")
    bundles = []
    for name, mpp, px in (("t", 1.0, 64), ("s", 4.0, 16)):
        grader = build_grader("vgg_small", 4, width=0.25)
        spec = contender("x", mpp, px).predictor.spec
        path = save_bundle(tmp_path / name, grader, spec, arch="vgg_small", width=0.25)
        bundles.append(str(path))
    common = ["bench", "--teacher", bundles[0], "--student", bundles[1], "--repeats", "1",
              "--threads", "1", "--budget", "0.1", "--min-tissue", "0.9",
              "-i", str(slide_file)]  # fmt: skip
    labels = ["--labels", str(tmp_path / "labels.csv")]
    out = ["-o", str(tmp_path / "out")]
    told = CliRunner().invoke(main, [*common, *labels, *out, "--specimen", "prostatectomy"])
    assert told.exit_code == 0, told.output
    assert "with the labels (prostatectomy rule), over 1 slide(s)" in told.output
    record = json.loads((tmp_path / "out/bench.json").read_text())
    assert [r["label"] for r in record["compared_slides"]["grade_groups"]] == [4]
    assert trade_lines(record)
    for wrong, fault in (
        ([*labels, "--max-fields", "3"], "omit --max-fields"),
        (["--specimen", "biopsy"], "--specimen needs --labels"),
    ):
        refused = CliRunner().invoke(main, [*common, *wrong, "-o", str(tmp_path / "x")])
        assert refused.exit_code == 2
        assert fault in refused.output
    assert not (tmp_path / "x").exists()
