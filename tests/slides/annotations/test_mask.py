import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.slides.pixels import MemorySlide
from wsikd.core.errors import AnnotationError, ConfigError
from wsikd.slides.annotations.mask import _areas
from wsikd.slides.annotations.mask_image import LabelPlane
from wsikd.slides.annotations.read import read_annotation
from wsikd.slides.annotations.survey import survey_annotation

CLASSES = ("NC", "G3", "G4")
RADBOUD = {"1": "NC", "2": "NC", "3": "G3", "4": "G4", "5": "", "6": "-", "stroma": "NC"}
BY_CLASS = ((1, 2), (3,), (4,))


def blobs(height, width, seed=0, top=7):
    """Patches of values 0 to top - 1."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, top, (height // 23 + 1, width // 31 + 1), dtype=np.uint8)
    return coarse.repeat(23, 0).repeat(31, 1)[:height, :width]


def blank(width, height, **more):
    return MemorySlide(np.broadcast_to(np.uint8(255), (height, width, 3)), **more)


def write_tiled(path, values, **more):
    options = {"tile": (64, 64), "compression": "deflate", "metadata": None, **more}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(values, subifds=0, **options)
        smaller = values[::2, ::2]
        tiff.write(np.ascontiguousarray(smaller), subfiletype=1, **options)


def write_planes(path, values):
    with tifffile.TiffWriter(path) as tiff:
        planes = np.stack([values, np.full_like(values, 9), np.full_like(values, 8)])
        tiff.write(planes, planarconfig="separate", photometric="rgb", tile=(64, 64))


def write_rgb(path, values):
    rgb = np.stack([values, np.full_like(values, 9), np.full_like(values, 8)], -1)
    write_tiled(path, rgb, photometric="rgb")


def write_palette(path, values):
    image = Image.fromarray(values)
    image.putpalette([v for i in range(256) for v in (255 - i, i, 7)])
    assert image.mode == "P"
    image.save(path)


WRITERS = {
    "tiled.tif": write_tiled,
    "lzw.tiff": lambda p, v: write_tiled(p, v, compression="lzw", predictor=True),
    "rgb.tif": write_rgb,
    "planes.tif": write_planes,
    "uint16.TIF": lambda p, v: write_tiled(p, v.astype(np.uint16)),
    "plain.tif": lambda p, v: tifffile.imwrite(p, v),
    "strips.tif": lambda p, v: tifffile.imwrite(p, v, compression="deflate", rowsperstrip=17),
    "grey.png": lambda p, v: Image.fromarray(v).save(p),
    "rgb.png": lambda p, v: Image.fromarray(np.stack([v, v * 0 + 9, v * 0], -1)).save(p),
    "palette.png": write_palette,
}


@pytest.mark.parametrize("name", WRITERS)
def test_blocks_are_the_pixels(tmp_path, name):
    values = blobs(301, 217)
    WRITERS[name](tmp_path / name, values)
    plane = LabelPlane.open(tmp_path / name)
    assert plane.size == (217, 301)
    seen, count = np.full(values.shape, 99), np.zeros(values.shape, int)
    for x, y, block in plane.blocks():
        part = np.s_[y : y + block.shape[0], x : x + block.shape[1]]
        seen[part] = block
        count[part] += 1
    assert (count == 1).all()
    np.testing.assert_array_equal(seen, values)
    assert plane.values() == list(range(7))


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "plain.tif", "grey.png"])
@pytest.mark.parametrize("ratio", [1, 4, 2.5])
def test_shares_are_those_of_a_slow_rasterisation(tmp_path, name, ratio):
    values = blobs(200, 160, seed=3)
    WRITERS[name](tmp_path / name, values)
    slide = blank(round(160 * ratio), round(200 * ratio))
    found = read_annotation(tmp_path / name, slide, RADBOUD)
    assert found.names == ("NC", "G3", "G4")
    rng = np.random.default_rng(5)
    boxes = np.column_stack([rng.uniform(-30, 400, (60, 2)), rng.uniform(5, 150, (60, 2))])
    fine = 8  # level-0 pixels are cut into 8 x 8 points for the reference
    got = found.shares(boxes, CLASSES)
    for share, (x, y, w, h) in zip(got, boxes, strict=True):
        px = np.floor((x + (np.arange(w * fine) + 0.5) / fine) / ratio).astype(int)
        py = np.floor((y + (np.arange(h * fine) + 0.5) / fine) / ratio).astype(int)
        inside = ((py >= 0) & (py < 200))[:, None] & ((px >= 0) & (px < 160))
        at = values[np.clip(py, 0, 199)[:, None], np.clip(px, 0, 159)]
        exact = [(np.isin(at, own) & inside).mean() for own in BY_CLASS]
        np.testing.assert_allclose(share, exact, atol=0.03)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_areas_are_exact(seed):
    """Boxes on whole and half pixels against counting on a grid twice as fine."""
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 13)) < 0.5
    twice = mask.repeat(2, 0).repeat(2, 1)
    corners = rng.integers(-4, 30, (20, 2, 2))
    edges = np.column_stack([corners.min(1), corners.max(1)])
    exact = [twice[max(b, 0) : max(d, 0), max(a, 0) : max(c, 0)].sum() / 4 for a, b, c, d in edges]
    np.testing.assert_allclose(_areas(mask, edges / 2), exact, atol=1e-9)


def test_labels_by_cover_and_purity(tmp_path):
    values = np.zeros((100, 300), np.uint8)
    values[:, :70], values[:, 70:100] = 3, 4  # 70 % and 30 %
    values[:, 100:140], values[:, 140:150] = 3, 5  # 40 % alone: 5 is left out
    values[:, 200:260], values[:, 260:300] = 1, 2  # two values of one class
    write_tiled(tmp_path / "m.tif", values)
    found = read_annotation(tmp_path / "m.tif", blank(300, 100), RADBOUD)
    boxes = np.array([[0.0, 0, 100, 100], [100, 0, 100, 100], [200, 0, 100, 100]])
    for cover, purity, expected in [
        (0.5, 0.0, [1, -1, 0]),
        (0.5, 0.7, [1, -1, 0]),
        (0.5, 0.71, [-1, -1, 0]),
        (0.4, 1.0, [-1, 1, 0]),
    ]:
        label, share = found.label(boxes, CLASSES, min_cover=cover, min_purity=purity)
        assert label.tolist() == expected
        np.testing.assert_allclose(share, [0.7, 0.4, 1.0], atol=1e-6)


def test_only_tiles_under_fields_are_decoded(tmp_path, monkeypatch):
    write_tiled(tmp_path / "m.tif", blobs(640, 640))
    decoded = []
    read = tifffile.FileHandle.read_segments

    def spy(self, offsets, *arguments, **options):
        decoded.extend(offsets)
        return read(self, offsets, *arguments, **options)

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", spy)
    found = read_annotation(tmp_path / "m.tif", blank(640, 640), RADBOUD)
    found.shares(np.array([[70.0, 70, 50, 50], [130, 70, 60, 130]]), CLASSES)
    assert len(decoded) == 1 + 3


def test_a_mask_over_the_bounds(tmp_path):
    values = blobs(100, 300)
    write_tiled(tmp_path / "m.tif", values)
    slide = blank(1000, 900, bounds=(400, 200, 600, 200))
    found = read_annotation(tmp_path / "m.tif", slide, RADBOUD)
    assert (found.origin_xy, found.scale_xy) == ((400.0, 200.0), (0.5, 0.5))


def test_the_digest_follows_the_content(tmp_path):
    slide = blank(100, 100)
    digests = []
    for seed in (1, 1, 2):
        write_tiled(tmp_path / "m.tif", blobs(100, 100, seed=seed))
        digests.append(read_annotation(tmp_path / "m.tif", slide, RADBOUD).digest)
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


@pytest.mark.parametrize("label_map", [{}, {"negative": "-", "G3": "GP3"}, {"1": "", "2": "-"}])
def test_without_a_class_for_a_value(tmp_path, label_map):
    write_tiled(tmp_path / "m.tif", blobs(100, 100, top=4))
    for call in (
        lambda: read_annotation(tmp_path / "m.tif", blank(100, 100), label_map),
        lambda: survey_annotation(tmp_path / "m.tif", label_map).names,
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == (
            f"{tmp_path / 'm.tif'}: is a mask with the values 0, 1, 2, 3, and none has a class; "
            f"name the class of each, as in --label-map 1=NC"
        )


def test_a_mask_of_another_slide(tmp_path):
    write_tiled(tmp_path / "m.tif", blobs(100, 100))
    with pytest.raises(
        AnnotationError, match="is 100 x 100 pixels, which does not match the shape of"
    ):
        read_annotation(tmp_path / "m.tif", blank(200, 120), RADBOUD)


def test_values_that_the_map_does_not_know_are_told(tmp_path, caplog):
    write_tiled(tmp_path / "m.tif", np.full((100, 100), 170, np.uint8))
    found = read_annotation(tmp_path / "m.tif", blank(100, 100), RADBOUD)
    label, _ = found.label(np.array([[0.0, 0, 50, 50]]), CLASSES)
    assert label.tolist() == [-1]
    assert "m.tif: holds 170, and --label-map names none of them" in caplog.text


def broken_tile(path):
    write_tiled(path, blobs(100, 100))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * 12)


def without_tiles(path):
    """A tiled file whose tile width was lost, so that it reads as one strip."""
    write_tiled(path, blobs(100, 100))
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["TileWidth"]
        offset = tag.offset
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write((40_000).to_bytes(2, "little"))


BROKEN = {
    "tiles.tif": without_tiles,
    "text.tif": lambda p: p.write_text("no image"),
    "text.png": lambda p: p.write_text("no image"),
    "empty.tif": lambda p: p.write_bytes(b""),
    "gone.tif": lambda p: None,
    "gone.png": lambda p: None,
    "floats.tif": lambda p: tifffile.imwrite(p, np.zeros((50, 50), np.float32)),
    "tile.tif": broken_tile,
    "cut.png": lambda p: (WRITERS["grey.png"](p, blobs(200, 200)), cut(p, 150)),
    "cut.tif": lambda p: (write_tiled(p, blobs(200, 200)), cut(p, 400)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_masks_are_one_line(tmp_path, name):
    BROKEN[name](tmp_path / name)
    with pytest.raises(AnnotationError) as caught:
        sum(block.sum() for _, _, block in LabelPlane.open(tmp_path / name).blocks())
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_mask_of_pandas_kind(real_slides):
    path = real_slides.parent / "annotations" / "slaid_karolinska-mask.tif"
    plane = LabelPlane.open(path)
    assert plane.size == (1024, 256)
    found = read_annotation(path, blank(4096, 1024), {"1": "benign", "2": "cancer"})
    whole = tifffile.imread(path, key=0)[..., 0]
    boxes = np.array([[x, y, 512.0, 512.0] for y in (0, 512) for x in range(0, 4096, 512)])
    got = found.shares(boxes, ("benign", "cancer"))
    tiles = whole.reshape(2, 128, 8, 128).transpose(0, 2, 1, 3).reshape(16, -1)
    np.testing.assert_allclose(got, [[(t == v).mean() for v in (1, 2)] for t in tiles], atol=1e-9)
    assert got.max() > 0.2
