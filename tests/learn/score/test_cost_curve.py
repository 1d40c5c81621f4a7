"""Cost against accuracy."""

import numpy as np
import pytest

from wsikd.learn.score.cost_curve import Costed, cost_lines, front, has_curve
from wsikd.learn.score.plots import plot_cost


def test_the_front_against_a_slow_reading():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [Costed(str(i), float(rng.integers(1, 6)), float(rng.integers(1, 9)))
                  for i in range(8)]  # fmt: skip
        best = front(points)
        for p in points:
            beaten = any(
                o.macs <= p.macs and o.value >= p.value and (o.macs, o.value) != (p.macs, p.value)
                for o in points
            )
            assert ((p.macs, p.value) in {(b.macs, b.value) for b in best}) == (not beaten)


def test_lines_and_picture(tmp_path):
    points = [Costed("x2", 4e9, 0.8, (0.7, 0.85)), Costed("x1", 1e9, 0.7), Costed("x4", 16e9, 0.75)]
    assert cost_lines(points, "kappa", "row")[:5] == [
        "| row | GMAC | kappa |", "|---|---:|---:|", "| x1 * | 1 | 0.700 |",
        "| x2 * | 4 | 0.800 (0.700 to 0.850) |", "| x4 | 16 | 0.750 |",
    ]  # fmt: skip
    plot_cost(points, "kappa", tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 1000
    assert has_curve(points)
    assert not has_curve(points[:1])


@pytest.mark.parametrize("count", [1, 2])
def test_equal_costs_are_no_curve(count):
    assert not has_curve([Costed("a", 1e9, 0.5)] * count)
