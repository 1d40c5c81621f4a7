"""A batch and its loss on a pretended GPU: every copy to it goes through ``upload``.

The tensors have shapes and devices but no numbers, so that whatever asked for a number would fail.
The backward pass needs a device.
"""

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode

from tests.learn.grading import grading
from tests.learn.methods.test_contract import HYBRID
from wsikd.learn.data import augment, mixing, resident, views
from wsikd.learn.data.patches import PatchSet
from wsikd.learn.data.resident import Resident
from wsikd.learn.losses import maps, relations
from wsikd.learn.methods import base, ensemble
from wsikd.learn.methods.base import Progress
from wsikd.models.graders.pooled import build_grader

CUDA = torch.device("cuda", 0)
AT = Progress(1, 2, 3, 4)
COLOURS = {"stain": 0.1, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1}
MOVES = {"rotate_deg": 30, "scale": 0.1, "shift": 0.1, "probability": 0.5, **COLOURS}


class Copies(TorchDispatchMode):
    """Records copies between devices outside of ``upload``."""

    def __init__(self):
        super().__init__()
        self.seen, self.uploads, self.inside, self.doubles = [], 0, False, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, torch.Tensor)]
        name = func.overloadpacket.__name__
        made_here = made if isinstance(made, torch.Tensor) else torch.empty(0)
        if made_here.dtype == torch.float64 and made_here.device.type != "cpu":
            self.doubles.append(name)  # Apple's GPUs have none
        if name in ("_to_copy", "copy_") and {a.device.type for a in [*given, made]} > {"cpu"}:
            if self.inside:
                self.uploads += 1
            else:
                self.seen.append(name)
        return made


@pytest.fixture
def copies(monkeypatch):
    found = Copies()

    def upload(values, device):
        found.inside = True
        try:
            return values.to(device)
        finally:
            found.inside = False

    for module in (augment, views, maps, relations, base, resident, mixing, ensemble):
        monkeypatch.setattr(module, "upload", upload)
    monkeypatch.setattr(torch.nn.ModuleDict, "to", lambda self, *_: self)  # fakes cannot move
    kept = (augment._luma, maps._overlap, relations._different)
    for function in kept:
        function.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True), found:
        yield found
    for function in kept:
        function.cache_clear()


def patches(count=4, side=64):
    return PatchSet(
        np.arange(count) % 4, ["s"] * count, np.array(["train"] * count), tuple("abcd"), 1.0, side,
        None, np.ones(count), [], [],
    )  # fmt: skip


def settings(method, **more):
    data = {"paths": ["x"], "mpp": 1.0, "student_mpp": 2.0}
    return grading({"method": method, "teacher": "t", "data": data, **more})


def build(config):
    """The method of a configuration, on the GPU."""
    own = {"width": 0.25}
    if config.method == "hdkd":
        nets = [
            build_grader(arch, 4, width=0.125, options=HYBRID | {"stem_stride": stride})
            for arch, stride in (("hdkd_student", 2), ("hdkd_teacher", 4))
        ]
    else:
        nets = [build_grader("vgg_small", 4, **own) for _ in range(2)]
    return config.learner.build(config, *nets)


TERMS = {"ce": 1, "dkd": 1, "kd": 1, "sp": 1, "rkd_distance": 1, "rkd_angle": 1, "at": 100,
         "sr_spatial": 1, "sr_last": 1}  # fmt: skip
CASES = {
    "flips": settings("at_plus"),
    "moved": settings("at_plus", augment=MOVES),
    "colours of the student": settings("at_plus", augment=COLOURS | {"colour_of": "student"}),
    "all terms": settings("at_plus", weights=TERMS, augment=MOVES),
    "mixup": settings("at_plus", mix={"mixup": 0.5}),
    "cutmix": settings("at_plus", mix={"cutmix": 1.0}, augment=MOVES),
    "several": settings("at_plus", weights={"kd": 1}),
    "hdkd": settings("hdkd", network={"arch": "hdkd_student", "width": 0.125, "hybrid": HYBRID}),
}


@pytest.mark.parametrize(("case", "held"), [*((case, False) for case in CASES), ("moved", True)])
def test_a_step_copies_nothing_but_by_upload(case, held, copies):
    config = CASES[case]
    torch.set_default_device(CUDA)
    try:
        method = build(config)
        if case == "several":
            other = build_grader("vgg_small", 4, width=0.25)
    finally:
        torch.set_default_device(None)
    if case == "several":
        method.add_teachers([other], None)
    mix = config.mix if config.mix.used else None
    made = views.Views(patches(), config, method.views, seed=0, device=CUDA, mix=mix)
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    if held:
        made.resident = Resident(images.to(CUDA), {})
        images = torch.zeros(4, dtype=torch.int64)
    copies.seen.clear()
    batch = made.batch(images, np.arange(4), AT)
    terms = method(batch, AT)
    assert all(term.device == CUDA for term in terms.values())
    assert batch.views["low"].shape == (4, 3, 32, 32)
    assert copies.seen == []
    assert copies.doubles == []
    assert copies.uploads >= 2
    with pytest.raises(DataDependentOutputException):
        float(next(iter(terms.values())))
