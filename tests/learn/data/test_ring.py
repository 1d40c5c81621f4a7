"""Buffers go round: in order, none while it is in use, and not one more than is needed."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsikd.learn.data.prefetch import AHEAD, read_ahead
from wsikd.learn.data.ring import Ring

CPU = torch.device("cpu")


def numbers(indices):
    return torch.from_numpy(np.stack([indices, indices * 2], 1))


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_batches_are_those_without_a_ring(count, size, threads, parts):
    order, ring = np.arange(count)[::-1].copy(), Ring(CPU)
    found = read_ahead(order, size, threads, numbers, parts=parts, ring=ring)
    number = 0
    for number, (read, indices) in enumerate(found, start=1):
        np.testing.assert_array_equal(indices, order[(number - 1) * size : number * size])
        assert torch.equal(read, numbers(indices))
    assert number == -(-count // size)
    ahead = max(AHEAD, -(-2 * threads // parts))
    assert ring.made <= ahead + 2


def test_a_batch_in_use_is_left_alone():
    """Readers far ahead of a slow user write into other buffers."""
    ring, lock, read_so_far = Ring(CPU), threading.Lock(), []

    def read(indices):
        with lock:
            read_so_far.extend(indices.tolist())
        return numbers(indices)

    for batch, indices in read_ahead(np.arange(8 * 40), 8, 4, read, parts=4, ring=ring):
        time.sleep(0.005)
        assert torch.equal(batch, numbers(indices))
    assert sorted(read_so_far) == [*range(8 * 40)]
    assert ring.made <= AHEAD + 2


class Later:
    """A moment on a device that has not come."""

    come = False

    def query(self):
        return self.come


def test_a_buffer_that_a_copy_still_reads_is_not_taken():
    ring = Ring(CPU)
    first = ring.take((4, 2), torch.uint8)
    ring.give(first)
    moment = Later()
    ring._free[0] = ring._free[0]._replace(after=moment)
    second = ring.take((4, 2), torch.uint8)
    assert second.data_ptr() != first.data_ptr()
    assert ring.made == 2
    moment.come = True
    assert ring.take((4, 2), torch.uint8).data_ptr() == first.data_ptr()


def test_the_longest_unused_comes_first_and_other_shapes_begin_again():
    ring = Ring(CPU)
    made = [ring.take((4, 2), torch.uint8) for _ in range(3)]
    for one in made:
        ring.give(one)
    places = [ring.take((n, 2), torch.uint8).data_ptr() for n in (4, 3, 1)]
    assert places == [one.data_ptr() for one in made]
    ring.give(made[0])
    assert ring.take((8, 2), torch.uint8).shape == (8, 2)
    assert ring.take((4, 2), torch.float32).dtype == torch.float32
    assert ring.made == 5


def test_an_error_of_a_part_ends_the_reading():
    def read(indices):
        if 13 in indices:
            raise ValueError("torn")
        return numbers(indices)

    with pytest.raises(ValueError, match="torn"):
        list(read_ahead(np.arange(32), 8, 2, read, parts=4, ring=Ring(CPU)))
