"""TIAToolbox: slides that OpenSlide does not know, and students in its own engine.

In one file, and so in one process: to import TIAToolbox takes half a minute.
"""

import importlib
import json
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr

from tests.slides.pixels import tissue_rgb
from tests.slides.tia_files import write_jp2, write_ome, write_zarr
from tests.tiles.stores import picture, settings_of, shrunk, write_store
from wsikd.core.errors import (
    BundleError,
    ConfigError,
    MissingMppError,
    RegionReadError,
    SlideError,
)
from wsikd.core.registry import resolve
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.base import Slide, open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tiff import tile_tables as tiff_tables
from wsikd.slides.tissue.find import find_tissue
from wsikd.slides.tissue.maskers import MASKERS
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tia import student_model
from wsikd.tiles.store import StoreSettings
from wsikd.tiles.write import tile_slide

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that TIAToolbox calls
HEIGHT, WIDTH = 301, 455


@pytest.fixture(scope="module", autouse=True)
def tiatoolbox():
    """Import it once, which takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tiatoolbox.wsicore.wsireader")


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


WRITERS = {
    "pyramid.OME.TIFF": write_ome,
    "deflate.ome.tif": lambda p, a: write_ome(p, a, compression="zlib"),
    "strips.ome.tiff": lambda p, a: write_ome(p, a, tile=None, rowsperstrip=16),
    "cyx.ZARR": write_zarr,
    "yxc.zarr": lambda p, a: write_zarr(p, a, axes="yxc"),
    "tczyx.zarr": lambda p, a: write_zarr(p, a, axes="tczyx", omero=False),
    "named.zarr": lambda p, a: write_zarr(p, a, name="s{}".format),
    "format3.zarr": lambda p, a: write_zarr(p, a, zarr=3),
    "image.JP2": write_jp2,
    "plain.tif": lambda p, a: [tifffile.imwrite(p, a, photometric="rgb"), a][1:],
}


@pytest.mark.parametrize("name", WRITERS)
def test_pixels_of_every_level_are_those_that_were_written(name, rgb, tmp_path):
    stored = WRITERS[name](tmp_path / name, rgb)
    with open_slide(tmp_path / name, slide_mpp=0.5) as slide:
        assert isinstance(slide, Slide)
        info = slide.info
        assert (info.reader, info.background) == (
            "tifffile" if "tif" in name.lower() else "tiatoolbox",
            (255, 255, 255),
        )
        assert "OpenSlide" in info.reader_note
        assert info.dimensions == (WIDTH, HEIGHT)
        assert info.bounds == (0, 0, WIDTH, HEIGHT)
        assert info.level_dimensions == tuple((s.shape[1], s.shape[0]) for s in stored)
        assert info.level_downsamples == tuple((2.0**n, 2.0**n) for n in range(len(stored)))
        for level, own in enumerate(stored):
            height, width = own.shape[:2]
            whole = slide.read_level(level, (0, 0), (width, height))
            np.testing.assert_array_equal(whole, own)
            part = slide.read_level(level, (13, 29), (37, 22))
            np.testing.assert_array_equal(part, own[29:51, 13:50])
            beyond = slide.read_level(level, (width - 5, -7), (9, 11))
            np.testing.assert_array_equal(beyond[7:, :5], own[:4, -5:])
            assert (beyond[:7] == 255).all()
            assert (beyond[:, 5:] == 255).all()
            assert (slide.read_level(level, (-40, 0), (20, 10)) == 255).all()


@pytest.mark.parametrize("name", ["pyramid.OME.TIFF", "cyx.ZARR", "image.JP2"])
def test_threads_share_a_reader(name, rgb, tmp_path):
    WRITERS[name](tmp_path / name, rgb)
    corners = [(x, y) for y in range(0, 250, 40) for x in range(0, 400, 55)]
    with open_slide(tmp_path / name) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda c: slide.read_level(0, c, (50, 40)), corners))
    for (x, y), pixels in zip(corners, found, strict=True):
        np.testing.assert_array_equal(pixels, rgb[y : y + 40, x : x + 50])


@pytest.mark.parametrize(
    ("write", "name", "mpp", "source"),
    [
        (lambda p, a: write_ome(p, a, unit="nm", size=250), "a.ome.tiff", 0.25, "PhysicalSizeX of"),
        (lambda p, a: write_zarr(p, a), "a.zarr", 0.5, "coordinateTransformations of its OME-Zarr"),
        (lambda p, a: write_jp2(p, a, mpp=0.25), "a.jp2", 0.25, "JP2 capture resolution"),
        (
            lambda p, a: tifffile.imwrite(p, a, resolution=(20000, 20000), resolutionunit=3),
            "a.tif",
            0.5,
            "TIFF resolution tags",
        ),
    ],
)
def test_resolution_and_where_it_was_found(write, name, mpp, source, rgb, tmp_path):
    write(tmp_path / name, rgb)
    with open_slide(tmp_path / name) as slide:
        assert (slide.mpp.x, slide.mpp.y) == (pytest.approx(mpp), pytest.approx(mpp))
        assert slide.mpp.source.startswith(source)
        assert slide.info.reader == ("tifffile" if "tif" in name else "tiatoolbox")


@pytest.mark.parametrize(
    ("write", "name", "why"),
    [
        (lambda p, a: write_ome(p, a, size=None), "a.ome.tiff", "no PhysicalSizeX in its OME-XML"),
        (lambda p, a: write_ome(p, a, unit="pixel"), "a.ome.tiff", "is in 'pixel'"),
        (lambda p, a: write_ome(p, a, size=352.8), "a.ome.tiff", "352.8 um/px (PhysicalSizeX of"),
        (lambda p, a: write_zarr(p, a, unit=None), "a.zarr", "its axes are in 'None'"),
        (write_jp2, "a.jp2", "no capture resolution"),
        (lambda p, a: tifffile.imwrite(p, a), "a.tif", "have no unit (ResolutionUnit 1)"),
        (
            lambda p, a: tifffile.imwrite(p, a, resolution=(72, 72), resolutionunit=2),
            "a.tif",
            "352.778 um/px (TIFF resolution tags) is implausible",
        ),
    ],
)
def test_without_a_credible_resolution_pixels_can_be_read_but_no_scale(
    write, name, why, rgb, tmp_path
):
    write(tmp_path / name, rgb)
    with open_slide(tmp_path / name) as slide:
        assert slide.info.mpp is None
        with pytest.raises(MissingMppError, match=re.escape(why)):
            slide.mpp  # noqa: B018
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), (9, 9)), rgb[:9, :9])
    with open_slide(tmp_path / name, slide_mpp=0.26) as slide:
        assert slide.mpp.x == 0.26
    with pytest.raises(MissingMppError, match="implausible"):
        open_slide(tmp_path / name, slide_mpp=260)


def test_tiles_that_a_tiff_leaves_out_are_white(rgb, tmp_path):
    path = tmp_path / "sparse.ome.tiff"
    write_ome(path, rgb, levels=2)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        counts = [0 if n == 9 else c for n, c in enumerate(page.databytecounts)]
        where = page.tags["TileByteCounts"]
        width = where.valuebytecount // len(counts)
        offset, order = where.valueoffset, tiff.byteorder
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.array(counts, f"{order}u{width}").tobytes())
    own = rgb.copy()
    own[64:128, 64:128] = 255  # tile 9 of 8 a row
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), (WIDTH, HEIGHT)), own)


def test_alpha_is_composed_on_white(rgb, tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 1)).astype(np.uint8)
    rgba = np.concatenate([rgb, alpha], 2)
    write_ome(tmp_path / "a.ome.tiff", rgba, levels=2, extrasamples=["unassalpha"])
    share = alpha / 255
    with open_slide(tmp_path / "a.ome.tiff") as slide:
        got = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    assert np.abs(got - (rgb * share + 255 * (1 - share))).max() <= 0.51


def _no_rgb(path, rgb):
    tifffile.imwrite(path, rgb[..., 0].astype(np.uint16))


def _cut_tiff(path, rgb):
    write_ome(path, rgb, levels=1, tile=None, rowsperstrip=16)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 90_000)


def _cut_jp2(path, rgb):
    write_jp2(path, rgb)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def _stack(path, rgb):
    write_zarr(path, rgb, levels=1)
    array = zarr.open_group(path)["0"]
    array.resize((3, 2, 2))
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["axes"][0]["name"] = "z"
    (path / ".zattrs").write_text(json.dumps(attributes))


@pytest.mark.parametrize(
    ("write", "name", "fault"),
    [
        (_no_rgb, "a.tif", "its pixels are uint16 of 1 channel(s)"),
        (_cut_tiff, "a.ome.tiff", "level 0 is truncated: its pixels reach to byte"),
        (_cut_jp2, "a.jp2", "truncated: a box reaches to byte"),
        (_stack, "a.zarr", "an OME-Zarr of axes zyx and shape (3, 2, 2) is not an RGB plane"),
        (lambda p, a: write_zarr(p, a[..., :1]), "a.zarr", "its pixels are uint8 of 1 channel(s)"),
        (lambda p, _: p.write_bytes(b"II*\0\x08\0\0\0" + bytes(30)), "a.tif", ""),
        (lambda p, _: p.write_bytes(b"II*\0"), "b.tif", ""),
        (lambda p, _: p.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n"), "a.jp2", "a JP2 file without"),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "tiatoolbox"])
def test_what_cannot_be_read_is_one_line(write, name, fault, reader, rgb, tmp_path):
    write(tmp_path / name, rgb)
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path / name, reader=reader)
    assert str(caught.value).startswith(f"{name}: {fault}")
    assert "\n" not in str(caught.value)


def test_a_damaged_region_is_told_and_the_others_still_read(rgb, tmp_path):
    path = tmp_path / "a.ome.tiff"
    write_ome(path, rgb, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[9]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\0" * 16)
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(RegionReadError) as caught:
                slide.read_level(0, (70, 70), (20, 20))
            np.testing.assert_array_equal(slide.read_level(0, (0, 0), (60, 60)), rgb[:60, :60])
    assert str(caught.value).startswith("a.ome.tiff: level 0 cannot be read at its x=70, y=70")


JPEGS = {
    "tables": {"compression": "jpeg", "tile": (64, 64)},
    "strips": {"compression": "jpeg", "tile": None, "rowsperstrip": 64},
    "colours apart": {"compression": "jpeg", "tile": (64, 64), "planarconfig": "separate"},
}


def _jpeg_ome(path, kind):
    options = JPEGS[kind]
    if kind == "colours apart":
        planes = tissue_rgb(WIDTH, HEIGHT).transpose(2, 0, 1)
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(planes, photometric="rgb", metadata={"axes": "CYX"}, **options)
    else:
        write_ome(path, tissue_rgb(WIDTH, HEIGHT), **options)
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts


@pytest.mark.parametrize("kind", JPEGS)
def test_a_damaged_jpeg_tile_is_told_and_not_filled_up(kind, tmp_path):
    path = tmp_path / "a.ome.tiff"
    offsets, counts = _jpeg_ome(path, kind)
    index, y = (4, 260) if kind == "strips" else (37, 262)
    with open_slide(path, slide_mpp=0.5, reader="tiatoolbox") as slide:
        sound = slide.read_level(0, (0, 0), (WIDTH, HEIGHT))
    with path.open("r+b") as stream:  # an end within the coded bits: the rest becomes grey
        stream.seek(offsets[index] + counts[index] // 2)
        stream.write(b"\xff\xd9" * 4)
    with open_slide(path, slide_mpp=0.5, reader="tiatoolbox") as slide:
        for _ in range(2):
            with pytest.raises(RegionReadError, match=r"^a\.ome\.tiff: level 0 cannot be read at"):
                slide.read_level(0, (330, y), (10, 10))
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), (WIDTH, 250)), sound[:250])


def test_a_library_that_is_missing_is_told_with_its_remedy(rgb, tmp_path, monkeypatch):
    write_jp2(tmp_path / "a.jp2", rgb)

    def refuse(_):
        raise ImportError("No module named 'glymur'")

    monkeypatch.setattr("wsikd.tia.open_jp2", refuse)
    with pytest.raises(SlideError, match=r"a\.jp2: needs glymur.*; pip install glymur"):
        open_slide(tmp_path / "a.jp2")


def test_a_large_tiff_without_tiles_is_not_held_in_memory(rgb, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    monkeypatch.setattr(tiff_tables, "MOST_SEGMENT_PX", WIDTH * HEIGHT - 1)
    with pytest.raises(SlideError, match="strips or tiles of 455 x 301 px, too large to be held"):
        open_slide(tmp_path / "a.tif")


def test_a_slide_of_theirs_is_tiled_like_one_of_ours(rgb, tmp_path):
    write_ome(tmp_path / "a.ome.tiff", rgb, levels=2)
    settings = StoreSettings(
        mpps=(0.5, 1.0), patch_px=64, stride_px=64, tissue="all", min_tissue=0.0,
        classes=(), min_cover=0.5,
    )  # fmt: skip
    with open_slide(tmp_path / "a.ome.tiff") as slide:
        tile_slide(slide, tmp_path / "store.zarr", settings)
    group = zarr.open_group(tmp_path / "store.zarr", mode="r")
    fine, coarse = (np.asarray(group[name]) for name in ("0", "1"))
    np.testing.assert_array_equal(fine[:, :HEIGHT, :WIDTH], rgb.transpose(2, 0, 1))
    means = rgb[:300, :454].reshape(150, 2, 227, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(coarse[:, :150, :227] - means).max() <= 0.51


def test_an_svs_through_tiatoolbox_shows_openslides_pixels(real_slides, tiatoolbox):
    path = real_slides / "CMU-1-Small-Region.svs"
    with (
        open_slide(path, reader="tiatoolbox") as theirs,
        open_slide(path, reader="openslide") as ours,
    ):
        assert theirs.info.dimensions == ours.info.dimensions
        assert theirs.mpp.x == ours.mpp.x == 0.499
        assert theirs.info.objective_power == ours.info.objective_power == 20
        box = ((700, 1111), (500, 333))
        np.testing.assert_array_equal(theirs.read_level(0, *box), ours.read_level(0, *box))
        oracle = tiatoolbox.OpenSlideWSIReader(path).read_rect(*box, resolution=0, units="level")
        np.testing.assert_array_equal(theirs.read_level(0, *box), oracle)


def test_a_coarse_jpeg2000_level_is_on_its_own_grid(real_slides):
    """OpenSlide shifts level 1 (downsample 2.0004) by a fraction of a pixel; TIFF tiles do not."""
    path = real_slides / "tcga-cr-7395-01a-01-ts1.svs"
    with open_slide(path, reader="tiatoolbox") as slide, tifffile.TiffFile(path) as tiff:
        own = tiff.series[0].levels[1].asarray()
        got = slide.read_level(1, (1500, 1200), (300, 200))
        np.testing.assert_array_equal(got, own[1200:1400, 1500:1800])


def test_an_ome_tiff_that_openslide_refuses(real_slides):
    with open_slide(real_slides / "odd" / "wsic_JPEG.ome.tiff", slide_mpp=0.5) as slide:
        assert slide.info.reader == "tifffile"
        own = tifffile.imread(real_slides / "odd" / "wsic_JPEG.ome.tiff")
        np.testing.assert_array_equal(
            slide.read_level(0, (100, 50), (200, 300)), own[50:350, 100:300]
        )


@pytest.mark.parametrize("slide_mpp", [0.5, 0.499])
def test_a_canvas_is_what_tiatoolbox_reads_by_area(slide_mpp, tmp_path, tiatoolbox):
    path = tmp_path / "s.svs"
    write_pyramid(path, tissue_rgb(2048, 1536, (100, 100, 1800, 1300)), mpp=slide_mpp, power=20)
    theirs = tiatoolbox.OpenSlideWSIReader(path)
    with open_slide(path) as slide:
        assert slide.info.reader == "direct"
        for mpp, x, y in ((1.0, 64, 32), (1.0, 65, 33), (2.0, 64, 32), (4.0, 61, 33), (8.0, 4, 4)):
            canvas = Canvas.plan(slide, mpp)
            width, height = (min(100, side - 20) for side in canvas.size)
            own = canvas.read(x, y, width, height).astype(np.int16)
            corner = [round(v * s) for v, s in zip((x, y), canvas.scale_xy, strict=True)]
            other = theirs.read_rect(
                corner, (width, height), resolution=mpp, units="mpp", interpolation="area"
            )
            if slide_mpp == 0.5:
                np.testing.assert_array_equal(own, other)
            else:  # it rounds corner and size to whole pixels, we do not
                assert np.abs(own - other).mean() < 2


@pytest.mark.parametrize("omero", [True, False])
@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("format_", [2, 3])
def test_absent_chunks_of_an_ome_zarr_are_told_and_not_graded(
    tmp_path, format_, fill, omero, caplog
):
    path = tmp_path / "a.zarr"
    write_zarr(path, tissue_rgb(1024, 1024, (0, 0, 1024, 1024)), zarr=format_, omero=omero)
    place = "0/0.3.2" if format_ == 2 else "0/c/0/3/2"
    (path / place).unlink()
    file = path / "0" / (".zarray" if format_ == 2 else "zarr.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fill_value": fill}))
    with open_slide(path) as slide:
        assert slide.info.reader_note.endswith(f"; 1 of 336 chunks are absent and read as {fill}")
        assert (slide.read_level(0, (128, 192), (64, 64)) == fill).all()
        tissue = find_tissue(slide, method="all")
    assert f"a.zarr: 1 of 336 chunks are absent and read as {fill}; no field there" in caplog.text
    cover = tissue.cover((0, 0), (64, 64), (16, 16))
    assert cover[3, 2] == 0
    assert (cover == 1).sum() == 16 * 16 - 1


@pytest.mark.parametrize("name", [n for n in MASKERS if "tiatoolbox" in n])
def test_its_maskers_find_the_tissue(name):
    mask = resolve(MASKERS, name, kind="maskers")(tissue_rgb(120, 90, (30, 20, 60, 50)), 8.0)
    assert mask.shape == (90, 120)
    assert mask.dtype == np.bool_
    assert mask[25:65, 35:85].mean() > 0.95
    assert mask[:15].mean() < 0.05


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_it_reads_stores_of_version_04(tmp_path, tiatoolbox, codec):
    path = tmp_path / "s.zarr"
    write_store(path, settings_of(codec=codec, ome_version="0.4"))
    assert isinstance(tiatoolbox.WSIReader.open(path), tiatoolbox.NGFFWSIReader)
    reader = tiatoolbox.NGFFWSIReader(path)
    info = reader.info
    assert np.ravel(info.mpp).tolist() == [1.0, 1.0]
    assert np.ravel(info.slide_dimensions).tolist() == [320, 192]
    assert np.ravel(info.level_dimensions).tolist() == [320, 192, 80, 48]
    whole = reader.read_rect((0, 0), (320, 192), resolution=0, units="level")
    np.testing.assert_array_equal(whole, picture())
    low = reader.read_rect((64, 64), (32, 16), resolution=4.0, units="mpp")
    np.testing.assert_array_equal(low, shrunk(picture())[16:32, 16:48])


CLASSES = ("NC", "G3", "G4", "G5")
SIDE, MPP = 32, 4.0


@pytest.fixture(scope="module")
def engine():
    """What predicts patches; imported once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tiatoolbox.models.engine.patch_predictor")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25, input_norm="imagenet").eval()
    spec = InputSpec(MPP, SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), CLASSES)
    with torch.no_grad():
        grader.head.weight.mul_(5)  # so that fields differ
    folder = tmp_path_factory.mktemp("s") / "s"
    more = {"width": 0.25, "temperature": 1.6}
    return save_bundle(folder, grader, spec, arch="vgg_small", **more)


