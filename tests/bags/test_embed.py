"""Bags against the encoder run by hand on the very pixels, from slides and from stores."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import copy_slide, tissue_rgb
from tests.tiles.stores import settings_of, write_store
from wsikd.bags.bag import open_bag
from wsikd.bags.embed import Embedder, settings_for
from wsikd.models.encoders.base import Encoder, EncoderSpec
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import TileStore


class Means(torch.nn.Module):
    """Channel means, and the mean of the upper left pixel."""

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x[:, :, 0, 0].mean(1, keepdim=True)], 1)


def encoder(mpp=None, patch_px=None, sha="a"):
    spec = EncoderSpec("means", "CC0", 4, sha, None, (0.0,) * 3, (1 / 255,) * 3, mpp, patch_px)
    return Encoder(Means(), spec)


def by_hand(pixels):
    pixels = pixels.astype(np.float64)
    return np.r_[pixels.mean((0, 1)), pixels[0, 0].mean()]


def entry_of(path):
    from wsikd.slides.listing.manifest import find_slides

    return find_slides([path])[0]


@pytest.mark.parametrize("stride", [None, 32])
def test_a_slides_bag_holds_its_patches(slide_file, tmp_path, stride):
    settings = settings_for(encoder(), 1.0, 64, stride_px=stride)
    done = Embedder(encoder(), settings, batch_size=5).embed_slide(
        entry_of(slide_file), tmp_path / "b.zarr"
    )
    bag = open_bag(tmp_path / "b.zarr")
    assert done.made
    assert done.patches == len(bag) > 10
    assert bag.info.field_px == pytest.approx((64 / 0.499,) * 2)
    features, xy = bag.features(), bag.coords()
    with open_slide(slide_file) as slide:
        canvas = Canvas.plan(slide, 1.0)
        for k in range(0, len(bag), 7):
            x, y = np.rint(xy[k] * 0.499).astype(int)
            pixels = canvas.read(int(x), int(y), 64, 64)
            np.testing.assert_allclose(features[k], by_hand(pixels), rtol=1e-4)


def test_a_stores_bag_is_in_its_order(tmp_path):
    write_store(tmp_path / "s.zarr", settings_of())
    store = TileStore.open(tmp_path / "s.zarr")
    made = Embedder(encoder(), settings_for(encoder(), 4.0, 16), batch_size=4)
    made.embed_store(store, tmp_path / "b.zarr")
    bag = open_bag(tmp_path / "b.zarr")
    np.testing.assert_array_equal(bag.coords(), store.patches.xy)
    expected = [by_hand(store.read_patch(i, 4.0)) for i in range(len(store.patches))]
    np.testing.assert_allclose(bag.features(), expected, rtol=1e-4)
    assert bag.info.source == store.digest


def test_a_bag_is_made_once_and_never_mixed(slide_file, tmp_path):
    from wsikd.core.errors import DataError

    entry, path = entry_of(slide_file), tmp_path / "b.zarr"
    settings = settings_for(encoder(), 1.0, 64)
    assert Embedder(encoder(), settings).embed_slide(entry, path).made
    before = open_bag(path).features()
    assert not Embedder(encoder(), settings).embed_slide(entry, path).made
    other = Embedder(encoder(sha="b"), settings)
    with pytest.raises(DataError, match=r"sha256 a there, b asked.*--overwrite"):
        other.embed_slide(entry, path)
    np.testing.assert_array_equal(open_bag(path).features(), before)
    assert other.embed_slide(entry, path, overwrite=True).made


class Products(torch.nn.Module):
    """A layer that autocast computes in fp16."""

    def __init__(self, scale):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)
        torch.nn.init.constant_(self.layer.weight, scale / 3)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


@pytest.mark.parametrize(("scale", "used"), [(1.0, "fp16"), (1e6, "fp32")])
def test_fp16_where_it_gives_nearly_the_same(
    slide_file, tmp_path, monkeypatch, caplog, scale, used
):
    def embedder(precision="auto"):
        spec = EncoderSpec("p", "CC0", 4, "a", None, (0.0,) * 3, (1 / 255,) * 3, None, None)
        torch.manual_seed(0)
        made = Encoder(Products(scale), spec)
        return Embedder(made, settings_for(made, 1.0, 64), batch_size=7, precision=precision)

    entry, full, half = entry_of(slide_file), tmp_path / "full.zarr", tmp_path / "half.zarr"
    assert embedder().embed_slide(entry, full).made
    assert "precision" not in open_bag(full).info.encoder
    monkeypatch.setattr("wsikd.bags.embed.computes_fp16", lambda device: True)
    own = embedder()
    assert own.embed_slide(entry, half).made
    assert own.precision == used
    assert open_bag(half).info.encoder.get("precision", "fp32") == used
    assert ("in fp16 differ" in caplog.text) == (used == "fp32")
    wanted, found = open_bag(full).features(), open_bag(half).features()
    assert np.array_equal(wanted, found) == (used == "fp32")
    np.testing.assert_allclose(found, wanted, rtol=2e-3)
    for path in (full, half):  # a bag of either precision is kept
        assert not embedder("fp32").embed_slide(entry, path).made
        assert not embedder("fp16").embed_slide(entry, path).made


def test_fp16_needs_a_gpu_that_computes_in_it():
    from wsikd.core.errors import ConfigError

    settings = settings_for(encoder(), 1.0, 64)
    with pytest.raises(ConfigError, match="--precision fp16: is not supported on cpu; give --prec"):
        Embedder(encoder(), settings, device="cpu", precision="fp16")
    with pytest.raises(ConfigError, match="--precision int8: is not known; give one of auto, fp32"):
        Embedder(encoder(), settings, device="cpu", precision="int8")


def test_sizes_come_from_the_encoder():
    from wsikd.core.errors import ConfigError

    assert settings_for(encoder(4.0, 128), None, None).patch_px == 128
    with pytest.raises(ConfigError, match="trained at 4"):
        settings_for(encoder(4.0, 128), 1.0, None)
    with pytest.raises(ConfigError, match="--mag"):
        settings_for(encoder(), None, 64)


def test_the_command(slide_file, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.svs").symlink_to(slide_file)
    (tmp_path / "in" / "bad.svs").write_bytes(b"no slide")
    command = ["embed", "-i", str(tmp_path / "in"), "--encoder", "timm:resnet10t", "--weights",
               "random", "-o", str(tmp_path / "bags"), "--mag", "2.5", "--patch-size", "64",
               "--h5"]  # fmt: skip
    first = CliRunner().invoke(main, command)
    assert first.exit_code == 3
    assert "1 made, 0 already there, 1 failed" in first.output
    assert "bad" in (tmp_path / "bags" / "failures.csv").read_text()
    own, foreign = (open_bag(tmp_path / "bags" / f"good.{s}") for s in ("zarr", "h5"))
    np.testing.assert_array_equal(own.features(), foreign.features())
    again = CliRunner().invoke(main, command)
    assert "0 made, 1 already there, 1 failed" in again.output


def test_slides_of_one_stem_keep_their_bags_and_copies_make_none(tmp_path):
    folder, bags = tmp_path / "in", tmp_path / "bags"
    folder.mkdir()
    write_pyramid(folder / "X.svs", tissue_rgb(300, 300), mpp=1.0, power=10)
    command = ["embed", "-i", str(folder), "--encoder", "timm:resnet10t", "--weights", "random",
               "-o", str(bags), "--mag", "2.5", "--patch-size", "32", "--threads", "1"]  # fmt: skip

    def made():
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        return done.output.splitlines()[-1]

    assert made() == "1 made, 0 already there"
    copy_slide(folder / "X.svs", folder / "X.tif")
    shutil.copy(folder / "X.svs", folder / "A.svs")
    shutil.copy(folder / "X.svs", folder / "X_mask.tif")
    assert [made(), made()] == ["1 made, 1 already there", "0 made, 2 already there"]
    for name in ("X", "A"):  # X.tif alone keeps the name that it got beside X.svs
        (folder / f"{name}.svs").unlink()
    assert made() == "0 made, 1 already there"
    names = sorted(path.stem for path in bags.glob("*.zarr"))
    assert names[0] == "X"
    assert [name[:2] for name in names[1:]] == ["X-"]
