"""Graded slides against a pathologist's grades."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from wsikd.cli.main import main

from tests.grade.cards import whole_card
from tests.grade.maps import map_of
from wsikd.core.errors import AnnotationError, ConfigError
from wsikd.core.leak_hashes import seen_hash
from wsikd.grade.runs.compare_labels import read_labels, read_results, score_slides
from wsikd.grade.summary import expected_cancer


def write_labels(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def write_result(out, name, group, score=0.5, **changes):
    row = {
        "slide": name, "isup_grade_group": group or None, "cancer_expected": score,
        "student": "0123456789ab", "specimen": "biopsy", "min_area_mm2": 0.1, "mpp": 4.0,
        "temperature": 1.5,
    } | changes  # fmt: skip
    (out / name).mkdir(parents=True)
    content = {"summary": row, "made_with": {"slide": f"print-{name}"}}
    (out / name / "result.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("cell", "group"),
    [("3+3", 1), ("3+4", 2), ("4 + 3 = 7", 3), ("4+4", 4), ("3+5", 4), ("5+4=9", 5), ("0+0", 0),
     ("Benign", 0), ("negative", 0), ("NC", 0)],
)  # fmt: skip
def test_gleason_is_read(cell, group, tmp_path):
    labels = read_labels(write_labels(tmp_path / "l.csv", f"slide,gleason\na.svs,{cell}\n"))
    assert [(label.slide, label.grade_group) for label in labels] == [("a", group)]


def test_groups_patients_and_names_are_read(tmp_path):
    text = (
        "\ufeffSlide,grade_group,gleason,patient\nx/a.tiff,0,0+0,p1\nb.1,2.0,3+4,\nc.ndpi,5,,p1\n"
    )
    labels = read_labels(write_labels(tmp_path / "l.csv", text))
    assert [(label.slide, label.grade_group, label.patient) for label in labels] == [
        ("a", 0, "p1"), ("b.1", 2, None), ("c", 5, "p1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,grade\na,1\n", r"l\.csv: no column slide \(columns: image, grade\); name them"),
        ("slide,isup\na,1\n", "no column grade_group or gleason"),
        ("", "no column slide .columns: none."),
        ("slide,gleason\na,6+1\n", r"line 2: gleason '6\+1' is not understood; such as 3\+4"),
        ("slide,gleason\na,3+4=8\n", r"gleason '3\+4=8' is not understood"),
        ("slide,gleason\na,3+0\n", "is not understood"),
        ("slide,grade_group\na,6\n", "grade_group '6' is not understood; 0 to 5"),
        ("slide,grade_group\na,\n", "line 2: no grade"),
        ("slide,grade_group,gleason\na,2,4+3\n", r"grade_group '2' and gleason '4\+3' contradict"),
        ("slide,grade_group\na.svs,1\na,1\n", "line 3: slide 'a' for the second time"),
        ("slide,grade_group\n,1\n", "no slide name"),
        ("slide,grade_group\n", "lists no slide"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, told, tmp_path):
    with pytest.raises(AnnotationError, match=told):
        read_labels(write_labels(tmp_path / "l.csv", text))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(AnnotationError, match=r"cannot be read .No such file"):
        read_labels(tmp_path / "none.csv")


def cohort(tmp_path, count=40, seed=0, patients=None):
    """Results and labels of random grades that agree in part."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, count)
    found = np.where(rng.random(count) < 0.6, truth, rng.integers(0, 6, count))
    score = np.round(rng.random(count) * 0.5 + 0.3 * (truth > 0), 1)
    for i in range(count):
        write_result(tmp_path / "out", f"s{i:02d}", int(found[i]), float(score[i]))
    who = patients or (lambda i: "")
    lines = [f"s{i:02d},{truth[i]},{who(i)}" for i in range(count)]
    write_labels(tmp_path / "l.csv", "\n".join(["slide,grade_group,patient", *lines]))
    return truth, found, score


def scored(tmp_path, **more):
    return score_slides(read_results(tmp_path / "out"), read_labels(tmp_path / "l.csv"), **more)


def test_figures_equal_sklearn(tmp_path):
    truth, found, score = cohort(tmp_path)
    record = scored(tmp_path)
    figures = record["figures"]
    expected = cohen_kappa_score(truth, found, weights="quadratic", labels=range(6))
    assert figures["kappa"] == pytest.approx(expected)
    assert figures["auc_cancer"] == pytest.approx(roc_auc_score(truth > 0, score))
    assert figures["accuracy"] == (truth == found).mean()
    for name, (low, high) in record["intervals"].items():
        assert low < figures[name] < high
    json.dumps(record, allow_nan=False)


