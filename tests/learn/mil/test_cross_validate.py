"""Cross-validation over bags: every patient is tested once, thresholds are the folds' own."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from wsikd.cli.main import main

from tests.learn.mil.test_train import write_cohort
from wsikd.core.errors import DataError
from wsikd.learn.mil.cross_validate import pool
from wsikd.models.files.bag_bundle import load_bag_network

FOLDS = 3


def run(cohort, out, *more):
    changes = ("network.arch=mean", "network.hidden=8", "optim.epochs=3", "optim.lr=0.01",
               "optim.batch_size=4")  # fmt: skip
    return CliRunner().invoke(main, [
        "reproduce", "mil", "--data", str(cohort), "-o", str(out), "--folds", str(FOLDS),
        "--seeds", "1", "--device", "cpu", *(a for s in changes for a in ("--set", s)), *more,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("folds")
    cohort = write_cohort(root / "bags", 30)
    with pytest.MonkeyPatch.context() as own:
        own.setenv("WSIKD_STATE", str(root / "state"))  # other tests look at such bags too
        found = run(cohort, root / "out")
    assert found.exit_code == 0, found.output
    return root, found.output


def read(root):
    folders = [root / "out" / "runs" / f"seed1-fold{k}" for k in range(FOLDS)]
    return folders, [json.loads((f / "predictions.json").read_text()) for f in folders]


def test_every_patient_is_tested_exactly_once(study):
    root, _ = study
    _, parts = read(root)
    slides = [row["slide"] for part in parts for row in part]
    assert sorted(slides) == [f"s{k:02d}" for k in range(30)]
    patients = [{row["group"] for row in part} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 15


def test_figures_are_those_of_the_folds(study):
    root, output = study
    folders, parts = read(root)
    table = json.loads((root / "out" / "table.json").read_text())["seeds"]["1"]
    areas = [
        roc_auc_score([r["label"] for r in part], [r["probability"][1] for r in part])
        for part in parts
    ]
    assert table["auc"]["folds"] == pytest.approx(areas)
    assert table["auc"]["value"] == pytest.approx(np.mean(areas))
    right = positives = 0
    for folder, part in zip(folders, parts, strict=True):
        threshold = load_bag_network(folder).threshold
        for row in part:
            positives += row["label"]
            right += row["label"] and row["probability"][1] >= threshold
    assert table["sensitivity"]["value"] == pytest.approx(right / positives)
    assert (root / "out" / "table.md").read_text() in output
    assert "a mean AUC over folds take 40 slides or patients" in output


def test_looks_at_the_folds_are_counted(study):
    root, said = study
    # all bags of the cohort name one source, so that the parts of the folds count as one
    assert "When a fold was scored last, this test part has been looked at 3 times by 3" in said
    assert json.loads((root / "out" / "table.json").read_text())["looks"]["looks"] == FOLDS


def test_what_is_finished_stays(study):
    root, _ = study
    folders, _ = read(root)
    before = [(f / "scores.json").read_text() for f in folders]
    again = run(root / "bags", root / "out")
    assert again.exit_code == 0, again.output
    assert [(f / "scores.json").read_text() for f in folders] == before
    other = run(root / "bags", root / "out", "--set", "optim.epochs=4")
    assert other.exit_code == 2
    assert "was started with another 'optim.epochs'" in other.output


def test_a_patient_in_two_folds_is_refused():
    row = {"slide": "a", "group": "patient 1", "label": 0, "probability": [0.5, 0.5], "decided": 0}
    with pytest.raises(DataError, match="is tested in two folds"):
        pool([row | {"fold": 0}, row | {"slide": "b", "fold": 1}])
    with pytest.raises(DataError, match="test a slide twice"):
        pool([row | {"fold": 0}, row | {"fold": 0}])


@pytest.mark.parametrize("given", [[], ["--data", "nowhere"]])
def test_without_bags_nothing_is_left_behind(tmp_path, given):
    found = CliRunner().invoke(main, ["reproduce", "mil", "-o", str(tmp_path / "out"), *given])
    assert found.exit_code == 2
    assert ("give --data" if not given else "nowhere") in found.output
    assert not (tmp_path / "out").exists()
