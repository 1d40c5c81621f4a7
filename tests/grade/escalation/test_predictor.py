"""A student with its teacher standing by: who says what, and where it is written."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr

from tests.grade.graded import infer_slide
from tests.grade.maps import FakeSlide, map_of, white_slide
from wsikd.core.errors import ConfigError, StoreMismatchError
from wsikd.grade.escalation.predictor import EscalatingPredictor, check_comparable, teacher_settings
from wsikd.grade.escalation.rule import Rule
from wsikd.grade.exports import write_all
from wsikd.grade.exports.ome_zarr import read
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.runs.summary_file import Summary
from wsikd.models.files.bundle import InputSpec
from wsikd.slides.listing.manifest import SlideEntry

CLASSES = ("NC", "G3", "G4")


class Means(torch.nn.Module):
    """Logits are a patch's mean colours, in an order of its own; keeps what it was shown."""

    def __init__(self, order=(0, 1, 2), scale=25):
        super().__init__()
        self.order, self.scale, self.seen = list(order), scale, []

    def forward(self, x):
        means = x.float().mean((2, 3))
        self.seen += means.tolist()
        return means[:, self.order] / self.scale


def picture(seed, width=1501, height=1203):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 50 + 1, width // 50 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 50, 0), 50, 1)[:height, :width]


def spec(mpp, patch_px, classes=CLASSES):
    return InputSpec(mpp, patch_px, (0.0,) * 3, (1.0,) * 3, classes)


STUDENT, TEACHER = spec(4.0, 16), spec(1.0, 64)


def one(own, network, settings):
    return SlidePredictor(network, own, device="cpu", settings=settings)


def pair(budget=0.2, threshold=None, temperature=None, stride=None, tissue="all", teacher=None):
    settings = PredictSettings(tissue=tissue, batch_size=7, stride_px=stride)
    student = one(STUDENT, Means(), settings)
    network = teacher or Means((1, 2, 0))
    teacher = one(TEACHER, network, teacher_settings(settings, STUDENT, TEACHER))
    rule = Rule(budget, threshold, temperature)
    return EscalatingPredictor(student, teacher, rule, teacher_sha256="f" * 64)


@pytest.mark.parametrize("stride", [None, 8])
def test_no_budget_is_the_student_and_all_of_it_the_teacher(stride):
    slide = FakeSlide(picture(0))
    both = pair(stride=stride)
    student, teacher = both.student.predict(slide), both.teacher.predict(slide)
    none = pair(0, stride=stride).predict(slide)
    every = pair(1, threshold=0.9, stride=stride).predict(slide)
    np.testing.assert_array_equal(none.probability_khw, student.probability_khw)
    np.testing.assert_array_equal(every.probability_khw, teacher.probability_khw)
    assert not none.escalated_hw.any()
    np.testing.assert_array_equal(every.escalated_hw, teacher.valid_hw)
    assert (student.grade_hw != teacher.grade_hw).any()


def test_each_cell_is_of_who_said_it_and_the_most_doubtful_were_asked_about():
    slide = FakeSlide(picture(1))
    both = pair(0.2)
    found = both.predict(slide)
    student, teacher = both.student.predict(slide), both.teacher.predict(slide)
    again = found.escalated_hw
    assert again.sum() == int(0.2 * found.valid_hw.sum())
    expected = np.where(again, teacher.probability_khw, student.probability_khw)
    np.testing.assert_allclose(found.probability_khw, expected, atol=1e-6)
    sure = student.probability_khw.max(0)
    assert sure[again].max() <= sure[~again].min()


def test_the_teacher_reads_what_is_asked_once_and_row_by_row():
    slide = FakeSlide(picture(2))
    some, every = Means((1, 2, 0)), Means((1, 2, 0))
    found = pair(0.3, teacher=some).predict(slide)
    pair(1, teacher=every).predict(slide)
    by_row = np.array(every.seen)[found.escalated_hw[found.valid_hw]]
    np.testing.assert_allclose(np.array(some.seen), by_row, atol=1e-4)


def test_a_threshold_asks_less_than_the_budget():
    slide = FakeSlide(picture(3))
    found = pair(0.9, threshold=0.5).predict(slide)
    student = pair().student.predict(slide)
    np.testing.assert_array_equal(found.escalated_hw, 1 - student.probability_khw.max(0) >= 0.5)
    assert 0 < found.escalated_hw.mean() < 0.9


def test_no_tissue_asks_nobody():
    found = pair(1, tissue="otsu").predict(FakeSlide(np.full((900, 900, 3), 245, np.uint8)))
    assert not found.escalated_hw.any()


