import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.open import build_backbone


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
    ],
)
def test_faults_are_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
