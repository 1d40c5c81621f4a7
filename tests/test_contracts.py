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
from wsikd.learn.engine.configurations import ROWS, load_settings
from wsikd.learn.methods import METHODS
from wsikd.models.backbones.open import build_backbone
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
    assert load_settings(path).method in METHODS


@pytest.mark.parametrize("table", [READERS, MASKERS, METHODS, EXPORTERS, BACKBONES])
def test_an_unknown_name_lists_the_known(table):
    with pytest.raises(ConfigError, match=next(iter(table))):
        resolve(table, "nonesuch", kind="things")
