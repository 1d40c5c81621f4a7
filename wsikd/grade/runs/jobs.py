"""Functions that worker processes call to grade one slide of many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import BundleError
from wsikd.core.workers.memory import keep_freed
from wsikd.core.workers.worker import Beside
from wsikd.grade.engines import Network
from wsikd.grade.engines.choose import check_names, device_name, starts_from_graph
from wsikd.grade.engines.graph import can_make
from wsikd.grade.escalation import predictor as escalate
from wsikd.grade.escalation.rule import AGREEMENT, BUDGET, rule_of
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs.prefetch import Ahead
from wsikd.grade.runs.results import ResultSettings, begin_slide
from wsikd.grade.runs.resume_engine import Settled, compute_as, settle, started_with
from wsikd.models.files.bundle import StudentBundle, load_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.core.shares import ShareErrors
    from wsikd.slides.appearance import Appearance
    from wsikd.slides.listing.manifest import SlideEntry

    Report = Callable[..., None]


@dataclass(frozen=True)
class Escalation:
    """The teacher for fields that the student is unsure of, and its rule, see ``rule_of``."""

    teacher: Path
    budget: float = BUDGET
    agreement: float = AGREEMENT
    kappa: float | None = None


@dataclass(frozen=True)
class Grading:
    """The network that grades, and its settings."""

    model: Path
    device: str
    settings: PredictSettings
    escalation: Escalation | None = None


@dataclass(frozen=True)
class Loaded:
    """The bundles that grade, with unread weights, and the escalation rule in words."""

    student: StudentBundle
    teacher: StudentBundle | None = None
    rule: str = ""


@dataclass(frozen=True)
class InferJob:
    """A slide ``entry`` to grade into ``out/<name>/``.

    ``digest`` is the SHA-256 of the expected weights, ``settled`` the engine that
    :func:`settle_job` chose for the folder, ``ahead`` the next slide. With ``beside``, the files
    may be written while the next slide is computed.
    """

    entry: SlideEntry
    grading: Grading
    digest: str
    out: Path
    settings: ResultSettings
    trained_on: Appearance | None = None
    errors: ShareErrors | None = None
    overwrite: bool = False
    settled: Settled | None = None
    ahead: SlideEntry | None = None
    beside: bool = False


def load_job(report: Report, grading: Grading) -> Loaded:
    """Prepare the networks.

    Raises:
        BundleError: a bundle does not match its card.
        ConfigError: the settings do not fit, or student and teacher do not fit each other.
    """
    del report
    keep_freed()
    _one_thread_each()
    _ready.cache_clear()  # the files may have changed since an earlier command of this process
    return _ready(grading)[0]


def settle_job(
    report: Report,
    grading: Grading,
    entries: Sequence[SlideEntry],
    out: Path | None,
) -> Settled:
    """Choose the engine and precision for a folder of results, see :func:`settle`.

    Args:
        report: not used.
        grading: the network and its settings.
        entries: the slides to grade.
        out: folder of results whose engine is kept; None: choose without it.

    Raises:
        ConfigError: the engine is not available.
    """
    del report
    keep_freed()
    _one_thread_each()
    loaded, predictor = _ready(grading)
    teacher = loaded.teacher.sha256[:16] if loaded.teacher else None
    student, asked = loaded.student.sha256[:16], grading.settings
    begun = started_with(out, student, teacher, asked) if out else None
    return settle(predictor, entries, begun, out)


def infer_job(report: Report, job: InferJob) -> tuple[dict[str, Any], bool] | Beside:
    """Grade one slide, and open the next one meanwhile.

    Args:
        report: called with (fields done, fields in all).
        job: the slide and its settings.

    Returns:
        The slide's row and whether it was made now, see :func:`begin_slide`. With ``beside``, the
        remaining work, which returns them.

    Raises:
        WsikdError: as :func:`load_job` and :func:`begin_slide`.
    """
    keep_freed()  # needed once per process, and this one may be new
    _one_thread_each()
    loaded, predictor = _ready(job.grading)
    if loaded.student.sha256 != job.digest:
        raise BundleError(job.grading.model, "has changed in the meantime", "run the command again")
    if job.settled:
        compute_as(predictor, job.settled)
    opened, asked = _ahead.take(job.entry), job.grading.escalation
    if job.ahead:
        new = job.overwrite or not (job.out / job.ahead.name).exists()
        _ahead.begin(job.ahead, predictor.prepare if new else None)
    write = begin_slide(
        predictor,
        job.entry,
        job.out,
        job.settings,
        student=job.digest[:16],
        called=loaded.student.card.called,
        trained_on=job.trained_on,
        errors=job.errors,
        overwrite=job.overwrite,
        opened=opened,
        on_progress=report,
        inputs=[job.grading.model, *([asked.teacher] if asked else [])],
    )
    return Beside(write) if job.beside else write()


_ahead = Ahead()


@lru_cache(maxsize=1)
def _ready(grading: Grading) -> tuple[Loaded, SlidePredictor | escalate.EscalatingPredictor]:
    check_names(grading.settings.engine, grading.settings.precision)
    bundle, student = open_predictor(grading.model, grading.device, grading.settings)
    asked = grading.escalation
    if asked is None:
        return Loaded(bundle), student
    teacher_bundle = _load(asked.teacher, grading.device, grading.settings)
    escalate.check_comparable(teacher_bundle.spec, bundle.spec, "--escalate")
    rule = rule_of(
        bundle, teacher_bundle, budget=asked.budget, agreement=asked.agreement, kappa=asked.kappa
    )
    settings = escalate.teacher_settings(grading.settings, bundle.spec, teacher_bundle.spec)
    _, teacher = open_predictor(asked.teacher, grading.device, settings)
    both = escalate.EscalatingPredictor(
        student, teacher, rule, teacher_sha256=teacher_bundle.sha256
    )
    return Loaded(bundle, teacher_bundle, rule.text), both


def _load(path: Path, device: str, settings: PredictSettings) -> StudentBundle:
    """Load a bundle, without PyTorch if its graph is in the cache."""
    place = device_name(device)

    def known(bundle: StudentBundle) -> bool:
        network = _network(bundle)
        if starts_from_graph(network, settings.engine, place):
            return True
        can_make(network)
        return False

    return load_bundle(path, known=known)


def open_predictor(
    path: Path, device: str, settings: PredictSettings
) -> tuple[StudentBundle, SlidePredictor]:
    """Open a network and its predictor, without PyTorch if its graph is in the cache.

    Args:
        path: bundle or run folder.
        device: "auto", "cpu" or "cuda:0".
        settings: how slides are read.

    Raises:
        BundleError: the bundle does not match its card.
        ConfigError: the settings do not fit.
    """
    bundle = _load(path, device, settings)
    predictor = SlidePredictor(
        _network(bundle), bundle.spec, device=device, settings=settings, guard=bundle.guard
    )
    return StudentBundle(bundle.path, bundle.spec, bundle.card), predictor


def _network(bundle: StudentBundle) -> Network:
    return Network(bundle.network, bundle.spec.patch_px, bundle.key, bundle.path)


def _one_thread_each() -> None:
    """Limit OpenCV to one thread per calling thread."""
    import cv2

    cv2.setNumThreads(1)
