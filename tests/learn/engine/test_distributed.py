"""Two processes that torchrun starts train what one does."""

import csv
import socket

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.engine.torchrun import torchrun
from tests.learn.grading import grading
from wsikd.core.errors import ConfigError
from wsikd.learn.data.splits import share_of
from wsikd.learn.engine.distributed import Team
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle
from wsikd.models.shared_norm import share_norms

pytestmark = pytest.mark.usefixtures("one_thread")


def write_config(folder, **changes):
    told = {
        "method": "supervised", "network": {"width": 0.25},
        "optim": {"epochs": 2, "batch_size": 16, "lr": 1e-3},
        "augment": {"rotate_deg": 20, "stain": 0.1},
    } | changes  # fmt: skip
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def epochs(run):
    with (run / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: float(v) for k, v in r.items() if k not in ("seconds", "waiting")} for r in rows]


def names(folder):
    return {path.name for path in folder.iterdir()}


TWICE = """
import os, sys
from contextlib import suppress
from wsikd.cli.main import main
port, *asked = sys.argv[1:]
leave, os._exit = os._exit, sys.exit
with suppress(SystemExit):
    main(asked)
os._exit = leave
print("once", file=sys.stderr, flush=True)
os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}  # to meet again
main(asked)
"""
"""The same command again in the same processes, which take long to start."""


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    told = yaml.safe_load(write_config(folder).read_text()) | {"data": {"paths": [str(stripes)]}}
    distill(grading(told), folder / "run", device="cpu")
    return folder / "run"


def test_two_processes_train_what_one_does(stripes, teacher, tmp_path):
    """Batch norm, roots over the batch and augmentation do not depend on how many share a batch."""
    path = write_config(tmp_path, method="at_plus", data={"student_mpp": 2.0})
    asked = ["distill", "-c", path, "--data", stripes, "--teacher", teacher, "--device", "cpu",
             "--seed", "3"]  # fmt: skip
    alone = CliRunner().invoke(main, [*map(str, asked), "-o", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    (tmp_path / "twice.py").write_text(TWICE)
    program = (tmp_path / "twice.py", free_port())
    done = torchrun(*asked, "-o", tmp_path / "two", program=program)
    assert (tmp_path / "two" / "student" / "card.json").exists(), done.stderr
    first, _, second = done.stderr.partition("once\n")
    assert len(done.stdout.splitlines()) == 1  # told once
    assert first.count("epoch 2/2") == 1
    assert "epoch" not in second
    assert "terminate called" not in done.stderr
    one, two = epochs(tmp_path / "one"), epochs(tmp_path / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=2e-3, abs=2e-4)
    assert two[0]["raw.at_plus"] == pytest.approx(one[0]["raw.at_plus"], rel=1e-4)
    assert two[0]["raw.fm"] == pytest.approx(one[0]["raw.fm"], rel=1e-4)
    card = load_bundle(tmp_path / "two").card
    assert card.training.processes == 2
    assert names(tmp_path / "two") == names(tmp_path / "one")
    # The second time a fault is found by the first process, and told once.
    assert done.returncode == 1  # torchrun's own, whatever its processes ended with
    assert done.stderr.count("is not empty; give --resume") == 1
    assert "Traceback (most recent call last)" not in done.stderr.partition("torch/")[0]


def test_shares_are_the_whole_batch():
    order = np.arange(50)
    parts = [share_of(order, 12, size=3, rank=r).reshape(4, 4) for r in range(3)]
    for step in range(4):
        whole = np.concatenate([part[step] for part in parts])
        assert whole.tolist() == list(range(12 * step, 12 * step + 12))
    assert share_of(order, 12).tolist() == list(range(48))


def test_what_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    config = grading({"method": "supervised", "optim": {"accumulate": 2}})
    with pytest.raises(ConfigError, match="32 does not divide among 3 processes of 2 parts; set"):
        Team(config, "cpu")
    refused = CliRunner().invoke(main, ["evaluate", "somewhere"])
    assert (refused.exit_code, "was started as 3 processes" in refused.stderr) == (2, True)


def test_half_precision_needs_a_gpu():
    config = grading({"method": "supervised", "optim": {"precision": "16-mixed"}})
    with pytest.raises(
        ConfigError, match=r"16-mixed: needs a GPU, not cpu; set optim\.precision=bf"
    ):
        Team(config, "cpu")


def test_a_shared_norm_is_batch_norm_where_it_is_alone(monkeypatch):
    from torch import distributed, nn

    monkeypatch.setattr(distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(distributed, "all_reduce", lambda x: None)
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4, 3, dtype=torch.float64) * 3 + 1
    nets = [nn.Sequential(nn.BatchNorm2d(5)).double() for _ in range(2)]
    share_norms(nets[1])
    slopes = []
    for net in nets:
        given = x.clone().requires_grad_()
        for _ in range(2):
            net(given).pow(3).sum().backward()
        slopes.append([given.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for name, buffer in nets[0].named_buffers():
        torch.testing.assert_close(dict(nets[1].named_buffers())[name], buffer)
    torch.testing.assert_close(nets[0].eval()(x), nets[1].eval()(x))
