"""Every key of a training configuration, with its unit. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from wsikd.core.config import Settings
from wsikd.learn.data.augment_settings import Augment, Positive
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.engine.settings import NonNegative, Optim
from wsikd.learn.patch.hdkd_settings import Hdkd
from wsikd.models.graders.hdkd_options import Hybrid

if TYPE_CHECKING:
    from typing import Self


class Network(Settings):
    """The network that is trained."""

    arch: str = "vgg_small"
    """Entry of wsikd.models.tables.BACKBONES, hdkd_teacher, hdkd_student, or a model of
    timm, e.g. timm:convnext_tiny."""
    width: Positive = 1.0
    """Factor on the channels (vgg_small, mobilenet_v3_large, hdkd_teacher, hdkd_student)."""
    hybrid: Hybrid = Hybrid()
    """Shape of hdkd_teacher and hdkd_student."""
    drop_pools: Annotated[int, Field(ge=0, le=3)] = 0
    """The last halvings of the grid to leave out; later convolutions are dilated instead."""
    init: Literal["random", "imagenet", "teacher"] = "random"
    """Where the backbone starts from; "teacher" copies the teacher, head included."""
    weights_file: str | None = None
    """Local file of ImageNet weights; none asks the hub of torchvision or timm."""
    input_norm: Literal["none", "imagenet"] = "imagenet"
    """"none" reads 0 to 1; "imagenet" subtracts its mean and divides by its deviation."""
    colour: Literal["rgb", "grey", "haematoxylin"] = "rgb"
    """What the network sees of colour: all, or the grey or the density of haematoxylin alone,
    brought to mean 0 and deviation 1 in each patch (input_norm then does not count)."""


class Attention(Settings):
    """Class attention of AT+."""

    form: Literal["relu_product", "positive_grad", "gradcam"] = "relu_product"
    """How channels are summed; see wsikd.learn.losses.maps.class_attention."""
    tap: str | None = None
    """Feature map in teacher and student, e.g. F4, or F3:F4 for the student's F3 and the teacher's
    F4; none: the deepest of each."""
    normalise: Literal["minmax", "softmax"] = "minmax"
    """"minmax" scales a patch's maps to 0 to 1; "softmax" makes each a distribution over places."""
    distance: Literal["l2", "kl", "bce"] = "l2"
    """Between normalised maps; see wsikd.learn.losses.maps.attention_distance."""


class Taps(Settings):
    """Feature maps of the other terms, named as attention.tap."""

    fm: str | None = None
    """For fm and sp; none: as attention.tap."""
    at: Annotated[list[str], Field(min_length=1)] | None = None
    """For at, several if wanted; none: attention.tap alone."""
    sr: str | None = None
    """The student's, for sr_spatial; none: the deepest whose grid is the teacher's."""
    project: bool = False
    """Bring the student's channels to the teacher's by a trained 1x1 convolution where they
    differ (fm, sr_last)."""


class Kd(Settings):
    """Distillation of logits."""

    temperature: Positive = 4.0
    """Divides the logits."""
    form: Literal["hinton", "code"] = "hinton"
    """"hinton": T^2 KL; "code": the released code of AT+, where T divides the teacher's only."""
    standardise: bool = False
    """Logits of each patch to mean 0 and deviation 1 first (Sun et al. 2024; T = 2 there)."""


class Dkd(Settings):
    """Decoupled distillation of logits."""

    temperature: Positive = 4.0
    """Divides the logits."""
    alpha: NonNegative = 1.0
    """Weight of the label's class against the rest."""
    beta: NonNegative = 8.0
    """Weight of the classes beside the label's."""


class At(Settings):
    """Activation attention (Zagoruyko and Komodakis 2017)."""

    form: Literal["mean_square", "l2"] = "mean_square"
    """"mean_square" goes with weights.at of about 1000, "l2" is the paper's equation 2."""
    power: Positive = 2.0
    """Exponent of the activations."""


