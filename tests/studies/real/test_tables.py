"""The evidence on real tissue: endpoints and the system from kept predictions alone."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from benchmarks.studies.real.arms import TUNED
from benchmarks.studies.real.figures import Figures, not_inferior
from benchmarks.studies.real.page import make_record, to_markdown
from benchmarks.studies.real.plan import Job, Plan
from benchmarks.studies.real.settings import Real
from benchmarks.studies.real.system import make_system, read_again, threshold_of
from tests.studies.real.test_plan import finish
from tests.studies.real.toy import predict_block

SHARP = {
    "teacher": 3.0, "ce": 1.2, "kd": 2.6, "kd_features": 2.0, "self_kd": 1.0, "at_plus_fm": 1.4,
    "ce_scratch": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    made = Plan(Real(colon="c", seeds=[1, 2, 3]), tmp_path_factory.mktemp("study"))
    for arm in TUNED:
        for trial in range(3):
            finish(made, Job("T", arm, 0, 1, trial))
    predict_block(made, "A", SHARP)
    predict_block(made, "B", SHARP)
    return made


@pytest.fixture(scope="module")
def figures(plan):
    return Figures(plan, "A")


def test_figures_are_what_the_predictions_say(figures):
    row = next(r for r in figures.rows() if r["name"] == "kd")
    kappas = [
        oracle.cohen_kappa_score(p.truth, p.probability.argmax(1), weights="quadratic")
        for p in figures.units["kd"].values()
    ]
    assert row["mean"]["kappa"] == pytest.approx(np.mean(kappas))
    assert row["units"] == 3
    assert next(r for r in figures.rows() if r["name"] == "teacher")["units"] == 2


def test_a_gain_takes_both_intervals(figures):
    gains = {(g["row"], g["over"], g["metric"]): g for g in figures.gains()}
    assert gains["kd", "ce", "kappa"]["gain"]
    assert gains["kd", "ce", "kappa"]["gap_closed"] == pytest.approx(figures.aim()["gap_closed"])
    assert not gains["self_kd", "ce", "kappa"]["gain"]
    assert all(g["p_holm"] is None or g["p_holm"] >= g["p"] for g in gains.values())
    assert not any(name == "ce_scratch" for name, _, _ in gains)


def test_the_endpoints(plan, figures):
    assert Figures(plan, "B").first_endpoint()["holds"]
    far = figures.second_endpoint("ce")
    assert not far["holds"]
    assert far["bench_margin_bound"] < far["comparisons"][0]["mean"]
    seen = {"interval_slides": (-0.02, 0.0), "interval_seeds": (-0.04, 0.0)}
    assert not not_inferior(seen, 0.03)["holds"]
    assert not_inferior(seen, 0.05)["holds"]
    assert not not_inferior({**seen, "interval_slides": None}, 0.05)["holds"]


def test_thresholds_rest_on_validation_alone(figures):
    assert threshold_of(np.array([0.1, 0.4, 0.2, 0.3]), 0.5) == 0.3
    none, asked = read_again(figures, 0.0)
    assert not any(a.any() for a in asked.values())
    for key, p in none.items():
        assert np.array_equal(
            p.probability.argmax(1), figures.units["kd"][key].probability.argmax(1)
        )
    _, some = read_again(figures, 0.25)
    _, more = read_again(figures, 0.5)
    for key, own in some.items():
        assert own.mean() == pytest.approx(0.25, abs=0.1)
        assert not (own & ~more[key]).any()


def test_the_system_stops_at_the_first_failure(figures, monkeypatch):
    monkeypatch.setattr("benchmarks.studies.real.system.SHARES", (0.0, 0.25, 0.7))
    system = make_system(figures)
    holds = [entry["holds"] for entry in system["curve"]]
    if system["least"] is None:
        assert not holds[-1]
    else:
        place = system["curve"].index(system["least"])
        assert all(holds[place:])
        assert place == 0 or not holds[place - 1]
        assert system["least"]["cost"] == pytest.approx(1 / 16 + system["least"]["read_again"])


def test_a_record_has_finished_blocks_only(plan, monkeypatch):
    monkeypatch.setattr("benchmarks.studies.real.system.SHARES", (0.25,))
    monkeypatch.setattr("benchmarks.studies.real.figures.SHOWN", ("kappa",))
    record = make_record(plan)
    assert list(record["blocks"]) == ["A", "B"]
    assert record["not_run"] == ["C", "D"]
    text = to_markdown(record)
    assert "Not run within the budget: blocks C, D." in text
    assert "to be read by a person" in text
    assert "P1, kd over labels and over self-distillation: holds" in text
