"""Every engine against PyTorch in full precision; bf16 against fp32; what is kept."""

import logging
import os
import sys
from functools import cache

import numpy as np
import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.grade.engines import ENGINES, Network, Place, choose, graph, with_openvino
from wsikd.grade.engines.check import Checked
from wsikd.grade.engines.choose import open_engine
from wsikd.grade.engines.with_onnx import OnnxEngine
from wsikd.grade.engines.with_openvino import OpenVinoEngine
from wsikd.grade.engines.with_torch import TorchEngine
from wsikd.models.graders.pooled import build_grader

ARCHS = ["mobilenet_v3_large", "vgg_small"]

ENGINE_KINDS = {"torch": TorchEngine, "openvino": OpenVinoEngine}


def patches(count, side=64, seed=0):
    """Blots of several sizes and colours, so that fields differ as tissue does."""
    rng = np.random.default_rng(seed)
    made = np.empty((count, side, side, 3), np.uint8)
    for one in made:
        cell = int(rng.choice([2, 4, 8, 16]))
        coarse = rng.normal(rng.uniform(60, 200, 3), 40, (side // cell, side // cell, 3))
        one[:] = np.kron(coarse, np.ones((cell, cell, 1))).clip(0, 255)
    return made


def grader(arch, upsample=1):
    """An untrained network whose head tells the fields apart, as a trained one's does."""
    torch.manual_seed(3)
    made = build_grader(arch, 4, input_norm="imagenet", upsample=upsample).eval()
    with torch.no_grad():
        x = torch.from_numpy(patches(48, seed=9)).permute(0, 3, 1, 2)
        pooled = made.backbone(made.normalise(x)).mean((2, 3))
        made.head.weight /= (pooled @ made.head.weight.T).std(0)[:, None] / 2
        made.head.bias[:] = -(pooled @ made.head.weight.T).mean(0)
    return made


def softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def reference(module, x):
    """Logits the slow way: one patch at a time, contiguous, no engine."""
    with torch.no_grad():
        rows = [module(torch.from_numpy(one.copy()).permute(2, 0, 1)[None])[0] for one in x]
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module", params=ARCHS)
def case(request):
    module = grader(request.param)
    x = patches(12)
    return module, x, reference(module, x)


@pytest.fixture(scope="module")
def opened(case):
    """Name -> engine of the network in full precision, made once."""
    return cache(lambda name: open_engine(Network(lambda: case[0], 64), name, "fp32", device="cpu"))


@pytest.mark.parametrize("name", [n for n in ENGINES if n != "compile"])
def test_engines_agree_in_full_precision(case, opened, name):
    _, x, expected = case
    engine = opened(name)
    assert (engine.name, engine.precision) == (name, "fp32")
    found = np.concatenate([engine(x[:8]), engine(x[8:])])
    assert found.dtype == np.float32
    assert softmax(expected).max(1).std() > 0.01  # it tells fields apart
    np.testing.assert_allclose(softmax(found), softmax(expected), atol=1e-4)


@pytest.fixture(scope="module")
def many(case):
    """More fields, and their logits in full precision."""
    module, x = case[0], patches(100, side=32, seed=5)
    return module, x, reference_in_batches(module, x)


def reference_in_batches(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_takes_the_same_decisions_where_they_are_clear(many, name):
    """An untrained network has many that are not: two classes within five per cent."""
    module, x, expected = many
    engine = ENGINE_KINDS[name](Network(lambda: module, 32), Place(precision="bf16"))
    assert engine.precision == "bf16"
    found = np.concatenate([engine(x[k : k + 50]) for k in range(0, len(x), 50)])
    order = np.sort(softmax(expected), 1)
    clear = order[:, -1] - order[:, -2] > 0.05
    assert clear.mean() > 0.8
    assert len(set(expected.argmax(1))) > 1
    assert (found.argmax(1) == expected.argmax(1))[clear].mean() >= 0.995
    assert (found != expected).any()


def test_making_a_graph_leaves_the_network_as_it_was():
    module = grader("vgg_small")
    before = reference(module, patches(2))
    OnnxEngine(Network(lambda: module, 64), Place())
    assert not any(one.training for one in module.modules())
    np.testing.assert_array_equal(reference(module, patches(2)), before)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_network_that_upsamples_its_input(name):
    module, x = grader("vgg_small", upsample=2), patches(5, side=32)
    engine = open_engine(Network(lambda: module, 32), name, "fp32", device="cpu")
    np.testing.assert_allclose(softmax(engine(x)), softmax(reference(module, x)), atol=1e-4)


class Linear(torch.nn.Module):
    def forward(self, x):
        return x.float().mean((2, 3)) @ torch.tensor([[0.01, 0], [0, 0.02], [0.03, 0]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own parts
def test_the_compiler_agrees():
    module, x = grader("vgg_small"), patches(23)
    engine = open_engine(Network(lambda: module, 64), "compile", "fp32", device="cpu")
    found = np.concatenate([engine(x[:16]), engine(x[16:])])
    np.testing.assert_allclose(softmax(found), softmax(reference(module, x)), atol=1e-4)


class Fake:
    """Logits that are another class than 0 for the fields of ``wrong``."""

    def __init__(self, name, precision, wrong=()):
        self.name, self.precision, self.wrong, self.seen = name, precision, set(wrong), 0

    def __call__(self, x):
        logits = np.tile(np.array([1, 0], np.float32), (len(x), 1))
        for row in range(len(x)):
            if self.seen + row in self.wrong:
                logits[row] = (0, 1)
        self.seen += len(x)
        return logits


@pytest.mark.parametrize(
    ("wrong", "precision", "full_seen"),
    [([], "bf16", 256), ([7], "bf16", 256), ([7, 250], "fp32", 320), ([300, 310], "bf16", 256)],
)
def test_the_check_of_bf16(wrong, precision, full_seen, caplog):
    full, low, passed = Fake("x", "fp32"), Fake("x", "bf16", wrong), []
    engine = Checked(low, lambda: full, on_pass=lambda: passed.append(1))
    assert engine.precision == "fp32"
    with caplog.at_level(logging.WARNING):
        found = np.concatenate([engine(np.zeros((32, 2, 2, 3), np.uint8)) for _ in range(10)])
    assert engine.precision == precision
    assert full.seen == full_seen  # as few in full precision as the check needs, or all
    assert (found[:256] == (1, 0)).all()  # a field of the check has the logits of fp32
    assert bool(passed) == (precision == "bf16")
    assert ("fields get another class in bf16" in caplog.text) == (precision == "fp32")


def test_a_kept_graph_is_used_and_a_damaged_one_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path))
    built = []

    def build():
        built.append(1)
        return Linear()

    network = Network(build, 16, key="abc")
    x = patches(3, side=16)
    first = OnnxEngine(network, Place())(x)
    again = OnnxEngine(network, Place())(x)
    assert len(built) == 1
    np.testing.assert_array_equal(first, again)
    assert graph.is_kept(network)
    assert not graph.is_kept(Network(build, 16, key="other"))
    assert not graph.is_kept(Network(build, 16))
    (kept,) = (tmp_path / "graphs").iterdir()
    data = kept.read_bytes()
    for damaged in (data[:-1], data[:40] + bytes([data[40] ^ 1]) + data[41:], b""):
        kept.write_bytes(damaged)
        assert not graph.is_kept(network)
        np.testing.assert_array_equal(OnnxEngine(network, Place())(x), first)
        assert kept.read_bytes() == data
    assert len(built) == 4
    OnnxEngine(Network(build, 16, key="other"), Place())
    assert len(built) == 5


def test_old_graphs_are_dropped_and_a_full_disk_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path))
    for number in range(20):
        path = graph.cache_folder() / f"{number:040x}-64-1.onnx"
        graph.keep(path, b"x")
        os.utime(path, (number, number))
    left = {int(path.stem.partition("-")[0], 16) for path in graph.cache_folder().iterdir()}
    assert len(left) == 16
    assert min(left) == 4
    (tmp_path / "file").touch()
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path / "file"))
    graph.keep(graph.cache_folder() / "1.onnx", b"x")  # not a folder


