"""Batches in flight: as many as may be, in order, and at once on a CPU."""

import numpy as np
import pytest
import torch

from wsikd.models.in_flight import Lane, in_turn, most_in_flight


@pytest.mark.parametrize("most", [1, 2, 3])
def test_results_come_in_order_and_never_more_are_open(most):
    started, ended = [], []

    def start(value):
        started.append(value)
        assert len(started) - len(ended) <= most

        def wait():
            ended.append(value)
            return value * 10

        return wait

    batches = ((str(n), n) for n in range(5))
    assert list(in_turn(batches, start, most)) == [(str(n), 10 * n) for n in range(5)]
    assert started == ended == [*range(5)]


def test_a_cpu_computes_at_once():
    batch = np.arange(6, dtype=np.uint8).reshape(2, 3)
    wait = Lane(torch.device("cpu")).start(batch, lambda x: x.float() * 2)
    batch[:] = 0
    np.testing.assert_array_equal(wait(), [[0, 2, 4], [6, 8, 10]])
    assert [most_in_flight(torch.device(name)) for name in ("cpu", "cuda:1", "mps")] == [1, 2, 1]
