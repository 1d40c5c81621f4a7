"""Keys of the ``augment`` section of a configuration. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from wsikd.core.config import Settings

if TYPE_CHECKING:
    from typing import Self

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Augment(Settings):
    """One draw per patch, shared by teacher and student; zero or false turns a part off."""

    flips: bool | Literal["horizontal"] = True
    """Mirror images and quarter turns; "horizontal": mirror images left-right alone."""
    crop_px: Annotated[int, Field(gt=0)] | None = None
    """Train on a random square of so many pixels (of data.mpp) of each patch; validation reads
    whole patches. A quarter of the area costs a quarter of the time."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation up to this angle in degrees either way; corners mirror the patch."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Scale by up to this share either way."""
    scale_range: tuple[Positive, Positive] | None = None
    """Least and greatest factor, in place of scale."""
    shift: Share = 0.0
    """Shift sideways by up to this share of the width."""
    padding: Literal["mirror", "zero"] = "mirror"
    """What fills the corners that a rotation or shift leaves: the mirrored patch, or black."""
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How often a patch is rotated, scaled, shifted and recoloured, each by a coin of its own."""
    brightness: Share = 0.1
    """Brightness factor within 1 plus or minus this."""
    contrast: Share = 0.1
    """Contrast factor within 1 plus or minus this."""
    saturation: Share = 0.1
    """Saturation factor within 1 plus or minus this."""
    stain: Share = 0.05
    """Factor on each channel's optical density within 1 plus or minus this."""
    colour_of: Literal["both", "student"] = "both"
    """Whose view brightness, contrast, saturation and stain change: teacher's and student's alike,
    or only the trained network's, at its own resolution, so that the teacher reads clean stain."""

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