def test_the_verdict_on_bf16_is_kept_for_the_same_network_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path))
    network = Network(Linear, 16, key="abc")
    engine = open_engine(network, "openvino", "bf16", device="cpu")
    assert isinstance(engine, Checked)
    engine(np.full((256, 16, 16, 3), 200, np.uint8))
    assert engine.precision == "bf16"
    assert not isinstance(open_engine(network, "openvino", "bf16", device="cpu"), Checked)
    other = Network(Linear, 16, key="other")
    assert isinstance(open_engine(other, "openvino", "bf16", device="cpu"), Checked)
    assert isinstance(open_engine(network, "torch", "bf16", device="cpu"), Checked)


def test_auto_takes_what_pays(monkeypatch):
    def chosen(fields, key=""):
        engine = open_engine(Network(Linear, 16, key), device="cpu", fields=fields)
        return engine.name

    monkeypatch.setattr(choose, "FEW_MP", 100 * 16 * 16 / 1e6)
    assert chosen(99) == "torch"
    assert chosen(100) == "openvino"
    assert chosen(1, key="kept") == "openvino"
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    assert chosen(1000) == "torch"


def test_auto_precision_follows_the_processor(monkeypatch):
    def precision(flags, engine):
        monkeypatch.setattr(choose, "_processor", lambda: ("some", frozenset(flags)))
        made = open_engine(Network(Linear, 16), engine, "auto", device="cpu")
        return "bf16" if isinstance(made, Checked) else made.precision

    assert precision({"avx2"}, "openvino") == "fp32"
    assert precision({"avx2", "avx512_bf16"}, "torch") == "bf16"
    assert precision({"avx512_bf16"}, "onnx") == "fp32"


