"""Every key of a configuration of ``method: ts2g``: a frozen trunk learns another's embeddings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from wsikd.core.config import Settings
from wsikd.core.registry import nearest
from wsikd.learn.data.augment_settings import Augment
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.settings import NonNegative, Optim

TERMS = {"mae": 1.0, "mse": None, "cosine": None}


class Select(Settings):
    """Which patches of a slide are learnt from."""

    mode: Literal["all", "top", "random", "mixed"] = "all"
    """"top": those that a bag network finds most positive; "mixed": half of them, half drawn."""
    count: Annotated[int, Field(gt=0)] = 50
    """Patches a slide, all where it has fewer."""
    scorer: str | None = None
    """Run of method mil on the teacher's bags, network "mean" or "max", for "top" and "mixed"."""
    seed: int = 0
    """Of the draw."""


class Ts2gData(Data):
    """Tile stores, and the teacher's bags of the same patches."""

    targets: list[str] = Field(default_factory=list)
    """The teacher's bags, or folders of them: of wsikd embed, CLAM or TRIDENT."""
    select: Select = Select()


class Trunk(Settings):
    """The frozen network in front."""

    arch: str = "resnet50"
    """Entry of wsikd.models.tables.BACKBONES, or timm:NAME."""
    weights: str | None = None
    """Run of method detector, or a state dict: of the network itself, or of a detector with a
    ResNet-50 (torchvision, DETR, transformers, mmdetection, detectron2). None: ImageNet's, from
    the hub. "random": none, for trials."""
    tap: str = "F3"
    """Map that is averaged: F2, F3, F4 are a ResNet's layer2, layer3, layer4."""
    input_norm: Literal["none", "imagenet"] = "imagenet"
    """"none" reads 0 to 1; "imagenet" subtracts its mean and divides by its deviation."""


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
    """"standardise": each number to mean 0 and deviation 1 over the training patches, undone in
    what the embedder gives; "normalise": length 1; "plain": as they are."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each term: mae (default 1), mse, cosine; the first two are means over numbers."""
    optim: Ts2gOptim = Ts2gOptim()
    augment: Augment = Augment(stain=0.0)

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        for name in value:
            if name not in TERMS:
                raise ValueError(f"'{name}' is no term of this method; {nearest(name, TERMS)}")
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