def test_a_table_counted_by_hand(tmp_path):
    """Two of 0 right, one of 2 called 3, one of 5 called 0."""
    for name, group, score in (("a", 0, 0.1), ("b", 0, 0.3), ("c", 3, 0.6), ("d", 0, 0.2)):
        write_result(tmp_path / "out", name, group, score)
    write_labels(tmp_path / "l.csv", "slide,gleason\na,benign\nb,0+0\nc,3+4\nd,5+4\n")
    record = scored(tmp_path)
    expected = np.zeros((6, 6), int)
    expected[0, 0], expected[2, 3], expected[5, 0] = 2, 1, 1
    assert record["confusion"] == expected.tolist()
    assert record["figures"]["accuracy"] == 0.5
    assert record["figures"]["auc_cancer"] == 0.75  # c above a and b, d above a alone
    # sum w O = 1 + 25; margins 2, 1, 1 of 0, 2, 5 and 3, 1 of 0, 3:
    # sum w E = (2*1*9 + 1*3*4 + 1*1*1 + 1*3*25 + 1*1*4) / 4 = 27.5
    assert record["figures"]["kappa"] == pytest.approx(1 - 26 / 27.5)


def test_patients_count_once(tmp_path):
    cohort(tmp_path / "one")
    cohort(tmp_path / "two", patients=lambda i: f"p{i % 15}")
    alone, together = scored(tmp_path / "one"), scored(tmp_path / "two")
    assert (alone["groups"], together["groups"]) == (40, 15)
    assert alone["figures"] == together["figures"]
    assert alone["intervals"] != together["intervals"]


def test_few_slides_are_warned_of_and_have_no_interval(tmp_path, caplog):
    write_result(tmp_path / "out", "a", 2)
    write_labels(tmp_path / "l.csv", "slide,grade_group\na,2\n")
    record = scored(tmp_path)
    assert "1 slides or patients: not enough slides for an interval" in caplog.text
    assert set(record["intervals"].values()) == {None}
    assert record["figures"]["auc_cancer"] is None
    assert record["figures"]["kappa"] is None


def test_failed_missing_and_unlabelled_slides_are_listed(tmp_path):
    cohort(tmp_path, 12)
    out = tmp_path / "out"
    write_result(out, "extra", 1)
    write_result(out, "s00-copy", 1, slide="s00")  # a folder that does not bear its slide's name
    (out / "s90.part").mkdir()
    with (out / "failures.csv").open("w", newline="") as stream:
        columns = ["slide", "error", "fault", "remedy"]
        csv.writer(stream).writerows([columns, ["s91", "SlideError", "bad", "copy it again"]])
    with (tmp_path / "l.csv").open("a") as stream:
        stream.write("\ns90,1,\ns91,2,\n")
    record = scored(tmp_path)
    assert record["slides"] == 12
    assert record["missing"] == ["s90"]
    assert record["failed"] == {"s91": "SlideError"}
    assert record["unlabelled"] == ["extra"]


def test_slides_of_the_training_are_warned_of(tmp_path, caplog):
    cohort(tmp_path, 12)
    assert scored(tmp_path)["seen"] is None
    assert "does not list its training data" in caplog.text
    seen = [
        {"salt": "x", "train": {"images": seen_hash("print-s03", "x")}, "val": {"images": ""}},
        {"salt": "y", "train": {"images": ""}, "val": {"images": seen_hash("print-s05", "y")}},
    ]
    card = tmp_path / "out/student-0123456789ab.json"
    card.write_text(json.dumps(whole_card(seen=seen)))
    assert scored(tmp_path)["seen"] == {"s03": "train", "s05": "val"}
    assert "2 of the slides were in the student's own training or validation data" in caplog.text


