"""The comparison of two networks over the same tissue."""

import json

import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from tests.grade.maps import map_of
from wsikd.core.errors import ConfigError, SlideError
from wsikd.grade.bench import STAGES, Contender, agreement, run_bench
from wsikd.grade.bench_report import plot, to_markdown
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.bundle import InputSpec
from wsikd.slides.manifest import SlideEntry

CLASSES = ("NC", "G3", "G4", "G5")


class Tiny(torch.nn.Module):
    """One convolution."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.float() / 255).mean((2, 3))


def contender(name, mpp, patch_px, classes=CLASSES, trained=True, max_fields=None):
    torch.manual_seed(0)
    spec = InputSpec(mpp, patch_px, (0.0,) * 3, (1.0,) * 3, classes)
    settings = PredictSettings(workers=1, max_fields=max_fields)
    predictor = SlidePredictor(Tiny(), spec, device="cpu", settings=settings)
    return Contender(name, predictor, 1000 * patch_px**2, trained=trained)


def pair(**more):
    return contender("teacher", 1.0, 64, **more), contender("student", 4.0, 16, **more)


def test_times_of_both_over_the_same_fields(slide_file, tmp_path):
    told = []
    record = run_bench(
        [SlideEntry(slide_file, "odd")],
        *pair(),
        repeats=2,
        on_progress=lambda done, total: told.append((done, total)),
    )
    teacher, student = record["totals"]["teacher"], record["totals"]["student"]
    assert teacher["fields"] == student["fields"] > 0
    assert teacher["tissue_mm2"] == pytest.approx(student["tissue_mm2"])
    for total in (teacher, student):
        assert set(total["stages_s"]) == set(STAGES)
        assert all(v["median"] > 0 for v in total["stages_s"].values())
        wall = total["wall_s"]
        assert wall["min"] <= wall["median"] <= wall["max"]
        rate = total["fields_per_s"]["max"]
        assert rate == pytest.approx(total["fields"] / wall["min"])
    up = record["speed_up"]["forward"]
    assert up["min"] <= up["median"] <= up["max"]
    assert told[-1] == (1, 1)
    json.dumps(record, allow_nan=False)
    text = to_markdown(record)
    assert "not for diagnosis" in text
    assert "slides/h" in text
    plot(record, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_untrained_networks_are_told_and_not_compared(slide_file):
    record = run_bench(
        [SlideEntry(slide_file, "odd")], *pair(trained=False, max_fields=3), repeats=1
    )
    assert "agreement" not in record
    text = to_markdown(record)
    assert "grades mean nothing" in text
    assert "a sample of at most 3 fields" in text
    assert "slides/h" not in text


def test_a_broken_slide_does_not_stop_the_others(slide_file, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    entries = [SlideEntry(broken, "broken"), SlideEntry(slide_file, "odd")]
    failed = []
    record = run_bench(
        entries, *pair(), repeats=1, on_failure=lambda entry, error: failed.append(entry.name)
    )
    assert failed == ["broken"]
    assert [s["name"] for s in record["slides"]] == ["odd"]
    with pytest.raises(SlideError):
        run_bench(entries, *pair(), repeats=1)


def test_networks_of_other_fields_or_classes_are_refused(slide_file):
    entries = [SlideEntry(slide_file, "odd")]
    with pytest.raises(ConfigError, match="fields of 128 um, the teacher of 64 um"):
        run_bench(entries, contender("teacher", 1.0, 64), contender("student", 4.0, 32))
    other = contender("student", 4.0, 16, classes=("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="same classes"):
        run_bench(entries, contender("teacher", 1.0, 64), other)


def test_agreement_equals_sklearn():
    a = map_of([[0, 1, 2, 3], [3, 2, 1, -1]])
    b = map_of([[0, 2, 2, 3], [1, 2, 1, 0]])
    found = agreement([a], [b])
    first, second = [0, 1, 2, 3, 3, 2, 1], [0, 2, 2, 3, 1, 2, 1]
    assert found["fields"] == 7
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second))
    quadratic = cohen_kappa_score(first, second, weights="quadratic")
    assert found["kappa_quadratic"] == pytest.approx(quadratic)
    assert found["by_class"] == {"NC": 1.0, "G3": 0.5, "G4": 1.0, "G5": 0.5}


def test_one_class_alone_has_no_kappa():
    found = agreement([map_of([[1, 1]])], [map_of([[1, 1]])])
    assert found["kappa"] is None
    assert found["same"] == 1.0
