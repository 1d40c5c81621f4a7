import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.device import pick_device


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
