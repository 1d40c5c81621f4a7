from itertools import pairwise

import pytest

from wsikd.learn.engine.schedules import Best, learning_rate
from wsikd.learn.engine.settings import Optim


def test_best_is_strictly_better_or_cheaper_at_a_tie():
    best = Best(3, 0.5, 1.0)
    assert best.beaten_by(0.51, 2.0)
    assert best.beaten_by(0.5, 0.9)
    assert not best.beaten_by(0.5, 1.0)
    assert not best.beaten_by(0.49, 0.1)
    assert Best().beaten_by(-1.0, 5.0)
    assert Best().beaten_by(-1.0, 5.0, 0.01)
    assert best.beaten_by(0.511, 2.0, 0.01)
    assert not best.beaten_by(0.51, 0.1, 0.01)


def test_learning_rate_rises_then_falls_to_nothing():
    optim = Optim(lr=1.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(optim, s, 5) for s in range(50)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == 1.0
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.01
    constant = Optim(lr=1.0, schedule="constant", warmup_epochs=0)
    assert {learning_rate(constant, s, 5) for s in range(100)} == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "cosine_epochs"])
def test_held_epochs_have_the_last_rate(schedule):
    optim = Optim(lr=1.0, lr_end=0.02, schedule=schedule, epochs=4, hold_epochs=6, patience=3)
    rates = [learning_rate(optim, s, 5) for s in range(50)]
    assert rates[20:] == pytest.approx([0.02] * 30)
    assert min(rates[5:20]) > 0.02
