"""Every key of the study ``benchmarks/studies/slpd/run.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from wsikd.core.config import Settings, parse_config
from wsikd.learn.mil.method import MilNetwork, MilOptim
from wsikd.learn.slpd.method import Prototypes, RegionCrops, RegionNetwork, SlpdOptim

if TYPE_CHECKING:
    from collections.abc import Sequence

ASKED_BY = "benchmarks/studies/slpd"
RAW = "mean of tiles"
"""The baseline: a region's vector is the mean of its tiles' embeddings."""
TRUE = "true types"
"""The bound: a region's vector is its true type, one of five (generated cohort only)."""
SHUFFLED = "true types, labels dealt anew"
"""The control: nothing is to be learnt, so what is above 0.5 here is a fault of the study."""
UNTRAINED = "untrained"
"""The baseline of the network: the weights that the trainings of a seed begin with."""
Variant = Literal["dino", "intra", "inter", "intra_inter"]
Count = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Cohort(Settings):
    """The generated cohort; see benchmarks.studies.slpd.mixtures."""

    form: Literal["grids", "slides"] = "grids"
    """"grids": embeddings of tiles are drawn, means alike by construction; "slides": slides are
    drawn, read through OpenSlide and embedded, which takes some seconds a slide, and the encoder of
    tiles decides how much their means tell."""
    seed: int = 0
    """Of everything drawn."""
    slides: Count = 48
    """A third of the patients has two."""
    regions: tuple[Count, Count] = (14, 18)
    """Least and most of a slide."""
    grid: Count = 4
    """Tiles along a side of a region."""
    tile_px: Annotated[int, Field(ge=32, multiple_of=16)] = 32
    """Side of a tile in px, at 0.5 um per pixel (slides)."""
    encoder_slides: Annotated[int, Field(ge=4)] = 8
    """Further slides whose tiles the tile encoder learns from (slides)."""
    encoder_epochs: Count = 4
    """Of its training (slides)."""
    dim: Annotated[int, Field(ge=4)] = 8
    """Numbers in a tile's embedding (grids)."""
    noise: NonNegative = 4.0
    """Deviation in each number of a tile's embedding, kinds being at length 8 (grids)."""
    patient_shift: NonNegative = 2.0
    """Length of what is added to all tiles of a patient (grids)."""


class StudyConfig(Settings):
    """Size and course of the study."""

    seeds: list[int] = Field(default=[0], min_length=1)
    """Of the trainings."""
    cohort: Cohort = Cohort()
    """Without --data."""
    labels: str | None = None
    """With --data, a CSV with the columns slide and label, and if wanted patient; none: what the
    grids say."""
    variants: list[Variant] = Field(default=["dino", "intra", "inter", "intra_inter"], min_length=1)
    """Region encoders that are trained."""
    protocols: list[Literal["transductive", "per_fold"]] = Field(
        default=["transductive", "per_fold"], min_length=1
    )
    """"transductive": one encoder learns from all regions, as in the papers; "per_fold": each fold
    has its own, which never reads a region of a patient that the fold tests."""
    folds: Annotated[int, Field(ge=2)] = 4
    """Of patients."""
    shares: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[1.0, 0.25], min_length=1)
    """Shares of the training slides that are labelled."""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share for validation of what a fold does not test."""
    neighbours: Count = 5
    """Slides that the nearest-neighbour classifier asks."""
    network: RegionNetwork = RegionNetwork()
    crops: RegionCrops = RegionCrops()
    prototypes: Prototypes = Prototypes()
    optim: SlpdOptim = SlpdOptim()
    head: MilNetwork = MilNetwork(arch="hipt")
    """The slide's network."""
    head_optim: MilOptim = MilOptim(epochs=20)
    """How it is trained; the defaults are HIPT's."""

    @field_validator("variants", "protocols", "seeds", "shares")
    @classmethod
    def _distinct(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names one twice; leave it out")
        return value


SMALL: dict[str, Any] = {
    "folds": 2,
    "network": {"width": 24, "depth": 2, "heads": 3, "hidden": 64, "bottleneck": 32,
                "outputs": 128, "init_std": 0.1},
    "crops": {"global_grid": 3, "local_grid": 2, "local_views": 2, "vflip": True,
              "transpose": True},
    "prototypes": {"start_epoch": 4, "clusters": 4, "least_regions": 12},
    "optim": {"lr": 0.02, "warmup_epochs": 1, "momentum": 0.95, "epochs": 8, "batch_size": 32,
              "keep_every": 0},
    "head": {"arch": "hipt", "hidden": 48},
    "head_optim": {"lr": 2e-3, "epochs": 8, "batch_size": 2},
    "neighbours": 3,
}  # fmt: skip
"""What differs from the published sizes on the generated cohort, so that two cores suffice."""


def read_study(overrides: Sequence[str] = (), *, own_data: bool = False) -> StudyConfig:
    """The defaults, changed by ``"key=value"`` each; those of the papers for a user's own data.

    Raises:
        ConfigError: a key or value is wrong.
    """
    start = {} if own_data else SMALL
    return parse_config(StudyConfig, start, name=ASKED_BY, overrides=overrides)
