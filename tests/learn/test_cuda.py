"""A GPU computes what the CPU does: ``pytest -m gpu``.

``WSIKD_TEST_DEVICE`` names another device, e.g. cpu, to try the tests themselves.
"""

import os

import numpy as np
import pytest
import torch
import yaml

from tests.grade.engines.test_engines import ARCHS, grader, patches, reference
from tests.learn.methods.test_contract import NAMES, content_of, killed_in_the_second_epoch, wsikd
from tests.learn.methods.test_contract import installed as installed
from tests.learn.methods.test_contract import place as place
from wsikd.core.run import RunDir
from wsikd.grade.engines import Network, started
from wsikd.grade.engines.choose import default_precision, open_engine
from wsikd.learn.engine.trainer import Trainer

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("WSIKD_TEST_DEVICE", "cuda:0")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Without TF32, whose products have ten bits."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network(arch):
    made = grader(arch)
    return made, Network(lambda: made, 64, 4)


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_are_those_of_the_cpu(arch):
    module, wrapped = network(arch)
    x = patches(32)
    wanted = reference(module, x)
    found = open_engine(wrapped, "torch", "fp32", device=DEVICE)(x)
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_bf16_decides_as_fp32_where_it_is_clear(arch):
    if default_precision("torch", DEVICE) != "bf16":
        pytest.skip("the device does not compute in bf16")
    module, wrapped = network(arch)
    x = patches(64)
    wanted = reference(module, x)
    found = open_engine(wrapped, "torch", "bf16", device=DEVICE, check=False)(x)
    top = np.sort(wanted, 1)
    clear = top[:, -1] - top[:, -2] > 0.3
    assert clear.sum() > 20
    np.testing.assert_array_equal(found.argmax(1)[clear], wanted.argmax(1)[clear])


def test_a_batch_beyond_memory_is_halved(monkeypatch):
    _, wrapped = network("vgg_small")
    engine = open_engine(wrapped, "torch", "fp32", device=DEVICE)
    x = patches(32)
    whole, run, asked = engine(x), engine._halved.run, []

    def short(batch):
        asked.append(len(batch))
        if len(batch) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch)

    monkeypatch.setattr(engine._halved, "run", short)
    np.testing.assert_allclose(engine(x), whole, atol=1e-4, rtol=1e-4)
    assert asked == [32, 16, 8, 8, 8, 8]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_in_flight_are_those_one_by_one(precision):
    if precision == "bf16" and default_precision("torch", DEVICE) != "bf16":
        pytest.skip("the device does not compute in bf16")
    _, wrapped = network("vgg_small")
    engine = open_engine(wrapped, "torch", precision, device=DEVICE, check=False)
    batches = [patches(32, seed=n) for n in range(6)]
    wanted = [engine(batch) for batch in batches]
    memory, waiting, found = np.empty_like(batches[0]), [], []
    for batch in batches:
        memory[:] = batch  # overwritten at once, as a stream of patches is
        waiting.append(started(engine, memory))
        if len(waiting) == engine.in_flight:
            found.append(waiting.pop(0)())
    found += [wait() for wait in waiting]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_data_held_on_the_device_train_as_data_that_are_streamed(stripes, place):
    """Patches, and with views that can be counted the teacher's answers too."""
    content = content_of("at_plus", stripes, place) | {"teacher_cache": "ram"}
    content["augment"] = {"colour_of": "student"}
    content["optim"] = content["optim"] | {"deterministic": True}
    weights = []
    for held in (0, 4):
        file, run = place / f"held{held}.yaml", place / f"held{held}"
        data = content["data"] | {"device_gb": held, "cache_gb": 0 if held else 1}
        file.write_text(yaml.safe_dump({"method": "at_plus", **content, "data": data}))
        wsikd("distill", "-c", file, "--seed", 1, "--device", DEVICE, "-o", run)
        weights.append((run / "student/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


WAIT_FOR_THE_DEVICE = ("detector",)
"""torchvision looks at each image by itself."""


def without_waiting(step):
    """A step in which PyTorch refuses whatever makes the host wait for the GPU."""

    def watched(self, *given):
        if self.device.type != "cuda":
            return step(self, *given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self, *given)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return watched


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_as_on_the_cpu_and_resumes(name, stripes, place, monkeypatch):
    file = place / f"{name}.gpu.yaml"
    content = content_of(name, stripes, place)
    content["optim"] = content.get("optim", {}) | {"deterministic": True}
    file.write_text(yaml.safe_dump({"method": name, **content}))
    runs = {where: place / f"{name}.{where}" for where in ("cpu", "gpu", "killed")}

    if name not in WAIT_FOR_THE_DEVICE:
        monkeypatch.setattr(Trainer, "_step", without_waiting(Trainer._step))

    def train(where, *more):
        device = "cpu" if where == "cpu" else DEVICE
        wsikd("distill", "-c", file, "--seed", 1, "--device", device, "-o", runs[where], *more)

    train("cpu")
    train("gpu")
    losses = {
        where: [row["loss"] for row in RunDir(runs[where]).read_metrics() if "loss" in row]
        for where in ("cpu", "gpu")
    }
    assert losses["gpu"] == pytest.approx(losses["cpu"], rel=0.05)
    assert losses["gpu"][0] == pytest.approx(losses["cpu"][0], rel=0.01)

    with killed_in_the_second_epoch(monkeypatch):
        train("killed")
    train("killed", "--resume")
    weights = [
        (runs[where] / "student/model.safetensors").read_bytes() for where in ("gpu", "killed")
    ]
    assert weights[0] == weights[1]
