"""From which doubt on the teacher is asked: what the card allows, and what it refuses."""

from types import SimpleNamespace

import pytest

from wsikd.core.errors import BundleError, ConfigError
from wsikd.grade.escalation.rule import rule_of

CURVE = {
    "threshold": [1.0, 0.4, 0.2, 0.0],
    "share": [0.0, 0.05, 0.3, 1.0],
    "agreement": [0.8, 0.9, 0.97, 1.0],
    "kappa": [None, 0.8, 0.9, 1.0],
    "truth_kappa": [0.61, 0.7, 0.8256, 0.75],
}


def card(**more):
    found = {"teacher_sha256": "t", "fields": 80, "slides": 2, "curve": CURVE}
    return SimpleNamespace(card=SimpleNamespace(escalation=found | more), temperature=1.5)


TEACHER = SimpleNamespace(sha256="t")
BARE = SimpleNamespace(card=SimpleNamespace(escalation=None), temperature=None)


def test_the_rule_comes_from_the_card_of_that_teacher_alone():
    teacher = SimpleNamespace(sha256="t")
    rule = rule_of(card(), teacher, budget=0.1, agreement=0.9)
    assert (rule.budget, rule.threshold, rule.temperature) == (0.1, 0.4, 1.5)
    assert "80 validation fields of 2 slide(s) that were 0.05" in rule.text
    rule = rule_of(card(), teacher, budget=0.1, agreement=0.95)
    assert rule.threshold == 0.2
    assert "0.970 had the teacher's class (within the budget 0.900)" in rule.text
    rule = rule_of(card(teacher_sha256="x"), teacher, budget=0.1, agreement=0.9)
    assert rule.threshold is None
    assert "is for another teacher: 0.1 of the fields" in rule.text
    rule = rule_of(BARE, teacher, budget=0.1, agreement=0.9)
    assert (rule.threshold, rule.temperature) == (None, None)
    assert "holds no uncertainty threshold" in rule.text
    assert "uncalibrated" in rule.text
    assert rule_of(card(), teacher, budget=1, agreement=0.9).threshold is None


BOUND = CURVE | {
    "agreement_low": [0.7, 0.85, 0.955, 1.0], "truth_kappa_low": [0.5, 0.6, 0.7, 0.65],
}  # fmt: skip


def test_a_threshold_is_chosen_by_its_bound():
    bound = card(curve=BOUND, groups=70)
    rule = rule_of(bound, TEACHER, budget=0.4, agreement=0.95)
    assert rule.threshold == 0.2
    assert "at least 0.955 with 95% confidence by 70 slides or patients" in rule.text
    rule = rule_of(bound, TEACHER, budget=0.1, agreement=0.96)
    assert rule.threshold is None
    assert "70 validation slide(s) or patient(s) do not show an agreement of 0.96" in rule.text
    assert "(at least 93 are needed)" in rule.text
    assert "assures an agreement of 0.850 with 95% confidence" in rule.text
    few = BOUND | {"agreement_low": [None, None, None, 1.0], "truth_kappa_low": [None] * 4}
    rule = rule_of(card(curve=few, groups=2), TEACHER, budget=0.1, agreement=0.9)
    assert "(at least 35 are needed) unless every field is read again" in rule.text
    assert "assures no agreement" in rule.text
    assert reaching(0.6, 1, card(curve=BOUND, groups=70)).threshold is None
    found = rule_of(bound, TEACHER, budget=0.5, agreement=0.95, kappa=0.6)
    assert found.threshold == 0.4
    assert "student alone 0.610, teacher 0.750), and other slides have at least 0.600" in found.text
    with pytest.raises(ConfigError, match=r"not shown with 95% confidence.*0.650 is assured where"):
        reaching(0.7, student=bound)
    with pytest.raises(ConfigError, match="2 slides or patients are too few, or too much alike"):
        reaching(0.5, student=card(curve=few, groups=2))


def test_a_card_without_bounds_says_so():
    told = rule_of(card(), TEACHER, budget=0.1, agreement=0.9).text
    assert "the card has no lower bound" in told
    assert "the card has no lower bound" in reaching(0.65).text


