"""The interface of methods, and their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wsikd.core.config import Settings
from wsikd.models.device import upload
from wsikd.slides.what_is import PATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from numpy.typing import NDArray
    from torch.nn import Parameter

    from wsikd.learn.methods.ensemble import Ensemble
    from wsikd.models.graders.pooled import Grader

Terms = Mapping[str, float | None]
_TURNS = torch.tensor([1, 2, 4])


class Taught(NamedTuple):
    """Output of the frozen teacher for a batch: constants.

    Attributes:
        logits: float (B, C).
        taps: name -> (B, K, h, w).
        attention: class attention (B, C, h, w), None if it is not needed.
    """

    logits: Tensor
    taps: dict[str, Tensor]
    attention: Tensor | None


@dataclass(frozen=True)
class Targets:
    """A frozen teacher's answers for N patches in V views, asked once and kept.

    Attributes:
        place: row of each patch's index.
        tables: "logits" (V, N, C), "tap NAME" (V, N, K, h, w), "attention" (V, N, C, h, w) where
            it was asked for; float32.
        held: the same on a device, where it has memory for them.
    """

    place: dict[int, int]
    tables: dict[str, list[NDArray[np.float32]]]
    held: dict[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(view.nbytes for table in self.tables.values() for view in table)

    def on(self, device: torch.device) -> Targets:
        """The outputs, held on a device too."""
        held = {
            name: torch.stack([upload(torch.from_numpy(np.array(view)), device) for view in table])
            for name, table in self.tables.items()
        }
        return replace(self, held=held)

    def of(
        self,
        indices: NDArray[np.int64],
        turns: Tensor,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - it does not change
    ) -> Taught:
        """What the teacher says.

        Args:
            indices: int64 (B,), of the patches.
            turns: bool (3, B), of ``augment.draw_turns``, on the CPU.
            device: device of the answers.
        """
        view = (turns * _TURNS[:, None]).sum(0)
        rows = [self.place[int(i)] for i in indices]
        if self.held:
            cells = upload(torch.stack([view, torch.tensor(rows)]), device)
            found = {name: table[cells[0], cells[1]] for name, table in self.held.items()}
        else:
            found = {
                name: upload(torch.from_numpy(_picked(table, view.tolist(), rows)), device)
                for name, table in self.tables.items()
            }
        taps = {k.removeprefix("tap "): v for k, v in found.items() if k.startswith("tap ")}
        return Taught(found["logits"], taps, found.get("attention"))

    def classes(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The teacher's class of patches as they are: int64 (B,)."""
        rows = [self.place[int(i)] for i in indices]
        return np.asarray(self.tables["logits"][0][rows].argmax(1), np.int64)


def _picked(
    table: list[NDArray[np.float32]], views: list[int], rows: list[int]
) -> NDArray[np.float32]:
    return np.stack([table[view][row] for view, row in zip(views, rows, strict=True)])


def view_numbers(turns: Tensor) -> list[int]:
    """The number of each patch's view, 0 to 7, for bool (3, B) of ``augment.draw_turns``."""
    return (turns * _TURNS[:, None]).sum(0).tolist()


class Mixed(NamedTuple):
    """How the patches of a batch were mixed in pairs.

    Attributes:
        partner: int64 (B,), the second patch of each mixture.
        share: of the first patch; the second has the rest.
    """

    partner: Tensor
    share: float


class Batch:
    """Patches of one step. No dataclass, so that Fabric and DDP hand it on untouched.

    Attributes:
        views: "high" and "low", uint8 or float (B, 3, H, W) of 0 to 255, RGB. "low" is the area
            average of "high" after augmentation: the same tissue at the trained network's mpp; or
            float (B, K, h, w), what the student's frozen stages make of it (``frozen_cache``).
        label: int64 (B,); -1 for a patch without a label, where the method ``takes_unlabelled``.
        slide: name of each patch's slide.
        box: int64 (B,), index of each patch in its data set.
        taught: the teacher's part where it was kept (see ``wsikd.learn.patch.teacher_cache``); its
            maps are on the student's grids. None: the method asks the teacher.
        mixed: how its patches were mixed, for a method that ``takes_mixed``; label, slide and box
            are those of the first patch of each mixture.
    """

    __slots__ = ("box", "label", "mixed", "slide", "taught", "views")

    def __init__(
        self,
        views: dict[str, Tensor],
        label: Tensor,
        slide: tuple[str, ...],
        box: Tensor,
        taught: Taught | None = None,
        mixed: Mixed | None = None,
    ) -> None:
        """All of one length B."""
        self.views, self.label, self.slide, self.box = views, label, slide, box
        self.taught, self.mixed = taught, mixed

    def on_labels(self, term: Callable[[Tensor], Tensor]) -> Tensor:
        """A term of labels int64 (B,); of mixed patches, that of both labels in their shares."""
        return on_labels(term, self.label, self.mixed)


def on_labels(term: Callable[[Tensor], Tensor], label: Tensor, mixed: Mixed | None) -> Tensor:
    """See :meth:`Batch.on_labels`."""
    if mixed is None:
        return term(label)
    return mixed.share * term(label) + (1 - mixed.share) * term(label[mixed.partner])


