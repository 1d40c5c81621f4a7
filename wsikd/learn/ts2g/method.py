"""TS2G-KD, second stage: an adapter on a frozen trunk learns a foundation model's embeddings.

Terms, for the adapter's output v and the stored target t of a patch, both (B, D):

==========  ========================================
``mae``     mean over patches and numbers of ``|v - t|``
``mse``     mean over patches and numbers of ``(v - t)^2``
``cosine``  mean over patches of 1 - cos(v, t)
==========  ========================================

Departures from the released code: the first two are means, where it sums over numbers and doubles,
which under Adam only moves the weight decay; targets belong to the very field that the student
sees, where it crops and rescales the student's view alone; and the student may read a lower
magnification than the teacher did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator
from torch.nn import functional

from wsikd.core.config import Settings
from wsikd.core.registry import nearest
from wsikd.learn.data.augment_settings import Augment
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.settings import NonNegative, Optim
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.models.backbones.weights_package import PREFIX as PACKAGE
from wsikd.models.backbones.weights_package import check_source
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor
    from torch.nn import Parameter

    from wsikd.models.encoders.base import Encoder


TERMS = {"mae": 1.0, "mse": None, "cosine": None}


class Select(Settings):
    """Patches of a slide to learn from."""

    mode: Literal["all", "top", "random", "mixed"] = "all"
    """"top": those that a bag network scores highest; "mixed": half of them, half drawn."""
    count: Annotated[int, Field(gt=0)] = 50
    """Number of patches per slide; all if it has fewer."""
    scorer: str | None = None
    """Run of method mil on the teacher's bags, network "mean" or "max", for "top" and "mixed"."""
    seed: int = 0
    """Seed of the draw."""


class Ts2gData(Data):
    """Tile stores, and the teacher's bags of the same patches."""

    targets: list[str] = Field(default_factory=list)
    """The teacher's bags, or folders of them: of wsikd embed, CLAM or TRIDENT."""
    select: Select = Select()


class Trunk(Settings):
    """The frozen network in front of the adapter."""

    arch: str = "resnet50"
    """Entry of wsikd.models.tables.BACKBONES, or timm:NAME."""
    weights: str | None = None
    """Run of method detector, or a state dict: of the network itself, or of a detector with a
    ResNet-50 (torchvision, DETR, transformers, mmdetection, detectron2); "package:NAME" of an
    installed package, or "timm" for timm's hub, as network.weights. None: ImageNet weights from the
    hub. "random": random ones, for trials."""
    tap: str = "F3"
    """Feature map that is averaged: F2, F3, F4 are a ResNet's layer2, layer3, layer4."""
    input_norm: Literal["none", "imagenet", "half"] = "imagenet"
    """"none" reads 0 to 1; "imagenet" subtracts its mean and divides by its standard deviation;
    "half" reads -1 to 1, for networks trained in TensorFlow (timm:tf_efficientnet_lite0)."""

    def check(self) -> None:
        """Refuse a package of weights that is not installed. Raises ConfigError."""
        if self.weights is not None and self.weights.startswith(PACKAGE):
            check_source(self.weights, key="trunk.weights")


class Ts2gOptim(Optim):
    """The schedule of the second stage."""

    lr: Annotated[float, Field(gt=0)] = 2e-3
    epochs: Annotated[int, Field(gt=0)] = 4
    batch_size: Annotated[int, Field(gt=0)] = 40
    warmup_epochs: NonNegative = 0.0
    balance: bool = False


class Ts2gConfig(MethodConfig):
    """One training run of an embedder."""

    data: Ts2gData = Ts2gData()
    split: Split = Split()
    trunk: Trunk = Trunk()
    adapter: Literal["p", "m", "mp", "mpa"] = "mpa"
    """See wsikd.models.encoders.adapter.Adapter."""
    targets: Literal["plain", "standardise", "normalise"] = "standardise"
    """"standardise": each dimension to mean 0 and standard deviation 1 over the training patches,
    which the embedder's output undoes; "normalise": unit length; "plain": unchanged."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each term: mae (default 1), mse, cosine; mae and mse are means over dimensions."""
    optim: Ts2gOptim = Ts2gOptim()
    augment: Augment = Augment(stain=0.0)

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        for name in value:
            if name not in TERMS:
                raise ValueError(f"'{name}' is not a term of this method; {nearest(name, TERMS)}")
        weights = value or {"mae": 1.0}
        if not any(weights.values()):
            raise ValueError("every term has weight 0; give one a weight above 0")
        return {k: v for k, v in weights.items() if v}

    @property
    def low_mpp(self) -> float:
        """um per pixel of the embedder."""
        return self.data.student_mpp or self.data.mpp

    @property
    def factor(self) -> float:
        """How many pixels of the patches that are read make one of the embedder's."""
        return self.low_mpp / self.data.mpp


def embedding_terms(found: Tensor, target: Tensor) -> dict[str, Tensor]:
    """All terms for embeddings (B, D) and their targets (B, D): scalars by name."""
    return {
        "mae": functional.l1_loss(found, target),
        "mse": functional.mse_loss(found, target),
        "cosine": 1 - functional.cosine_similarity(found, target).mean(),
    }


class Ts2g(Method):
    """Trains the adapter of ``student``, an encoder whose network is an ``Embedder``."""

    Config = Ts2gConfig
    TERMS = TERMS
    task = "wsikd.learn.ts2g.adapter_train:EmbedTask"

    student: Encoder  # type: ignore[assignment]
    targets: Tensor

    def __init__(self, student: Encoder, targets: Tensor, terms: Sequence[str]) -> None:
        """``targets`` float32 (N, D), by index of the patch, as the adapter is to give them."""
        super().__init__()
        self.student, self.terms = student, tuple(terms)
        self.register_buffer("targets", targets, persistent=False)

    @classmethod
    def build(cls, config: Ts2gConfig, student: Encoder, teacher: Tensor) -> Self:
        """``teacher`` holds the teacher's embeddings of the patches, float32 (N, D)."""
        return cls(student, teacher, list(config.weights))

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """The terms that were asked for."""
        target = self.targets[upload(batch.box, self.targets.device)]
        found = embedding_terms(self.predict(batch), target)
        return {name: found[name] for name in self.terms}

    def predict(self, batch: Batch) -> Tensor:
        """The adapter's output in the scale of the targets: (B, D)."""
        student = self.student
        return student.network.standardised(student.normalise(batch.views["low"]))  # type: ignore[operator,no-any-return]

    def param_groups(self) -> list[dict[str, list[Parameter]]]:
        """The adapter alone."""
        return [{"params": [p for p in self.student.parameters() if p.requires_grad]}]
