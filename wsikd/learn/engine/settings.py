"""Keys of the ``optim`` section of a configuration. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field, model_validator

from wsikd.core.config import Dumped, Settings
from wsikd.learn.data.augment_settings import Positive  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from typing import Self

NonNegative = Annotated[float, Field(ge=0)]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class Optim(Settings):
    """How the network is trained."""

    name: Literal["adamw", "adam"] = "adamw"
    """AdamW, or Adam, whose weight decay is an L2 penalty."""
    lr: Positive = 1e-3
    """Highest learning rate."""
    weight_decay: NonNegative = 1e-4
    """Weight decay, decoupled in AdamW."""
    decay_vectors: bool = True
    """Apply weight decay to biases and other one-dimensional parameters too."""
    epochs: Annotated[int, Field(gt=0)] = 20
    """Number of passes; each draws as many patches as there are training patches."""
    hold_epochs: Annotated[int, Field(ge=0)] = 0
    """Greatest number of further passes at the final learning rate, until patience ends the run."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Stop after this number of epochs without improvement on validation; none: never."""
    epoch_patches: Annotated[int, Field(gt=0)] | None = None
    """Number of patches drawn in an epoch; none: that of the training patches."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    """Patches in a step, of all processes together."""
    accumulate: Annotated[int, Field(gt=0)] = 1
    """Number of parts that a process splits its patches of a step into, to save memory; batch norm
    and roots over the batch are computed for each part."""
    schedule: Literal["cosine", "constant", "cosine_epochs"] = "cosine"
    """Course of the learning rate after the warm-up; "cosine_epochs" changes it between epochs only
    and counts the warm-up as part of the cosine."""
    warmup_epochs: NonNegative = 1.0
    """Epochs over which the learning rate rises from zero."""
    lr_start: NonNegative = 0.0
    """Rate at which the warm-up of cosine_epochs starts."""
    lr_end: NonNegative = 0.0
    """Rate at which cosine and cosine_epochs end."""
    lag: bool = False
    """In cosine_epochs, every epoch but the first has the rate of the previous one."""
    balance: bool | Literal["frozen_pool"] = True
    """Draw every class equally often; "frozen_pool", as in the released code of AT+, makes one draw
    for the whole run, which never reaches some patches."""
    min_delta: NonNegative = 0.0
    """Least gain in the validation score for an epoch to be kept; at 0 the lower loss decides
    ties."""
    precision: Precision = "32-true"
    """Precision in Lightning's notation; "16-mixed" needs a GPU. "auto": bf16-mixed on a GPU that
    computes in it, unless deterministic; else 32-true."""
    deterministic: bool = False
    """Use only bit-reproducible algorithms, which are slower on a GPU; a CPU always does."""
    compile: bool = False
    """Compile the backbones with torch.compile: minutes at the start, faster steps on a GPU. Not
    for terms that differentiate twice (AT+ at inner taps, at_grad)."""
    threads: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Threads that read patches which are not in memory; "auto": one per usable core, 2 to 16."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by accumulate {self.accumulate}; "
                "set it to a multiple"
            )
        if self.hold_epochs and self.patience is None:
            raise ValueError("hold_epochs needs patience to end the run; set patience too")
        if self.hold_epochs and not self.lr_end and self.schedule != "constant":
            raise ValueError("hold_epochs at a rate of 0 learns nothing; set lr_end, e.g. lr / 50")
        return self

    @property
    def most_epochs(self) -> int:
        """Passes after which a run ends in any case."""
        return self.epochs + self.hold_epochs


class LoopOptim(Protocol):
    """The keys of ``optim`` that the training loop uses, for every method; see :class:`Optim`."""

    @property
    def name(self) -> str:
        """Name of the optimiser."""

    @property
    def lr(self) -> float:
        """Learning rate at its highest."""

    @property
    def weight_decay(self) -> float:
        """At the start."""

    @property
    def decay_vectors(self) -> bool:
        """Whether parameters of one dimension decay too."""

    @property
    def epochs(self) -> int:
        """Passes of the schedule."""

    @property
    def most_epochs(self) -> int:
        """Passes after which a run ends in any case."""

    @property
    def patience(self) -> int | None:
        """Epochs without gain that end a run."""

    @property
    def min_delta(self) -> float:
        """Gain that counts."""

    @property
    def epoch_patches(self) -> int | None:
        """Samples drawn in an epoch; None: as many as there are."""

    @property
    def balance(self) -> bool | Literal["frozen_pool"]:
        """Whether classes are drawn equally often."""

    @property
    def batch_size(self) -> int:
        """Samples in a step, of all processes together."""

    @property
    def accumulate(self) -> int:
        """Parts of a step in a process."""

    @property
    def precision(self) -> Precision:
        """Arithmetic."""

    @property
    def deterministic(self) -> bool:
        """Whether only algorithms that repeat bit for bit are used."""

    @property
    def compile(self) -> bool:
        """Whether the backbones are compiled."""

    @property
    def threads(self) -> int | Literal["auto"]:
        """Threads that read."""


class Training(Dumped, Protocol):
    """The settings of all methods."""

    @property
    def optim(self) -> LoopOptim:
        """How the network is trained."""

    @property
    def weights(self) -> dict[str, float]:
        """Factor on each loss term."""
