"""Region grids against their tiles cut one by one from OpenSlide's own pixels."""

from dataclasses import replace

import cv2
import numpy as np
import openslide
import pytest
import simplejpeg
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.bags.test_embed import by_hand, encoder, entry_of
from tests.slides.pixels import area_average, level0, tissue_rgb
from wsikd.bags.bag import open_bag
from wsikd.bags.embed_regions import RegionEmbedder, region_settings, tiles_of
from wsikd.bags.region_table import open_regions
from wsikd.core.errors import ConfigError, DataError, SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.tissue.find import TissueMask
from wsikd.synthetic.cohort import write_pyramid

TISSUE = (300, 200, 700, 500)
MASK = (300, 200, 1001, 707)  # up to the corner of the slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """The same pixels at 0.499, 0.25 and 1 um/px, so that they are read in three ways."""
    folder = tmp_path_factory.mktemp("slides")
    for mpp in (0.499, 0.25, 1.0):
        rgb = tissue_rgb(1301, 907, TISSUE)
        write_pyramid(folder / f"s{mpp}.svs", rgb, mpp=mpp, power=20)
    return folder


def embed(path, out, *, mpp=0.5, tile=32, region=128, **more):
    settings = region_settings(encoder(), mpp, tile, region, **more)
    done = RegionEmbedder(encoder(), settings, batch_size=7).embed_slide(entry_of(path), out)
    return done, open_bag(out)


def slowly(path, xy, mpp, tile, side):
    """A region's grid from level-0 pixels, tile by tile: (4, side, side)."""
    pixels = level0(path)
    with openslide.OpenSlide(path) as slide:
        scale = mpp / float(slide.properties["openslide.mpp-x"])
    with open_slide(path) as slide:
        background = slide.info.background
    size = (tile * side, tile * side)
    plane = np.concatenate([
        area_average(pixels[..., c : c + 1], xy, (scale, scale), size, beyond)
        for c, beyond in enumerate(background)
    ], 2)  # fmt: skip
    grid = np.empty((4, side, side))
    for row in range(side):
        for column in range(side):
            top, left = row * tile, column * tile
            grid[:, row, column] = by_hand(plane[top : top + tile, left : left + tile])
    return grid


