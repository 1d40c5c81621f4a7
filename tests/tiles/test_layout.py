import json

import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from tests.tiles.stores import (
    CHUNK_PX,
    SHARD_PX,
    picture,
    record,
    settings_of,
    shrunk,
    write_store,
)
from wsikd.core.errors import (
    ConfigError,
    IncompleteStoreError,
    StoreError,
    StoreNotFoundError,
)
from wsikd.tiles.layout import chunk_path, create_group
from wsikd.tiles.store import TileStore, is_group, read_meta

LOSSLESS = [("0.5", "none"), ("0.5", "zstd"), ("0.4", "none"), ("0.4", "zstd")]
ALL = [*LOSSLESS, ("0.5", "jpeg")]


def empty(path, settings, shapes=((192, 320), (48, 80))):
    return create_group(
        path, settings, shapes=shapes, chunk_px=CHUNK_PX, shard_px=SHARD_PX,
        attributes={"wsikd": record(settings)}, name="s", origin_um=(10.0, 20.0),
    )  # fmt: skip


@pytest.mark.parametrize(("version", "codec"), LOSSLESS)
def test_bytes_put_by_hand_are_read_back_by_zarr(tmp_path, version, codec):
    levels = (picture(1, (150, 290)), picture(2, (40, 70)))  # no whole number of chunks
    write_store(tmp_path / "s.zarr", settings_of(codec=codec, ome_version=version), levels=levels)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    for index, pixels in enumerate(levels):
        np.testing.assert_array_equal(group[str(index)][:].transpose(1, 2, 0), pixels)


@pytest.mark.parametrize(("version", "codec"), LOSSLESS)
def test_a_chunk_that_no_patch_needs_is_white(tmp_path, version, codec):
    pixels = picture()
    pixels[64:128, 64:128] = 255  # no patch is there
    settings = settings_of(codec=codec, ome_version=version)
    store = write_store(tmp_path / "s.zarr", settings, levels=(pixels, shrunk(pixels)))
    np.testing.assert_array_equal(store.array(1.0)[:].transpose(1, 2, 0), pixels)
    if version == "0.4":
        assert not chunk_path(store.path, 0, 1, 1, "0.4").exists()
        assert chunk_path(store.path, 0, 1, 3, "0.4").exists()


def test_jpeg_bytes_are_read_back_within_its_error(tmp_path):
    store = write_store(tmp_path / "s.zarr", settings_of(codec="jpeg"))
    for mpp, pixels in ((1.0, picture()), (4.0, shrunk(picture()))):
        error = store.array(mpp)[:].transpose(1, 2, 0).astype(float) - pixels
        assert 0 < np.abs(error).mean() < 3
        assert abs(error.mean()) < 0.2  # no shift of colour


@pytest.mark.parametrize(("version", "codec"), ALL)
def test_zarr_writes_where_we_do(tmp_path, version, codec):
    """The same files, and where nothing is compressed the same chunk bytes."""
    settings = settings_of(codec=codec, ome_version=version)
    ours = write_store(tmp_path / "ours.zarr", settings).path
    theirs = tmp_path / "theirs.zarr"
    group = empty(theirs, settings)
    group["0"][:] = picture().transpose(2, 0, 1)
    found = [
        sorted(p.relative_to(root).as_posix() for p in (root / "0").rglob("*") if p.is_file())
        for root in (ours, theirs)
    ]
    assert found[0] == found[1]
    file = chunk_path(ours, 0, 0, 0, version)
    if codec == "none":
        size = 3 * 64 * 64
        theirs_bytes = (theirs / file.relative_to(ours)).read_bytes()
        assert file.read_bytes()[:size] in theirs_bytes
        assert len(file.read_bytes()) == len(theirs_bytes)


@pytest.mark.parametrize(("version", "codec"), LOSSLESS)
def test_a_tile_store_reads_it(tmp_path, version, codec):
    settings = settings_of(codec=codec, ome_version=version)
    store = write_store(tmp_path / "s.zarr", settings, patient="ab", split="val")
    assert (store.mpps, store.classes, store.slide) == ((1.0, 4.0), ("NC", "G3"), "s")
    assert (store.patient, store.split) == ("ab", "val")
    assert read_meta(store.path) == store.provenance
    assert is_group(store.path)
    table = store.patches
    assert len(table) == 7
    for index, (row, column) in enumerate(zip(table.row, table.column, strict=True)):
        for mpp, pixels in ((1.0, picture()), (4.0, shrunk(picture()))):
            side = store.patch_px(mpp)
            place = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            np.testing.assert_array_equal(store.read_patch(index, mpp), place)
    block = store.dask(1.0)[:, 10:90, 20:150].compute()
    np.testing.assert_array_equal(block.transpose(1, 2, 0), picture()[10:90, 20:150])


