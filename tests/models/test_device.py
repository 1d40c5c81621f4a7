import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.device import half_precision, pick_device


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cuda:99", "gpu", "cpu:x", ""])
def test_what_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"^--device: .*; give (auto, )?cpu"):
        pick_device(name)


def test_what_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = ("cpu", "mps", "cuda", "cuda:1")
    assert [str(pick_device(name)) for name in names] == list(names)


@pytest.mark.parametrize(
    ("capability", "bf16", "hip", "meant"),
    [((9, 0), True, None, "bf16"), ((7, 5), False, None, "fp16"), ((7, 0), False, None, "fp16"),
     ((6, 1), False, None, "fp32"), ((9, 0), False, "6.2", "fp16")],
)  # fmt: skip
def test_half_precision_follows_from_the_capability(monkeypatch, capability, bf16, hip, meant):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda d: asked.append(d) or capability
    )
    monkeypatch.setattr(torch.version, "hip", hip)
    device = torch.device("cuda", 1)
    assert half_precision(device) == meant
    assert asked in ([], [device])
    assert [half_precision(torch.device(name)) for name in ("cpu", "mps")] == ["fp32", "fp32"]