def test_other_fields_and_classes_are_refused():
    with pytest.raises(ConfigError, match="--escalate: the student reads fields of 64 um, the te"):
        check_comparable(spec(1.0, 128), STUDENT, "--escalate")
    with pytest.raises(ConfigError, match="classes are NC, G3, G4, the teacher's NC, G3, G5"):
        check_comparable(spec(1.0, 64, ("NC", "G3", "G5")), STUDENT, "--escalate")
    with pytest.raises(ConfigError, match=r"--stride: 3 px are 4\.5 px of the teacher's"):
        teacher_settings(PredictSettings(stride_px=3), STUDENT, spec(8 / 3, 24))


def test_who_said_it_is_exported_and_read_back(tmp_path):
    info = white_slide().info
    plain = map_of([[0, 1, 2], [3, -1, 1]], info=info)
    again = np.array([[True, False, False], [False, False, True]])
    write_all(replace(plain, escalated_hw=again), tmp_path / "both", ("zarr", "csv"))
    write_all(plain, tmp_path / "alone", ("zarr", "csv"))
    labels = zarr.open_group(tmp_path / "both/grades.zarr", mode="r")["labels"]
    assert labels.attrs["ome"]["labels"] == ["grade", "said_by"]
    assert np.asarray(labels["said_by/0"]).tolist() == [[2, 1, 1], [1, 0, 2]]
    own, grade = (labels[k].attrs["ome"]["multiscales"] for k in ("said_by", "grade"))
    assert own[0]["datasets"] == grade[0]["datasets"]
    np.testing.assert_array_equal(read(tmp_path / "both/grades.zarr", info).escalated_hw, again)
    assert read(tmp_path / "alone/grades.zarr", info).escalated_hw is None
    with (tmp_path / "both/tiles.csv").open(newline="") as stream:
        said = [row["said_by"] for row in csv.DictReader(stream)]
    assert said == ["teacher", "student", "student", "student", "teacher"]
    assert "said_by" not in (tmp_path / "alone/tiles.csv").read_text()


def test_each_is_calibrated_by_its_own_temperature():
    slide = FakeSlide(picture(4))
    both = pair(0.4)
    found = both.predict(slide).calibrated(2.0, 0.5)
    student = both.student.predict(slide).calibrated(2.0).probability_khw
    teacher = both.teacher.predict(slide).calibrated(0.5).probability_khw
    expected = np.where(found.escalated_hw, teacher, student)
    np.testing.assert_allclose(found.probability_khw, expected, atol=1e-6)
    bare = both.predict(slide).calibrated(2.0)
    raw = both.teacher.predict(slide).probability_khw
    again = bare.escalated_hw
    np.testing.assert_allclose(bare.probability_khw[:, again], raw[:, again], atol=1e-6)


def run(predictor, entry, out, **more):
    return infer_slide(
        predictor, entry, out, ResultSettings(formats=("csv",)), student="abc", **more
    )


def test_results_tell_share_time_and_rule_and_are_not_mixed(slide_file, tmp_path):
    entry = SlideEntry(slide_file, "odd")
    both = pair(0.5, tissue="otsu")
    row, made = run(both, entry, tmp_path)
    assert made
    assert row["escalated_fields"] == row["fields"] // 2
    assert row["share_escalated"] == row["escalated_fields"] / row["fields"]
    assert 0 < row["escalation_seconds"] <= row["seconds"]
    assert (row["teacher"], row["budget"], row["threshold"]) == ("f" * 12, 0.5, None)
    record = json.loads((tmp_path / "odd/result.json").read_text())
    assert record["seconds"]["escalate"] > 0
    assert not run(both, entry, tmp_path)[1]
    with pytest.raises(StoreMismatchError, match=r"budget 0\.5 there, 0\.4 asked"):
        run(pair(0.4, tissue="otsu"), entry, tmp_path)
    with pytest.raises(StoreMismatchError, match="threshold None there"):
        run(pair(0.5, threshold=0.2, tissue="otsu"), entry, tmp_path)
    with pytest.raises(StoreMismatchError, match="teacher ffffffffffffffff there, None asked"):
        run(both.student, entry, tmp_path)
    run(both.student, replace(entry, name="also"), tmp_path)
    with pytest.raises(StoreMismatchError, match="teacher None there"):
        run(both, replace(entry, name="also"), tmp_path)
    with Summary(tmp_path).write().open(newline="") as stream:
        also, odd = csv.DictReader(stream)
    assert list(odd)[-4:] == ["teacher", "budget", "threshold", "note"]
    assert (odd["budget"], also["budget"], also["share_escalated"]) == ("0.5", "", "")