@pytest.mark.parametrize("low", [None, [0.5], ["many"] * 4, 3])
def test_damaged_bounds_are_one_line(low, tmp_path):
    student = card(curve=CURVE | {"agreement_low": low}, groups=2)
    student.path = tmp_path
    with pytest.raises(BundleError, match=r"card\.json: its escalation cannot be read"):
        rule_of(student, TEACHER, budget=0.1, agreement=0.9)


@pytest.mark.parametrize("curve", [None, {}, CURVE | {"share": ["many"]}, CURVE | {"share": []}])
def test_a_damaged_curve_is_one_line(curve, tmp_path):
    student = card(curve=curve)
    student.path = tmp_path
    with pytest.raises(BundleError, match=r"card\.json: its escalation cannot be read"):
        rule_of(student, SimpleNamespace(sha256="t"), budget=0.1, agreement=0.9)


def reaching(kappa, budget=0.5, student=None):
    return rule_of(student or card(), TEACHER, budget=budget, agreement=0.95, kappa=kappa)


def test_a_stated_kappa_takes_the_least_costly_threshold_that_reaches_it():
    assert [reaching(k).threshold for k in (0.6, 0.7, 0.71, 0.825)] == [1.0, 0.4, 0.2, 0.2]
    rule = reaching(0.65, budget=0.1)
    assert (rule.budget, rule.threshold, rule.temperature) == (0.1, 0.4, 1.5)
    assert "on 80 validation fields of 2 slide(s) that were 0.05, and then kappa with" in rule.text
    assert "was 0.700 (student alone 0.610, teacher 0.750)" in rule.text
    unknown = card(curve=CURVE | {"truth_kappa": [None, None, 0.8, None]})
    rule = reaching(0.7, student=unknown)
    assert rule.threshold == 0.2
    assert "(student alone undefined, teacher undefined)" in rule.text


@pytest.mark.parametrize(
    ("kappa", "budget", "fault"),
    [
        (
            0.9,
            0.5,
            (
                "not reached on the 80 validation fields of 2 slide(s): 0.825 at best, with 0.3 of "
                "them read again; lower --kappa, or give --agreement"
            ),
        ),
        (
            0.8,
            0.1,
            (
                "needs 0.3 of the 80 validation fields of 2 slide(s) graded by the teacher; the "
                "budget 0.1 "
                "reaches 0.700; give --budget 0.3, or lower --kappa"
            ),
        ),
    ],
)
def test_what_validation_does_not_reach_is_refused_with_the_best(kappa, budget, fault):
    with pytest.raises(ConfigError) as refused:
        reaching(kappa, budget)
    assert str(refused.value) == f"--kappa {kappa}: {fault}"
    best = 0.825 if budget == 0.5 else 0.7
    assert reaching(best, budget).text  # what is told to be the best can be asked for


def test_a_teacher_alone_is_told():
    curve = CURVE | {"truth_kappa": [0.1, 0.2, 0.3, 0.9]}
    with pytest.raises(ConfigError, match="only the teacher reaches it: give --budget 1 wi"):
        reaching(0.8, student=card(curve=curve))


@pytest.mark.parametrize(
    ("student", "fault"),
    [
        (card(curve={k: v for k, v in CURVE.items() if k != "truth_kappa"}), "holds no kappa"),
        (card(curve=CURVE | {"truth_kappa": [None] * 4}), "is undefined on the 80 validation"),
        (card(teacher_sha256="x"), "is for another teacher"),
        (
            SimpleNamespace(card=SimpleNamespace(escalation=None), temperature=None),
            "holds no uncertainty threshold",
        ),
    ],
)
def test_a_card_that_tells_no_kappa_is_one_line(student, fault):
    with pytest.raises(ConfigError, match=f"--kappa: .*{fault}"):
        reaching(0.5, student=student)


@pytest.mark.parametrize("values", [None, ["many"], [0.5], 3])
def test_damaged_kappas_are_one_line(values, tmp_path):
    student = card(curve=CURVE | {"truth_kappa": values})
    student.path = tmp_path
    with pytest.raises(BundleError, match=r"card\.json: its escalation cannot be read"):
        reaching(0.7, student=student)
