"""Slide-level prototypical distillation: a region encoder learns from views and from slides.

Z. Yu, T. Lin, Y. Xu, "SLPD: Slide-level Prototypical Distillation for WSIs", MICCAI 2023. Terms:
``dino``, the self-distillation of views by a teacher that follows the student as a moving average
(:func:`wsikd.learn.losses.dino.dino_loss`); ``intra``, the prototype of a region's cluster within
its slide as target, and ``inter``, that of the matched cluster of a similar slide
(:func:`~wsikd.learn.losses.dino.prototype_loss`).

Departures from the released code, each to be undone by a setting: every view learns prototypes
(``skip_first_view``); each term has a centre of its own (``shared_centre``); prototypes of
neighbours go with own ones by the matching that made them neighbours (``correspondence``); slides
of the same patient are not neighbours (``same_patient``). Not to be undone: counts behind centres
and means are of all processes; a slide is never its own neighbour; slides without prototypes are
masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from wsikd.core.config import Settings
from wsikd.core.registry import nearest
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.schedules import cosine_steps
from wsikd.learn.engine.settings import Precision  # noqa: TC001 - pydantic reads it
from wsikd.learn.losses.dino import (
    dino_loss,
    moved_centre,
    prototype_loss,
    sharpened,
    summed,
    wide,
)
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.slides.what_is import GRIDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from wsikd.learn.methods.base import Terms
    from wsikd.models.slide_level.region_vit import RegionStudent


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
    """Regions to learn from."""

    paths: list[str] = Field(default_factory=list)
    """Grids of wsikd embed --regions, or folders of them; --data adds to them."""
    splits: list[Literal["train", "val", "test"]] | None = None
    """Parts of the split to learn from, as named in the grids; slides without a part are always
    used. None: all, the transductive protocol of the papers."""
    leave_out: list[str] = Field(default_factory=list)
    """Slides or patients to leave out, as named in the grids, such as those of a test fold."""


class RegionNetwork(Settings):
    """The region encoder and its head; see wsikd.models.slide_level.region_vit.RegionShape."""

    width: Count = 192
    """Width of a token, and of the region vector."""
    depth: Count = 6
    """Number of transformer blocks."""
    heads: Count = 6
    """Number of attention heads; it divides the width."""
    mlp_ratio: Positive = 4.0
    """Width of a block's inner layer over ``width``."""
    drop_path: Share = 0.1
    """Probability of skipping the student's last block; it rises from 0 over the blocks."""
    hidden: Count = 2048
    """Width of the head's inner layers."""
    bottleneck: Count = 256
    """Width of the unit vectors in which regions are clustered."""
    outputs: Count = 65_536
    """Number of outputs of the last layer."""
    init_std: Positive = 0.02
    """Standard deviation of initial weights. Networks with a width of some tens need more, such as
    0.1, else all outputs become equal."""

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
    """Number of global views, which both networks see."""
    local_views: Annotated[int, Field(ge=0)] = 8
    """Number of local views, which only the student sees."""
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a left-right flip."""
    vflip: bool = False
    """Flip half of the views top to bottom, since tissue has no orientation."""
    transpose: bool = False
    """Transpose half of the views."""

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
    """K, number of prototypes of a slide; none: 1/12 of the median number of regions, 2 to 6."""
    least_regions: Count | None = None
    """Slides with fewer have no prototypes; none: 8 K."""
    iterations: Count = 10
    """Iterations of k-means."""
    restarts: Count = 5
    """Restarts of k-means, from other regions."""
    points_per_cluster: Count = 1000
    """Centroids are computed from at most K times this number of regions of a slide."""
    spherical: bool = False
    """Scale centroids to length 1 in every iteration, not only at the end."""
    seed: int = 0
    """Seed of k-means."""
    neighbours: Count = 1
    """r, number of similar slides whose prototypes a region learns."""
    shortlist: Count = 64
    """Number of slides with the nearest mean prototypes; the matching finds neighbours in these."""
    correspondence: Literal["matching", "greedy"] = "matching"
    """Pairs of a slide's prototypes and a neighbour's: by the best matching, or each with the
    nearest, as in the released code."""
    same_patient: bool = False
    """Whether other slides of the same patient may be neighbours."""
    skip_first_view: bool = False
    """Leave out the student's view with the target's number, as the released code does."""
    shared_centre: bool = False
    """Use one centre for both terms and update it twice a step, as the released code does."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        least, clusters = self.least_regions, self.clusters
        if least is not None and clusters is not None and least < clusters:
            raise ValueError(
                f"least_regions {least} cannot fill {clusters} clusters; raise it to {8 * clusters}"
            )
        return self


