"""``wsikd.evaluate_slides`` is ``wsikd evaluate --slides``."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

import wsikd
from wsikd.core.errors import AnnotationError, ConfigError


@pytest.fixture
def graded(shop):
    return wsikd.infer(["slides"], "runs/student", "out")


def command(*words):
    found = CliRunner().invoke(main, [*map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.stderr
    return found.stdout


def test_the_command_prints_the_object(graded):
    Path("labels.csv").write_text("slide,isup_grade_group\na.svs,5\nb,0\n")
    words = ("evaluate", "--slides", "out", "--labels", "labels.csv")
    printed, record = command(*words), json.loads(command(*words, "--json"))
    scores = wsikd.evaluate_slides(graded, "labels.csv")
    without = {name: value for name, value in scores.record.items() if name != "looks"}
    assert without == {name: value for name, value in record.items() if name != "looks"}
    kept = [line for line in scores.to_text().splitlines() if "looked at" not in line]
    assert kept == [line for line in printed.splitlines() if "looked at" not in line]
    assert wsikd.evaluate_slides("out", {"a": 5, "b": 0}).record["figures"] == record["figures"]


def test_figures_html_and_plot(graded):
    scores = wsikd.evaluate_slides("out", {"a": 5, "b": 0})
    assert list(scores) == ["kappa", "accuracy", "auc_cancer"]
    assert len(scores) == 3
    assert scores["accuracy"] == scores.record["figures"]["accuracy"]
    assert scores.interval("kappa") is None
    assert repr(scores).startswith("SlideScores(2 slides: kappa ")
    assert "grade group (the pathologist&#x27;s in rows)" in scores._repr_html_()
    axes = scores.plot()
    assert scores.plot(axes) is axes
    assert axes.get_ylabel() == "grade group, pathologist"
    assert sum(int(text.get_text()) for text in axes.texts[:36]) == 2


def test_what_is_refused(graded):
    with pytest.raises(AnnotationError, match="grade group 6 is not understood"):
        wsikd.evaluate_slides("out", {"a": 6})
    with pytest.raises(AnnotationError, match="name no slide"):
        wsikd.evaluate_slides("out", {})
    with pytest.raises(ConfigError, match="holds tile stores, which --slides does not take"):
        wsikd.evaluate_slides("stores", {"a": 5})
    with pytest.raises(ConfigError, match="none of its 1 slides has a result"):
        wsikd.evaluate_slides("out", {"nothing": 5})
