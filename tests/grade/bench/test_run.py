"""The comparison of two networks over the same tissue."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from tests.grade.maps import map_of
from wsikd.core.errors import ConfigError, SlideError, UnforeseenError
from wsikd.grade.bench import run as bench
from wsikd.grade.bench.report import agreement_text, plot, stage_rows, to_markdown
from wsikd.grade.bench.run import STAGES, agreement, run_bench
from wsikd.grade.bench.types import Contender, Run
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid

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
    assert "accept_grey" not in record["slides"][0]
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
    assert "These slides are small" in text
    assert "not for diagnosis" in text
    assert "slides/h" in text
    plot(record, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_untrained_networks_are_told_and_not_compared(slide_file):
    record = run_bench(
        [SlideEntry(slide_file, "odd", accept_grey=True)], *pair(trained=False, max_fields=3),
        repeats=1,
    )  # fmt: skip
    assert record["slides"][0]["accept_grey"] is True
    assert "agreement" not in record
    text = to_markdown(record)
    assert "grades are meaningless" in text
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


def test_an_unforeseen_fault_does_not_stop_the_others(slide_file, monkeypatch):
    opened = bench.open_entry

    def failing(entry):
        if entry.name == "odd":
            raise RuntimeError("out of\nmemory")
        return opened(entry)

    monkeypatch.setattr(bench, "open_entry", failing)
    entries = [SlideEntry(slide_file, "odd"), SlideEntry(slide_file, "even")]
    failed = []
    record = run_bench(
        entries, *pair(), repeats=1, on_failure=lambda entry, error: failed.append(error)
    )
    assert [s["name"] for s in record["slides"]] == ["even"]
    assert isinstance(failed[0], UnforeseenError)
    assert "unforeseen RuntimeError: out of memory" in str(failed[0])
    with pytest.raises(RuntimeError):
        run_bench(entries, *pair(), repeats=1)


def test_a_slide_without_tissue_ends_normally(tmp_path):
    blank = tmp_path / "blank.svs"
    write_pyramid(blank, np.full((400, 500, 3), 255, np.uint8), mpp=0.5, power=20)
    record = run_bench([SlideEntry(blank, "blank")], *pair(), repeats=1)
    assert record["totals"]["student"]["fields"] == 0
    assert record["speed_up"]["forward"] is None
    found = record["agreement"]
    assert (found["fields"], found["kappa"], found["kappa_quadratic"]) == (0, None, None)
    json.dumps(record, allow_nan=False)
    assert "No field has tissue in both maps" in to_markdown(record)
    plot(record, tmp_path / "p.png")


def test_memory_tells_the_rise_from_the_baseline(slide_file, monkeypatch):
    resident = iter([500.0, 500.0, 620.0])
    monkeypatch.setattr(bench, "_resident_mb", lambda: next(resident, 510.0))
    with bench._PeakMemory(torch.device("cpu")) as memory:
        while memory.peak_mb < 620:
            pass
    assert (memory.start_mb, memory.peak_mb, memory.cuda_mb) == (500.0, 620.0, None)
    monkeypatch.undo()
    record = run_bench([SlideEntry(slide_file, "odd")], *pair(max_fields=2), repeats=1)
    total = record["totals"]["teacher"]
    assert 0 <= total["rise_mb"] < total["peak_rss_mb"]
    assert total["cuda_mb"] is None
    labels = [row[0] for row in stage_rows(record)]
    assert "memory: rise during a pass, MB" in labels
    assert "memory: peak of the whole process with both networks, MB" in labels
    assert not any(label.startswith("GPU") for label in labels)


def test_memory_of_a_gpu_is_asked_of_torch(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    device = torch.device("cuda:0")
    with bench._PeakMemory(device) as memory:
        assert asked == [device]
    assert memory.cuda_mb == 3.0
    run = Run(dict.fromkeys(STAGES, 1.0), 1.0, 1.0, 9.0, 2.0, 3.0, 1, 1.0)
    found = bench._totals([[run, run]])
    assert (found["peak_rss_mb"], found["rise_mb"], found["cuda_mb"]) == (9.0, 2.0, 3.0)


def test_rises_are_compared_by_their_median():
    runs = [
        Run(dict.fromkeys(STAGES, 1.0), 1.0, 1.0, peak, rise, None, 1, 1.0)
        for peak, rise in ((900.0, 1.0), (950.0, 40.0), (910.0, 2.0))
    ]
    found = bench._totals([runs])
    assert (found["peak_rss_mb"], found["rise_mb"], found["cuda_mb"]) == (950.0, 2.0, None)


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


def test_agreement_keeps_the_distance_of_absent_classes():
    first, second = [0, 0, 3, 3, 1], [0, 3, 3, 1, 1]  # no G4
    found = agreement([map_of([first])], [map_of([second])])
    quadratic = cohen_kappa_score(first, second, weights="quadratic", labels=range(4))
    assert found["kappa_quadratic"] == pytest.approx(quadratic)


def test_no_common_field_has_no_kappa():
    found = agreement([map_of([[1, -1]])], [map_of([[-1, 1]])])
    assert (found["fields"], found["kappa"], found["kappa_quadratic"]) == (0, None, None)
    assert found["same"] is None
    assert "No field" in agreement_text({"agreement": found})


def test_one_class_alone_has_no_kappa():
    found = agreement([map_of([[1, 1]])], [map_of([[1, 1]])])
    assert found["kappa"] is None
    assert found["same"] == 1.0
