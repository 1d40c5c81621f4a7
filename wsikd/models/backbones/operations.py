"""Count multiply-accumulates of plain networks; torch's counter takes seconds to import."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FREE = frozenset([
    "_adaptive_avg_pool2d", "_softmax", "_to_copy", "_unsafe_view", "add", "amax", "avg_pool2d",
    "cat", "clamp", "clone", "constant_pad_nd", "copy", "detach", "div", "empty", "expand", "gelu",
    "hardsigmoid", "hardswish", "max_pool2d_with_indices", "mean", "mul", "native_batch_norm",
    "native_layer_norm", "permute", "relu", "replication_pad2d", "select", "sigmoid", "silu",
    "slice", "split", "sub", "t", "transpose", "unsqueeze", "upsample_bicubic2d",
    "upsample_bilinear2d", "view", "zeros",
])  # fmt: skip
"""Operations without a product of matrices, in place or not."""


class UnknownOperationError(Exception):
    """The operation may hold products that would not be counted."""


class Products(TorchDispatchMode):
    """Count the multiply-accumulates in the block; products are replaced by zeros.

    Attributes:
        total: multiply-accumulates, as ``torch.utils.flop_counter.FlopCounterMode`` counts them.

    Raises:
        UnknownOperationError: in the block, at an operation that is none of these.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without torch's wrapper against compilation, which imports the compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, or count it."""
        name = func.name().removeprefix("aten::").split(".")[0].removesuffix("_")
        if name in FREE:
            return func(*args, **kwargs or {})
        if name in ("mm", "bmm"):
            return self._product(*args)
        if name in ("addmm", "baddbmm"):
            return self._product(*args[1:])
        if name == "convolution" and not args[6]:
            return self._convolution(*args[:6])
        raise UnknownOperationError(name)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        self.total += left.numel() * right.shape[-1]
        return left.new_zeros(*left.shape[:-1], right.shape[-1])

    def _convolution(
        self,
        given: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Tensor:
        sides = [
            (side + 2 * p - d * (kernel - 1) - 1) // s + 1
            for side, kernel, s, p, d in zip(
                given.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
            )
        ]
        self.total += len(given) * prod(sides) * weight.numel()
        return given.new_zeros(len(given), len(weight), *sides)
