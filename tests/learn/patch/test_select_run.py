"""Which epoch is taken: the last, a smoothed figure, and averaged weights."""

import numpy as np
import pytest
import torch

from tests.learn.grading import grading
from tests.learn.patch.whole_runs import (
    epochs,
    resumes_to_the_byte,
    two_processes_train_what_one_does,
)
from wsikd.core.errors import CheckpointError, ConfigError
from wsikd.core.run import RunDir
from wsikd.learn.engine.average import WeightAverage
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.methods.supervised import Supervised
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("one_thread")


def content(csv, **optim):
    return {
        "method": "supervised", "network": {"arch": "strided_small", "width": 0.5},
        "data": {"paths": [str(csv)]}, "optim": {"epochs": 5, "batch_size": 18} | optim,
    }  # fmt: skip


def trained(csv, folder, **optim):
    return distill(grading(content(csv, **optim)), folder, seed=3, device="cpu")


def test_the_last_epoch_is_taken_whatever_its_figures(stripes, tmp_path):
    last = trained(stripes, tmp_path / "last", select="last")
    best = trained(stripes, tmp_path / "best")
    assert last.best_epoch == 5
    assert [r["raw"] for r in epochs(last.path)] == [r["raw"] for r in epochs(best.path)]
    state = torch.load(last.path / "checkpoints/last.ckpt", weights_only=True)["student"]
    assert all(torch.equal(v, state[k]) for k, v in load_bundle(last.path).weights.items())
    assert "epoch" not in last.metrics["selected"]
    assert "epoch" in best.metrics["selected"]
    assert "(epoch 5, 18 patches of 2 slides; the last, not selected on" in last.text()
    assert "selected on these patches, so optimistic" in best.text()
    assert RunDir(last.path).read_provenance()["select"] == "last"


@pytest.mark.parametrize("select", ["accuracy", "loss"])
def test_the_figure_is_averaged_over_epochs(stripes, tmp_path, select):
    run = trained(stripes, tmp_path / "run", select=select, smooth=3, epochs=6)
    figures = np.array([r["val"][select] for r in epochs(run.path)])
    losses = np.array([r["val"]["loss"] for r in epochs(run.path)])
    sign = -1 if select == "loss" else 1
    ranked = [
        (sign * figures[e - 2 : e + 1].mean().round(12), -losses[e - 2 : e + 1].mean(), -e)
        for e in range(2, 6)
    ]
    assert run.best_epoch == -max(ranked)[2] + 1


def test_the_average_is_that_of_the_weights_after_every_step(stripes, tmp_path, monkeypatch):
    """The reference averages copies of the weights, in double precision."""
    seen = []
    monkeypatch.setattr(Supervised, "after_step", lambda self, at: seen.append(copy_of(self)))

    def copy_of(method):
        return {k: v.double().numpy().copy() for k, v in method.student.state_dict().items()}

    run = trained(stripes, tmp_path / "run", ema=0.8, select="last", epochs=3)
    plain = trained(stripes, tmp_path / "plain", select="last", epochs=3)
    assert [r["raw"] for r in epochs(run.path)] == [r["raw"] for r in epochs(plain.path)]
    assert epochs(run.path)[-1]["val"] != epochs(plain.path)[-1]["val"]
    steps = seen[: len(seen) // 2]
    assert len(steps) == 9
    average = None
    for n, weights in enumerate(steps, start=1):
        if n == 1:  # the start of the network, before any step
            first = start_of(stripes)
            average = {k: v.double().numpy() for k, v in first.items()}
        decay = min(0.8, (1 + n) / (10 + n))
        average = {k: decay * average[k] + (1 - decay) * weights[k] for k in weights}
    bundle = load_bundle(run.path).weights
    for key, value in bundle.items():
        if value.is_floating_point():
            np.testing.assert_allclose(value.numpy(), average[key], rtol=1e-4, atol=1e-6)
        else:
            assert value == int(steps[-1][key])


def start_of(csv):
    from wsikd.learn.engine.train import seed_weights
    from wsikd.learn.patch.train import PatchTask

    task = PatchTask(grading(content(csv)), seed=3)
    task.load()
    seed_weights(3, task.init_stream)
    task.build()
    return task.method.student.state_dict()


def test_frozen_weights_stay_exact_in_an_average():
    net = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(net.weight)
    average, before = WeightAverage(net, 0.9), net.weight.detach().clone()
    for _ in range(5):
        net.num_batches_tracked += 1
        with torch.no_grad():
            net.bias += 1
        average.update()
    own = net.bias.detach().clone()
    with average.in_place():
        assert torch.equal(net.weight, before)
        assert net.num_batches_tracked == 5
        assert (net.bias < own).all()
    assert torch.equal(net.bias, own)


OPTIM = {"ema": 0.9, "smooth": 2, "select": "loss", "epochs": 3}


def test_killed_and_resumed(stripes, tmp_path, monkeypatch):
    runs = resumes_to_the_byte(content(stripes, **OPTIM), tmp_path, monkeypatch)
    whole, killed = ([(r["raw"], r["val"]) for r in epochs(run)] for run in runs)
    assert whole == killed


def test_two_processes_train_what_one_does(stripes, tmp_path):
    two_processes_train_what_one_does(content(stripes, **OPTIM), tmp_path, ("val",))


def test_a_checkpoint_without_an_average_does_not_continue_with_one(stripes, tmp_path):
    from wsikd.learn.engine.checkpoints import Parts, restore, state_of
    from wsikd.learn.engine.schedules import Best

    method = Supervised(torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    parts = Parts(method, optimizer, [], None)
    old = state_of(parts, 1, Best(1, 0.5, 1.0))
    old.pop("recent")  # as wsikd 0.1.0 wrote it
    assert restore(parts, old, tmp_path) == (1, Best(1, 0.5, 1.0))
    with pytest.raises(CheckpointError, match="does not fit this run"):
        restore(parts._replace(average=WeightAverage(method.student, 0.9)), old, tmp_path)


@pytest.mark.parametrize(
    ("optim", "fault"),
    [
        ({"select": "last", "patience": 3}, "patience has no effect with select 'last'"),
        ({"select": "last", "smooth": 2}, "smooth has no effect with select 'last'"),
        ({"smooth": 6}, "smooth 6 is more than the 5 epochs"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_faults(stripes, optim, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_settings(content(stripes, **optim), name="c.yaml")
