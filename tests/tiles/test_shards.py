"""Shards written by hand against zarr-python, both ways."""

import os

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import TransposeCodec

from wsikd.core.errors import StoreError
from wsikd.tiles.shards import RawShards, ShardFile, write_file

CHUNK, PER, ROWS, COLUMNS = 16, 3, 100, 150


def write_shard(file, per_side, chunks):
    shard = ShardFile(file, per_side)
    for place, data in chunks.items():
        shard.add(place, data)
    assert not file.exists()
    shard.finish()
    shard.discard()
    assert [p for p in file.parent.iterdir() if p.suffix == ".partial"] == []


@pytest.fixture(scope="module")
def array(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards") / "a"
    made = zarr.create_array(
        path,
        shape=(3, ROWS, COLUMNS),
        chunks=(3, CHUNK, CHUNK),
        shards=(3, CHUNK * PER, CHUNK * PER),
        dtype="uint8",
        fill_value=255,
        filters=[TransposeCodec(order=(1, 2, 0))],
        compressors=None,
    )
    rng = np.random.default_rng(0)
    for row in range(-(-ROWS // (CHUNK * PER))):
        for column in range(-(-COLUMNS // (CHUNK * PER))):
            places = [divmod(i, PER) for i in range(PER**2) if rng.random() < 0.6]
            pixels = {p: rng.integers(0, 255, (CHUNK, CHUNK, 3)).astype(np.uint8) for p in places}
            if (row, column) != (1, 1):  # one shard that was never written
                file = path / "c" / "0" / str(row) / str(column)
                write_shard(file, PER, {p: block.reshape(-1).data for p, block in pixels.items()})
    return path, np.asarray(made[:]).transpose(1, 2, 0)


def test_zarr_reads_what_was_written(array):
    pixels = array[1]
    assert (pixels == 255).all(2).any()
    assert (pixels != 255).any(2).mean() > 0.3


@given(
    x=st.integers(0, COLUMNS - 1),
    y=st.integers(0, ROWS - 1),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
)
def test_any_window_is_read_as_zarr_reads_it(array, x, y, width, height):
    path, pixels = array
    width, height = min(width, COLUMNS - x), min(height, ROWS - y)
    out = np.zeros((height, width, 3), np.uint8)
    RawShards(path / "c" / "0", CHUNK, PER, 255).read_into(x, y, out)
    np.testing.assert_array_equal(out, pixels[y : y + height, x : x + width])


def test_a_system_without_preadv_reads_the_same(array, monkeypatch):
    path, pixels = array
    for name in ("preadv", "pread"):
        monkeypatch.delattr(os, name)
    out = np.empty((60, 70, 3), np.uint8)
    RawShards(path / "c" / "0", CHUNK, PER, 255).read_into(5, 7, out)
    np.testing.assert_array_equal(out, pixels[7:67, 5:75])


@pytest.mark.parametrize("keep", [0.5, 7, -1, -7])
def test_a_damaged_shard_is_told(array, tmp_path, keep):
    file = tmp_path / "0" / "0"
    chunk = np.arange(CHUNK * CHUNK * 3, dtype=np.uint8).data
    write_shard(file, PER, {(0, 0): chunk})
    whole = file.read_bytes()
    if isinstance(keep, float):
        file.write_bytes(whole[: int(len(whole) * keep)])
    elif keep < 0:
        file.write_bytes(whole[:keep])
    else:
        file.write_bytes(whole[:-keep] + bytes([whole[-keep] ^ 1]) + whole[len(whole) - keep + 1 :])
    reader = RawShards(tmp_path, CHUNK, PER, 255)
    with pytest.raises(StoreError, match=r"damaged or truncated; copy it again, or run"):
        reader.read_into(0, 0, np.zeros((CHUNK, CHUNK, 3), np.uint8))


def test_an_absent_chunk_is_an_error_where_there_is_no_fill_value(tmp_path):
    chunk = np.zeros(CHUNK * CHUNK * 3, np.uint8).data
    write_shard(tmp_path / "0" / "0", PER, {(0, 0): chunk})
    reader = RawShards(tmp_path, CHUNK, PER, None)
    out = np.empty((CHUNK, CHUNK, 3), np.uint8)
    reader.read_into(0, 0, out)
    for x in (CHUNK, CHUNK * PER):
        with pytest.raises(StoreError, match="lacks pixels that were recorded; copy it again"):
            reader.read_into(x, 0, out)


def test_files_do_not_pile_up(tmp_path):
    chunk = np.zeros(CHUNK * CHUNK * 3, np.uint8).data
    for row in range(100):
        write_shard(tmp_path / str(row) / "0", 1, {(0, 0): chunk})
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112, PTH208
    if before is None:
        pytest.skip("this system shows no open files")
    reader = RawShards(tmp_path, CHUNK, 1, 255)
    out = np.empty((CHUNK, CHUNK, 3), np.uint8)
    for row in range(100):
        reader.read_into(0, row * CHUNK, out)
    assert len(os.listdir("/proc/self/fd")) - before <= 64  # noqa: PTH208
    reader.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "a" / "f", b"x")
    assert list((tmp_path / "a").iterdir()) == []


def test_a_shard_that_is_given_up_leaves_nothing(tmp_path):
    shard = ShardFile(tmp_path / "a" / "f", PER)
    shard.add((0, 0), b"x" * 100)
    shard.discard()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_store_that_was_given_up_is_not_begun_anew(tmp_path):
    with pytest.raises(FileNotFoundError, match="is gone"):
        write_file(tmp_path / "s.zarr.part" / "0" / "c" / "0" / "1" / "2", b"x")
    assert list(tmp_path.iterdir()) == []
