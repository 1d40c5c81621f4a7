"""What every entry of an open set must hold, so that a new one needs no tests of its own here."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.grade.maps import square_map
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.grade.exports import EXPORTERS, find_exporter
from wsikd.learn.engine.runs import ROWS, SETTINGS, load_settings
from wsikd.learn.methods import METHODS
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.patch.settings import TERMS
from wsikd.models.backbones.open import build_backbone
from wsikd.models.graders.pooled import build_grader
from wsikd.models.tables import BACKBONES
from wsikd.slides.base import READERS, Slide, open_slide
from wsikd.slides.tissue.maskers import MASKERS
from wsikd.synthetic.cohort import write_pyramid

CONFIGS = sorted(
    str(file.relative_to(str(files("wsikd.configs"))))
    for file in Path(str(files("wsikd.configs"))).rglob("*.yaml")
    if file.name != ROWS  # a part of base.yaml's, tested in learn/reproduce
)


@pytest.fixture(scope="module")
def tiled_file(tmp_path_factory):
    """A slide of three levels, none of them as small as its thumbnail."""
    path = tmp_path_factory.mktemp("readers") / "tiled.svs"
    write_pyramid(path, tissue_rgb(3300, 700), mpp=0.499, power=20, downsamples=(1, 2, 4))
    return path


@pytest.mark.parametrize("name", READERS)
def test_reader(name, tiled_file):
    with open_slide(tiled_file, reader=name) as slide:
        assert isinstance(slide, Slide)
        info = slide.info
        assert len(info.level_dimensions) == len(info.level_downsamples) == 3
        assert info.mpp is not None
        assert slide.mpp == info.mpp
        for level, (width, height) in enumerate(info.level_dimensions):
            pixels = slide.read_level(level, (width - 5, height - 7), (9, 11))
            assert pixels.shape == (11, 9, 3)
            assert pixels.dtype == np.uint8
            beyond = pixels[8:, 6:]
            assert (beyond == info.background).all()


# Those of TIAToolbox are tested in test_tia.py.
@pytest.mark.parametrize("name", [n for n in MASKERS if "tiatoolbox" not in n])
def test_masker(name):
    mask = resolve(MASKERS, name, kind="maskers")(tissue_rgb(120, 90, (30, 20, 60, 50)), 8.0)
    assert mask.shape == (90, 120)
    assert mask.dtype == np.bool_
    assert mask[25:65, 35:85].all()


@pytest.mark.parametrize("name", METHODS)
def test_method(name):
    torch.manual_seed(0)
    make = resolve(METHODS, name, kind="methods")
    if name == "hdkd":
        small = {"dim": 16, "heads": 2, "depth": 1, "positions": 1}
        strided = {"stem_stride": 8, "units": [3, 1, 1]}
        student = build_grader("hdkd_student", 3, width=0.25, options=small)
        teacher = build_grader("hdkd_teacher", 3, width=0.25, options=strided)
        method = make(student, teacher, ratio=4.0)
    else:
        student, teacher = (build_grader("vgg_small", 3, width=0.25) for _ in "st")
        method = make(student) if name == "supervised" else make(student, teacher)
    assert isinstance(method, Method)
    high = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    low = torch.nn.functional.avg_pool2d(high.float(), 4)
    batch = Batch(
        {"high": high, "low": low}, torch.tensor([0, 1, 2, 1]), ("a",) * 4, torch.arange(4)
    )
    terms = method(batch, Progress(0, 1))
    assert set(terms) == set(TERMS[name])
    assert all(t.ndim == 0 and torch.isfinite(t) for t in terms.values())
    sum(terms.values()).backward()
    trained = [p for group in method.param_groups() for p in group["params"]]
    assert trained
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert {id(p) for p in method.parameters() if p.grad is not None} <= {id(p) for p in trained}
    assert method.predict(batch).shape == (4, 3)


# A DICOM segmentation refers to its slide and is tested with one, in tests/grade.
@pytest.mark.parametrize("name", [n for n in EXPORTERS if n != "dicom-seg"])
def test_exporter(name, tmp_path):
    find_exporter(name).write(square_map(), tmp_path / "result", slide=None)
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone(name):
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        taps = backbone.forward_taps(x, backbone.taps)
    for key, tap in backbone.taps.items():
        side = -(-64 // tap.stride)
        assert taps[key].shape == (2, tap.channels, side, side), key


@pytest.mark.parametrize("file", CONFIGS)
def test_every_configuration_loads(file):
    path = Path(str(files("wsikd.configs"))) / file
    assert load_settings(path).method in {*METHODS, *SETTINGS}


@pytest.mark.parametrize("table", [READERS, MASKERS, METHODS, EXPORTERS, BACKBONES])
def test_an_unknown_name_lists_the_known(table):
    with pytest.raises(ConfigError, match=next(iter(table))):
        resolve(table, "nonesuch", kind="things")
