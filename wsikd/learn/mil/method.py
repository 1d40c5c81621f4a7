"""Multiple-instance learning: a network over a bag of embeddings learns the slide's class.

The third stage of TS2G-KD and the slide level of HIPT and SLPD. Terms: ``ce``, cross-entropy of the
bag's logits; ``instance``, the network's own loss on instances where it has one (CLAM-SB, DSMIL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from wsikd.core.config import Settings
from wsikd.core.registry import nearest
from wsikd.learn.data.settings import Split
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.settings import NonNegative, Optim
from wsikd.learn.losses.maps import cross_entropy
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.models.names import check_aggregator
from wsikd.models.slide_level.mil import counts_for
from wsikd.models.tables import AGGREGATORS
from wsikd.slides.what_is import BAGS, GRIDS

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from wsikd.models.slide_level.mil import BagNetwork


TERMS = {"ce": 1.0, "instance": None}


class BagData(Settings):
    """Where bags and their labels come from."""

    paths: list[str] = Field(default_factory=list)
    """Bags (``<slide>.zarr`` of wsikd embed, ``.h5`` of CLAM or TRIDENT) or folders of them;
    --data adds to them."""
    labels: str | None = None
    """CSV with the columns slide and label, and optionally patient and split; it overrides the
    entries of the bags. None: the bags' own labels."""
    classes: list[str] | None = None
    """Names in order, the first negative; none: those in the labels, sorted."""
    cache_gb: NonNegative | Literal["auto"] = "auto"
    """Bags are kept in memory up to this size in GB; others are read at every use. "auto": two
    fifths of the available memory."""


class MilNetwork(Settings):
    """The network over a bag."""

    arch: str = "gated"
    """Entry of wsikd.models.slide_level.mil.AGGREGATORS."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Width of projected instances; none: the network's default."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of values dropped in training; none: the network's default."""

    def check(self) -> None:
        """Refuse an unknown ``arch``; nothing is imported. Raises ConfigError."""
        check_aggregator(self.arch)

    def options(self) -> dict[str, float]:
        """Keyword arguments of ``build_mil`` that are set."""
        return {k: v for k, v in self.model_dump(exclude={"arch"}).items() if v is not None}


class MilOptim(Optim):
    """Training of the network over bags: the schedule of TS2G-KD's third stage."""

    name: Literal["adamw", "adam"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 2e-4
    weight_decay: NonNegative = 1e-5
    epochs: Annotated[int, Field(gt=0)] = 200
    batch_size: Annotated[int, Field(gt=0)] = 1
    """Bags in a step."""
    warmup_epochs: NonNegative = 0.0


class Point(Settings):
    """The threshold on the positive class, chosen on validation; networks of two classes only."""

    rule: Literal["youden", "sensitivity"] = "youden"
    """"youden": where sensitivity + specificity is highest; "sensitivity": the highest threshold
    that keeps ``sensitivity`` on further slides with 95 % confidence. 0.95 needs 59 positive
    validation slides or patients; with fewer, the threshold is the least score of the positives."""
    sensitivity: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Sensitivity to keep on further slides, for rule "sensitivity"."""


class MilConfig(MethodConfig):
    """One training run over bags."""

    data: BagData = BagData()
    split: Split = Split()
    network: MilNetwork = MilNetwork()
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Factor on each term: ce, the loss of bags; instance, the loss of instances in clam_sb
    (default 0.3), dsmil (0.5) and networks of other packages with such a loss (0)."""
    optim: MilOptim = MilOptim()
    point: Point = Point()

    @field_validator("weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float], info: Any) -> dict[str, float]:
        for name in value:
            if name not in TERMS:
                raise ValueError(f"'{name}' is not a term of this method; {nearest(name, TERMS)}")
        network = info.data.get("network") or MilNetwork()
        instance = {"clam_sb": 0.3, "dsmil": 0.5}.get(network.arch, 0.0)
        own = network.arch in AGGREGATORS  # a package's network may have such a loss
        if value.get("instance") and own and not instance:
            raise ValueError(f"'{network.arch}' has no loss on instances; leave 'instance' out")
        weights = {"ce": 1.0 - instance, "instance": instance, **value}
        if not any(weights.values()):
            raise ValueError("every term has weight 0; give one a weight above 0")
        return weights


class Mil(Method):
    """Trains ``student``, a network of ``wsikd.models.slide_level.mil``.

    A batch has the views "bag" float (B, N, D), "mask" bool (B, N), and on the CPU "count" int64
    (B,), the instances of each bag, which come first in it.
    """

    Config = MilConfig
    TERMS = TERMS
    views = ("bag", "mask", "count")
    takes = (BAGS, GRIDS)
    task = "wsikd.learn.mil.train:BagTask"

    student: BagNetwork  # type: ignore[assignment]

    def __init__(self, student: BagNetwork, *, instance: bool) -> None:
        """With the term ``instance`` or without."""
        super().__init__()
        self.student, self.instance = student, instance

    @classmethod
    def build(cls, config: MilConfig, student: BagNetwork, teacher: None) -> Self:
        """With a loss on instances where its weight is not 0."""
        return cls(student, instance=config.weights["instance"] > 0)

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """``ce`` and, if asked for, ``instance``."""
        bag, mask = batch.views["bag"], batch.views["mask"]
        more = counts_for(self.student, batch.views["count"].tolist())
        found = self.student(bag, mask, **more)
        terms = {"ce": cross_entropy(found.logits, batch.label)}
        if self.instance:
            own = self.student.instance_loss(found, mask, batch.label, **more)
            terms["instance"] = found.logits.sum() * 0 if own is None else own
        return terms

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        more = counts_for(self.student, batch.views["count"].tolist())
        return self.student(batch.views["bag"], batch.views["mask"], **more).logits  # type: ignore[no-any-return]
