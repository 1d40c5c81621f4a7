"""Invented training patches."""

import json

import numpy as np
import pytest

from tests.learn.grading import grading
from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.data.smote import oversample, read_targets
from wsikd.learn.patch.train import distill

pytest.importorskip("imblearn")


@pytest.fixture
def patches(stripes):
    return load_patches(Data(paths=[str(stripes)]), Split())


def counts(patches, split):
    label = patches.label[patches.indices(split)]
    return {c: int((label == i).sum()) for i, c in enumerate(patches.classes)}


def test_only_the_training_part_grows_to_its_targets(patches):
    assert counts(patches, "train") == {"NC": 18, "G3": 18, "G4": 18}
    grown = oversample(patches, {"G3": 25, "G4": 18}, "counts.json", seed=1, limit_gb=1)
    assert counts(grown, "train") == {"NC": 18, "G3": 25, "G4": 18}
    assert counts(grown, "val") == counts(patches, "val")
    assert len(patches) + 7 == len(grown) == len(grown.group) == len(grown.content)
    old = np.arange(len(patches))
    assert (grown.images(old) == patches.images(old)).all()


def test_an_invented_patch_lies_between_two_of_its_class(patches):
    grown = oversample(patches, {"G4": 22}, "counts.json", seed=1, limit_gb=1)
    own = patches.images(patches.indices("train")[patches.label[patches.indices("train")] == 2])
    own = own.numpy().reshape(len(own), -1).astype(float)
    for index in range(len(patches), len(grown)):
        x = grown.read(index).numpy().ravel().astype(float)
        errors = []
        for i, a in enumerate(own):
            for b in own[i + 1 :]:
                along = b - a
                t = np.clip(((x - a) @ along) / (along @ along), 0, 1)
                errors.append(np.abs(a + t * along - x).max())
        assert min(errors) <= 0.75  # rounding to whole grey values


def test_the_same_seed_invents_the_same(patches):
    made = [oversample(patches, {"G4": 22}, "c.json", seed=s, limit_gb=1) for s in (1, 1, 2)]
    new = range(len(patches), len(made[0]))
    first, again, other = (m.images(list(new)) for m in made)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("targets", "limit", "message"),
    [
        ({"G4": 3}, 1, r"3 patches of G4, which has 18 in training"),
        ({"G4": 9000}, 0.1, r"needs about .* GB of memory"),
    ],
)
def test_what_cannot_be_done_is_refused(patches, targets, limit, message):
    with pytest.raises(DataError, match=message):
        oversample(patches, targets, "counts.json", seed=0, limit_gb=limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"G4"', "cannot be read as JSON"),
        ("[1]", "not a mapping of classes to counts"),
        ('{"G4": 1.5}', "not a mapping of classes to counts"),
        ('{"G5": 5}', "class 'G5' is unknown; did you mean 'G"),
    ],
)
def test_odd_files_are_refused(tmp_path, text, message):
    (tmp_path / "counts.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_targets(str(tmp_path / "counts.json"), ("NC", "G3", "G4"))


def test_a_run_records_its_counts_and_keeps_to_them(stripes, tmp_path):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps({"G4": 30}))
    config = grading(
        {
            "method": "supervised",
            "network": {"width": 0.25},
            "data": {"paths": [str(stripes)], "smote": str(file)},
            "optim": {"epochs": 1, "batch_size": 16},
        }
    )
    run = tmp_path / "run"
    distill(config, run, device="cpu")
    assert json.loads((run / "provenance.json").read_text())["smote"] == {"G4": 30}
    distill(config, run, device="cpu", resume=True)
    file.write_text(json.dumps({"G4": 31}))
    with pytest.raises(ConfigError, match="differs from the file that the run was started with"):
        distill(config, run, device="cpu", resume=True)
