"""TS2G-KD's study: all stages on a tiny cohort, and what its parts are made of."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score, recall_score, roc_auc_score

from benchmarks.studies.ts2g.cells import SHAPES, write_cells
from benchmarks.studies.ts2g.data import cut_boxes, holds, write_teacher_patches
from benchmarks.studies.ts2g.figures import agreement, areas, difference, figures
from benchmarks.studies.ts2g.run import main
from benchmarks.studies.ts2g.settings import read_study
from wsikd.core.errors import ConfigError
from wsikd.learn.ts2g.detect_data import load_boxes

pytestmark = pytest.mark.studies

TINY = (
    "slides=8", "size_px=320", "teacher_slides=4", "teacher_epochs=1", "detector_epochs=1",
    "image_px=64", "adapter_epochs=1", "mil_epochs=2", "count=6", "heads=[gated]", "repeats=2",
    "adapter_patches=40", "students={small: {mpp: 2.0}, lost: {mpp: 2.0, trunk: random}}",
)  # fmt: skip


def reproduce(out, *more, settings=TINY):
    changes = [a for s in settings for a in ("--set", s)]
    given = ["-o", str(out), "--device", "cpu", *changes, *more]
    return CliRunner().invoke(main, given)


@pytest.mark.slow
def test_all_stages_end_to_end(tmp_path):
    first = reproduce(tmp_path / "study")
    assert first.exit_code == 0, first.output
    table = json.loads((tmp_path / "study" / "table.json").read_text())
    assert (tmp_path / "study" / "table.md").read_text() in first.output
    assert [(h["encoder"], h["head"]) for h in table["heads"]] == [
        ("teacher", "gated"), ("small", "gated"), ("lost", "gated"),
    ]  # fmt: skip
    assert all(h["slides"] == 2 and len(h["auc"]["trainings"]) == 2 for h in table["heads"])
    assert [d["encoder"] for d in table["drop_in"]] == ["small", "lost"]
    assert all(0 <= d["agreement"]["share"] <= 1 for d in table["drop_in"])
    assert table["drop_in"][0]["to_first"]["trainings"] == [0, 0]
    assert table["selection"]["taken"] == 2 * 6
    assert table["encoders"]["small"]["speed_ratio"] > 1, "a quarter of the pixels, cut"
    assert len(table["encoders"]["lost"]["test"]["r2"]) == 2
    assert table["detector"]["test"]["boxes"] > 0
    files = sorted((tmp_path / "study").rglob("*"))
    before = {f: f.stat().st_mtime_ns for f in files if f.name in ("card.json", "scores.json")}
    again = reproduce(tmp_path / "study")
    assert again.exit_code == 0, again.output
    assert {f: f.stat().st_mtime_ns for f in before} == before, "what is finished stays"
    other = reproduce(tmp_path / "study", "--set", "count=7")
    assert other.exit_code == 2
    assert "holds a study with another 'count'" in other.output


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    found = reproduce(tmp_path)
    assert found.exit_code == 2
    assert "is not empty and holds no study" in found.output
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("change", "told"),
    [("heads=[gatd]", "did you mean 'gated'"), ("students={teacher: {}}", "the same name"),
     ("students={a b: {}, a-b: {}}", "the same name"), ("patch_px=63", "do not divide"),
     ("count=0", "greater than 0"), ("slide=3", "did you mean 'slides'")],
)  # fmt: skip
def test_settings_that_will_not_do(change, told):
    with pytest.raises(ConfigError, match=told):
        read_study([change])


def test_images_hold_the_cells_that_their_boxes_say(tmp_path):
    """The annotation files are read back, and each box's pixels are those of its slide."""
    made = write_cells(tmp_path / "slides", seed=1, slides=8, size_px=320)
    for split in ("train", "val"):
        content = cut_boxes([s for s in made if s.split == split], tmp_path, 128)
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    images = load_boxes(tmp_path / "train.json", tmp_path / "val.json")
    slides = {s.path.stem: s for s in made}
    whole = 0
    for n, file in enumerate(images.files):
        name, x, y = file.stem.split("_")
        boxes = slides[name].boxes - np.tile([int(x), int(y)], 2)
        inside = boxes[((boxes >= 0) & (boxes <= 128)).all(1)]
        assert {tuple(b) for b in images.boxes[n].astype(int)} == {tuple(b) for b in inside}
        assert slides[name].split == images.split[n]
        pixels = images.read(n).min(2)
        for left, top, right, bottom in images.boxes[n].astype(int):
            assert pixels[top:bottom, left:right].min() < 60 < pixels[top, (left + right) // 2]
        whole += len(inside)
    used = [s for s in made if s.split != "test"]
    assert whole >= sum(len(s.boxes) for s in used)
    assert sum(len(b) == 0 for b in images.boxes) >= 2


def test_which_patches_hold_a_cell():
    boxes = np.array([[60, 10, 70, 20], [0, 0, 4, 4]])
    xy = np.array([[0.0, 0.0], [64.0, 0.0], [0.0, 64.0]])
    assert holds(xy, 64, boxes).tolist() == [True, True, False]
    assert not holds(xy, 64, boxes[:0]).any()


def test_the_teacher_learns_from_other_slides(tmp_path):
    file = write_teacher_patches(tmp_path, seed=0, slides=4, size_px=320, patch_px=64)
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    named = {name.replace(",", "") for name in SHAPES}
    assert "plain" in {r[2] for r in rows} <= {"plain", *named}
    assert len({r[2] for r in rows}) > 5
    assert {r[3] for r in rows if r[4] == "val"} == {"t03"}
    before = file.stat().st_mtime_ns
    write_teacher_patches(tmp_path, seed=0, slides=4, size_px=320, patch_px=64)
    assert file.stat().st_mtime_ns == before


def said(rng, n=40):
    label = np.arange(n) % 2
    score = np.round(rng.random(n) * 0.6 + label * 0.3, 1)
    return {"label": label.tolist(), "probability": score.tolist(),
            "decided": (score >= 0.5).astype(int).tolist()}  # fmt: skip


def test_figures_over_trainings_against_scikit_learn():
    rng = np.random.default_rng(0)
    few = [said(rng, 24)]
    assert figures(few)["auc"]["interval"] is not None
    assert difference(few, few)["interval"] is None
    some, other = [said(rng) for _ in range(3)], [said(rng) for _ in range(3)]
    areas = [[roc_auc_score(s["label"], s["probability"]) for s in part] for part in (some, other)]
    found = figures(some)
    assert found["auc"]["trainings"] == pytest.approx(areas[0])
    assert found["auc"]["value"] == pytest.approx(np.mean(areas[0]))
    assert found["auc"]["interval"][0] < found["auc"]["value"] < found["auc"]["interval"][1]
    for name, truth in (("sensitivity", 1), ("specificity", 0)):
        each = [recall_score(s["label"], s["decided"], pos_label=truth) for s in some]
        assert found[name]["trainings"] == pytest.approx(each)
    apart = difference(some, other)
    assert apart["value"] == pytest.approx(np.mean(areas[0]) - np.mean(areas[1]))
    low, high = difference(some, some)["interval"]
    assert low == -high < 0
    told = agreement(some, other)
    kappas = [cohen_kappa_score(a["decided"], b["decided"])
              for a, b in zip(some, other, strict=True)]  # fmt: skip
    assert told["kappa"] == pytest.approx(np.mean(kappas))
    assert told["share"] == pytest.approx(np.mean(
        [np.equal(a["decided"], b["decided"]).mean() for a, b in zip(some, other, strict=True)]
    ))  # fmt: skip


def test_a_slide_that_is_not_drawn_does_not_count():
    rng = np.random.default_rng(1)
    some = [said(rng, 8)]
    some[0]["decided"][1] = 0
    times = np.array([[1, 4, 1, 1, 2, 0, 1, 3]])
    picked = np.repeat(np.arange(8), times[0])
    label, score = (np.asarray(some[0][k])[picked] for k in ("label", "probability"))
    assert areas(some, times)[0, 0] == pytest.approx(roc_auc_score(label, score))
