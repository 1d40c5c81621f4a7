"""What keeps --margin from an answer, and what its answers are worth."""

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.margin.run import (
    LAWS,
    draw,
    lower_bounds,
    passes,
    truth_of,
    upper,
)
from tests.grade.bench.test_choice import cohort
from wsikd.core.output.looks import Part, note
from wsikd.grade.bench.choice import choose
from wsikd.grade.bench.margin_bound import bounds_of, one_missed
from wsikd.grade.bench.sequence import (
    ask,
    asked_before,
    keep,
    keep_without,
    obstacle,
    seen_before,
    seen_text,
)
from wsikd.grade.bench.types import Gradings

RESULTS = Path(__file__).parents[3] / "benchmarks/results/margin_cpu-2core_2026-11-30.csv"
SLIDES = [f"s{k}" for k in range(30)]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path))


def call(students, margin=0.3, *, slides=SLIDES, errors=None, seen=None):
    """One call of bench --margin: students by name, which err at rates."""
    made = cohort({"teacher": 0.1, **{s: (errors or {}).get(s, 0.11) for s in students}})
    part = Part.of(slides)
    asked = ask(part, margin, "field", ["teacher", *students])
    found = choose(
        made, "teacher", students, margin, obstacle=obstacle(seen or {}, asked_before(part), asked)
    )
    keep(part, asked, found)
    return found


def test_a_failure_ends_the_sequence_of_later_calls():
    assert call(["bad"], errors={"bad": 0.6})["tests"][0]["not_inferior"] is False
    later = call(["good"])
    assert later["chosen"] is None
    assert "a student failed on these slides, or on some of them" in later["refused"]
    fewer = call(["good"], slides=SLIDES[:-1])
    assert fewer["chosen"] is None
    assert call(["good"], slides=["others"])["chosen"] == "good"
    again = call(["bad"], errors={"bad": 0.6})  # the same call has the same answer
    assert again["refused"] is None
    assert again["tests"][0]["not_inferior"] is False


def test_a_sequence_goes_on_while_all_pass():
    assert call(["a"])["chosen"] == "a"
    assert call(["b"])["chosen"] == "b"


def test_a_margin_is_not_widened_after_a_look():
    assert call(["a"], 0.3)["chosen"] == "a"
    assert "a margin of 0.3 was stated" in call(["a"], 0.4)["refused"]
    assert call(["a"], 0.29)["chosen"] == "a"


def test_looks_before_the_margin_are_counted():
    part = Part.of(SLIDES)
    assert (seen_before(part), seen_text(0)) == (0, "")
    keep_without(part, "teacher")
    note(Part.of(SLIDES[:3]), command="wsikd evaluate --slides", network="a")
    assert call(["a"])["chosen"] == "a"  # it is said, and does not end the sequence
    keep_without(part, "teacher")
    assert seen_before(part) == 2
    assert "looked at 2 times before without a margin" in seen_text(2)
    assert "looked at once before" in seen_text(1)
    assert len(asked_before(part)) == 1


def test_networks_that_know_the_slides_have_no_winner():
    found = call(["a"], seen={"teacher": {}, "a": {"s1": "train"}, "b": None})
    assert found["chosen"] is None
    assert found["refused"].startswith("no conclusion: a learnt from some of the slides")


def test_the_simulation_judges_as_the_product_does():
    for unit, reference in (("field", "drawn"), ("slide", "labels")):
        law = LAWS[unit, "margin"]
        tables = draw(law, np.random.default_rng(0), 5, 12)
        bounds = lower_bounds(tables, unit)
        for k in range(5):
            own = tables[:, k].astype(np.int64)
            made = Gradings({"t": own[0], "s": own[1]}, reference, 1, 12, quadratic=True)
            assert choose(made, "t", ["s"], 0.1)["tests"][0]["lower"] == pytest.approx(bounds[k])


def test_a_slide_with_missed_cancer_is_added():
    """A student that agrees on 30 of 30 slides may yet miss the cancer of others."""
    truth = np.arange(30) % 6
    tables = np.zeros((2, 30, 6, 6))
    tables[:, np.arange(30), truth, truth] = 1
    more = one_missed(tables)
    assert more.shape == (2, 31, 6, 6)
    np.testing.assert_allclose(more[0, -1], np.eye(6) / 6)
    np.testing.assert_allclose(more[1, -1, :, 0], np.full(6, 1 / 6))
    assert more[1, -1].sum() == pytest.approx(1)
    assert -0.35 < float(bounds_of(tables, "slide")) < -0.2
    assert one_missed(np.concatenate([tables] * 4, 1))[1, -1].sum() == pytest.approx(2)


def test_the_kept_table_holds_the_error_and_the_power():
    with RESULTS.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    errors = [r for r in rows if r["loss"].startswith("margin")]
    assert {int(r["groups"]) for r in errors} == {3, 5, 10, 30, 100}
    assert all(int(r["cohorts"]) >= 5000 and float(r["upper_95"]) <= 0.06 for r in errors)
    power = {(r["unit"], r["loss"]): float(r["passed"]) for r in rows if r["groups"] == "30"}
    assert power["field", "none, margin 0.2"] >= 0.8
    assert power["slide", "none, margin 0.2"] >= 0.8


def test_few_slides_have_no_answer_and_some_err_seldom():
    """A student that misses the cancer of one slide in five loses 0.203 of kappa."""
    law, margin = LAWS["field", "margin, cancer missed on 20 %"], 0.203
    assert passes(law, margin, 5, 50, 0) == (0, 0)
    bounded, passed = passes(law, margin, 30, 300, 0)
    assert bounded == 300
    assert passed <= 25  # 4.3 % of 300, and three standard errors


@pytest.mark.slow
@pytest.mark.parametrize("key", LAWS)
@pytest.mark.parametrize("groups", [10, 30, 100])
def test_the_error_is_at_most_six_per_cent(key, groups):
    law = LAWS[key]
    _, passed = passes(law, -truth_of(law), groups, 5000, groups)
    assert upper(passed, 5000) <= 0.06
