"""Every key of a configuration of ``method: slpd``, which trains a region encoder without labels.

Imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from wsikd.core.config import Settings
from wsikd.core.registry import nearest
from wsikd.learn.engine.configurations import MethodConfig

if TYPE_CHECKING:
    from typing import Self

Count = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
VARIANTS: dict[str, tuple[str, ...]] = {
    "dino": ("dino",),
    "intra": ("dino", "intra"),
    "inter": ("dino", "inter"),
    "intra_inter": ("dino", "intra", "inter"),
}
"""Loss terms of each variant."""


class RegionData(Settings):
    """Which regions are learnt from."""

    paths: list[str] = Field(default_factory=list)
    """Grids of wsikd embed --regions, or folders of them; --data adds to them."""
    splits: list[Literal["train", "val", "test"]] | None = None
    """Parts that the grids name and that are learnt from; slides without a part always are. None:
    all, the transductive protocol of the papers."""
    leave_out: list[str] = Field(default_factory=list)
    """Slides or patients, as the grids name them, that take no part: those of a test fold."""


class RegionNetwork(Settings):
    """The region encoder and its head; see wsikd.models.slide_level.region_vit.RegionShape."""

    width: Count = 192
    """Of a token, and of the region vector."""
    depth: Count = 6
    """Transformer blocks."""
    heads: Count = 6
    """Of attention; divides the width."""
    mlp_ratio: Positive = 4.0
    """Width of a block's inner layer over ``width``."""
    drop_path: Share = 0.1
    """Chance that the student's last block is left out, rising from 0 over the blocks."""
    hidden: Count = 2048
    """Width of the head's inner layers."""
    bottleneck: Count = 256
    """Width of the unit vectors in which regions are clustered."""
    outputs: Count = 65_536
    """Of the last layer."""
    init_std: Positive = 0.02
    """Deviation of fresh weights; networks some tens wide need more, such as 0.1, or the outputs
    all become alike."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}; change one")
        return self


class RegionCrops(Settings):
    """Views of a region, cut from its grid without interpolation."""

    global_grid: Count = 14
    """Tiles along a side of a global view, and of the centre that is clustered; positions are
    learnt for it."""
    local_grid: Count = 6
    """Tiles along a side of a local view."""
    global_views: Annotated[int, Field(ge=2)] = 2
    """Both networks see them."""
    local_views: Annotated[int, Field(ge=0)] = 8
    """Only the student sees them."""
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Chance of left for right."""
    vflip: bool = False
    """Top for bottom in half of the views: tissue has no up."""
    transpose: bool = False
    """Rows for columns in half of the views."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.local_grid > self.global_grid:
            raise ValueError(
                f"local_grid {self.local_grid} is more than global_grid {self.global_grid}; lower "
                "it"
            )
        return self


class Prototypes(Settings):
    """Prototypes of slides."""

    start_epoch: Annotated[int, Field(ge=0)] = 21
    """The first epoch with prototype terms, counted from 0."""
    clusters: Count | None = None
    """K, prototypes of a slide; none: a twelfth of the median number of regions, 2 to 6."""
    least_regions: Count | None = None
    """Slides with fewer have no prototypes; none: 8 K."""
    iterations: Count = 10
    """Of k-means."""
    restarts: Count = 5
    """Of k-means, from other regions."""
    points_per_cluster: Count = 1000
    """Centroids come from at most K times so many regions of a slide."""
    spherical: bool = False
    """Scale centroids to length 1 in every iteration, not only at the end."""
    seed: int = 0
    """Of k-means."""
    neighbours: Count = 1
    """r, similar slides whose prototypes a region learns."""
    shortlist: Count = 64
    """Slides of the nearest mean prototype, among which the matching finds the neighbours."""
    correspondence: Literal["matching", "greedy"] = "matching"
    """Which prototype of a neighbour goes with an own one: that of the best matching, or the
    nearest, as the released code."""
    same_patient: bool = False
    """Whether other slides of the same patient may be neighbours."""
    skip_first_view: bool = False
    """Leave out a student's view as the released code: that of the target's number."""
    shared_centre: bool = False
    """One centre for both terms, moved twice a step, as the released code."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        least, clusters = self.least_regions, self.clusters
        if least is not None and clusters is not None and least < clusters:
            raise ValueError(
                f"least_regions {least} cannot fill {clusters} clusters; raise it to {8 * clusters}"
            )
        return self


