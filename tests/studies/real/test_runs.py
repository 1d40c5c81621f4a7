"""The evidence on real tissue: runs at toy size, killed ones too."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.studies.real import work
from benchmarks.studies.real.meter import entries, metered
from benchmarks.studies.real.run import main
from tests.studies.real.toy import CHANGES, write_toy


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return [write_toy(root, name).parents[1] / f"{name}_set" for name in ("colon", "prostate")]


def command(sets, out, *more):
    arguments = [
        "-o", out, "--set", f"colon={sets[0]}", "--set", "seeds=[1]", "--set", "folds=2",
        "--set", "teacher_seeds=[1]", "--set", f"changes={json.dumps(CHANGES)}",
        "--log-level", "error", *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_an_interrupted_run_is_continued_and_the_best_trial_evaluated(sets, tmp_path, monkeypatch):
    only = ("--only", "T/teacher/*")
    with monkeypatch.context() as patch:
        patch.setattr(work, "keep_validation", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command(sets, tmp_path / "o", *only).exit_code == 130
    weights = next((tmp_path / "o/runs/T/teacher/trial0/student").glob("*.safetensors"))
    before = weights.read_bytes()
    done = command(sets, tmp_path / "o", *only)
    assert done.exit_code == 0, done.output
    assert "4 of" in done.output  # the best trial is a run of block A too
    assert "blocks scored: none" in done.output
    assert weights.read_bytes() == before
    trials = [p.parent.name for p in (tmp_path / "o/predictions/T/teacher").glob("*/test.npz")]
    assert len(trials) == 1
    listing = command(sets, tmp_path / "o", "--list").output
    assert f"A/teacher/fold0-seed1: done (is T/teacher/{trials[0]})" in listing
    kept = sorted((tmp_path / "o/predictions/T/teacher").glob("*/val.npz"))
    assert len(kept) == 3
    with np.load(kept[0]) as file:
        assert set(file["group"]) <= {f"patient p{i:02d}" for i in range(12)}
    finished = [entry["finished"] for entry in entries(tmp_path / "o")]
    assert finished == [False, True, True, True, True]


def test_another_study_is_not_continued(sets, tmp_path):
    assert command(sets, tmp_path / "o", "--list").exit_code == 0
    other = command(sets, tmp_path / "o", "--list", "--set", "folds=3")
    assert other.exit_code == 2
    assert "another 'folds'" in other.output
    assert command(sets, tmp_path / "o", "--record", tmp_path / "r").exit_code == 2


def test_the_cost_of_a_killed_run_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.studies.real.meter.EVERY_S", 0.01)

    def killed():
        with metered(tmp_path, "T/ce/trial0"):
            sum(i * i for i in range(200_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    (entry,) = entries(tmp_path)
    assert entry["job"] == "T/ce/trial0"
    assert not entry["finished"]
    assert entry["cpu_s"] >= 0


@pytest.mark.studies
def test_all_blocks_at_toy_size(sets, tmp_path):
    out = tmp_path / "o"
    more = ("--set", f"prostate={sets[1]}")
    done = command(sets, out, *more)
    assert done.exit_code == 0, done.output
    assert "blocks scored: A, B, P, C, D" in done.output
    for scores in out.rglob("scores.json"):
        looks = [s for s in json.loads(scores.read_text())["scores"] if s["split"] == "test"]
        assert len(looks) == 1, scores
    again = command(sets, out, *more)
    assert again.exit_code == 0, again.output
    record = command(sets, out, *more, "--record", tmp_path / "record")
    assert record.exit_code == 0, record.output
    assert set(json.loads((tmp_path / "record.json").read_text())["blocks"]) == set("ABPCD")
    assert (tmp_path / "record.png").read_bytes().startswith(b"\x89PNG")
