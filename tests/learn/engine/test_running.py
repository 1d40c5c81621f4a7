"""How a training runs: parts of a batch, memory, what it tells, and who may write."""

import csv
import json
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn
from wsikd.cli.main import main

from tests.learn.grading import grading
from wsikd.core import timing as clock
from wsikd.core.errors import ConfigError
from wsikd.core.output.lock import locked
from wsikd.learn.data import patches as data
from wsikd.learn.data import prefetch as ahead
from wsikd.learn.engine import loggers
from wsikd.learn.patch.train import distill
from wsikd.models.device import deterministic
from wsikd.models.files.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("one_thread")


def config(csv_file, **changes):
    base = {
        "method": "supervised", "network": {"width": 0.25}, "data": {"paths": [str(csv_file)]},
        "optim": {"epochs": 2, "batch_size": 12, "lr": 3e-3},
    }  # fmt: skip
    for key, value in changes.items():
        base[key] = base.get(key, {}) | value
    return grading(base)


def frozen_statistics(self, mode=True):
    return nn.Module.train(self, mode=False)


def test_parts_of_a_batch_give_the_step_of_the_whole(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "train", frozen_statistics)
    weights = []
    for parts in (1, 3):
        run = tmp_path / str(parts)
        distill(config(stripes, optim={"accumulate": parts}), run, seed=2, device="cpu")
        weights.append(load_bundle(run).weights)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=2e-3, atol=2e-5)
    with pytest.raises(ValueError, match="12 does not divide by accumulate 5"):
        config(stripes, optim={"accumulate": 5})


def test_a_set_that_does_not_fit_is_held_a_few_batches_at_a_time(stripes, tmp_path, monkeypatch):
    images, alive, most = data.PatchSet.images, {}, [0]

    def watched(self, indices):
        made = images(self, indices)
        if len(made) > 4:  # scoring at the end takes more at once
            return made
        alive[id(made)] = len(made)
        weakref.finalize(made, alive.pop, id(made))
        most[0] = max(most[0], sum(alive.values()))
        return made

    monkeypatch.setattr(data.PatchSet, "images", watched)
    settings = config(stripes, data={"cache_gb": 1e-9}, optim={"batch_size": 4})
    patches = data.load_patches(settings.data, settings.split)
    distill(settings, tmp_path / "run", device="cpu", data=patches)
    assert patches._images is None
    assert 2 * 4 <= most[0] <= (ahead.AHEAD + 2) * 8  # validation takes 8; an epoch has 52
    kept = data.load_patches(settings.data, settings.split)
    plain = config(stripes, optim={"batch_size": 4})
    distill(plain, tmp_path / "kept", device="cpu", data=kept)
    assert kept._images is not None
    assert load_bundle(tmp_path / "kept").sha256 == load_bundle(tmp_path / "run").sha256


def test_the_loggers_agree(stripes, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    distill(
        config(stripes), tmp_path / "run", device="cpu", loggers=["tensorboard"],
        on_step=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "epoch" in row]
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [int(t["epoch"]) for t in table] == [1, 2]
    for row, line in zip(rows, table, strict=True):
        assert float(line["raw.ce"]) == row["raw"]["ce"]
        assert float(line["val.kappa"]) == row["val"]["kappa"]
        assert 0 <= row["waiting"] <= 1
    for name, value in (("raw/ce", "raw.ce"), ("val/kappa", "val.kappa"), ("lr", "lr")):
        shown = [(e.step, e.value) for e in events.Scalars(name)]
        assert shown == [(i + 1, pytest.approx(float(t[value]))) for i, t in enumerate(table)]
    assert told == [(i + 1, 8) for i in range(8)]  # four steps in each of two epochs
    assert "% waiting for data), " in (tmp_path / "run/log.txt").read_text()


class Failing:
    """A logger whose service is gone from the second epoch on."""

    def __init__(self, run, *, epoch=0):
        self.epoch = epoch

    def write(self, row):
        if row["epoch"] > 1:
            raise ConnectionError("service gone")

    def close(self):
        raise AssertionError("a logger that failed is not closed")


def test_a_logger_that_fails_ends_no_training(stripes, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(loggers.LOGGERS, "failing", f"{__name__}:Failing")
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Failing=Failing))
    distill(config(stripes, optim={"epochs": 3}), tmp_path / "run", device="cpu",
            loggers=["failing"])  # fmt: skip
    told = [r.message for r in caplog.records if "failing" in r.message]
    fault = "failed (ConnectionError: service gone)"
    assert told == [f"--logger failing: {fault}; no further epochs are sent to it"]
    assert load_bundle(tmp_path / "run")


def test_loggers_that_are_not_there_are_refused(stripes, tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match="--logger wandb: not among the known loggers; choose one of tensorboard"
    ):
        distill(config(stripes), tmp_path / "run", device="cpu", loggers=["wandb"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wsikd\[loggers\]'"):
        distill(config(stripes), tmp_path / "run", device="cpu", loggers=["tensorboard"])
    assert not (tmp_path / "run").exists()


def test_deterministic_mode_ends_with_its_block():
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with deterministic(wanted=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    with deterministic(wanted=False):
        assert torch.are_deterministic_algorithms_enabled() == before[0]


def test_waiting_is_what_the_items_took(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def slow():
        for _ in range(3):
            now[0] += 1.0
            yield None

    waiting = clock.Waiting()
    for _ in waiting.watch(slow()):
        now[0] += 3.0
    assert waiting.share == pytest.approx(3 / 12)


def test_one_training_at_a_time_in_a_folder(stripes, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("method: supervised\n")
    asked = ["distill", "-c", path, "--data", stripes, "-o", tmp_path / "run", "--device", "cpu"]
    with locked(tmp_path / "run"):
        done = CliRunner().invoke(main, [str(a) for a in asked], catch_exceptions=False)
    assert (done.exit_code, "another process" in done.stderr) == (2, True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("size", "on"), [(4, "8 steps"), (16, "the first epoch")])
def test_the_cost_is_printed_and_in_no_record(stripes, tmp_path, size, on):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({
        "method": "supervised", "network": {"width": 0.25}, "data": {"paths": [str(stripes)]},
        "optim": {"epochs": 2, "batch_size": size},
    }))  # fmt: skip
    asked = ["distill", "-c", file, "-o", tmp_path / "run", "--device", "cpu"]
    done = CliRunner().invoke(main, [str(a) for a in asked])
    assert done.exit_code == 0, done.output
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("about ")]
    assert line.endswith(f" for 2 epochs, measured on {on}")
    assert "about" not in done.stdout
    written = [p for p in (tmp_path / "run").rglob("*") if p.suffix in (".txt", ".json", ".jsonl")]
    assert written
    assert not any("measured on" in p.read_text() for p in written)


def test_it_changes_no_number(stripes, tmp_path):
    lines = []
    for name, more in (("plain", {}), ("timed", {"on_cost": lines.append})):
        distill(config(stripes), tmp_path / name, device="cpu", seed=1, **more)
    assert lines
    one, two = (load_bundle(tmp_path / name).sha256 for name in ("plain", "timed"))
    assert one == two
