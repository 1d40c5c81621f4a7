"""Streamed patches against one canvas read a patch."""

import numpy as np
import pytest
import simplejpeg

from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import RegionReadError
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("stream") / "s.svs"
    write_pyramid(file, tissue_rgb(2600, 1500), mpp=0.5, power=20)
    return file


def places(grid, keep=1.0, seed=0):
    chosen = np.random.default_rng(seed).random((grid.rows, grid.columns)) < keep
    return np.nonzero(chosen)


def read_all(canvas, grid, rows, columns, **options):
    found = np.zeros((len(rows), grid.patch_px, grid.patch_px, 3), np.uint8)
    seen = []
    for indices, patches in stream_patches(canvas, grid, rows, columns, **options):
        assert len(indices) == len(patches)
        found[indices] = patches
        seen += indices.tolist()
    assert seen == list(range(len(rows)))
    return found


@pytest.mark.parametrize(
    ("patch", "stride"), [(300, 300), (300, 350), (256, 128), (300, 100), (320, 200), (64, 64)]
)
@pytest.mark.parametrize("slide_mpp", [0.5, 0.499])
@pytest.mark.parametrize(("workers", "batch"), [(1, 3), (3, 50)])
def test_patches_are_those_of_the_canvas(path, patch, stride, slide_mpp, workers, batch):
    source = "manifest"
    with open_slide(path, slide_mpp=slide_mpp, mpp_source=source) as slide:
        canvas, grid = Canvas.plan(slide, 1.0), TileGrid.plan(slide, 1.0, patch, stride)
        rows, columns = places(grid, 0.4)
        found = read_all(canvas, grid, rows, columns, workers=workers, batch_size=batch)
        for row, column, own in zip(rows.tolist(), columns.tolist(), found, strict=True):
            single = canvas.read(column * stride, row * stride, patch, patch)
            np.testing.assert_array_equal(own, single)


@pytest.mark.parametrize(("patch", "stride"), [(256, 128), (512, 512)])
@pytest.mark.parametrize("slide_mpp", [0.5, 0.499])
def test_overlap_costs_no_second_decoding(path, monkeypatch, patch, stride, slide_mpp):
    calls, own = [], simplejpeg.decode_jpeg

    def counted(data, *args, **kwargs):
        calls.append(len(data))
        return own(data, *args, **kwargs)

    with open_slide(path, slide_mpp=slide_mpp, mpp_source="manifest") as slide:
        canvas, grid = Canvas.plan(slide, 1.0), TileGrid.plan(slide, 1.0, patch, stride)
        monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
        read_all(canvas, grid, *places(grid), workers=2)
    across, down = -(-2600 // 256), -(-1500 // 256)
    assert len(calls) == across * down


@pytest.mark.parametrize("patch", [64, 256])
def test_the_gaps_between_patches_are_not_read(path, monkeypatch, patch):
    read = []
    own = Canvas.read

    def counted(self, x, y, width, height, *more, **options):
        read.append(width * height)
        return own(self, x, y, width, height, *more, **options)

    with open_slide(path) as slide:
        canvas, grid = Canvas.plan(slide, 1.0), TileGrid.plan(slide, 1.0, patch, 2 * patch)
        rows, columns = places(grid)
        monkeypatch.setattr(Canvas, "read", counted)
        read_all(canvas, grid, rows, columns)
    assert sum(read) == len(rows) * patch**2


def test_no_field_is_no_batch(path):
    with open_slide(path) as slide:
        canvas, grid = Canvas.plan(slide, 1.0), TileGrid.plan(slide, 1.0, 512, 256)
        none = np.zeros(0, np.int64)
        assert list(stream_patches(canvas, grid, none, none)) == []


@pytest.mark.parametrize("stride", [150, 300])
def test_a_fault_rises(path, stride):
    with open_slide(path) as slide:
        canvas, grid = Canvas.plan(slide, 1.0), TileGrid.plan(slide, 1.0, 300, stride)
        assert slide.info.reader == "direct"

        def broken(*_, **__):
            raise RegionReadError("s.svs", "cut", "copy it")

        slide.average_into = broken
        with pytest.raises(RegionReadError, match="cut"):
            read_all(canvas, grid, *places(grid), workers=2)