def test_what_is_no_store_in_version_04(tmp_path):
    store = write_store(tmp_path / "s.zarr", settings_of(ome_version="0.4"))
    attributes = store.path / ".zattrs"
    whole = attributes.read_text()
    content = json.loads(whole)
    content["wsikd"]["complete"] = False
    attributes.write_text(json.dumps(content))
    with pytest.raises(IncompleteStoreError, match="left unfinished"):
        TileStore.open(store.path)
    attributes.write_text(whole[:40])
    assert read_meta(store.path) is None
    with pytest.raises(StoreError, match="damaged"):
        TileStore.open(store.path)
    attributes.unlink()
    with pytest.raises(StoreError, match="a Zarr group, but no tile store"):
        TileStore.open(store.path)
    (store.path / ".zgroup").unlink()
    assert not is_group(store.path)
    with pytest.raises(StoreNotFoundError):
        TileStore.open(store.path)


@pytest.mark.parametrize(("version", "codec"), ALL)
def test_it_opens_in_ome_zarrs_reader(tmp_path, version, codec):
    settings = settings_of(codec=codec, ome_version=version)
    store = write_store(tmp_path / "s.zarr", settings)
    image, *labels = list(Reader(parse_url(str(store.path)))())
    assert [level.shape for level in image.data] == [(3, 192, 320), (3, 48, 80)]
    assert [a["name"] for a in image.metadata["axes"]] == ["c", "y", "x"]
    np.testing.assert_array_equal(np.asarray(image.data[1]), store.array(4.0)[:])
    tissue = next(node for node in labels if node.data)
    assert [np.asarray(level).sum() for level in tissue.data] == [18, 2 * 4]


@pytest.mark.parametrize(("version", "models"), [("0.5", "v05"), ("0.4", "v04")])
def test_the_metadata_keep_to_the_specification(tmp_path, version, models):
    """ome-zarr-models knows the specification; corners of all levels coincide."""
    store = write_store(tmp_path / "s.zarr", settings_of(ome_version=version, route="pyramid"))
    group = zarr.open_group(store.path, mode="r")
    model = getattr(ome_zarr_models, models)
    image = model.Image.from_zarr(group)
    about = image.attributes if version == "0.4" else image.ome_attributes
    (multiscale,) = about.multiscales
    assert multiscale.name == "s"
    assert multiscale.type == "pyramid"
    for dataset, mpp in zip(multiscale.datasets, (1.0, 4.0), strict=True):
        scale, shift = dataset.coordinateTransformations
        assert scale.scale == [1, mpp, mpp]
        assert shift.translation == [0, 20 + mpp / 2, 10 + mpp / 2]
    label = model.ImageLabel.from_zarr(group["labels/tissue"])
    assert label is not None
    listing = dict(group["labels"].attrs)
    assert (listing if version == "0.4" else listing["ome"])["labels"] == ["tissue"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_group_is_made_over_no_other(tmp_path, version):
    write_store(tmp_path / "s.zarr", settings_of(ome_version=version))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match="holds a Zarr group already"):
        empty(tmp_path / "s.zarr", settings_of())
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_does_not_go_together_is_refused(tmp_path):
    for changes, fault in (
        ({"codec": "jpeg", "ome_version": "0.4"}, "--codec jpeg: OME-Zarr 0.4 has no JPEG"),
        ({"codec": "jpg"}, "--codec jpg: unknown; did you mean 'jpeg'?"),
        ({"ome_version": "0.6"}, "--ome-version 0.6: unknown"),
    ):
        with pytest.raises(ConfigError) as told:
            empty(tmp_path / "s.zarr", settings_of(**changes))
        assert fault in str(told.value)
        assert "\n" not in str(told.value)
        assert not (tmp_path / "s.zarr").exists()
