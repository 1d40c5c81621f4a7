"""The controlled set's script runs, and its oracle agrees with theory."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from tests.studies.scripts import run

pytestmark = pytest.mark.studies


def kappa_of(reach):
    """Quadratic kappa of three equal grades at -d', 0, d', cut half way between them."""
    edges = np.array([-np.inf, -reach / 2, reach / 2, np.inf])
    matrix = np.diff(norm.cdf(edges[None] - reach * np.array([-1, 0, 1])[:, None])) / 3
    distance = (np.arange(3)[:, None] - np.arange(3)) ** 2
    chance = matrix.sum(1)[:, None] * matrix.sum(0)
    return 1 - (distance * matrix).sum() / (distance * chance).sum()


def test_a_set_and_its_oracle(tmp_path):
    run(
        "controlled/run.py", "--shares", "0.7,0.2,0.07,0.03", "--patches", "24,12,60",
        "--many", "90", "-o", tmp_path / "set",
    )  # fmt: skip
    told = json.loads((tmp_path / "set" / "oracle.json").read_text())["magnifications"]
    assert [told[m]["survives"] for m in ("10x", "5x", "2.5x", "1.25x")] == [1.0, 0.3, 0.1, 0.03]
    kappas = [told[m]["bayes"]["kappa"] for m in ("10x", "5x", "2.5x", "1.25x")]
    assert kappas == sorted(kappas, reverse=True)
    for share, kappa in zip((1.0, 0.3, 0.1, 0.03), kappas, strict=True):
        assert kappa == pytest.approx(kappa_of(2.5 * share**0.5), abs=0.01)
    assert told["10x"]["oracle"]["kappa"] > 0.6 > told["1.25x"]["oracle"]["kappa"]
