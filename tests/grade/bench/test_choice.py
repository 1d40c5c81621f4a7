"""What each way of reading costs and brings, and which magnification may be used."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import t
from sklearn.metrics import cohen_kappa_score
from wsikd.cli.main import main

from tests.grade.bench.test_run import CLASSES, contender, pair
from tests.grade.maps import map_of
from wsikd.core.leak_hashes import seen_hash
from wsikd.grade.bench.choice import choose, drawn_grades, gather, graded, seen_slides
from wsikd.grade.bench.choice_report import plot_trade, trade_lines
from wsikd.grade.bench.compare import open_students
from wsikd.grade.bench.report import to_markdown
from wsikd.grade.bench.run import run_bench
from wsikd.grade.bench.types import Gradings, Question
from wsikd.models.files.bundle import save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.listing.manifest import SlideEntry

ASK = Question((0.1, 0.5), 0.05)


@pytest.fixture(autouse=True)
def state(tmp_path_factory, monkeypatch):
    """No earlier looks at the slides of these tests."""
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path_factory.mktemp("state")))


def test_points_of_a_pair_and_its_escalation(slide_file, tmp_path):
    entry = SlideEntry(slide_file, "odd")
    record = run_bench([entry], *pair(max_fields=9), question=ASK, repeats=1)
    points = {p["name"]: p for p in record["points"]}
    assert set(points) == {"student", "student + 0.1", "student + 0.5", "teacher"}
    fields = record["totals"]["student"]["fields"]
    assert points["student + 0.5"]["share"] == (fields // 2) / fields
    assert points["student"]["share"] is None
    assert points["teacher"]["kappa"] in (1.0, None)  # agreement with itself
    assert {record["totals"][name]["fields"] for name in points} == {fields}
    for name, point in points.items():
        assert point["cpu_s"] == record["totals"][name]["cpu_s"]
    assert record["compared"]["reference"] == "teacher"
    assert [c["name"] for c in record["contenders"]] == ["teacher", "student"]
    json.dumps(record, allow_nan=False)
    text = to_markdown(record)
    assert "agreement with the teacher" in text
    assert "not with a reference" in text
    assert f"| student + 0.5 | {points['student + 0.5']['share']:.1%} |" in text
    plot_trade(record, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_labels_of_a_slide_are_the_reference(slide_file):
    entry = SlideEntry(slide_file, "odd", label="G4")
    record = run_bench([entry], *pair(max_fields=2), repeats=1)
    assert record["compared"]["reference"] == "drawn"
    assert "the annotations or labels of the slides" in "\n".join(trade_lines(record))


def test_several_students_are_named_and_not_escalated(slide_file):
    students = [contender(f"student {m}x", 10 / m, int(6.4 * m)) for m in (5, 2.5)]
    record = run_bench(
        [SlideEntry(slide_file, "odd")], contender("teacher", 1.0, 64), *students, question=ASK,
        repeats=1,
    )  # fmt: skip
    assert {p["name"] for p in record["points"]} == {"teacher", "student 5x", "student 2.5x"}
    assert [t["name"] for t in record["choice"]["tests"]] == ["student 5x", "student 2.5x"]
    assert record["choice"]["few"]
    assert "10x against 5x against 2.5x" in to_markdown(record)
    assert "no conclusion: 1 slide(s)" in to_markdown(record)
    few = choose(cohort({"teacher": 0.1, "a": 0.1}, groups=9), "teacher", ["a"], 0.1)
    assert few["chosen"] is None
    assert "are too few for a bound" in "\n".join(trade_lines(record | {"choice": few}))
    assert "read again" not in to_markdown(record)


def test_kappas_equal_sklearn_over_fields_that_all_have():
    rng = np.random.default_rng(0)
    truth = [rng.integers(-1, 4, (4, 5)).astype(np.int16) for _ in range(3)]
    own = {n: [map_of(rng.integers(-1, 4, (4, 5))) for _ in range(3)] for n in ("teacher", "s")}
    entries = [SlideEntry("x", f"{i}", patient="p" if i else None) for i in range(3)]
    found = gather(own, [*truth[:2], None], entries, "teacher")
    assert (found.reference, found.slides, found.groups, found.quadratic) == ("drawn", 2, 2, True)
    a, b = [], []
    for i in range(2):
        both = (truth[i] >= 0) & own["s"][i].valid_hw & own["teacher"][i].valid_hw
        a += truth[i][both].tolist()
        b += own["s"][i].grade_hw[both].tolist()
    expected = cohen_kappa_score(a, b, weights="quadratic", labels=range(4))
    assert graded(found, "s")["kappa"] == pytest.approx(expected)
    assert found.fields == len(a)
    other = gather(own, [None] * 3, entries, "teacher")
    assert (other.reference, other.groups) == ("teacher", 2)
    assert other.kappa("teacher") == 1


def cohort(errors, *, groups=30, fields=60, seed=0):
    """Tables of contenders that err at these rates around a common truth; teacher first."""
    rng = np.random.default_rng(seed)
    tables = {name: np.zeros((groups, 4, 4), np.int64) for name in errors}
    for g in range(groups):
        truth = rng.integers(0, 4, fields)
        luck = rng.random(fields)
        other = rng.integers(0, 4, fields)
        for name, rate in errors.items():
            np.add.at(tables[name][g], (truth, np.where(luck < rate, other, truth)), 1)
    return Gradings(tables, "drawn", groups * fields, groups, quadratic=True)


def test_the_cheapest_that_is_not_inferior_is_chosen():
    made = cohort({"teacher": 0.1, "5x": 0.11, "2.5x": 0.12, "1.25x": 0.4})
    found = choose(made, "teacher", ["5x", "2.5x", "1.25x"], 0.3)
    assert found["chosen"] == "2.5x"
    assert [t["not_inferior"] for t in found["tests"]] == [True, True, False]
    assert not found["few"]
    for test in found["tests"]:
        assert test["lower"] < test["interval"][0] < test["difference"] < 0
        assert (test["lower"] > -0.3) == test["not_inferior"]


def test_testing_ends_with_the_first_that_fails():
    made = cohort({"teacher": 0.1, "5x": 0.4, "2.5x": 0.1})
    found = choose(made, "teacher", ["5x", "2.5x"], 0.05)
    assert found["chosen"] is None
    assert [t["not_inferior"] for t in found["tests"]] == [False, None]


def test_slides_are_paired():
    """A student that errs where its teacher does is not punished for slides that are hard."""
    made = cohort({"teacher": 0.4, "same": 0.4}, groups=300, fields=4)
    test = choose(made, "teacher", ["same"], 0.1)["tests"][0]
    assert test["difference"] == 0
    tables = {"teacher": made.tables["teacher"], "same": made.tables["same"][::-1]}
    apart = choose(replace(made, tables=tables), "teacher", ["same"], 0.1)["tests"][0]
    assert apart["lower"] < test["lower"] - 0.01


def test_the_bound_leaves_room_for_failures_that_are_not_seen():
    """It is that of a jackknife by hand, with one slide more whose cancer the student misses."""
    made = cohort({"teacher": 0.1, "s": 0.2}, groups=20)
    truth = made.tables["teacher"].sum((0, 2)) / 20
    tables = {"teacher": [*made.tables["teacher"], np.diag(truth)]}
    tables["s"] = [*made.tables["s"], np.outer(truth, [1, 0, 0, 0])]
    less = [_kappa(np.delete(tables["s"], k, 0).sum(0)) -
            _kappa(np.delete(tables["teacher"], k, 0).sum(0)) for k in range(21)]  # fmt: skip
    middle = _kappa(np.sum(tables["s"], 0)) - _kappa(np.sum(tables["teacher"], 0))
    off = np.square(np.array(less) - np.mean(less))
    freedom = min(20, 2 * 21 / (np.mean(off**2) / np.mean(off) ** 2 - 1))
    by_hand = middle - t.ppf(0.96, max(freedom, 1)) * np.sqrt(20 * off.mean())
    assert choose(made, "teacher", ["s"], 0.05)["tests"][0]["lower"] == pytest.approx(by_hand)


def _kappa(table):
    """Quadratic kappa by its moments: 1 - E (a - b)^2 / E (a - b')^2, b' independent of a."""
    place, part = np.arange(4), table / table.sum()
    a, b = part.sum(1), part.sum(0)
    apart = (part * (place[:, None] - place) ** 2).sum()
    spread = [p @ place**2 - (p @ place) ** 2 for p in (a, b)]
    return 1 - apart / (sum(spread) + ((a - b) @ place) ** 2)


def test_one_slide_alone_answers_nothing(caplog):
    made = cohort({"teacher": 0.1, "s": 0.1}, groups=1)
    found = choose(made, "teacher", ["s"], 0.5)
    assert (found["chosen"], found["tests"][0]["lower"], found["few"]) == (None, None, True)
    assert found["refused"].startswith("no conclusion: 1 slide(s) or patient(s) with a reference")
    assert found["refused"] in caplog.text


def test_slides_of_the_training_are_warned_of(caplog):
    maps = [map_of([[0]])]
    record = {"salt": "x", "train": {"images": seen_hash("0123abcd", "x")}, "val": {"images": ""}}
    found = seen_slides({"teacher": [record], "student": None}, maps)
    assert found == {"teacher": {"slide 1": "train"}, "student": None}
    assert "teacher was trained on 1 of the slides" in caplog.text
    assert "the card of student does not list" in caplog.text


def test_what_is_drawn_is_read_per_cell(slide_file, tmp_path):
    found = map_of([[0, 1], [2, -1]], origin_xy=(0.0, 0.0), cell_px=(100.0, 100.0))
    ring = [[0, 0], [200, 0], [200, 100], [0, 100], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "tumour"}},
    }
    file = tmp_path / "a.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    entry = SlideEntry(slide_file, "odd", annotation=file)
    assert drawn_grades(found, entry, [("tumour", "G4")]).tolist() == [[2, 2], [-1, -1]]
    assert drawn_grades(found, SlideEntry(slide_file, "odd", label="G3")).tolist() == [
        [1, 1], [1, -1],
    ]  # fmt: skip
    assert drawn_grades(found, SlideEntry(slide_file, "odd", label="other")) is None
    assert drawn_grades(found, SlideEntry(slide_file, "odd")) is None


@pytest.fixture
def bundles(tmp_path):
    """A teacher and two students of one size, untrained."""
    made = {}
    for name, mpp, px in (("t", 1.0, 64), ("a", 4.0, 16), ("b", 2.0, 32)):
        spec = replace(contender("x", mpp, px).predictor.spec, classes=CLASSES)
        grader = build_grader("vgg_small", 4, width=0.25)
        made[name] = save_bundle(tmp_path / name, grader, spec, arch="vgg_small", width=0.25)
    return made


def test_students_go_from_the_highest_magnification_down(bundles):
    settings = contender("x", 4.0, 16).predictor.settings
    paths = (bundles["a"], bundles["b"], bundles["a"])
    names = [c.name for c in open_students(paths, "cpu", settings)]
    assert names == ["student 5x", "student 2.5x", "student 2.5x (2)"]


def test_the_scale_of_the_input_is_named_and_costed(bundles, tmp_path, slide_file):
    settings = contender("x", 4.0, 16).predictor.settings
    spec = replace(contender("x", 4.0, 16).predictor.spec, classes=CLASSES)
    paths = [bundles["a"]]
    for factor, kind in ((2, "half"), (4, "x4")):
        grader = build_grader("vgg_small", 4, width=0.25, upsample=factor)
        own = replace(spec, upsample=factor, student_input=kind)
        paths.append(save_bundle(tmp_path / kind, grader, own, arch="vgg_small", width=0.25))
    found = open_students(tuple(paths), "cpu", settings)
    assert [c.name for c in found] == [
        "student 2.5x input x4", "student 2.5x input x2", "student 2.5x",
    ]  # fmt: skip
    teacher = contender("teacher", 1.0, 64)
    record = run_bench([SlideEntry(slide_file, "odd")], teacher, *found, question=ASK, repeats=1)
    macs = {p["name"]: p["macs"] for p in record["points"]}
    assert macs["student 2.5x input x4"] > 3 * macs["student 2.5x input x2"]
    assert [c["input"] for c in record["contenders"]] == ["x1", "x4", "x2", "x1"]
    text = to_markdown(record)
    assert "| GMAC a field |" in text
    plot_trade(record, tmp_path / "kappa.png")
    assert (tmp_path / "kappa.png").stat().st_size > 1000


def test_the_command_answers(slide_file, bundles, tmp_path):
    manifest = tmp_path / "m.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows([["slide", "label"], [str(slide_file), "G3"]])
    common = ["bench", "-i", str(manifest), "--teacher", str(bundles["t"]), "--repeats", "1",
              "--max-fields", "4", "--threads", "1"]  # fmt: skip
    both = [f"--student={bundles[name]}" for name in "ab"]
    told = CliRunner().invoke(main, [*common, *both, "--margin", "0.05", "-o", str(tmp_path / "o")])
    assert told.exit_code == 0, told.output
    assert "A margin of 0.05: no conclusion: 1 slide(s) or patient(s)" in told.output
    assert "Not inferior" not in told.output
    made = {p.name for p in (tmp_path / "o").iterdir()}
    assert made == {"bench.json", "bench.md", "bench.png", "kappa.png"}
    wrong = CliRunner().invoke(main, [*common, *both, "--budget", "0.1", "-o", str(tmp_path / "x")])
    assert wrong.exit_code == 2
    assert "--budget needs exactly one --student" in wrong.output
    assert not (tmp_path / "x").exists()
