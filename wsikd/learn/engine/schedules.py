"""How the learning rate runs, and which epoch is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsikd.learn.engine.settings import Optim


@dataclass
class Best:
    """The best epoch so far; counted from 1, 0 before the first.

    ``recent`` holds score and loss of the last epochs, for :meth:`smoothed`.
    """

    epoch: int = 0
    score: float = -math.inf
    loss: float = math.inf
    recent: list[tuple[float, float]] = field(default_factory=list)

    def smoothed(self, score: float, loss: float, epochs: int) -> tuple[float, float] | None:
        """Mean score and loss of this and the last epochs; None before there are so many.

        Args:
            score: of this epoch, which is remembered.
            loss: of this epoch.
            epochs: how many are averaged.

        >>> best = Best()
        >>> best.smoothed(0.5, 1.0, 2), best.smoothed(0.7, 0.5, 2), best.smoothed(0.1, 0.5, 2)
        (None, (0.6, 0.75), (0.4, 0.5))
        """
        self.recent = [*self.recent, (score, loss)][-epochs:]
        if len(self.recent) < epochs:
            return None
        return math.fsum(s for s, _ in self.recent) / epochs, math.fsum(
            part for _, part in self.recent
        ) / epochs

    def beaten_by(self, score: float, loss: float, min_delta: float = 0.0) -> bool:
        """Score higher by more than ``min_delta``; at 0 also the same at a lower loss."""
        tie = score == self.score and loss < self.loss and not min_delta
        return score > self.score + min_delta or tie


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """Rate at a step, counted over the run from 0, with ``steps`` an epoch."""
    if optim.schedule == "cosine_epochs":
        return cosine_of_epochs(optim, step // steps)
    warmup = optim.warmup_epochs * steps
    if step < warmup:
        return optim.lr * (step + 1) / (warmup + 1)
    if optim.schedule == "constant":
        return optim.lr
    share = min(1.0, (step - warmup) / max(1.0, optim.epochs * steps - warmup))
    falls = optim.lr - optim.lr_end
    return optim.lr_end + falls * 0.5 * (1 + math.cos(math.pi * share))


def cosine_of_epochs(optim: Optim, epoch: int) -> float:
    """A cosine over all epochs, as timm's scheduler steps it; constant within an epoch.

    ``lr_end + (lr - lr_end) (1 + cos(pi t / epochs)) / 2`` after the warm-up, which rises from
    ``lr_start`` by equal steps. With ``optim.lag`` each epoch but the first has the rate of the one
    before it.

    Args:
        optim: ``lr``, ``lr_start``, ``lr_end``, ``warmup_epochs``, ``epochs``, ``lag``.
        epoch: t, counted from 0.

    >>> from wsikd.learn.engine.settings import Optim
    >>> o = Optim(lr=5e-5, lr_start=2e-5, lr_end=2e-5, warmup_epochs=5, epochs=200)
    >>> [round(cosine_of_epochs(o, t) * 1e6, 3) for t in (0, 1, 100)]
    [20.0, 26.0, 35.0]
    """
    at = max(0, epoch - 1) if optim.lag else epoch
    if at < optim.warmup_epochs:
        return optim.lr_start + at * (optim.lr - optim.lr_start) / optim.warmup_epochs
    share = 0.5 * (1 + math.cos(math.pi * min(at, optim.epochs) / optim.epochs))
    return optim.lr_end + (optim.lr - optim.lr_end) * share


def cosine_steps(first: float, last: float, step: int, steps: int, warmup: int = 0) -> float:
    """A value that goes from ``first`` to ``last`` as a half cosine, step by step.

    Args:
        first: at the start, or where the warm-up ends.
        last: towards which it goes; reached at step ``steps``.
        step: counted over the run from 0.
        steps: number of steps of the run.
        warmup: steps over which it first rises from 0 to ``first`` in equal parts.

    >>> [round(cosine_steps(1.0, 0.0, t, 8, warmup=3), 3) for t in (0, 1, 2, 3, 8)]
    [0.0, 0.5, 1.0, 1.0, 0.0]
    """
    if step < warmup:
        return first * step / max(1, warmup - 1)
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))
