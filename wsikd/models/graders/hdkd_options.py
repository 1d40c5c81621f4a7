"""Settings of the hybrid networks. Imports no torch: configurations and cards read them too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from wsikd.core.config import Settings

if TYPE_CHECKING:
    from typing import Self

Count = Annotated[int, Field(gt=0)]


class Hybrid(Settings):
    """Shape of the networks hdkd_teacher and hdkd_student; the published one where not said.

    From ``distillation`` on they are the student's transformer's; the teacher has none.
    """

    units: tuple[Count, Count, Count] | None = None
    """Units of the three stages; none: 6, 6, 9 in the teacher and 2, 2, 3 in the student."""
    stem_stride: Literal[1, 2, 4, 8] = 2
    """Pixels that become one cell of stage 1: as many times larger in the teacher as its patches
    are, both have equal grids. Each of the stem's first units halves once."""
    gate: Literal["csa", "se"] = "csa"
    """Channel and spatial attention (MBCSA blocks) or squeeze-and-excitation (MBConv blocks)."""
    halve_in: Literal["pointwise", "depthwise"] = "pointwise"
    """Which convolution of a block halves the grid; the pointwise one drops three cells of four."""
    distillation: bool = True
    """A distillation token, with a head of its own, beside the class token."""
    token_weight: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the distillation token's logits in the prediction."""
    dim: Count = 256
    """Channels of a token."""
    heads: Count = 8
    """Heads of attention; they divide dim."""
    depth: Count = 3
    """Transformer blocks."""
    positions: Count = 14
    """Side of the learned table of positions; other grids interpolate it. A patch of 224 px at
    stem_stride 2 has 14 x 14 tokens: its side over 8 times stem_stride."""
    ff_prenorm: bool = False
    """Layer norm before the feed-forward part of a block too."""
    init_std: Annotated[float, Field(ge=0)] = 1.0
    """Deviation of tokens and positions at the start; 0.02 is usual elsewhere."""

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