@pytest.mark.parametrize(
    ("slide_mpp", "mpp", "tile", "region"),
    [(0.499, 0.5, 32, 128), (0.25, 0.5, 64, 128), (0.25, 0.9, 16, 32), (1.0, 1.7, 30, 90)],
)
def test_a_region_is_its_tiles_one_by_one(slides, tmp_path, slide_mpp, mpp, tile, region):
    path = slides / f"s{slide_mpp}.svs"
    done, bag = embed(path, tmp_path / "r.zarr", mpp=mpp, tile=tile, region=region)
    side = region // tile
    assert bag.shape == (done.patches, 4, side, side)
    assert done.patches > 8
    features, xy = bag.features(), bag.coords()
    for k in {0, len(bag) // 2, len(bag) - 1}:
        expected = slowly(path, xy[k], mpp, tile, side)
        assert expected[:3].std() > 5  # tiles differ, or their places would not matter
        np.testing.assert_allclose(features[k, :3], expected[:3], atol=0.3)  # rounded pixels
        np.testing.assert_allclose(features[k, 3], expected[3], atol=1.0)  # one pixel


def wanted(bounds, scale, region, least_inside, least_tissue):
    """Corners of the regions to take, by a loop: MASK is solid, and nothing else is tissue."""
    field, found = region * scale, []
    for row in range(int(bounds[1] // field) + 1):
        for column in range(int(bounds[0] // field) + 1):
            x, y = column * field, row * field
            inside = max(0, min(x + field, bounds[0]) - x) * max(0, min(y + field, bounds[1]) - y)
            left, top, width, height = MASK
            across = min(x + field, left + width) - max(x, left)
            down = min(y + field, top + height) - max(y, top)
            tissue = max(0, across) * max(0, down)
            if inside >= least_inside * field**2 and tissue >= least_tissue * field**2 and tissue:
                found.append((x, y))
    return found


@pytest.mark.parametrize("least_tissue", [0.05, 0.3])
def test_regions_are_chosen_by_tissue_and_border(slides, tmp_path, least_tissue):
    path = slides / "s1.0.svs"
    mask = tmp_path / "mask.png"
    plane = np.zeros((907, 1301), np.uint8)
    plane[MASK[1] :, MASK[0] :] = 255
    cv2.imwrite(str(mask), plane)
    entry = replace(entry_of(path), mask=mask)
    seen = set()
    for inside in (0.0, 0.2, 0.75):
        settings = region_settings(
            encoder(), 1.0, 100, 400, min_inside=inside, min_tissue=least_tissue
        )
        out = tmp_path / f"{inside}.zarr"
        RegionEmbedder(encoder(), settings).embed_slide(entry, out)
        expected = wanted((1301, 907), 1.0, 400, inside, least_tissue)
        assert [tuple(xy) for xy in open_bag(out).coords()] == expected
        seen.add(len(expected))
    assert (len(seen) > 1) == (least_tissue == 0.05)  # those at the border hold a little


def test_what_lies_beyond_the_slide_is_background(slides, tmp_path, caplog):
    path = slides / "s1.0.svs"
    large = {"mpp": 1.0, "tile": 256, "region": 2048, "min_tissue": 0.05}
    _, bag = embed(path, tmp_path / "r.zarr", **large, min_inside=0.2)
    assert bag.shape == (1, 4, 8, 8)
    with open_slide(path) as slide:
        background = slide.info.background
    expected = slowly(path, (0.0, 0.0), 1.0, 256, 8)
    np.testing.assert_allclose(bag.features()[0, :3], expected[:3], atol=0.3)
    np.testing.assert_array_equal(bag.features()[0, :3, 7, 7], background)
    _, none = embed(path, tmp_path / "n.zarr", **large)
    assert none.shape == (0, 4, 8, 8)
    assert "no region of 2048 um has a share of 0.75 on the slide and 0.05 of tissue" in caplog.text


def test_tiles_come_row_by_row_each_once():
    rows, columns = np.array([0, 0, 2]), np.array([1, 3, 0])
    where, tile_rows, tile_columns = tiles_of(rows, columns, 3)
    place = list(zip(tile_rows.tolist(), tile_columns.tolist(), strict=True))
    assert place == sorted(set(place))
    assert len(place) == 27
    for (region, row, column), (r, c) in zip(where.tolist(), place, strict=True):
        assert (r, c) == (rows[region] * 3 + row, columns[region] * 3 + column)


def test_each_tile_of_the_file_is_decoded_once(slides, tmp_path, monkeypatch):
    calls, own = [], simplejpeg.decode_jpeg

    def counted(data, *args, **kwargs):
        calls.append(len(data))
        return own(data, *args, **kwargs)

    entry = entry_of(slides / "s0.499.svs")
    settings = region_settings(encoder(), 0.5, 64, 512, tissue="all", min_inside=0.0)

    def everywhere(slide, **_):
        calls.clear()  # the slide's own checks
        size = tuple(map(float, slide.info.dimensions))
        return TissueMask(np.ones((1, 1), bool), 1.0, (0.0, 0.0), size, "all")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
    monkeypatch.setattr("wsikd.bags.embed_regions.find_tissue", everywhere)
    RegionEmbedder(encoder(), settings, threads=2).embed_slide(entry, tmp_path / "r.zarr")
    assert len(calls) == -(-1301 // 256) * -(-907 // 256)


def test_a_slide_a_little_coarser_is_read_at_its_own(slides, tmp_path):
    path = slides / "s0.499.svs"
    _, bag = embed(path, tmp_path / "r.zarr", mpp=0.49, tile=32, region=128)
    assert bag.info.encoder["patches"]["read_mpp"] == 0.499
    assert (bag.info.mpp, bag.info.field_px) == (0.49, (128.0, 128.0))
    x, y = bag.coords()[4].astype(int)
    tile = level0(path)[y + 64 : y + 96, x + 32 : x + 64]
    np.testing.assert_allclose(bag.features()[4, :, 2, 1], by_hand(tile), rtol=1e-5)
    with pytest.raises(SlideError, match="finer than its own"):
        embed(path, tmp_path / "s.zarr", mpp=0.49, coarser=0.0)


def test_grids_are_made_once_and_never_mixed(slides, tmp_path):
    path, out = slides / "s1.0.svs", tmp_path / "r.zarr"
    assert embed(path, out, mpp=1.0)[0].made
    before = open_bag(out).features()
    assert not embed(path, out, mpp=1.0)[0].made
    for other in ({"region": 256}, {"min_inside": 0.5}, {"half": True}):
        with pytest.raises(DataError, match=r"made with other settings .*--overwrite"):
            embed(path, out, **{"mpp": 1.0, **other})
    np.testing.assert_array_equal(open_bag(out).features(), before)


def test_half_the_bytes(slides, tmp_path):
    path = slides / "s1.0.svs"
    _, whole = embed(path, tmp_path / "w" / "r.zarr", mpp=1.0)
    embed(path, tmp_path / "h" / "r.zarr", mpp=1.0, half=True)
    table = open_regions([tmp_path / "h"])
    expected = whole.features().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(table.read(range(len(table))), expected)
    files = [(tmp_path / k / "r.zarr/features/c/0/0/0/0").stat().st_size for k in "wh"]
    assert files[0] == 2 * files[1]
    large = encoder()
    large.std *= 1e-3
    settings = region_settings(large, 1.0, 32, 128, half=True)
    with pytest.raises(DataError, match=r"s1\.0\.svs: has an embedding that is not finite"):
        RegionEmbedder(large, settings).embed_slide(entry_of(path), tmp_path / "l.zarr")
    assert not (tmp_path / "l.zarr").exists()


def test_sizes_that_do_not_go_together():
    assert region_settings(encoder(), 0.5, None, 4096).side == 16
    assert region_settings(encoder(2.0, 128), None, None, 1024).side == 8
    with pytest.raises(ConfigError, match=r"--regions 4000: .* 256 px; give --regions 4096"):
        region_settings(encoder(), 0.5, None, 4000)
    with pytest.raises(ConfigError, match="give --regions 256"):
        region_settings(encoder(), 0.5, None, 100)


def run(*arguments):
    return CliRunner().invoke(main, ["embed", *map(str, arguments)])


def test_the_command(slides, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.svs").symlink_to(slides / "s1.0.svs")
    other = (slides / "s1.0.svs").read_bytes() + b"\0"  # a copy would be the same slide
    (tmp_path / "in" / "next.svs").write_bytes(other)
    (tmp_path / "in" / "bad.svs").write_bytes(b"no slide")
    network = ["--encoder", "timm:resnet10t", "--weights", "random"]
    command = ["-i", tmp_path / "in", *network, "-o", tmp_path / "out",
               "--regions", "256", "--mpp", "2", "--patch-size", "64"]  # fmt: skip
    first = run(*command)
    assert first.exit_code == 3
    assert "good: 4 regions of 4 x 4 tiles, 512 each, in" in first.output
    assert "2 made, 0 already there, 1 failed" in first.output
    assert "bad" in (tmp_path / "out" / "failures.csv").read_text()
    table = open_regions([tmp_path / "out"])
    assert (table.slides, table.shape) == (("good", "next"), (512, 4, 4))
    assert (table.mpp, table.region_px) == (2.0, 256)
    assert "0 made, 2 already there, 1 failed" in run(*command).output
    other = run(*command[:-1], "32")
    assert other.exit_code == 3
    assert "patch_px 64 there, 32 asked" in other.output


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--stride", "9", "--regions", "256"], "neither --stride nor --h5"),
     (["--min-inside", "0.1"], "go with --regions"),
     (["--float16"], "go with --regions")],
)  # fmt: skip
def test_options_that_do_not_go_together(slides, tmp_path, more, told):
    common = ["-i", slides, "--encoder", "timm:resnet10t", "--weights", "random"]
    done = run(*common, "-o", tmp_path / "out", "--mpp", "2", *more)
    assert done.exit_code == 2
    assert told in done.output


def test_stores_hold_no_regions(tmp_path):
    from tests.tiles.stores import settings_of, write_store

    write_store(tmp_path / "s.zarr", settings_of())
    done = run("-i", tmp_path / "s.zarr", "--encoder", "timm:resnet10t", "--weights", "random",
               "-o", tmp_path / "out", "--regions", "256", "--mpp", "4")  # fmt: skip
    assert done.exit_code == 2
    assert "regions are read from slides" in str(done.exception) + done.output


def test_a_real_slides_region_is_its_tiles(real_slides, tmp_path):
    path = real_slides / "CMU-1-Small-Region.svs"
    _, bag = embed(path, tmp_path / "r.zarr", mpp=0.5, tile=256, region=1024, min_tissue=0.3)
    assert bag.shape[1:] == (4, 4, 4)
    expected = slowly(path, bag.coords()[-1], 0.5, 256, 4)
    np.testing.assert_allclose(bag.features()[-1, :3], expected[:3], atol=0.3)