class RunConfig(Settings):
    """One training run: a teacher or a student."""

    method: Literal["supervised", "at_plus", "hdkd"]
    """"supervised" trains a network on labels; "at_plus" and "hdkd" distil a teacher as well."""
    teacher: str | None = None
    """Run folder or bundle of the teacher (at_plus, hdkd); --teacher sets it."""
    network: Network = Network()
    student_input: Literal["native", "half", "upsampled"] = "native"
    """"native": low-resolution patches as they are; "half": enlarged by 2 in the network;
    "upsampled": enlarged to the teacher's size, at the teacher's cost."""
    corner_aligned: bool = False
    """Enlarge with corners on corners, as the released code of AT+ does: off by up to 3.5 px of the
    teacher's at 1.25x. Otherwise half-pixel centred."""
    data: Data = Data()
    split: Split = Split()
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each loss term; a term that is not named keeps its default, 0 leaves it out."""
    attention: Attention = Attention()
    taps: Taps = Taps()
    grid: Literal["teacher_down", "student_up"] = "teacher_down"
    """Where maps are compared: on the student's grid, or on the teacher's."""
    teacher_cache: Literal["auto", "off", "ram", "disk"] = "auto"
    """Ask the teacher once for each view of a patch and keep its answers, in memory or in the run
    folder. That needs views that can be counted (flips only, or augment.colour_of: student);
    "auto" keeps them in memory where that is so, pays and fits into data.cache_gb."""
    teacher_cache_dir: str | None = None
    """Folder of the answers for "disk", to share them among students; none: RUN/targets."""
    kd: Kd = Kd()
    dkd: Dkd = Dkd()
    at: At = At()
    hdkd: Hdkd = Hdkd()
    optim: Optim = Optim()
    augment: Augment = Augment()

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        from wsikd.core.registry import nearest

        method = info.data.get("method", "at_plus")
        known = KNOWN_TERMS[method]
        for name in value:
            if name not in known:
                raise ValueError(f"'{name}' is no term of this method; {nearest(name, known)}")
        weights = {**TERMS[method], **value}
        if not any(weights.values()):
            raise ValueError("every term has weight 0; give one a weight above 0")
        return weights

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.network.init == "teacher" and self.method == "supervised":
            raise ValueError(
                "network.init 'teacher' needs a teacher; use method at_plus, or another init"
            )
        if self.kd.form == "code" and self.kd.standardise:
            raise ValueError("kd.standardise needs kd.form 'hinton'; choose one of the two")
        if self.teacher is not None and self.method == "supervised":
            raise ValueError(
                "method supervised has no teacher; leave teacher out or use at_plus or hdkd"
            )
        factor = self.factor
        if abs(factor - round(factor)) > 0.02 * factor or round(factor) < 1:
            raise ValueError(
                f"data.student_mpp {self.low_mpp:g} is no multiple of data.mpp {self.data.mpp:g};"
                " choose a whole factor"
            )
        if self.data.low_source != "area" and round(factor) < 2:
            raise ValueError(
                f"data.low_source '{self.data.low_source}' needs data.student_mpp above data.mpp; "
                "set data.student_mpp"
            )
        crop = self.augment.crop_px
        if crop is not None and (crop % round(factor) or self.data.low_source != "area"):
            raise ValueError(
                f"augment.crop_px {crop} must be a multiple of {round(factor)}, with "
                "data.low_source area; change it"
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

    @property
    def ratio(self) -> float:
        """Side in pixels of what the teacher's backbone reads over the trained network's."""
        return round(self.factor) / self.upsample


TERMS: dict[str, dict[str, float]] = {
    "supervised": {"ce": 1.0},
    "at_plus": {"ce": 1.0, "fm": 0.1, "at_plus": 10.0},
    "hdkd": {"ce": 0.5, "lkd": 0.5, "fkd": 10.0},
}
"""Loss terms of each method and their default factors (at_plus: Del Amor et al. 2023, at 2.5x;
hdkd: EL-Assiouti et al. 2024)."""

KNOWN_TERMS: dict[str, tuple[str, ...]] = {
    "supervised": ("ce",),
    "at_plus": (
        "ce", "fm", "at_plus", "kd", "dkd", "sr_last", "sr_spatial", "at", "at_grad", "sp",
        "rkd_distance", "rkd_angle",
    ),
    "hdkd": ("ce", "lkd", "fkd"),
}  # fmt: skip
"""Every term that ``weights`` may name; those without a default factor are left out by default."""
