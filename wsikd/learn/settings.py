"""Every key of a training configuration, with its unit. Imports no torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from wsikd.core.config import Settings

if TYPE_CHECKING:
    from typing import Self

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Network(Settings):
    """The network that is trained."""

    arch: str = "vgg_small"
    """Entry of wsikd.models.backbone.BACKBONES."""
    width: Positive = 1.0
    """Factor on the channels (vgg_small, mobilenet_v3_large)."""
    init: Literal["random", "imagenet", "teacher"] = "random"
    """Where the backbone starts from; "teacher" copies the teacher, head included."""
    weights_file: str | None = None
    """Local file of ImageNet weights; none asks torchvision's hub."""
    input_norm: Literal["none", "imagenet"] = "imagenet"
    """"none" reads 0 to 1; "imagenet" subtracts its mean and divides by its deviation."""


class Data(Settings):
    """Where patches come from, and the resolution at which they are read."""

    source: Literal["auto", "stores", "folders", "csv"] = "auto"
    """Tile stores, class folders or a labels CSV; "auto" looks at each path."""
    paths: list[str] = Field(default_factory=list)
    """Folders and files; --data adds to them."""
    classes: list[str] | None = None
    """Names in order of grade; none takes what the data say."""
    mpp: Positive = 1.0
    """um per pixel of the patches that are read; the teacher's resolution in a distillation."""
    patch_px: Annotated[int, Field(gt=0)] | None = None
    """Side of those patches in pixels; none takes theirs. Larger images are centre-cropped."""
    student_mpp: Positive | None = None
    """um per pixel of the network that is trained, a multiple of mpp; none: mpp itself."""
    slide_pattern: str | None = None
    """Regular expression with one group, the slide, for the file stems of class folders; none:
    what stands before "_Block_", else before the first "_"."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Patches of a store with less tissue than this share are left out."""
    cache_gb: NonNegative = 4.0
    """Patches are kept decoded in memory up to this size in GB, beyond it read at every use."""

    @field_validator("slide_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"'{value}' is no regular expression ({error}); escape what is meant literally"
            ) from None
        return value


class Split(Settings):
    """How slides are divided into training and validation."""

    by: Literal["auto", "patient", "slide"] = "auto"
    """What is never divided; "auto": the patient where known, else the slide."""
    given: bool = True
    """Use the split that the data bring; otherwise, and where they bring none, draw one."""
    val: Share = 0.25
    """Share of the patches for validation."""
    test: Share = 0.0
    """Share of the patches put aside, never read in training."""
    seed: int = 0
    """Seed of the draw, apart from the seed of the training."""
    check_images: bool = True
    """Refuse identical images in two splits (in memory only)."""


class Attention(Settings):
    """Class attention of AT+."""

    form: Literal["relu_product", "positive_grad", "gradcam"] = "relu_product"
    """How channels are summed; see wsikd.learn.losses.class_attention."""
    tap: str | None = None
    """Feature map in teacher and student, e.g. F4; none: the deepest of each."""


class Optim(Settings):
    """How the network is trained."""

    lr: Positive = 1e-3
    """Learning rate at its highest."""
    weight_decay: NonNegative = 1e-4
    """Decoupled (AdamW)."""
    epochs: Annotated[int, Field(gt=0)] = 20
    """Passes; each draws as many patches as there are training patches."""
    epoch_patches: Annotated[int, Field(gt=0)] | None = None
    """Patches drawn in an epoch, where another number is wanted."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Patches in a step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: NonNegative = 1.0
    """Epochs over which the learning rate rises from zero."""
    balance: bool = True
    """Draw every class equally often."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic, in Lightning's words."""
    threads: Annotated[int, Field(gt=0)] = 2
    """Threads that read patches which are not in memory."""


class Augment(Settings):
    """One draw per patch, shared by teacher and student; zero or false turns a part off."""

    flips: bool = True
    """Mirror images and quarter turns."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation up to this angle in degrees either way; corners mirror the patch."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Scale by up to this share either way."""
    brightness: Share = 0.1
    """Brightness factor within 1 plus or minus this."""
    contrast: Share = 0.1
    """Contrast factor within 1 plus or minus this."""
    saturation: Share = 0.1
    """Saturation factor within 1 plus or minus this."""
    stain: Share = 0.05
    """Factor on each channel's optical density within 1 plus or minus this."""


class RunConfig(Settings):
    """One training run: a teacher or a student."""

    method: Literal["supervised", "at_plus"]
    """"supervised" trains a network on labels; "at_plus" distils a teacher as well."""
    teacher: str | None = None
    """Run folder or bundle of the teacher (at_plus); --teacher sets it."""
    network: Network = Network()
    student_input: Literal["native", "half", "upsampled"] = "native"
    """"native": low-resolution patches as they are; "half": enlarged by 2 in the network;
    "upsampled": enlarged to the teacher's size, at the teacher's cost."""
    data: Data = Data()
    split: Split = Split()
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each loss term; a term that is not named keeps its default."""
    attention: Attention = Attention()
    optim: Optim = Optim()
    augment: Augment = Augment()

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        from wsikd.core.tables import nearest

        known = TERMS.get(info.data.get("method", "at_plus"), TERMS["at_plus"])
        for name in value:
            if name not in known:
                raise ValueError(f"'{name}' is no term of this method; {nearest(name, known)}")
        return {**known, **value}

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.network.init == "teacher" and self.method == "supervised":
            raise ValueError(
                "network.init 'teacher' needs a teacher; use method at_plus, or another init"
            )
        if self.teacher is not None and self.method == "supervised":
            raise ValueError("method supervised has no teacher; leave teacher out or use at_plus")
        factor = self.factor
        if abs(factor - round(factor)) > 0.02 * factor or round(factor) < 1:
            raise ValueError(
                f"data.student_mpp {self.low_mpp:g} is no multiple of data.mpp {self.data.mpp:g};"
                " choose a whole factor"
            )
        if self.student_input != "native" and round(factor) < 2:
            raise ValueError(
                f"student_input '{self.student_input}' needs data.student_mpp above data.mpp; "
                "set data.student_mpp"
            )
        return self

    @property
    def low_mpp(self) -> float:
        """um per pixel of the network that is trained."""
        return self.data.student_mpp or self.data.mpp

    @property
    def factor(self) -> float:
        """How many pixels of the patches that are read make one of the trained network's."""
        return self.low_mpp / self.data.mpp

    @property
    def upsample(self) -> int:
        """Factor by which the trained network enlarges its input."""
        return {"native": 1, "half": 2, "upsampled": round(self.factor)}[self.student_input]


TERMS: dict[str, dict[str, float]] = {
    "supervised": {"ce": 1.0},
    "at_plus": {"ce": 1.0, "fm": 0.1, "at_plus": 10.0},
}
"""Loss terms of each method and their default factors (at_plus: Del Amor et al. 2023, at 2.5x)."""
