import csv
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.core.errors import ConfigError, NonFiniteLossError, OutputError
from wsikd.core.output.lock import locked
from wsikd.learn.engine.runs import load_run
from wsikd.learn.patch import tune as module
from wsikd.learn.patch.settings import load_grading
from wsikd.learn.patch.tune import Tuning, parse_grid, trial_folder, tune
from wsikd.models.backbones.base import macs
from wsikd.models.files.bundle import load_bundle

GRID = {"optim.lr": (1e-3, 1e-6), "optim.batch_size": (9, 18)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Stands for a training: the first of a configuration trains, others copy its folder."""
    kept, train, results = tmp_path_factory.mktemp("kept"), module.distill, {}

    def distill(config, folder, **options):
        run = kept / f"{config.optim.lr} {config.optim.batch_size}"
        if run not in results:
            results[run] = train(config, run, **options)
        shutil.copytree(run, folder, dirs_exist_ok=True)
        return results[run]

    return distill


@pytest.fixture
def tuning(stripes, tmp_path):
    file = tmp_path / "c.yaml"
    settings = {"method": "supervised", "network": {"width": 0.25}}
    file.write_text(yaml.safe_dump(settings | {"optim": {"epochs": 1, "warmup_epochs": 0}}))
    return Tuning(file, (), (str(stripes),), GRID)


def rows(result):
    with result.trials_file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_best_on_validation_is_chosen(tuning, tmp_path, monkeypatch):
    out = tmp_path / "out"
    result = tune(tuning, out, device="cpu")
    assert (result.finished, result.total) == (4, 4)
    trials = rows(result)
    assert {(float(r["optim.lr"]), int(r["optim.batch_size"])) for r in trials} == {
        (a, b) for a in GRID["optim.lr"] for b in GRID["optim.batch_size"]
    }
    assert result.value == max(float(r["kappa"]) for r in trials)
    network = load_bundle(out / "trials" / trials[0]["run"]).network()
    assert {r["macs"] for r in trials} == {str(macs(network, 32))}
    best = load_grading(result.best_file)
    assert best.optim.lr == result.best["optim.lr"]
    assert best.optim.batch_size == result.best["optim.batch_size"]
    monkeypatch.setattr(module, "distill", None)  # nothing is trained again
    again = tune(tuning, out, device="cpu")
    assert (again.best, again.value, rows(again)) == (result.best, result.value, trials)
    with pytest.raises(OutputError, match="a search with other settings"):
        tune(Tuning(tuning.config_file, (), tuning.data, GRID, seed=1), out, device="cpu")
    labels = Path(tuning.data[0])
    first, *others = labels.read_text().splitlines()
    changed = labels.with_name("fewer.csv")
    changed.write_text("\n".join([first, *others[:-1]]) + "\n")
    with pytest.raises(OutputError, match="a search with other settings"):
        tune(Tuning(tuning.config_file, (), (str(changed),), GRID), out, device="cpu")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("end", [Killed, RuntimeError])
def test_a_stopped_search_goes_on(end, tuning, tmp_path, monkeypatch, trained):
    calls = []

    def dying(*args, **options):
        calls.append(args[1].name)
        if len(calls) == 2:
            raise end
        return trained(*args, **options)

    monkeypatch.setattr(module, "distill", dying)
    out = tmp_path / "out"
    with pytest.raises(end):
        tune(tuning, out, device="cpu")
    result = tune(tuning, out, device="cpu")
    assert result.finished == 4
    assert len(calls) == 5  # the one that was stopped came again, no other
    assert calls.count(calls[1]) == 2
    assert result.best_file is not None


def test_a_trial_of_another_process_is_left_to_it(tuning, tmp_path, monkeypatch, trained):
    monkeypatch.setattr(module, "distill", trained)
    out = tmp_path / "out"
    with locked(trial_folder(out, {"optim.lr": 1e-3, "optim.batch_size": 9})):
        part = tune(tuning, out, device="cpu")
    assert (part.finished, part.best_file) == (3, None)
    assert [r["state"] for r in rows(part)].count("missing") == 1
    whole = tune(tuning, out, device="cpu")
    assert whole.finished == 4
    assert whole.best_file.exists()


def test_a_trial_that_diverges_is_lost_and_no_other(tuning, tmp_path, monkeypatch, trained):
    def diverging(config, *args, **options):
        if config.optim.lr == 1e-3:
            raise NonFiniteLossError("loss term 'ce'", "is nan", "lower optim.lr")
        return trained(config, *args, **options)

    monkeypatch.setattr(module, "distill", diverging)
    result = tune(tuning, tmp_path / "out", device="cpu")
    assert result.finished == 4
    assert sorted(r["state"] for r in rows(result)) == ["diverged"] * 2 + ["finished"] * 2
    assert result.best["optim.lr"] == 1e-6


def test_grids_are_read_as_yaml_and_faults_told():
    grid = parse_grid(["weights.fm=0.01,1e-4,1", "attention.form=gradcam,relu_product"])
    assert grid == {
        "weights.fm": (0.01, 1e-4, 1), "attention.form": ("gradcam", "relu_product"),
    }  # fmt: skip
    for bad, told in ((["a"], "is not key=value"), (["a=1,1"], "twice"), (["a=1", "a=2"], "twice"),
                      (["a=[1"], "is not a list"), ([], "is empty")):  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            parse_grid(bad)


def test_the_command_prints_the_best_and_refuses_in_one_line(
    tuning, tmp_path, stripes, monkeypatch
):
    monkeypatch.chdir(stripes.parent)
    asked = ["tune", "-c", tuning.config_file, "-o", tmp_path / "out", "--data", stripes.name,
             "--device", "cpu", "--grid", "optim.lr=1e-3"]  # fmt: skip
    done = CliRunner().invoke(main, list(map(str, asked)), catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out/best.yaml")
    assert "best on validation: optim.lr=0.001 (kappa" in done.stdout
    again = CliRunner().invoke(main, list(map(str, asked)), catch_exceptions=False)
    assert again.stdout == done.stdout  # the same search: nothing is refused
    monkeypatch.chdir(tmp_path)  # best.yaml serves from any folder, and names no absolute place
    for name in ("best.yaml", "search.yaml"):
        assert str(tmp_path.parent) not in (tmp_path / "out" / name).read_text()
    found = load_run(Path("out/best.yaml"), ()).config
    assert Path(found.data.paths[0]).samefile(stripes)
    monkeypatch.chdir(stripes.parent)
    wrong = [*asked[:-1], "optim.lrr=1"]
    refused = CliRunner().invoke(main, list(map(str, wrong)), catch_exceptions=False)
    assert refused.exit_code == 2
    assert "optim.lrr: unknown key; did you mean 'lr'?" in refused.stderr
    wrong = [*asked, "--metric", "loss"]
    refused = CliRunner().invoke(main, list(map(str, wrong)), catch_exceptions=False)
    assert (refused.exit_code, "choose one of kappa" in refused.stderr) == (2, True)
