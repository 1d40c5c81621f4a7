"""The geometry self-test of `wsikd doctor`: it passes, and it would notice a shift."""

import numpy as np
import pytest

from wsikd.grade import geometry_check as selftest
from wsikd.slides.scaled_view import Canvas


@pytest.fixture(scope="module")
def checks(tmp_path_factory):
    return list(selftest.geometry_checks(tmp_path_factory.mktemp("geometry")))


def test_every_square_comes_back_on_its_place(checks):
    assert len(checks) == 3 * len(selftest.CASES)
    assert all(check.passed for check in checks), checks


def test_it_notices_a_shift_of_two_pixels_at_the_finest(tmp_path, monkeypatch):
    read = Canvas.read

    def shifted(self, x, *where, **more):
        return read(self, x + 2, *where, **more)

    monkeypatch.setattr(Canvas, "read", shifted)
    monkeypatch.setattr(selftest, "CASES", selftest.CASES[:1])
    found = {check.name: check.passed for check in selftest.geometry_checks(tmp_path)}
    assert not found["0.499 um/px: store at 1"]


def test_the_detector_knows_blue():
    x = np.zeros((2, 3, 8, 8), np.uint8)
    x[0, 2] = 200
    import torch

    assert selftest.BlueDetector()(torch.from_numpy(x)).argmax(1).tolist() == [1, 0]
