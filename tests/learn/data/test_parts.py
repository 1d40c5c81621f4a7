import logging

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.conftest import read_rows, write_rows, write_set
from wsikd.core.errors import DataError
from wsikd.learn.data.parts import check_parts, missing_text, never_predicted

CLASSES = ("NC", "G3", "G4")


def parts(train, val, test=()):
    """Parts of one patch a slide, of these classes."""
    label = np.array([*train, *val, *test], np.int64)
    split = np.repeat(["train", "val", "test"], [len(train), len(val), len(test)])
    return split, [f"s{i}" for i in range(len(label))], label, CLASSES


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (parts([], [0, 1]), "split: leaves no patches for train"),
        (parts([0, 1], []), "split: leaves no patches for val"),
        (parts([1, 1], [1], [0, 2]), "data: all labels are of class G3"),
        (parts([2, 2], [0, 1]), "split: leaves class G4 alone for train"),
    ],
)
def test_parts_that_nothing_is_learnt_from(found, told):
    with pytest.raises(DataError) as caught:
        check_parts(*found)
    assert str(caught.value).startswith(told)


def test_small_parts_are_warned_of(caplog):
    check_parts(*parts([0, 1] * 5, [0, 1, 0, 1, 2]))
    assert caplog.text == ""
    check_parts(*parts([0, 1] * 4, [1] * 4))
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "the val part has only class G3: kappa and AUC are undefined on it",
        "only 8 slide(s) in the train part, fewer than 10: the network may learn their stain",
        "only 4 slide(s) in the val part, fewer than 5: scores on so few vary by chance",
    ]


def test_without_classes_only_the_parts_count(caplog):
    split, slides, *_ = parts([0] * 10, [0] * 5)
    check_parts(split, slides)
    assert caplog.text == ""
    with pytest.raises(DataError, match="leaves no patches for val"):
        check_parts(split[:10], slides[:10])


def test_classes_that_are_never_predicted():
    assert never_predicted(np.array([0, 0, 2]), CLASSES) == ("G3",)
    assert missing_text(("G3", "G4")) == "; never predicted there: G3, G4"
    assert never_predicted(np.array([0, 1, 2]), CLASSES) == ()
    assert missing_text(()) == ""


@pytest.fixture
def distil(tmp_path):
    """Run ``wsikd distill`` for an epoch on a labels CSV of stripes."""
    file = tmp_path / "c.yaml"
    settings = {"method": "supervised", "network": {"width": 0.25},
                "optim": {"epochs": 1, "batch_size": 16}}  # fmt: skip
    file.write_text(yaml.safe_dump(settings))

    def run(data):
        options = ["-c", file, "--data", data, "-o", tmp_path / "run", "--device", "cpu"]
        result = CliRunner().invoke(main, ["distill", *map(str, options)])
        assert "Traceback" not in result.output
        return result

    return run


def test_the_last_line_has_slides_and_missing_classes(distil, tmp_path, monkeypatch, caplog):
    from wsikd.learn.engine.trainer import Trainer

    path = write_set(tmp_path / "set", slides=8)
    plain = Trainer.predict

    def dull(self, indices):
        logits = plain(self, indices)
        logits[:, 0] += 1e6
        return logits

    monkeypatch.setattr(Trainer, "predict", dull)
    caplog.set_level(logging.WARNING)
    result = distil(path)
    assert result.exit_code == 0, result.output
    classes = sorted({row["class"] for row in read_rows(path)})
    slides = 2
    assert f"patches of {slides} slides; selected on" in result.output
    assert "never predicted there: " in result.output
    last = result.output.splitlines()[-1]
    missing = last.partition("never predicted there: ")[2].partition(";")[0]
    assert len(missing.split(", ")) == len(classes) - 1
    assert caplog.text.count(f"only {slides} slide(s) in the val part") == 1


def test_a_cohort_of_one_class_is_refused_before_training(distil, tmp_path):
    def part(slide):
        return "test" if slide == 0 else "val" if slide < 3 else "train"

    path = write_set(tmp_path / "set", slides=8, split=part)
    kept = "G3"
    write_rows(path, [r for r in read_rows(path) if r["split"] == "test" or r["class"] == kept])
    result = distil(path)
    assert result.exit_code == 2
    assert f"DataError: data: all labels are of class {kept}; add slides of" in result.output
    assert not (tmp_path / "run" / "student").exists()
