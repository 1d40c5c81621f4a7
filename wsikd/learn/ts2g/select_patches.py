"""Which patches of a bag are worth learning from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.ts2g.method import Select

    Score = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def open_scorer(run: Path) -> Score:
    """Scores of single patches by a bag network: the logit of the last class.

    Raises:
        BundleError: the run holds no bag network.
        ConfigError: its network gives no score for single patches.
    """
    from wsikd.models.files.bag_bundle import load_bag_network

    bundle = load_bag_network(run)
    network = bundle.network()

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        bag = torch.from_numpy(features)[None]
        with torch.inference_mode():
            found = network(bag, torch.ones(1, len(features), dtype=torch.bool)).instances
        if found is None:
            raise ConfigError(
                "data.select.scorer", f"'{bundle.arch}' gives no score for single patches",
                "give a run of network mean or max",
            )  # fmt: skip
        return found[0, :, -1].numpy()  # type: ignore[no-any-return]

    return score


def choose(
    features: NDArray[np.float32],
    how: Select,
    *,
    score: Score | None,
    entropy: tuple[int, ...],
) -> NDArray[np.int64]:
    """Patches of one slide, by their place in its bag.

    Args:
        features: float32 (N, D).
        how: mode and count.
        score: result of :func:`open_scorer`, for the modes that need it.
        entropy: entropy of the draw, different for each slide.

    Returns:
        int64, rising; all of them where there are no more than wanted.
    """
    count, total = how.count, len(features)
    if how.mode == "all" or total <= count:
        return np.arange(total)
    drawn = np.random.default_rng(entropy).permutation(total)
    if how.mode == "random":
        return np.sort(drawn[:count])
    assert score is not None
    best = np.argsort(-score(features), kind="stable")
    top = best[: count if how.mode == "top" else count - count // 2]
    rest = drawn[~np.isin(drawn, top)]
    return np.sort(np.concatenate([top, rest[: count - len(top)]]))
