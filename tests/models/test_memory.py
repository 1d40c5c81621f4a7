"""Batches on a device with little memory."""

import numpy as np
import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.memory import Halved


class Device:
    """Computes the mean of patches, where no more than ``fit`` are asked for at once."""

    def __init__(self, fit):
        self.fit, self.asked = fit, []

    def __call__(self, patches):
        self.asked.append(len(patches))
        if len(patches) > self.fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return patches.mean((1, 2), dtype=np.float32)


@pytest.mark.parametrize("fit", [1, 3, 5, 16, 99])
def test_results_are_those_of_the_whole_batch_and_the_size_is_remembered(fit, caplog):
    patches = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3)).astype(np.uint8)
    device = Device(fit)
    halved = Halved(device, torch.device("cpu"))
    for _ in range(2):
        np.testing.assert_array_equal(halved(patches), Device(99)(patches))
    failed = [n for n in device.asked if n > fit]
    assert failed == sorted({16 >> k for k in range(5) if 16 >> k > fit}, reverse=True)
    assert len(caplog.records) == len(failed)


def test_a_device_that_takes_no_patch_is_refused():
    halved = Halved(Device(0), torch.device("cuda:1"))
    with pytest.raises(ConfigError, match=r"^--device cuda:1: has no memory for one patch of 4 px"):
        halved(np.zeros((2, 4, 4, 3), np.uint8))


def test_other_errors_pass():
    def broken(patches):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Halved(broken, torch.device("cpu"))(np.zeros((2, 4, 4, 3), np.uint8))