class SlpdOptim(Settings):
    """Training of the student, and update of the teacher."""

    lr: Positive = 5e-4
    """Highest learning rate for 256 regions in a step; it is scaled by batch_size / 256."""
    lr_end: NonNegative = 1e-6
    """Final learning rate of the cosine."""
    warmup_epochs: NonNegative = 10.0
    """Epochs over which the learning rate rises from 0."""
    weight_decay: NonNegative = 0.04
    """Weight decay at the start; there is none on biases and other one-dimensional parameters."""
    weight_decay_end: NonNegative = 0.4
    """Final weight decay of a cosine."""
    momentum: Annotated[float, Field(ge=0, le=1)] = 0.996
    """Momentum of the teacher's moving average, at the start of a cosine that ends at 1."""
    clip: NonNegative = 3.0
    """Greatest norm of each parameter's gradient; 0: no limit."""
    freeze_last_epochs: Annotated[int, Field(ge=0)] = 1
    """Number of epochs at the start in which the last layer is frozen."""
    epochs: Count = 100
    """Passes over the regions; regions that do not fill a batch are left to the next pass."""
    batch_size: Count = 128
    """Regions in a step, of all processes together."""
    precision: Precision = "auto"
    """Precision in Lightning's notation; "16-mixed" needs a GPU. "auto": bf16-mixed on a GPU that
    computes in it, unless deterministic; else 32-true."""
    deterministic: bool = False
    """Use only bit-reproducible algorithms, which are slower on a GPU; a CPU always does."""
    threads: Count | Literal["auto"] = "auto"
    """Threads that read regions; "auto": one per usable core, 2 to 16."""
    keep_every: Annotated[int, Field(ge=0)] = 20
    """Keep the checkpoint of every N-th epoch as well as the last; 0: of none."""

    # What the shared loop asks of every method, and what is fixed here.
    name: ClassVar[str] = "adamw"
    accumulate: ClassVar[int] = 1
    compile: ClassVar[bool] = False
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
    """Self-distillation alone, or with prototypes of the same slide, of similar slides, or both."""
    data: RegionData = RegionData()
    network: RegionNetwork = RegionNetwork()
    crops: RegionCrops = RegionCrops()
    prototypes: Prototypes = Prototypes()
    student_temperature: Positive = 0.1
    """Divides the student's scores."""
    teacher_temperature: Positive = 0.04
    """Divides the centred scores of the teacher and of prototypes."""
    centre_momentum: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Momentum of a centre's moving average."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each term of the variant (dino, intra, inter), by default 1."""
    optim: SlpdOptim = SlpdOptim()

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        variant = info.data.get("variant", "intra_inter")
        known = VARIANTS[variant]
        for name in value:
            if name not in known:
                raise ValueError(
                    f"'{name}' is not a term of variant {variant}; {nearest(name, known)}"
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


TARGETS = ("intra", "inter")


@dataclass(frozen=True)
class Options:
    """Settings of :class:`Slpd`; see ``wsikd.learn.slpd.method``."""

    terms: tuple[str, ...] = ("dino", *TARGETS)
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    teacher_momentum: float = 0.996
    skip_first_view: bool = False
    shared_centre: bool = False


class Bank(nn.Module):
    """Prototypes of the slides and who goes with whom; empty until :meth:`put`.

    They are state, since a training that is taken up must find them, but no buffers, since every
    process has them already.
    """

    names = ("prototypes", "slide_index", "assignment", "neighbours", "matched")

    def __init__(self) -> None:
        """Empty."""
        super().__init__()
        self.held: dict[str, Tensor] = {}

    def put(self, held: dict[str, Tensor]) -> None:
        """Take up a table.

        Args:
            held: ``prototypes`` float (N, K, D); int64: ``slide_index`` and ``assignment`` (R,),
                ``neighbours`` (N, r), ``matched`` (N, r, K); -1 where there is none.
        """
        self.held = {name: held[name] for name in self.names}

    def get_extra_state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return dict(self.held)

    def set_extra_state(self, state: Any) -> None:
        """Load the state of a checkpoint."""
        self.held = dict(cast("dict[str, Tensor]", state))

    def own(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The prototype of each region: int64 (B,) -> float (1, B, D), bool (1, B)."""
        slide, cluster = self.held["slide_index"][regions], self.held["assignment"][regions]
        keep = cluster >= 0
        return self.held["prototypes"][slide, cluster.clamp_min(0)][None], keep[None]

    def others(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The matched prototypes of neighbours: int64 (B,) -> float (r, B, D), bool (r, B)."""
        slide, cluster = self.held["slide_index"][regions], self.held["assignment"][regions]
        near = self.held["neighbours"][slide]  # (B, r)
        keep = (cluster >= 0)[:, None] & (near >= 0)
        matched = self.held["matched"][slide, :, cluster.clamp_min(0)].clamp_min(0)  # (B, r)
        found = self.held["prototypes"][near.clamp_min(0), matched]
        return found.transpose(0, 1), keep.T


class Centres(nn.Module):
    """Running means of the teacher's outputs and of each kind of prototype."""

    def __init__(self, outputs: int) -> None:
        """All zero, float (outputs,)."""
        super().__init__()
        for name in ("dino", *TARGETS):
            self.register_buffer(name, torch.zeros(outputs))

    def get(self, name: str) -> Tensor:
        """One of them."""
        return cast("Tensor", getattr(self, name))

    def move(self, name: str, scores: Tensor, keep: Tensor, momentum: float) -> None:
        """Move one by the mean of the kept scores of all processes.

        Args:
            name: "dino", "intra" or "inter".
            scores: (n, M).
            keep: bool (n,).
            momentum: what stays.
        """
        total = summed((wide(scores) * keep[:, None]).sum(0))
        count = summed(keep.sum().float())
        centre = self.get(name)
        centre.copy_(moved_centre(centre, total, count, momentum))


class Slpd(Method):
    """Trains ``student`` to agree with its own moving average, and with prototypes.

    A batch has the views "global" float (G, B, D, h, h) and "local" (L, B, D, l, l); ``box`` holds
    the regions' indices.
    """

    Config = SlpdConfig
    TERMS: ClassVar[Terms] = {"dino": 1.0, "intra": 1.0, "inter": 1.0}
    views = ("global", "local")
    takes = (GRIDS,)
    task = "wsikd.learn.slpd.train:SlpdTask"

    student: RegionStudent  # type: ignore[assignment]

    def __init__(self, student: RegionStudent, teacher: RegionStudent, options: Options) -> None:
        """``teacher`` is a network of the student's shape, whose weights are overwritten."""
        super().__init__()
        self.student, self.options = student, options
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(requires_grad=False)
        self.helpers["teacher"] = teacher
        self.helpers["centres"] = Centres(student.shape.outputs)
        self.helpers["bank"] = Bank()

    @classmethod
    def build(cls, config: SlpdConfig, student: RegionStudent, teacher: RegionStudent) -> Self:
        """The terms of the variant."""
        options = Options(
            terms=tuple(config.weights),
            student_temperature=config.student_temperature,
            teacher_temperature=config.teacher_temperature,
            centre_momentum=config.centre_momentum,
            teacher_momentum=config.optim.momentum,
            skip_first_view=config.prototypes.skip_first_view,
            shared_centre=config.prototypes.shared_centre,
        )
        return cls(student, teacher, options)

    @property
    def teacher(self) -> RegionStudent:
        """The moving average, which is the exported network."""
        return cast("RegionStudent", self.helpers["teacher"])

    @property
    def centres(self) -> Centres:
        """See :class:`Centres`."""
        return cast("Centres", self.helpers["centres"])

    @property
    def bank(self) -> Bank:
        """See :class:`Bank`."""
        return cast("Bank", self.helpers["bank"])

    def train(self, mode: bool = True) -> Slpd:  # noqa: FBT001, FBT002 - torch's signature
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """The terms of the variant; those of prototypes are 0 before there are some."""
        options, regions = self.options, batch.box
        crops = [view for name in self.views if len(view := batch.views[name])]
        with torch.no_grad():
            taught = _by_view(self.teacher, crops[0])
        own = [_by_view(self.student, view) for view in crops]
        terms = {
            "dino": dino_loss(
                own, taught, self.centres.get("dino"),
                student_temperature=options.student_temperature,
                teacher_temperature=options.teacher_temperature,
            )
        }  # fmt: skip
        self._move("dino", taught.flatten(0, 1), regions.new_ones(taught[..., 0].numel()) > 0)
        for name in (name for name in TARGETS if name in options.terms):
            there = bool(self.bank.held)
            terms[name] = self._towards(name, own, regions) if there else own[0].new_zeros(())
        return terms

    def _towards(self, name: str, own: Sequence[Tensor], regions: Tensor) -> Tensor:
        """The loss against prototypes, through the teacher's last layer as it is now."""
        options = self.options
        prototypes, keep = self.bank.own(regions) if name == "intra" else self.bank.others(regions)
        centre = "intra" if options.shared_centre else name
        with torch.no_grad():
            scores = self.teacher.last(prototypes.flatten(0, 1)).view(*keep.shape, -1)
            targets = sharpened(scores, self.centres.get(centre), options.teacher_temperature)
            kept = keep.sum().float()
            total, processes = summed(torch.stack([kept, torch.ones_like(kept)]))
        self._move(centre, scores.flatten(0, 1), keep.flatten())
        return prototype_loss(
            own, targets, keep, count=total / processes,
            student_temperature=options.student_temperature,
            skip_first_view=options.skip_first_view,
        )  # fmt: skip

    def _move(self, name: str, scores: Tensor, keep: Tensor) -> None:
        if self.training:
            with torch.no_grad():
                self.centres.move(name, scores, keep, self.options.centre_momentum)

    def momentum(self, at: Progress) -> float:
        """Share of the teacher that stays at a step."""
        step, steps = at.epoch * at.steps + at.step, at.epochs * at.steps
        return cosine_steps(self.options.teacher_momentum, 1.0, step, steps)

    @torch.no_grad()
    def after_step(self, at: Progress) -> None:
        """The teacher follows: ``m teacher + (1 - m) student``."""
        share = 1.0 - self.momentum(at)
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for mean, weight in pairs:
            mean.lerp_(weight.detach(), share)


def _by_view(network: RegionStudent, view: Tensor) -> Tensor:
    """Scores of views (V, B, D, h, h): (V, B, M)."""
    return network.scores(view.flatten(0, 1)).view(*view.shape[:2], -1)