def test_results_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no finished result"):
        read_results(tmp_path / "none")
    write_result(tmp_path / "out", "a", 2)
    write_labels(tmp_path / "l.csv", "slide,grade_group\nb,2\n")
    with pytest.raises(ConfigError, match=r"none of its 1 slides has a result .such as 'b'; there"):
        scored(tmp_path)
    write_result(tmp_path / "out", "b", 2, student="x")
    with pytest.raises(ConfigError, match=r"different settings .student "):
        read_results(tmp_path / "out")
    write_result(tmp_path / "other", "b", 2)
    content = {"summary": {"slide": "b"}, "made_with": {"slide": "x"}}
    (tmp_path / "other/b/result.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="not Gleason patterns"):
        read_results(tmp_path / "other")


def test_expected_cancer_is_the_mean_probability_by_tissue():
    found = map_of([[0, 1, -1], [2, 3, 0]])
    tissue = found.tissue_hw.copy()
    tissue[0, 0] = 0.1
    found = type(found)(**{**found.__dict__, "tissue_hw": tissue})
    total = weight = 0.0
    for row, column in zip(*np.nonzero(found.valid_hw), strict=True):
        share = float(tissue[row, column])
        total += share * float(found.probability_khw[1:, row, column].sum())
        weight += share
    assert expected_cancer(found) == pytest.approx(total / weight, rel=1e-6)
    assert expected_cancer(map_of([[-1, -1]])) is None
    assert expected_cancer(map_of([[0]], classes=("a", "b"))) is None


def test_the_command_tells_all_of_it_and_needs_both(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "state"))
    cohort(tmp_path, 12)
    out, labels = str(tmp_path / "out"), str(tmp_path / "l.csv")
    told = CliRunner().invoke(main, ["evaluate", "--slides", out, "--labels", labels])
    assert told.exit_code == 0
    assert "12 slides of 12 slides or patients" in told.output
    assert "AUC by the share of the tissue expected to be cancer, from calibrated" in told.output
    record = CliRunner().invoke(
        main, ["--log-level", "error", "evaluate", "--slides", out, "--labels", labels, "--json"]
    )
    assert json.loads(record.stdout)["slides"] == 12
    assert "this test part has been looked at once by 1 run\n" in told.output
    looks = json.loads(record.stdout)["looks"]
    assert (looks["looks"], looks["runs"], looks["overlapping"]) == (2, 1, 0)
    assert (tmp_path / "out" / "looks.json").is_file()
    for wrong in (["--slides", out], ["run", "--slides", out, "--labels", labels], []):
        told = CliRunner().invoke(main, ["evaluate", *wrong])
        assert told.exit_code == 2
        assert "give RUN|BUNDLE, or" in told.output


def areas(out, name, group, g3, g4, **changes):
    shares = {"NC_mm2": 9.0, "NC_share": 0.9, "G3_mm2": g3, "G3_share": 0.05, "G4_mm2": g4,
              "G4_share": 0.05}  # fmt: skip
    write_result(out, name, group, **shares, **changes)


def test_least_areas_are_swept(tmp_path):
    areas(tmp_path, "a", 1, 0.08, 0.0)
    areas(tmp_path, "b", 2, 1.2, 0.3)
    areas(tmp_path, "c", 4, 0.0, 7.0)
    areas(tmp_path, "d", 1, 0.3, 0.0)
    labels = write_labels(tmp_path / "l.csv", "slide,grade_group\na,0\nb,2\nc,4\nd,0\n")
    record = score_slides(read_results(tmp_path), read_labels(labels))
    table = {row["min_area_mm2"]: row for row in record["least_areas"]}
    assert [table[a]["with_cancer"] for a in (0, 0.1, 0.5, 2)] == [4, 3, 2, 1]
    assert [table[a]["sensitivity"] for a in (0, 0.5, 2)] == [1, 1, 0.5]
    assert [table[a]["specificity"] for a in (0, 0.1, 0.5)] == [0, 0.5, 1]
    assert table[0.5]["kappa"] == pytest.approx(1)
    done = CliRunner().invoke(
        main, ["evaluate", "--slides", str(tmp_path), "--labels", str(labels)]
    )
    assert "least area of cancer (--min-area)" in done.output
    assert done.output.rstrip().endswith("Cribriform and intraductal growth are not assessed.")


def test_withheld_grades_do_not_count_as_no_cancer(tmp_path):
    areas(tmp_path, "a", 2, 1.0, 0.5, grade_status="graded")
    areas(tmp_path, "b", None, 1.0, 0.5, grade_status="withheld: unlike training")
    labels = write_labels(tmp_path / "l.csv", "slide,grade_group\na,2\nb,5\n")
    record = score_slides(read_results(tmp_path), read_labels(labels))
    assert (record["slides"], record["withheld"]) == (1, ["b"])
    assert record["figures"]["accuracy"] == 1


def test_rows_of_different_rules_are_not_mixed(tmp_path):
    write_result(tmp_path, "a", 2)
    write_result(tmp_path, "b", 2, rules="GUPS 2019", min_pattern=0.05)
    with pytest.raises(ConfigError, match="different settings"):
        read_results(tmp_path)