class SlpdOptim(Settings):
    """How the student is trained, and how the teacher follows."""

    lr: Positive = 5e-4
    """Highest learning rate for 256 regions in a step; it is scaled by batch_size / 256."""
    lr_end: NonNegative = 1e-6
    """Rate that the cosine ends at."""
    warmup_epochs: NonNegative = 10.0
    """Over which the rate rises from 0."""
    weight_decay: NonNegative = 0.04
    """At the start; none on biases and other parameters of one dimension."""
    weight_decay_end: NonNegative = 0.4
    """At the end of a cosine."""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """Share of the teacher that stays at a step, at the start of a cosine that ends at 1."""
    clip: NonNegative = 3.0
    """Highest norm of the gradient of each parameter; 0: none."""
    freeze_last_epochs: Annotated[int, Field(ge=0)] = 1
    """Epochs at the start in which the last layer does not learn."""
    epochs: Count = 100
    """Passes over the regions; what does not fill a batch is left to the next pass."""
    batch_size: Count = 128
    """Regions in a step, of all processes together."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Arithmetic, in Lightning's words; "16-mixed" needs a GPU."""
    deterministic: bool = False
    """Only algorithms that repeat bit for bit, on a GPU slower ones; a CPU repeats anyway."""
    threads: Count = 2
    """Threads that read regions."""
    keep_every: Annotated[int, Field(ge=0)] = 20
    """Keep the checkpoint of every so manieth epoch beside the last; 0: of none."""

    # What the shared loop asks of every method, and what is no choice here.
    name: ClassVar[str] = "adamw"
    accumulate: ClassVar[int] = 1
    decay_vectors: ClassVar[bool] = False
    epoch_patches: ClassVar[None] = None
    balance: ClassVar[bool] = False
    patience: ClassVar[None] = None
    min_delta: ClassVar[float] = 0.0

    @property
    def most_epochs(self) -> int:
        """Passes after which a run ends: all of them."""
        return self.epochs


class SlpdConfig(MethodConfig):
    """One training run of a region encoder."""

    variant: Literal["dino", "intra", "inter", "intra_inter"] = "intra_inter"
    """Self-distillation alone, or with prototypes of the own slide, of similar slides, or both."""
    data: RegionData = RegionData()
    network: RegionNetwork = RegionNetwork()
    crops: RegionCrops = RegionCrops()
    prototypes: Prototypes = Prototypes()
    student_temperature: Positive = 0.1
    """Divides the student's scores."""
    teacher_temperature: Positive = 0.04
    """Divides the centred scores of the teacher and of prototypes."""
    centre_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of a centre that stays at a step."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each term of the variant, 1 where not named: dino, intra, inter."""
    optim: SlpdOptim = SlpdOptim()

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        variant = info.data.get("variant", "intra_inter")
        known = VARIANTS[variant]
        for name in value:
            if name not in known:
                raise ValueError(
                    f"'{name}' is no term of variant {variant}; {nearest(name, known)}"
                )
        weights = {name: value.get(name, 1.0) for name in known}
        if not any(weights.values()):
            raise ValueError("every term has weight 0; give one a weight above 0")
        return weights

    @model_validator(mode="after")
    def _reached(self) -> Self:
        start, epochs = self.prototypes.start_epoch, self.optim.epochs
        if self.uses_prototypes and start >= epochs:
            raise ValueError(
                f"prototypes.start_epoch {start} is never reached in {epochs} epochs; lower it, or "
                "choose variant dino"
            )
        return self

    @property
    def uses_prototypes(self) -> bool:
        """Whether a term needs them."""
        return self.variant != "dino"
