"""Batch norm over the batches of all processes: on CPUs too, and twice differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SharedBatchNorm(nn.BatchNorm2d):
    """``BatchNorm2d`` whose mean and variance in training are over the batches of all processes.

    Every process must have the same number of values. Gradients flow through mean and variance, so
    that data parallelism gives the gradient of the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: float (B, K, h, w) -> the same shape."""
        if not self.training:
            return super().forward(x)
        mean = _over_processes(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = _over_processes(centred.pow(2).mean((0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            scaled = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        count *= distributed.get_world_size()
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / max(count - 1, 1), share)


def share_norms(module: nn.Module) -> None:
    """Turn every ``BatchNorm2d`` in a network into a :class:`SharedBatchNorm`, in place."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SharedBatchNorm


class _Sum(torch.autograd.Function):
    """Sum over the processes. Its gradient is such a sum too, and so are higher derivatives."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        """Sum the parts of all processes."""
        whole = part.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        """Sum the gradients of all processes, since each uses the sum."""
        return _over(slopes[0])


def _over(part: Tensor) -> Tensor:
    whole: Tensor = _Sum.apply(part)  # type: ignore[no-untyped-call]
    return whole


def _over_processes(part: Tensor) -> Tensor:
    return _over(part) / distributed.get_world_size()
