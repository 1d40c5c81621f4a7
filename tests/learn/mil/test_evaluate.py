"""Scoring bag networks: the test part once, and another encoder's bags under the same head."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from wsikd.cli.main import main

from tests.learn.mil.test_train import config, write_cohort
from wsikd.bags.bag import open_bag, write_bag
from wsikd.core.errors import DataError, OutputError
from wsikd.learn.engine.train import train
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.evaluate import evaluate_bags, run_network
from wsikd.learn.mil.train import BagTask
from wsikd.models.files.bag_bundle import load_bag_network


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    cohort = write_cohort(root / "bags", 60)
    train(BagTask, config(cohort), root / "run", device="cpu")
    return root


def noisy(root, name, noise, *, dim=6, seconds=None):
    """Bags of the same slides by another encoder: the same numbers, blurred."""
    rng = np.random.default_rng(1)
    for path in sorted((root / "bags").glob("*.zarr")):
        bag = open_bag(path)
        features = bag.features() + rng.normal(0, noise, bag.shape).astype(np.float32)
        about = {**bag.info.encoder, "id": name, "sha256": name}
        write_bag(root / name / path.name, replace(bag.info, encoder=about),
                  features[:, :dim], bag.coords(), seconds)  # fmt: skip
    return root / name


@pytest.fixture(scope="module")
def same(trained):
    return noisy(trained, "same", 0.0)


@pytest.fixture(scope="module")
def worse(trained):
    return noisy(trained, "worse", 6.0, seconds={"read": 0.5, "forward": 0.25})


def test_the_test_part_is_scored_once(trained):
    first = evaluate_bags(trained / "run", "test", by="a")
    with pytest.raises(OutputError, match=r"its test part was scored on .* by a"):
        evaluate_bags(trained / "run", "test", by="b")
    again = evaluate_bags(trained / "run", "test", by="b", again=True)
    assert again["times_before"] == 1
    assert again["auc"] == first["auc"]
    kept = json.loads((trained / "run" / "scores.json").read_text())["scores"]
    assert [s["by"] for s in kept if s["split"] == "test"] == ["a", "b"]


def test_figures_are_sklearns(trained):
    bundle, made = load_bag_network(trained / "run"), config(trained / "bags")
    bags = load_bags(made.data, made.split)
    chosen = bags.indices("val")
    said = run_network(bundle, bags, chosen)
    found = evaluate_bags(trained / "run", "val", by="a")
    expected = roc_auc_score(bags.label[chosen], said.probability[:, 1])
    assert found["auc"]["value"] == pytest.approx(expected)


def test_the_same_bags_drop_in_without_loss(trained, same):
    found = evaluate_bags(trained / "run", "val", by="a", against=[str(same)])["drop_in"]
    assert found["auc_difference"]["value"] == 0
    assert found["agreement"] == {"share": 1.0, "kappa": pytest.approx(1.0)}
    assert found["probability_correlation"] == pytest.approx(1.0)
    assert found["speed_ratio"] is None


def test_a_worse_encoder_is_told(trained, worse):
    found = evaluate_bags(trained / "run", "val", by="a", against=[str(worse)])["drop_in"]
    assert found["auc_difference"]["value"] < 0
    assert found["agreement"]["share"] < 1
    bundle, made = load_bag_network(trained / "run"), config(trained / "bags")
    own, other = (
        load_bags(made.data.model_copy(update={"paths": [str(p)]}), made.split)
        for p in (trained / "bags", worse)
    )
    chosen = own.indices("val")
    calls = [
        (run_network(bundle, b, chosen).probability[:, 1] >= bundle.threshold).astype(int)
        for b in (own, other)
    ]
    assert found["agreement"]["kappa"] == pytest.approx(cohen_kappa_score(*calls))


def test_embeddings_of_another_width_are_refused(trained):
    narrow = noisy(trained, "narrow", 0.0, dim=5)
    with pytest.raises(DataError, match="embeddings of 5 numbers, the network takes 6"):
        evaluate_bags(trained / "run", "val", by="a", against=[str(narrow)])


def test_the_speed_of_the_encoders(trained, worse):
    from wsikd.learn.mil.evaluate import _seconds

    made = config(worse)
    bags = load_bags(made.data, made.split)
    assert _seconds(bags, np.arange(4)) == pytest.approx(3.0)
    plain = load_bags(config(trained / "bags").data, made.split)
    assert _seconds(plain, np.arange(4)) is None


def test_looks_at_the_test_part_outlive_a_copy_of_the_run(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "state"))
    bags = shutil.copytree(
        trained / "bags", tmp_path / "bags", ignore=shutil.ignore_patterns("looks.json")
    )
    beside = bags / "looks.json"
    for number in (1, 2):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(trained / "run", copy, ignore=shutil.ignore_patterns("scores.json"))
        found = evaluate_bags(copy, "test", by="me", data=[str(bags)])["looks"]
        assert (found["looks"], found["runs"]) == (number, 1)
        assert len(json.loads(beside.read_text())["looks"]) == number


def test_the_command(trained, same, tmp_path):
    found = CliRunner().invoke(
        main, ["evaluate", str(trained / "run"), "--against", str(same)], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    for told in (
        "AUC",
        "sensitivity",
        "threshold on positive",
        "by the likelier class",
        "decisions agree on 100.0%",
    ):
        assert told in found.output
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"method": "mil"}))
    printed = CliRunner().invoke(main, ["config", str(tmp_path / "c.yaml")])
    assert "arch: gated" in printed.output