class Progress(NamedTuple):
    """Where the training stands: counts from 0, of ``epochs`` and of ``steps`` an epoch."""

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 1


class Method(nn.Module):
    """A way of training ``student``. The trainer weighs the terms, sums them and steps.

    ``forward`` must return the same names at every step. A frozen network inside a method stays
    in eval mode whatever the trainer sets. All else that wsikd asks of a method is in its class.
    """

    Config: ClassVar[type[Settings]] = Settings
    """Its own part of a configuration: keys beside those of ``settings``. One with the key
    ``method`` is the whole configuration."""
    TERMS: ClassVar[Terms]
    """Loss terms -> default weight; None for one that is left out unless ``weights`` names it."""
    views: tuple[str, ...] = ("low",)
    """What a batch holds: "low", and "high" where a teacher reads it."""
    needs_teacher: ClassVar[bool] = False
    """Whether ``build`` is given one, and a configuration must name it."""
    takes_low_teacher: ClassVar[bool] = False
    """Whether its teacher may read the view "low" (``teacher_reads``)."""
    takes_several: ClassVar[bool] = False
    """Whether it can be given several teachers, by :meth:`add_teachers`."""
    takes_mixed: ClassVar[bool] = False
    """Whether it reads ``Batch.mixed``, so that patches may be mixed."""
    takes_unlabelled: ClassVar[bool] = False
    """Whether it learns from patches without a label, whose ``Batch.label`` is -1."""
    takes: ClassVar[tuple[str, ...]] = PATCHES
    """Kinds of data, of ``wsikd.slides.what_is``, the usual one first."""
    settings: ClassVar[str] = "wsikd.learn.patch.settings:RunConfig"
    """The configuration that ``Config`` adds to."""
    task: ClassVar[str] = "wsikd.learn.patch.train:PatchTask"
    """What loads the data, judges an epoch and writes the result; an ``engine.trainer.Task``."""

    differentiates_twice: bool = False
    """Whether a term is a function of slopes, which is then differentiated again."""

    student: Grader
    helpers: nn.ModuleDict
    """Trained beside the student and not part of it, e.g. projections of its channels."""
    ensemble: Ensemble | None
    """Further teachers, after :meth:`add_teachers`."""

    @classmethod
    def build(cls, config: Any, student: Any, teacher: Any) -> Self:
        """The method of a run.

        Args:
            config: checked settings: ``settings`` with the keys of ``Config``; ``terms`` are the
                names of those with a weight, ``ratio`` is the side in pixels of what the teacher's
                backbone reads over the student's.
            student: network to train.
            teacher: with ``needs_teacher`` a network of the same classes, else None; or what else
                ``task`` has to learn from.

        Raises:
            ConfigError: they do not go together.
        """
        raise NotImplementedError

    def __init__(self) -> None:
        """Without helpers."""
        super().__init__()
        self.helpers = nn.ModuleDict()
        self.ensemble = None

    def add_teachers(self, others: Sequence[nn.Module], answering: Tensor | None) -> None:
        """Give it further teachers, once it is built; for one that ``takes_several``.

        Args:
            others: frozen networks of the same classes.
            answering: bool (N, K), which of all K teachers, the first of :meth:`build` included,
                answer for each patch of the data; None: all do.

        Raises:
            ConfigError: a term is not for several teachers.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Unweighted scalar terms by name."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C) for validation."""
        return self.student(batch.views["low"])  # type: ignore[no-any-return]

    def taps_read(self) -> Sequence[str]:
        """Taps of the student that ``forward`` reads beside its logits; all, unless it says so."""
        return tuple(self.student.backbone.taps)

    def after_step(self, at: Progress) -> None:
        """Called after every optimiser step; nothing by default."""

    def param_groups(self) -> list[dict[str, list[Parameter]]]:
        """The trained parameters."""
        nets = (self.student, self.helpers)
        return [{"params": [p for net in nets for p in net.parameters() if p.requires_grad]}]


class KeptTeacher(Method):
    """A method whose teacher depends on patch and view alone, so that its answers can be kept.

    See ``wsikd.learn.patch.teacher_cache``: maps are then averaged to the student's grids.
    """

    terms: frozenset[str]
    needs_teacher = True

    def why_not_kept(self) -> tuple[str, str] | None:
        """Fault and remedy where a term reads the teacher on its own grid."""
        raise NotImplementedError

    def kept_taps(self) -> list[tuple[str, str]]:
        """The student's and the teacher's name of each map that is compared, attention's first."""
        raise NotImplementedError

    def identity(self) -> list[str]:
        """What else the answers depend on."""
        raise NotImplementedError

    def teach(self, patches: Tensor, *, box: Tensor | None = None, always: bool = False) -> Taught:
        """The teacher's answers for patches (B, 3, H, W), 0 to 255, on its own grids.

        Args:
            patches: uint8 or float.
            box: int64 (B,), index of each patch, where teachers answer for some patches each.
            always: give attention unasked where that costs next to nothing.
        """
        raise NotImplementedError
