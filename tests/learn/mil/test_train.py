"""Training over bags: it learns, resumes bit for bit; its threshold never sees the test part."""

import json

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.bags.bag import BagInfo, write_bag
from wsikd.core.config import parse_config
from wsikd.core.errors import BundleError
from wsikd.core.softmax import softmax
from wsikd.learn.engine.train import train
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.method import MilConfig
from wsikd.learn.mil.text import _assured
from wsikd.learn.mil.train import BagTask, held_at, operating_point
from wsikd.models.files.bag_bundle import load_bag_network
from wsikd.models.slide_level.mil import AGGREGATORS

SPLITS = ("train", "train", "train", "val", "test")


def write_cohort(folder, count=40, *, dim=6, seed=0, shift=6.0):
    """Slides of 8 to 20 patches; a positive one has two patches moved along the first axis."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        positive = k % 2 == 1
        features = rng.normal(size=(rng.integers(8, 21), dim)).astype(np.float32)
        if positive:
            features[rng.permutation(len(features))[:2], 0] += shift
        info = BagInfo(
            f"s{k:02d}", {"id": "e", "sha256": "e"}, 1.0, 256, (512.0, 512.0), f"p{k // 2}",
            SPLITS[k // 2 % 5], "positive" if positive else "negative", "d",
        )  # fmt: skip
        write_bag(folder / f"s{k:02d}.zarr", info, features, np.zeros((len(features), 2)))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort") / "bags")


def config(cohort, **changes):
    content = {
        "method": "mil", "data": {"paths": [str(cohort)]},
        "network": {"arch": "abmil", "hidden": 16},
        "optim": {"epochs": 20, "lr": 1e-2, "batch_size": 4}, **changes,
    }  # fmt: skip
    return parse_config(MilConfig, content, name="test")


def rows(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for row in found:
        row.pop("seconds", None)
        row.pop("waiting", None)
    return [r for r in found if "epoch" in r]


def test_it_learns_what_decides_the_class(cohort, tmp_path):
    result = train(BagTask, config(cohort), tmp_path / "run", device="cpu")
    assert result.metrics["auc"]["value"] > 0.9
    assert set(result.metrics) >= {"sensitivity", "specificity", "precision", "f1"}
    bundle = load_bag_network(tmp_path / "run")
    assert (bundle.classes, bundle.dim, bundle.arch) == (("negative", "positive"), 6, "abmil")
    assert bundle.threshold == result.threshold
    bags = load_bags(config(cohort).data, config(cohort).split)
    network = bundle.network()
    for index in bags.indices("test"):
        bag = bags.features(int(index))[None]
        with torch.no_grad():
            found = network(bag, torch.ones(1, bag.shape[1], dtype=torch.bool))
        if bags.label[index]:
            best = found.attention[0].topk(2).indices
            assert (bag[0, best, 0] > 1.5).any()


@pytest.mark.parametrize("arch", [a for a in AGGREGATORS if a != "abmil"])
def test_every_network_trains(cohort, tmp_path, arch):
    hidden = {"hipt": 12, "transmil": 16}.get(arch, 8)
    found = config(
        cohort, network={"arch": arch, "hidden": hidden}, optim={"epochs": 1, "batch_size": 4}
    )
    result = train(BagTask, found, tmp_path / "run", device="cpu")
    assert np.isfinite(rows(tmp_path / "run")[0]["loss"])
    assert load_bag_network(result.path).arch == arch


def test_a_killed_run_goes_on_as_if_nothing_had_happened(cohort, tmp_path, monkeypatch):
    whole = config(cohort, optim={"epochs": 5, "batch_size": 4})
    train(BagTask, whole, tmp_path / "whole", device="cpu", seed=3)

    fit = Trainer._train_epoch

    def dies(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        return fit(self)

    monkeypatch.setattr(Trainer, "_train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train(BagTask, whole, tmp_path / "killed", device="cpu", seed=3)
    monkeypatch.setattr(Trainer, "_train_epoch", fit)
    train(BagTask, whole, tmp_path / "killed", device="cpu", seed=3, resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    own, other = (load_bag_network(tmp_path / n).weights for n in ("killed", "whole"))
    assert all(torch.equal(own[k], other[k]) for k in own)


def test_the_threshold_never_sees_the_test_part(cohort, tmp_path):
    """The same run with the test slides' labels turned round chooses the same threshold."""
    plain = train(BagTask, config(cohort), tmp_path / "plain", device="cpu")
    bags = load_bags(config(cohort).data, config(cohort).split)
    test = bags.indices("test")
    bags.label[test] = 1 - bags.label[test]
    turned = train(BagTask, config(cohort), tmp_path / "turned", device="cpu", data=bags)
    assert turned.threshold == plain.threshold
    assert turned.metrics == plain.metrics


def test_what_a_sensitivity_rests_on_is_kept_and_said(caplog):
    point = MilConfig.model_validate({"method": "mil", "point": {"rule": "sensitivity"}}).point
    truth, groups = np.arange(12) % 2, [f"p{k // 2}" for k in range(12)]
    found = held_at(truth, 0.3, point, groups)
    assert found == {
        "positives": 6, "needed": 59, "assured": pytest.approx(0.05 ** (1 / 6)), "confidence": 0.95,
    }  # fmt: skip
    assert "6 positive slide(s) or patient(s), which assures 0.61 with 95 %" in caplog.text
    assert "59 positives are needed" in caplog.text
    many = np.ones(60, np.int64)
    assert held_at(many, 0.3, point, list(map(str, range(60))))["assured"] == 0.95
    assert held_at(truth, 0.3, MilConfig(method="mil").point, groups) == {}


def test_more_classes_have_no_threshold():
    probability = softmax(np.random.default_rng(0).normal(size=(9, 3)))
    point = MilConfig(method="mil").point
    assert operating_point(np.arange(9) % 3, probability, point) is None


def test_the_command(cohort, tmp_path):
    file = tmp_path / "mil.yaml"
    file.write_text(yaml.safe_dump({"method": "mil", "optim": {"epochs": 2, "batch_size": 4},
                                    "network": {"arch": "mean", "hidden": 8}}))  # fmt: skip
    command = ["distill", "-c", str(file), "--data", str(cohort), "-o", str(tmp_path / "run"),
               "--device", "cpu"]  # fmt: skip
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    assert "on validation auc" in found.output
    assert "sensitivity" in found.output
    wrong = CliRunner().invoke(main, [*command, "--set", "network.arhc=mean"])
    assert wrong.exit_code == 2
    assert "did you mean 'arch'" in wrong.output
    taught = CliRunner().invoke(main, [*command, "--teacher", "x"])
    assert "method mil does not use it" in taught.output


def test_a_student_is_no_bag_network(tmp_path):
    with pytest.raises(BundleError, match=r"holds no card\.json"):
        load_bag_network(tmp_path)


def test_what_a_threshold_assures_is_printed():
    point = {"rule": "sensitivity", "sensitivity": 0.95, "positives": 6, "needed": 59,
             "assured": 0.05 ** (1 / 6), "confidence": 0.95}  # fmt: skip
    (line,) = _assured(point)
    assert line == (
        "it assures a sensitivity of 0.61 with 95% confidence, by 6 positive slides or patients "
        "(59 are needed for 0.95)"
    )
    assert _assured({"rule": "youden"}) == []
