"""Every key of a configuration of ``method: detector``, which finds lesions in images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from wsikd.core.config import Settings
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.settings import NonNegative, Optim

if TYPE_CHECKING:
    from typing import Self


class DetectData(Settings):
    """Images and boxes in COCO's format."""

    train: str | None = None
    """Annotation file (JSON) of the training images."""
    val: str | None = None
    """That of the validation images; no image may be in both."""
    images: str | None = None
    """Folder of the images; none: that of each annotation file, or images/ in it."""
    flips: bool = True
    """Mirror images at random, left to right."""

    files: ClassVar[tuple[str, ...]] = ("train", "val")


class DetectNetwork(Settings):
    """The detector."""

    arch: Literal["fasterrcnn", "retinanet", "deformable_detr"] = "fasterrcnn"
    """See wsikd.learn.ts2g.detectors."""
    image_px: Annotated[int, Field(gt=31)] = 800
    """Images are resized so that their shorter side is this."""
    backbone: Literal["resnet50", "resnet18"] = "resnet50"
    """Its trunk."""
    layers: list[Annotated[int, Field(ge=1, le=4)]] | None = Field(default=None, min_length=1)
    """Groups of the trunk whose maps, of strides 4, 8, 16, 32, are looked at, e.g. [2, 3, 4]; it
    keeps the groups up to the last. None: the library's choice. Not of deformable_detr."""
    anchors_px: list[Annotated[float, Field(gt=0)]] | None = None
    """Sides of the boxes that are tried on each map, from the finest, in px of the resized image:
    one for each of layers, and one more (fasterrcnn) or two (retinanet). None: 32, 64, 128, ...
    px, which suits no lesion below 20 px. Not of deformable_detr."""
    trunk: str | None = None
    """Weights of its trunk to start from: a state dict of the network or of a detector; none
    starts from random ones."""
    options: dict[str, Any] = Field(default_factory=dict)
    """For the library's own constructor, e.g. num_queries of deformable_detr, which needs
    decoder_layers of 2 or more."""

    @model_validator(mode="after")
    def _options_in_range(self) -> Self:
        least = {"decoder_layers": 2, "encoder_layers": 1, "num_queries": 1, "d_model": 2}
        for name, lowest in least.items() if self.arch == "deformable_detr" else ():
            value = self.options.get(name, lowest)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"options.{name} is {value!r}; give a whole number from {lowest}")
        return self


class DetectOptim(Optim):
    """How it is trained."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    epochs: Annotated[int, Field(gt=0)] = 50
    batch_size: Annotated[int, Field(gt=0)] = 2
    warmup_epochs: NonNegative = 1.0
    balance: bool = False


class DetectConfig(MethodConfig):
    """One training run of a detector."""

    data: DetectData = DetectData()
    network: DetectNetwork = DetectNetwork()
    optim: DetectOptim = DetectOptim()
    weights: dict[str, NonNegative] = Field(default_factory=lambda: {"loss": 1.0})
    """Factor on the library's own sum of losses, ``loss``."""
