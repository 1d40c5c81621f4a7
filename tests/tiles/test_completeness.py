"""A store that lost files says so: Zarr would read what is absent as white, or as class 0."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr

from tests.slides.pixels import MemorySlide
from tests.tiles.stores import settings_of, write_store
from wsikd.core.errors import StoreError
from wsikd.tiles.metadata import SlideNotes
from wsikd.tiles.store import StoreSettings, TileStore
from wsikd.tiles.write import tile_slide

KINDS = [("none", "0.5"), ("zstd", "0.5"), ("jpeg", "0.5"), ("none", "0.4"), ("zstd", "0.4")]
REMEDY = "copy it again, or run wsikd tile --overwrite"


def lacks(path, number, mag):
    fault = f"{path}: has no pixels for {number} of 7 patches at {mag}x; {REMEDY}"
    return pytest.raises(StoreError, match=f"^{re.escape(fault)}$")


@pytest.mark.parametrize(("codec", "version"), KINDS)
@pytest.mark.parametrize(("index", "mag"), [(0, "10"), (1, "2.5")])
def test_a_store_that_lost_a_file_is_refused_with_the_number(tmp_path, codec, version, index, mag):
    path = tmp_path / "s.zarr"
    write_store(path, settings_of(codec=codec, ome_version=version))
    # Patches are every second field of 3 x 5. A shard of 0.5 holds 2 x 2, a chunk of 0.4 one.
    pixels = path / str(index) / ("0" if version == "0.4" else "c/0")
    lost, number = (pixels / "0" / "1", 1) if version == "0.4" else (pixels / "0" / "0", 2)
    lost.unlink()
    with lacks(path, number, mag):
        TileStore.open(path)
    shutil.rmtree(pixels)
    with lacks(path, 7, mag):
        TileStore.open(path)


@pytest.mark.parametrize("keep", [0, 7, 9000, -1, -400])
def test_a_torn_shard_counts_as_lost(tmp_path, keep):
    path = tmp_path / "s.zarr"
    write_store(path)
    shard = path / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:keep])
    with lacks(path, 2, "10"):
        TileStore.open(path)


def test_a_shard_whose_index_lacks_a_chunk(tmp_path):
    path = tmp_path / "s.zarr"
    array = write_store(path).array(1.0)
    zarr.open_group(path, mode="r+")["0"][:, :64, 64:128] = 255  # Zarr leaves white chunks out
    assert array.shards is not None
    with lacks(path, 1, "10"):
        TileStore.open(path)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("keep", [7, -1])
def test_a_chunk_file_that_is_cut_short(tmp_path, codec, keep):
    path = tmp_path / "s.zarr"
    write_store(path, settings_of(ome_version="0.4", codec=codec))
    chunk = path / "0" / "0" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:keep])
    with lacks(path, 1, "10"):
        TileStore.open(path)


@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_a_chunk_that_cannot_be_decoded_is_one_line(tmp_path, codec):
    path = tmp_path / "s.zarr"
    write_store(path, settings_of(codec=codec))
    shard = path / "0" / "c" / "0" / "0" / "0"
    size, index = shard.stat().st_size, 4 * 16 + 4
    shard.write_bytes(bytes(size - index) + shard.read_bytes()[-index:])
    with pytest.raises(StoreError, match=r"pixels of patch 0 cannot be decoded .*copy it again"):
        TileStore.open(path).read_patch(0, 1.0)


def test_pixels_that_are_lost_after_opening_are_not_white(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    shutil.rmtree(store.path / "0" / "c")
    with pytest.raises(StoreError, match="lacks pixels that were recorded; copy it again"):
        store.read_patch(0, 1.0)


@pytest.mark.parametrize(
    ("codec", "version", "stride"), [*((*kind, 64) for kind in KINDS), ("none", "0.5", 96)]
)
def test_a_white_field_is_written_and_not_lost(tmp_path, codec, version, stride):
    settings = StoreSettings((1.0, 4.0), 64, stride, "all", 0.0, (), 0.5)
    settings = replace(settings, codec=codec, ome_version=version)
    slide = MemorySlide(np.full((300, 400, 3), 255, np.uint8))
    store, _ = tile_slide(slide, tmp_path / "s.zarr", settings, workers=1)
    assert len(store.patches)
    assert (store.read_patch(0, 1.0) == 255).all()


@pytest.mark.parametrize(
    ("name", "version"),
    [(name, "0.5") for name in ("coords", "row", "column", "tissue", "label", "cover")]
    + [("coords", "0.4"), ("label", "0.4")],
)
def test_a_lost_column_is_not_zeros(tmp_path, name, version):
    path = tmp_path / "s.zarr"
    write_store(path, settings_of(ome_version=version), labels=[0] * 7)
    column = path / "patches" / name
    for file in column.rglob("*"):
        if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"):
            file.unlink()
    with pytest.raises(StoreError, match=f"lacks the column '{name}' of its patches; {REMEDY}"):
        TileStore.open(path)


def test_a_store_of_before_left_zeros_out(tmp_path):
    """wsikd 0.1.0 did not write a column that is all zeros."""
    path = tmp_path / "s.zarr"
    slide = MemorySlide(np.full((100, 400, 3), 128, np.uint8))
    settings = StoreSettings((1.0,), 64, 64, "all", 0.1, ("NC",), 0.5)
    store, _ = tile_slide(slide, path, settings, SlideNotes(label="NC"), workers=1)
    assert (store.patches.label == 0).all()
    table = zarr.open_group(path, mode="r+")["patches"]
    del table.attrs["every_chunk_written"]
    (path / "patches" / "label" / "c" / "0").unlink()
    assert (TileStore.open(path).patches.label == 0).all()
    (path / "patches" / "coords" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="lacks the column 'coords'"):
        TileStore.open(path)


def test_another_number_of_patches_than_recorded(tmp_path):
    path = tmp_path / "s.zarr"
    with pytest.raises(StoreError, match="lists 7 patches, but its record says 9"):
        write_store(path, patches=9)
