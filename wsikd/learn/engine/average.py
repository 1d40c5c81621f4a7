"""A moving average of a network's weights, which jumps less from epoch to epoch than they do."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all weights and running statistics of a network.

    After step n (from 1) an average a of weights w becomes ``d a + (1 - d) w``, where d is the
    smaller of ``decay`` and ``(1 + n) / (10 + n)``, so that the random start is soon forgotten.

    Attributes:
        steps: that were averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the weights of ``network``; ``decay`` is the factor on the average a step."""
        self.network, self.decay, self.steps = network, decay, 0
        self._state = self._copy()

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self._state[name].lerp_(value, 1 - decay)
            else:
                self._state[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the network has the averaged weights."""
        own = self._copy()
        self.network.load_state_dict(self._state)
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self.steps, "weights": self._state}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Of a checkpoint. Raises KeyError or RuntimeError: it is of another network."""
        weights = state_dict["weights"]
        if weights.keys() != self._state.keys():
            raise RuntimeError("the average is of another network")
        for name, value in weights.items():
            self._state[name].copy_(value)
        self.steps = int(state_dict["steps"])
