"""Settings of the hybrid networks. Imports no torch: configurations and cards read them too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from wsikd.core.config import Settings

if TYPE_CHECKING:
    from typing import Self

Count = Annotated[int, Field(gt=0)]


class Hybrid(Settings):
    """Shape of the networks hdkd_teacher and hdkd_student; the defaults are the published ones.

    ``distillation`` and the keys after it are for the student's transformer; the teacher has none.
    """

    units: tuple[Count, Count, Count] | None = None
    """Units of the three stages; none: 6, 6, 9 in the teacher and 2, 2, 3 in the student."""
    stem_stride: Literal[1, 2, 4, 8] = 2
    """Side in pixels of a cell of stage 1. Both networks have equal grids if it is larger in the
    teacher by the same factor as its patches. Each of the stem's first units halves the grid."""
    gate: Literal["csa", "se"] = "csa"
    """Channel and spatial attention (MBCSA blocks) or squeeze-and-excitation (MBConv blocks)."""
    halve_in: Literal["pointwise", "depthwise"] = "pointwise"
    """Convolution of a block that halves the grid; the pointwise one drops three of four cells."""
    distillation: bool = True
    """Add a distillation token with its own head to the class token."""
    token_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the distillation token's logits in the prediction."""
    dim: Count = 256
    """Channels of a token."""
    heads: Count = 8
    """Number of attention heads; it divides dim."""
    depth: Count = 3
    """Number of transformer blocks."""
    positions: Count = 14
    """Side of the learned position table; it is interpolated for other grids. A patch of 224 px at
    stem_stride 2 has 14 x 14 tokens: its side over 8 times stem_stride."""
    ff_prenorm: bool = False
    """Add a layer norm before the feed-forward part of a block."""
    init_std: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviation of initial tokens and positions; 0.02 is usual elsewhere."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads {self.heads} do not divide dim {self.dim}; change one")
        stem, halvings = (self.units or (2, 0, 0))[0], self.stem_stride.bit_length() - 1
        if stem < halvings and self.units is not None:
            raise ValueError(
                f"stem_stride {self.stem_stride} takes {halvings} units in the stem; "
                f"raise units from {stem}"
            )
        return self