@pytest.fixture
def old_gpu(monkeypatch):
    """A GPU that emulates bf16, where PyTorch computes on the CPU in truth."""
    monkeypatch.setattr(choose, "device_name", lambda name: name)
    monkeypatch.setattr("wsikd.grade.engines.with_torch.pick_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")


def test_fp16_where_bf16_is_emulated(old_gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path))
    network, x = Network(Linear, 16, key="abc"), np.full((256, 16, 16, 3), 200, np.uint8)
    engine = open_engine(network, "torch", "auto", device="cuda:0")
    assert (engine.low_precision, engine.precision) == ("fp16", "fp32")
    engine(x)
    assert engine.precision == "fp16"
    np.testing.assert_allclose(engine(x), open_engine(network, "torch", device="cpu")(x), rtol=5e-3)
    kept = open_engine(network, "torch", "auto", device="cuda:0")
    assert (isinstance(kept, Checked), kept.precision) == (False, "fp16")
    # The verdict holds for this device and this precision alone.
    assert isinstance(open_engine(network, "torch", "auto", device="cuda:1"), Checked)
    assert isinstance(open_engine(network, "torch", "bf16", device="cuda:0"), Checked)
    # A folder begun in bf16 is not continued in an emulated one, one begun in fp16 is.
    assert open_engine(network, "torch", "fp16", device="cuda:1", check=False).precision == "fp16"
    with pytest.raises(ConfigError, match="--precision bf16: is not supported by torch on cuda:0"):
        open_engine(network, "torch", "bf16", device="cuda:0", check=False)


def test_a_gpu_without_either_computes_in_fp32(old_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    assert choose.default_precision("torch", "cuda:0") == "fp32"
    with pytest.raises(ConfigError, match="--precision fp16: is not supported by torch on cuda:0"):
        open_engine(Network(Linear, 16), "torch", "fp16", device="cuda:0")


class Sorts(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x.float().mean(1)).real[:, :2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("onnx", "bf16"), r"--precision bf16: --engine onnx computes in fp32; give fp32"),
        (("tensorrt", "fp32"), r"tensorrt: not among the known engines; choose one of torch, "),
        (
            ("torch", "fp16"),
            r"--precision fp16: is not supported by torch on cpu; give --precision",
        ),
        (("torch", "int8"), r"--precision int8: is not known; give one of auto, fp32, bf16"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        open_engine(Network(Linear, 16), *arguments, device="cpu")


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_network_without_a_graph_is_refused_in_a_line(name):
    with pytest.raises(ConfigError, match=r"--engine: the network has no ONNX form .*torch") as e:
        open_engine(Network(Sorts, 16), name, device="cpu")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_runtime_is_told(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"is not installed; pip install {package}"):
        open_engine(Network(Linear, 16), package.removesuffix("runtime"), device="cpu")


def test_the_torch_engine_of_a_gpu_is_the_same_code(monkeypatch):
    """Without a GPU only the branch of the CPU runs; a device that is not there is refused."""
    with pytest.raises(ConfigError, match="cuda:9 is not available"):
        TorchEngine(Network(Linear, 16), Place(device="cuda:9"))


@pytest.mark.parametrize("allowed", [0.0, 1e6], ids=["heavy", "light"])
def test_batches_of_any_size_are_cut_without_loss(allowed, monkeypatch):
    monkeypatch.setattr(with_openvino, "_FILLED_GMAC", allowed)
    monkeypatch.setitem(with_openvino._PART_PX, "fp32", 3 * 32**2)
    module = grader("vgg_small")
    x = patches(14, side=32)
    expected = reference(module, x)
    engine = OpenVinoEngine(Network(lambda: module, 32), Place(threads=2))
    assert engine._filled == (allowed > 0)
    for count in (1, 2, 3, 5, 6, 7, 12, 13, 14):
        found = engine(x[:count])
        assert found.shape == (count, 4)
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@pytest.mark.parametrize(("arch", "light"), [("mobilenet_v3_large", True), ("resnet18", False)])
def test_heavy_networks_are_told_by_their_work(arch, light):
    """0.075 and 0.60 G multiply-accumulates a patch of 128 px, counted by hooks on the modules."""
    module = build_grader(arch, 4).eval()
    engine = OpenVinoEngine(Network(lambda: module, 128), Place())
    core = pytest.importorskip("openvino").Core()
    model = core.read_model(graph.graph_of(Network(lambda: module, 128)))
    model.reshape([2, 128, 128, 3])
    found = with_openvino._multiply_accumulates(model)
    assert found == pytest.approx(2 * multiply_accumulates(module, 128), rel=0.02)
    assert engine._filled is light


def multiply_accumulates(module, side):
    total = 0

    def told(layer, taken, given):
        nonlocal total
        kernel = layer.weight[0].numel()
        total += kernel * given.numel()

    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(told)
    with torch.no_grad():
        module(torch.zeros(1, 3, side, side))
    return total
