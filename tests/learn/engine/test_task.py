"""A kind of learning that wsikd does not know: the frame, the loop and resumption are the same."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

from wsikd.core.config import Settings
from wsikd.core.errors import CheckpointError
from wsikd.learn.data.prefetch import read_ahead
from wsikd.learn.engine.settings import Optim
from wsikd.learn.engine.train import seed_weights, train
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.methods.base import Batch, Method

SLOPE = 3.0


class LineConfig(Settings):
    method: str = "line"
    optim: Optim = Optim(
        epochs=5,
        batch_size=8,
        lr=0.3,
        schedule="constant",
        warmup_epochs=0,
        balance=False,
        weight_decay=0,
    )
    weights: dict[str, float] = Field(default_factory=lambda: {"square": 2.0})


class Points:
    """Points (x, SLOPE x); every fourth is for validation."""

    def __init__(self, count=32):
        self.x = torch.linspace(-1, 1, count)
        self.label, self.digests = np.zeros(count, np.int64), [f"{count} points"]

    def indices(self, split):
        val = np.arange(len(self.x)) % 4 == 3
        return np.flatnonzero(val if split == "val" else ~val)

    def batches(self, order, size, *, threads=2, read=None):
        yield from read_ahead(order, size, threads, read)


class Line(Method):
    views = ("x",)

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(1, 1, bias=False)

    def forward(self, batch, at):
        x = batch.views["x"]
        return {"square": ((self.student(x) - SLOPE * x) ** 2).mean()}

    def predict(self, batch):
        return self.student(batch.views["x"])


class PointViews:
    def __init__(self, points):
        self.points = points

    def read(self, indices):
        return self.points.x[indices, None]

    def batch(self, x, indices, at, part=None):
        box = torch.from_numpy(indices)
        return Batch(views={"x": x}, label=torch.zeros_like(box), slide=(), box=box)


class LineTask(Task):
    def load(self, given=None, resumed=None):
        self.data, self.resumed = given or Points(), resumed

    def build(self):
        self.method = Line()

    def make_views(self, device):
        return PointViews(self.data)

    def validate(self, logits):
        truth = SLOPE * self.data.x[self.data.indices("val")].numpy()
        return {"loss": float(((logits[:, 0] - truth) ** 2).mean())}

    def export(self, trainer):
        slope = self.method.student.weight.item()
        return SimpleNamespace(slope=slope, best=trainer.best.epoch, text=lambda: f"{slope}")


class LastTask(LineTask):
    """Without validation; the gradient of each step is turned round."""

    keeps_last, keep_every = True, 2

    def judge(self, trainer):
        return {"slope": self.method.student.weight.item()}

    def summary(self, row):
        return f"slope {row['slope']:.2f}"

    def schedule(self, groups, at, batch_size):
        groups[0]["lr"] = 0.01
        return 0.01

    def before_step(self, at, unscale):
        unscale()
        self.method.student.weight.grad.neg_()


def rows(run):
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "waiting")} for r in found]


@pytest.mark.parametrize("kind", [LineTask, LastTask])
def test_a_killed_run_of_any_kind_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    whole = train(kind, LineConfig(), tmp_path / "whole", seed=2, device="cpu")
    fit = Trainer._train_epoch

    def dies(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        return fit(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", dies)
        with pytest.raises(KeyboardInterrupt):
            train(kind, LineConfig(), tmp_path / "killed", seed=2, device="cpu")
    torch.manual_seed(9)  # other chance in between must not matter
    again = train(kind, LineConfig(), tmp_path / "killed", seed=2, device="cpu", resume=True)
    assert again.slope == whole.slope
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="was made with other data"):
        train(kind, LineConfig(), tmp_path / "killed", seed=2, device="cpu", resume=True,
              data=Points(40))  # fmt: skip


def test_the_best_epoch_or_the_last_is_exported(tmp_path):
    best = train(LineTask, LineConfig(), tmp_path / "best", device="cpu")
    told = rows(tmp_path / "best")
    assert best.best == 1 + int(np.argmin([row["val"]["loss"] for row in told]))
    assert best.best < 5  # it overshoots
    assert (best.slope - SLOPE) ** 2 < 0.5
    assert {p.name for p in (tmp_path / "best/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    last = train(LastTask, LineConfig(), tmp_path / "last", device="cpu")
    told = rows(tmp_path / "last")
    assert last.slope == told[-1]["slope"] < told[0]["slope"]  # it went the wrong way, as asked
    assert all(row["lr"] == 0.01 and "val" not in row for row in told)
    kept = {"last.ckpt", "epoch_2.ckpt", "epoch_4.ckpt"}
    assert {p.name for p in (tmp_path / "last/checkpoints").iterdir()} == kept
    log = (tmp_path / "last/log.txt").read_text()
    assert f"epoch 5/5: slope {last.slope:.2f}, " in log


def test_weights_are_seeded_by_stream_before_the_method_is_built(tmp_path):
    class Student(LineTask):
        init_stream = "student"

        def build(self):
            super().build()
            self.first = self.method.student.weight.item()

        def export(self, trainer):
            return SimpleNamespace(first=self.first, text=lambda: "")

    found = train(Student, LineConfig(), tmp_path / "run", seed=5, device="cpu").first
    started = {}
    for stream in ("teacher", "student"):
        seed_weights(5, stream)
        started[stream] = Line().student.weight.item()
    assert found == started["student"] != started["teacher"]
    made = json.loads((tmp_path / "run/provenance.json").read_text())
    assert (made["data"], made["device"], made["processes"]) == (["32 points"], "cpu", 1)
