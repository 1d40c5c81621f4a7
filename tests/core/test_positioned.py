"""Reads at a position: with the system's own calls, and with those of Windows."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsikd.core.positioned import open_for_reading, read_at, read_into_at


@pytest.fixture(params=["preadv", "pread", "neither"])
def system(request, monkeypatch):
    """A system that has preadv, only pread, or neither."""
    for name in {"preadv": (), "pread": ("preadv",), "neither": ("preadv", "pread")}[request.param]:
        monkeypatch.delattr(os, name)


@pytest.mark.usefixtures("system")
def test_threads_that_share_a_handle_read_their_own_bytes(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    (tmp_path / "file").write_bytes(data)
    handle = open_for_reading(tmp_path / "file")

    def read(offset):
        out = bytearray(997)
        count = read_into_at(handle, memoryview(out), offset)
        return read_at(handle, 997, offset), bytes(out[:count])

    places = [*range(0, len(data), 613), len(data) - 10, len(data) + 5]
    try:
        with ThreadPoolExecutor(8) as pool:
            for place, found in zip(places, pool.map(read, places), strict=True):
                assert found == (data[place : place + 997],) * 2
    finally:
        os.close(handle)
