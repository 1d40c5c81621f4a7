"""Bags on disk: what is written is read, by us and by others; damage is told."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import zarr

from wsikd.bags.bag import ATTRIBUTE, BagInfo, find_bags, open_bag, write_bag, write_h5
from wsikd.core.errors import DataError, OutputError

INFO = BagInfo(
    "s 1", {"id": "timm:x", "licence": "MIT"}, 1.0, 256, (513.03, 513.03), "abc", "train", "G3", "d"
)


def draw(count=700, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)).astype(np.float32), 1e4 * rng.random((count, 2))


@pytest.mark.parametrize("count", [0, 1, 700])
def test_round_trip(tmp_path, count):
    features, xy = draw(count)
    write_bag(tmp_path / "a.zarr", INFO, features, xy)
    bag = open_bag(tmp_path / "a.zarr")
    assert (bag.info, bag.shape, len(bag), bag.dim) == (INFO, (count, 5), count, 5)
    np.testing.assert_array_equal(bag.features(), features)
    np.testing.assert_array_equal(bag.coords(), xy)


def test_plain_zarr_reads_it_without_us(tmp_path):
    features, xy = draw()
    write_bag(tmp_path / "a.zarr", INFO, features, xy)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    np.testing.assert_array_equal(group["features"][:], features)
    assert group.attrs[ATTRIBUTE]["encoder"]["licence"] == "MIT"
    assert [group[name].nchunks for name in ("features", "coords")] == [1, 1]  # one file each


def test_regions_keep_their_grid(tmp_path):
    features = np.random.default_rng(0).normal(size=(3, 4, 2, 2)).astype(np.float32)
    write_bag(tmp_path / "a.zarr", INFO, features, np.zeros((3, 2)))
    bag = open_bag(tmp_path / "a.zarr")
    np.testing.assert_array_equal(bag.features(), features)
    with pytest.raises(DataError, match="regions"):
        write_h5(tmp_path / "a.h5", bag)


def test_h5_says_the_same(tmp_path):
    features, xy = draw()
    write_bag(tmp_path / "s 1.zarr", INFO, features, xy)
    write_h5(tmp_path / "s 1.h5", open_bag(tmp_path / "s 1.zarr"))
    with h5py.File(tmp_path / "s 1.h5") as file:
        assert file["coords"].dtype == np.int64
        assert file["coords"].attrs["patch_size_level0"] == 513
    bag = open_bag(tmp_path / "s 1.h5")
    np.testing.assert_array_equal(bag.features(), features)
    assert np.abs(bag.coords() - xy).max() <= 0.5
    assert (bag.info.slide, bag.info.mpp, bag.info.encoder) == ("s 1", 1.0, {"id": "timm:x"})
    with pytest.raises(OutputError, match="--overwrite"):
        write_h5(tmp_path / "s 1.h5", open_bag(tmp_path / "s 1.zarr"))


@pytest.mark.parametrize("leading", [False, True])
def test_foreign_h5(tmp_path, leading):
    """Features as CLAM (N, D) and as some versions of TRIDENT (1, N, D) keep them."""
    features, xy = draw()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = features[None] if leading else features
        file["coords"] = xy.astype(np.int64)[None] if leading else xy.astype(np.int64)
    bag = open_bag(tmp_path / "b.h5")
    np.testing.assert_array_equal(bag.features(), features)
    np.testing.assert_array_equal(bag.coords(), np.floor(xy))
    assert bag.info.slide == "b"


def unfinished(path):
    file = path / "zarr.json"
    text = json.loads(file.read_text())
    text["attributes"][ATTRIBUTE]["complete"] = False
    file.write_text(json.dumps(text))


def torn(path):
    (path / "features" / "zarr.json").unlink()


def foreign(path):
    text = json.loads((path / "zarr.json").read_text())
    text["attributes"] = {}
    (path / "zarr.json").write_text(json.dumps(text))


def garbage(path):
    (path / "zarr.json").write_text("{")


@pytest.mark.parametrize(
    ("plant", "told"),
    [(unfinished, "unfinished"), (torn, "cannot be read"), (foreign, "not a bag"),
     (garbage, "cannot be read")],
)  # fmt: skip
def test_damage_is_told(tmp_path, plant, told):
    write_bag(tmp_path / "a.zarr", INFO, *draw())
    plant(tmp_path / "a.zarr")
    with pytest.raises(DataError, match=told) as error:
        open_bag(tmp_path / "a.zarr")
    assert "a.zarr" in str(error.value)


def test_a_missing_chunk_or_nan_is_told(tmp_path):
    features, xy = draw(dim=1000)
    write_bag(tmp_path / "a.zarr", INFO, features, xy)
    (tmp_path / "a.zarr" / "features" / "c" / "1" / "0").unlink()
    with pytest.raises(DataError, match="chunks of its features are missing"):
        open_bag(tmp_path / "a.zarr").features()
    features[3, 2] = np.nan
    write_bag(tmp_path / "a.zarr", INFO, features, xy)
    with pytest.raises(DataError, match="NaN"):
        open_bag(tmp_path / "a.zarr").features()


def test_zeros_are_no_lost_chunk(tmp_path):
    write_bag(tmp_path / "a.zarr", INFO, np.zeros((700, 5), np.float32), np.zeros((700, 2)))
    assert not open_bag(tmp_path / "a.zarr").features().any()


def test_h5_damage_is_told(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no hdf5 at all")
    with pytest.raises(DataError, match="cannot be read"):
        open_bag(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"no dataset 'features' \(it holds coords\)"):
        open_bag(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
        file["coords"] = np.zeros((4, 2))
    with pytest.raises(DataError, match="for 3 embeddings"):
        open_bag(tmp_path / "c.h5").coords()


def test_finding(tmp_path):
    write_bag(tmp_path / "x" / "b.zarr", INFO, *draw(2))
    write_bag(tmp_path / "x" / "a.zarr", INFO, *draw(2))
    (tmp_path / "x" / "notes.txt").touch()
    found = find_bags([tmp_path / "x", tmp_path / "x" / "a.zarr"])
    assert [p.name for p in found] == ["a.zarr", "b.zarr"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no bags"):
        find_bags([tmp_path / "empty"])
    with pytest.raises(DataError, match="does not exist"):
        find_bags([tmp_path / "none"])


def test_h5_files_beside_bags_are_the_same_bags(tmp_path):
    for name in ("a", "b"):
        write_bag(tmp_path / f"{name}.zarr", replace(INFO, slide=name), *draw(3))
    write_h5(tmp_path / "a.h5", open_bag(tmp_path / "a.zarr"))
    write_h5(tmp_path / "c.h5", open_bag(tmp_path / "b.zarr"))
    assert [p.name for p in find_bags([tmp_path])] == ["a.zarr", "b.zarr", "c.h5"]
    assert [p.name for p in find_bags([tmp_path / "a.h5"])] == ["a.h5"]
