"""What is read ahead, in which order, and by how many threads."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsikd.learn.data.prefetch import AHEAD, read_ahead


def numbers(indices):
    return torch.from_numpy(np.stack([indices, indices * 2], 1))


@given(
    st.integers(0, 40), st.integers(1, 9), st.integers(0, 5), st.integers(1, 9),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_batches_are_those_of_a_plain_loop(count, size, threads, parts, random):
    order = np.array(random.sample(range(100), count), np.int64)
    found = list(read_ahead(order, size, threads, numbers, parts=parts))
    wanted = [order[i : i + size] for i in range(0, count, size)]
    assert len(found) == len(wanted)
    for (read, indices), own in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(indices, own)
        assert torch.equal(read, numbers(own))


@pytest.mark.parametrize(("threads", "parts"), [(8, 8), (8, 1), (6, 2), (1, 1)])
def test_every_thread_has_work_and_memory_has_an_end(threads, parts):
    """No thread waits while batches are left, and not many more are read than are needed."""
    lock, now, most, done = threading.Lock(), [0], [0], [0]

    def read(indices):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
            done[0] += len(indices)
        return numbers(indices)

    size, found = 8, read_ahead(np.arange(8 * 30), 8, threads, read, parts=parts)
    for batches, _ in enumerate(found, start=1):
        ahead = max(AHEAD, -(-2 * threads // parts))
        assert done[0] <= (batches + ahead) * size
        time.sleep(0.03 if batches < 4 else 0)
    assert most[0] == threads


def test_an_error_of_a_part_ends_the_reading():
    def read(indices):
        if 13 in indices:
            raise ValueError("torn")
        return numbers(indices)

    with pytest.raises(ValueError, match="torn"):
        list(read_ahead(np.arange(32), 8, 2, read, parts=4))
