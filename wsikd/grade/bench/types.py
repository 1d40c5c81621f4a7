"""Data types of a comparison: contenders, timed passes, the question, counted grades."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import kappas
from wsikd.core.intervals import leave_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.grade.escalation.predictor import EscalatingPredictor
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.predict import SlidePredictor
    from wsikd.grade.runs.compare_labels import SlideLabel
    from wsikd.models.files.card import GraderCard
    from wsikd.slides.listing.manifest import SlideEntry

BUDGETS = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Contender:
    """One network of the comparison."""

    name: str
    predictor: SlidePredictor | EscalatingPredictor
    macs: int
    trained: bool
    card: GraderCard | None = None


@dataclass(frozen=True)
class Run:
    """One pass of one contender over one slide.

    ``stages`` and ``wall`` are seconds of wall time, ``cpu`` seconds of user + system time.
    Memory is in MiB: ``peak_rss_mb`` is the process's peak resident memory during the pass,
    ``rise_mb`` that peak minus the resident memory at the start, ``cuda_mb`` the peak GPU memory of
    tensors, None without a GPU.
    """

    stages: dict[str, float]
    wall: float
    cpu: float
    peak_rss_mb: float
    rise_mb: float
    cuda_mb: float | None
    fields: int
    mm2: float


@dataclass(frozen=True)
class Passes:
    """Timed passes of one contender over one slide, and the map of its untimed pass."""

    runs: list[Run]
    grade_map: GradeMap


@dataclass(frozen=True)
class Question:
    """Options of a comparison beyond the timing.

    Attributes:
        budgets: shares of the fields that the teacher reads again after a single student.
        margin: how much kappa the chosen student may lose; None: no choice is made.
        label_map: classes of the slides' annotations.
        labels: a pathologist's grade of each slide, by slide name. If there are any, the choice is
            made by grade groups of slides, not by fields.
        specimen: rule for the Gleason score, see ``grade_slide``.
    """

    budgets: Sequence[float] = ()
    margin: float | None = None
    label_map: Sequence[tuple[str, str]] = ()
    labels: Mapping[str, SlideLabel] = field(default_factory=dict)
    specimen: str = "biopsy"


@dataclass(frozen=True)
class Benched:
    """A slide, each contender's passes, and its reference, see ``choice.drawn_grades``."""

    entry: SlideEntry
    passes: Sequence[Passes]
    drawn: NDArray[np.int16] | None


@dataclass(frozen=True)
class Gradings:
    """Each contender's grades against a reference, slide by slide.

    Attributes:
        tables: name -> confusion tables, int64 (groups, classes, classes), the reference class in
            rows; groups are patients where they are known, else slides.
        reference: "drawn" or "teacher" for the class of each field, "labels" for the grade group
            of each slide.
        fields: number of compared fields, or of slides if ``reference`` is "labels".
        slides: number of compared slides.
        quadratic: whether kappa has quadratic weights, as for ordered grades.
    """

    tables: Mapping[str, NDArray[np.int64]]
    reference: str
    fields: int
    slides: int
    quadratic: bool

    @property
    def groups(self) -> int:
        """Number of groups: patients where they are known, else slides."""
        return len(next(iter(self.tables.values())))

    @property
    def unit(self) -> str:
        """The unit that is graded: "slide" or "field"."""
        return "slide" if self.reference == "labels" else "field"

    def facts(self) -> dict[str, Any]:
        """Unit, reference and counts of the comparison, as JSON values."""
        return {
            "unit": self.unit,
            "reference": self.reference,
            "quadratic": self.quadratic,
            **({} if self.unit == "slide" else {"fields": self.fields}),
            "slides": self.slides,
            "groups": self.groups,
        }

    def kappa(self, name: str) -> float:
        """Kappa of a contender with the reference; NaN where it is undefined."""
        return float(kappas(self.tables[name].sum(0)[None], quadratic=self.quadratic)[0])

    def without(self, name: str) -> NDArray[np.float64]:
        """Kappa with all groups, then with groups left out in turn: float64 (1 + R,).

        The groups left out are those of ``wsikd.core.intervals.leave_out``, the same for every
        contender.
        """
        tables = np.tensordot(leave_out(self.groups), self.tables[name], 1)
        return kappas(tables, quadratic=self.quadratic)
