"""Tables of regions against zarr's own reader; order, refusals and damage."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import zarr

from wsikd.bags import bag as bags
from wsikd.bags import region_table as regions
from wsikd.bags.bag import BagInfo, write_bag
from wsikd.bags.region_table import open_regions
from wsikd.core.errors import DataError

INFO = BagInfo(
    "?", {"id": "vit", "sha256": "a", "mean": [0.5], "std": [0.5]}, 0.5, 4096, (9.0, 9.0)
)


def grids(count, seed, shape=(5, 3, 3), dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *shape)).astype(dtype), 1e4 * rng.random((count, 2))


def put(folder, name, count=4, seed=0, shape=(5, 3, 3), dtype=np.float32, **info):
    features, xy = grids(count, seed, shape, dtype)
    path = folder / f"{name}.zarr"
    write_bag(path, replace(INFO, slide=name, **info), features, xy)
    return path


def cohort(tmp_path, dtype=np.float32):
    for seed, (name, count) in enumerate([("b", 4), ("a", 1), ("d", 7), ("c", 2)]):
        put(tmp_path, name, count, seed, dtype=dtype, patient=f"p-{name}", label="x")
    return open_regions([tmp_path])


def by_zarr(table, index):
    """A region as zarr alone reads it."""
    path = table.paths[table.slide_index[index]]
    array = zarr.open_group(path, mode="r")["features"]
    return array[...][table.region_index[index]].astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("most", [1 << 28, 400])  # 400 bytes: chunks of two regions, or of four
def test_reads_at_random_are_zarrs(tmp_path, monkeypatch, dtype, most):
    monkeypatch.setattr(bags, "_REGIONS_BYTES", most)
    table = cohort(tmp_path, dtype)
    assert all(rows.chunk is not None for rows in table._rows)
    asked = np.random.default_rng(1).integers(0, len(table), 40)
    found = table.read(asked)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [by_zarr(table, i) for i in asked])


def test_the_table_is_slide_by_slide(tmp_path):
    table = cohort(tmp_path)
    assert table.slides == ("a", "b", "c", "d")
    assert table.patients == ("p-a", "p-b", "p-c", "p-d")
    assert table.counts.tolist() == [1, 4, 2, 7]
    assert table.slide_index.tolist() == [0] + [1] * 4 + [2] * 2 + [3] * 7
    assert table.region_index.tolist() == [0, *range(4), *range(2), *range(7)]
    np.testing.assert_array_equal(table.coords[1:5], grids(4, 0)[1])
    assert (table.shape, table.mpp, table.region_px) == ((5, 3, 3), 0.5, 4096)
    np.testing.assert_array_equal(table.field_px, np.full((4, 2), 9.0))


def test_some_slides_are_a_table_of_their_own(tmp_path):
    table = cohort(tmp_path)
    some = table.only([3, 1])
    assert (some.slides, some.labels) == (("b", "d"), ("x", "x"))
    np.testing.assert_array_equal(some.read(range(11)), table.read([*range(1, 5), *range(7, 14)]))
    np.testing.assert_array_equal(some.coords[:4], table.coords[1:5])
    assert some.digest != table.digest == open_regions([tmp_path]).digest


def test_threads_and_processes_may_share_it(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "_OPEN_MAPS", 2)
    table = cohort(tmp_path)
    expected = np.stack([by_zarr(table, i) for i in range(len(table))])
    asked = [np.random.default_rng(k).integers(0, len(table), 9) for k in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(asked, pool.map(table.read, asked), strict=True):
            np.testing.assert_array_equal(found, expected[rows])
    assert len(table._rows[0].maps._open) == 2
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table)).read([5, 0]), expected[[5, 0]])


@pytest.mark.parametrize("compressed", [True, False])
def test_other_chunks_are_left_to_zarr(tmp_path, compressed):
    table = cohort(tmp_path)
    expected = table.read(range(len(table)))
    for path in table.paths:
        group = zarr.open_group(path, mode="r+")
        values = group["features"][...]
        del group["features"]
        how = (
            {"chunks": (2, 5, 3, 3)}
            if compressed
            else {"chunks": (2, 2, 3, 3), "compressors": None}
        )
        group.create_array("features", data=values, **how)
    again = open_regions([tmp_path])
    assert all(rows.chunk is None for rows in again._rows)
    np.testing.assert_array_equal(again.read(range(len(table))), expected)


@pytest.mark.parametrize(
    ("other", "told"),
    [({"mpp": 1.0}, r"another mpp than a\.zarr \(1\.0, not 0\.5\)"),
     ({"patch_px": 2048}, "another region in px"),
     ({"encoder": {"id": "resnet"}}, r"another encoder .*\(resnet, not vit\)"),
     ({"encoder": {**INFO.encoder, "sha256": "b"}}, "another weights or transform"),
     ({"encoder": {**INFO.encoder, "mean": [0.4]}}, "another weights or transform"),
     ({"shape": (6, 3, 3)}, "another width"),
     ({"shape": (5, 2, 2)}, r"another grid than a\.zarr \(\(2, 2\), not \(3, 3\)\)")],
)  # fmt: skip
def test_mixtures_are_refused(tmp_path, other, told):
    put(tmp_path, "a")
    put(tmp_path, "b", **other)
    with pytest.raises(DataError, match=rf"b\.zarr: has {told}"):
        open_regions([tmp_path])


def test_a_slide_twice_is_refused(tmp_path):
    put(tmp_path / "x", "a")
    put(tmp_path / "y", "a")
    with pytest.raises(DataError, match=r"y/a\.zarr: is slide 'a', and so is .*x/a\.zarr"):
        open_regions([tmp_path / "x", tmp_path / "y"])


def test_patches_and_nothing_are_refused(tmp_path, caplog):
    write_bag(tmp_path / "p.zarr", INFO, np.zeros((3, 5), np.float32), np.zeros((3, 2)))
    with pytest.raises(DataError, match="holds no regions; make them with wsikd embed --regions"):
        open_regions([tmp_path / "p.zarr"])
    put(tmp_path, "e", 0)
    with pytest.raises(DataError, match="regions: are none"):
        open_regions([tmp_path / "e.zarr"])
    assert "slide 'e' is left out" in caplog.text
    put(tmp_path, "f", 2)
    assert open_regions([tmp_path / "e.zarr", tmp_path / "f.zarr"]).slides == ("f",)


def test_the_order_is_checked(tmp_path):
    table = cohort(tmp_path)
    wrong = [
        {"slide_index": table.slide_index[::-1].copy()},
        {"slide_index": table.slide_index - 1},
        {"slide_index": table.slide_index + 1},
        {"region_index": np.roll(table.region_index, 1)},
        {"slides": ("b", "a", "c", "d")},
        {"coords": table.coords[1:]},
    ]
    for fault in wrong:
        with pytest.raises(DataError):
            replace(table, **fault)


def test_damage_and_bad_indices_are_told(tmp_path):
    table = cohort(tmp_path)
    for indices in ([14], [-1], [[0]]):
        with pytest.raises(IndexError):
            table.read(indices)
    assert table.read([]).shape == (0, 5, 3, 3)
    chunk = tmp_path / "d.zarr" / "features" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    chunk.write_bytes(data)
    assert len(open_regions([tmp_path]).read([12])) == 1
    with pytest.raises(DataError, match=r"d\.zarr: holds NaN"):
        open_regions([tmp_path]).read([13])
    chunk.write_bytes(data[:100])
    with pytest.raises(DataError, match=r"d\.zarr: cannot be read"):
        open_regions([tmp_path]).read([13])
    chunk.unlink()
    with pytest.raises(DataError, match=r"d\.zarr: chunks of its features are missing"):
        open_regions([tmp_path]).read([13])
    about = tmp_path / "a.zarr" / "zarr.json"
    text = json.loads(about.read_text())
    text["attributes"][bags.ATTRIBUTE]["complete"] = False
    about.write_text(json.dumps(text))
    with pytest.raises(DataError, match="unfinished"):
        open_regions([tmp_path])


def test_maps_used_last_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "_OPEN_MAPS", 2)
    maps, files = regions._Maps(), [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(bytes(4))
    first, second = (maps.get(file, np.dtype("u1"), (4,)) for file in files[:2])
    assert maps.get(files[0], np.dtype("u1"), (4,)) is first
    maps.get(files[2], np.dtype("u1"), (4,))
    assert maps.get(files[0], np.dtype("u1"), (4,)) is first
    assert maps.get(files[1], np.dtype("u1"), (4,)) is not second
