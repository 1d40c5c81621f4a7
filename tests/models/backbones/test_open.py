import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.open import build_backbone, imagenet_weights


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_backbone("vgg17"), "not among the known backbones.* vgg16.*, or timm:NAME$"),
        (lambda: build_backbone("resnet18", width=0.5), "one width"),
        (lambda: build_backbone("vgg_small", weights={}), "no ImageNet weights"),
        (
            lambda: build_backbone("resnet18", weights={"x": torch.zeros(1)}),
            "do not match",
        ),
        (lambda: imagenet_weights("vgg_small", None), "torchvision has no ImageNet weights"),
        (lambda: imagenet_weights("vgg16", "/nowhere/vgg16.pth"), "no file of network weights"),
    ],
)
def test_faults_are_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_imagenet_weights_from_files(tmp_path):
    from safetensors.torch import save_file

    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("x")
    for name in ("w.safetensors", "w.pth"):
        assert torch.equal(imagenet_weights("vgg16", str(tmp_path / name))["a"], state["a"])
    for name in ("list.pth", "text.pth"):
        with pytest.raises(ConfigError, match=r"weights|state dict"):
            imagenet_weights("vgg16", str(tmp_path / name))
