"""Keys of the ``augment`` section of a configuration. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from wsikd.core.config import Settings

if TYPE_CHECKING:
    from typing import Self

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Mix(Settings):
    """Mixtures of two patches, alike for teacher and student (wsikd.learn.data.mixing)."""

    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup, e.g. 0.2: patches are averaged with a weight from Beta(alpha, alpha). 0: off.
    The teacher is then asked in every step."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of CutMix, e.g. 1: a box of a patch is replaced by that of another. 0: off; with mixup,
    each step takes one of the two with equal probability."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the steps that are mixed."""

    @property
    def used(self) -> bool:
        """Whether anything is mixed."""
        return bool(self.mixup or self.cutmix)


class Augment(Settings):
    """One draw per patch, shared by teacher and student; zero or false turns a part off."""

    flips: bool | Literal["horizontal"] = True
    """Mirror images and quarter turns; "horizontal": left-right mirror images only."""
    crop_px: Annotated[int, Field(gt=0)] | None = None
    """Train on a random square of each patch with this side in pixels of data.mpp; validation reads
    whole patches. A quarter of the area takes a quarter of the time."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Greatest rotation in degrees, in either direction."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Greatest change of scale as a share, up or down."""
    scale_range: tuple[Positive, Positive] | None = None
    """Least and greatest factor, in place of scale."""
    shift: Share = 0.0
    """Greatest shift as a share of the width."""
    padding: Literal["mirror", "zero"] = "mirror"
    """Fill of corners that a rotation or shift leaves empty: the mirrored patch, or black."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Probability of rotation, scale, shift and colour change, each drawn independently."""
    brightness: Share = 0.1
    """Brightness factor within 1 plus or minus this."""
    contrast: Share = 0.1
    """Contrast factor within 1 plus or minus this."""
    saturation: Share = 0.1
    """Saturation factor within 1 plus or minus this."""
    stain: Share = 0.05
    """Factor on each channel's optical density within 1 plus or minus this."""
    colour_of: Literal["both", "student"] = "both"
    """Views that brightness, contrast, saturation and stain change: those of teacher and student,
    or only the student's, at its own resolution, so that the teacher reads the original stain."""

    @property
    def moves(self) -> bool:
        """Whether patches are resampled."""
        return bool(self.rotate_deg or self.scale or self.scale_range or self.shift)

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.scale and self.scale_range:
            raise ValueError("scale and scale_range exclude each other; leave one out")
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError("scale_range is not in order; give the least factor first")
        return self