@pytest.fixture(scope="module")
def slide_at_mpp(tmp_path_factory):
    """A slide of 8 x 6 fields with a stored level at the student's resolution."""
    rng = np.random.default_rng(3)
    colours = rng.integers(40, 200, (6, 8, 3)).repeat(256, 0).repeat(256, 1)
    rgb = (colours + rng.integers(0, 50, colours.shape)).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "stored.svs"
    write_pyramid(path, rgb, mpp=0.5, power=20, downsamples=(1, 8))
    return path


def test_its_predictor_gives_the_same_fields_and_probabilities(
    engine, bundle, slide_at_mpp, tmp_path
):
    model, ioconfig = student_model(bundle)
    assert model.class_dict == dict(enumerate(CLASSES))
    predictor = engine.PatchPredictor(model=model, batch_size=7, verbose=False)
    made = predictor.run(
        images=[slide_at_mpp], ioconfig=ioconfig, patch_mode=False, save_dir=tmp_path / "out",
        output_type="zarr", return_probabilities=True, auto_get_mask=False,
    )  # fmt: skip
    found = zarr.open_group(next(iter(made.values())), mode="r")
    theirs = dict(
        zip(map(tuple, np.asarray(found["coordinates"])), found["probabilities"], strict=True)
    )
    own_bundle = load_bundle(bundle)
    own = SlidePredictor(
        own_bundle.network(), own_bundle.spec, device="cpu",
        settings=PredictSettings(tissue="all", min_tissue=0),
    )  # fmt: skip
    with open_slide(slide_at_mpp) as slide:
        grade_map = own.predict(slide).calibrated(own_bundle.temperature)
    boxes = grade_map.boxes() / (MPP / 0.5)
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    ours = dict(
        zip(
            map(tuple, corners.round().astype(int).tolist()),
            grade_map.probability_khw[:, grade_map.valid_hw].T,
            strict=True,
        )
    )
    assert len(ours) == 48
    assert {tuple(map(int, k)) for k in theirs} == set(ours)
    for place, probabilities in theirs.items():
        np.testing.assert_allclose(probabilities, ours[tuple(map(int, place))], atol=1e-3)
    assert np.ptp(np.stack(list(ours.values())), 0).max() > 0.1
    grades = np.asarray(found["predictions"])
    np.testing.assert_array_equal(grades, np.asarray(found["probabilities"]).argmax(1))


def test_fields_lie_as_far_apart_as_asked(bundle):
    _, ioconfig = student_model(bundle, stride_px=16)
    assert tuple(ioconfig.patch_input_shape) == (SIDE, SIDE)
    assert tuple(ioconfig.stride_shape) == (16, 16)
    assert ioconfig.input_resolutions == [{"units": "mpp", "resolution": MPP}]
    for stride in (0, SIDE + 1):
        with pytest.raises(ConfigError, match="larger than the patch"):
            student_model(bundle, stride_px=stride)


def test_a_bundle_that_is_none_is_refused(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        student_model(tmp_path / "none")


def test_the_block_in_the_docs_runs(engine, bundle, slide_at_mpp, tmp_path, monkeypatch):
    assert engine
    text = (Path(__file__).parents[1] / "docs/other-programs.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/student").symlink_to(bundle)
    (tmp_path / "slide.svs").symlink_to(slide_at_mpp)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert list((tmp_path / "out").glob("*.zarr"))
