"""``wsikd.load_student`` and the student that it returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from wsikd.api.grademap import GradeMap
from wsikd.api.many import text_of
from wsikd.api.slide import Slide
from wsikd.core.errors import ConfigError
from wsikd.models.files.peek import peek_grader
from wsikd.slides.listing.entry import SlideEntry

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    from wsikd.api.many import One
    from wsikd.grade.predict import SlidePredictor
    from wsikd.models.files.bundle import StudentBundle


class ReadOptions(TypedDict, total=False):
    """How a slide is read. Missing options have the defaults of ``wsikd infer``.

    Attributes:
        tissue: "otsu", "all", or another masker.
        min_tissue: smallest share of tissue in a field, 0 to 1.
        stride_px: distance of fields in px at the student's resolution; default its patch.
        exact: decode JPEG in full, also where the slide has no level near that resolution.
        batch_size: fields in a forward pass.
        max_fields: read an even sample of so many fields.
    """

    tissue: str
    min_tissue: float
    stride_px: int | None
    exact: bool
    batch_size: int
    max_fields: int | None


class Student:
    """A network that grades tissue, with its card; a teacher is one too.

    The weights are read at the first prediction.

    Attributes:
        path: its bundle: ``model.safetensors`` and ``card.json``.
        device: "auto", "cpu" or "cuda:0".
        engine: "auto", "torch", "compile", "onnx" or "openvino".
        precision: "auto", "fp32", "bf16" or "fp16".

    Examples:
        >>> import wsikd
        >>> student = wsikd.load_student("runs/student")
        >>> student.classes, student.mpp, student.patch_px
        (('NC', 'G3', 'G4', 'G5'), 4.0, 64)
    """

    def __init__(
        self,
        bundle: StudentBundle,
        *,
        device: str,
        engine: str,
        precision: str,
        threads: int | None,
    ) -> None:
        """Use :func:`load_student`."""
        self._bundle = bundle
        self.path = bundle.path
        self.device, self.engine, self.precision = device, engine, precision
        self._threads = threads
        self._ready: SlidePredictor | None = None

    @property
    def card(self) -> dict[str, Any]:
        """The contents of its card: JSON values."""
        return dict(self._bundle.card.record())

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class, in the order of the network's outputs."""
        return self._bundle.spec.classes

    @property
    def mpp(self) -> float:
        """Resolution that it reads, in um per pixel."""
        return self._bundle.spec.mpp

    @property
    def patch_px(self) -> int:
        """Side of its patch in px at that resolution."""
        return self._bundle.spec.patch_px

    @property
    def temperature(self) -> float | None:
        """The divisor of its logits; None if it was not fitted on validation."""
        return self._bundle.temperature

    @property
    def min_area_mm2(self) -> float:
        """Least area of cancer in mm2, all patterns together."""
        return self._bundle.min_area_mm2

    def __fspath__(self) -> str:
        return str(self.path)

    def predict(
        self,
        slide: One | Slide,
        *,
        specimen: str = "biopsy",
        min_area_mm2: float | None = None,
        min_pattern: float | None = None,
        sensitivity: float = 0.95,
        minor_4: str = "secondary",
        minor_5: str = "secondary",
        grade_anyway: bool = False,
        slide_mpp: float | None = None,
        mask: One | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Unpack[ReadOptions],
    ) -> GradeMap:
        """Grade a slide.

        The probabilities are calibrated with the card's temperature, as those of ``wsikd infer``.

        Args:
            slide: a slide file or folder, or an open slide, which stays open.
            specimen: rule for the Gleason score, "biopsy" or "prostatectomy".
            min_area_mm2: least area of cancer in mm2, all patterns together; default the student's
                thresholds.
            min_pattern: least share of the cancer for a pattern to count; default the student's.
            sensitivity: share of slides with cancer that the student's thresholds must find.
            minor_4: "secondary" or "minor", see :class:`wsikd.grade.gleason_rules.Rules`.
            minor_5: the same of a pattern 5.
            grade_anyway: give a score also where the student's guard withholds it, because the
                slide differs from the training.
            slide_mpp: um per level-0 pixel, for a file without a resolution.
            mask: your own tissue mask: an image of the whole slide, or GeoJSON.
            on_progress: called with (fields done, fields in all).
            options: see :class:`ReadOptions`.

        Returns:
            The grade map.

        Raises:
            MissingMppError: the resolution is not known.
            SlideError, RegionReadError: the slide cannot be read.
            BundleError: the weights are damaged.
            ConfigError: an option is not known.

        Examples:
            >>> import wsikd
            >>> student = wsikd.load_student("runs/student")
            >>> student.predict("s.svs")
            GradeMap('s', 3 x 4 cells of 256 um, 12 fields, calibrated)
        """
        from contextlib import ExitStack

        from wsikd.core.registry import nearest
        from wsikd.grade.domain_shift import likeness, trained_on
        from wsikd.grade.guard_verdict import beyond, guard_columns, watches
        from wsikd.grade.student_rules import Asked, rules_for
        from wsikd.grade.verdict import UNLIKE
        from wsikd.slides.appearance import Watcher
        from wsikd.slides.base import FILLS_GAPS
        from wsikd.slides.listing.manifest import open_entry

        for name in options:
            if name not in ReadOptions.__annotations__:
                raise ConfigError(
                    name, "is not an option", nearest(name, ReadOptions.__annotations__)
                )
        asked = Asked(specimen, min_area_mm2, min_pattern, sensitivity, minor_4, minor_5)
        rules = rules_for(self._bundle.card, asked)
        entry = _entry(slide)
        entry = replace(entry, mask=None if mask is None else Path(mask))
        if slide_mpp is not None:
            entry = replace(entry, mpp=slide_mpp, mpp_source=FILLS_GAPS)
        predictor, guard = self._predictor(entry, options), self._bundle.guard
        reading, training = guard.reading() if guard else None, trained_on(self._bundle)
        watcher = Watcher() if training else None
        with ExitStack() as stack:
            if isinstance(slide, Slide) and slide_mpp is None:
                opened = slide.reader
            else:
                opened = stack.enter_context(open_entry(entry))
            found = predictor.predict(
                opened, mask_file=entry.mask, on_progress=on_progress,
                watch=watches(reading, watcher),
            )  # fmt: skip
        withheld = UNLIKE if beyond(reading) and not grade_anyway else None
        far = likeness(entry.name, training, watcher) if training else {}
        return GradeMap.of(
            found.calibrated(self.temperature), rules=rules, entry=entry,
            errors=self._bundle.card.share_errors, withheld=withheld,
            guard=far | guard_columns(entry.name, reading, anyway=grade_anyway),
        )  # fmt: skip

    def _predictor(self, entry: SlideEntry, options: ReadOptions) -> SlidePredictor:
        """The predictor with these options; network and engine are opened once."""
        from wsikd.grade.predict import PredictSettings, SlidePredictor
        from wsikd.grade.runs.jobs import open_predictor
        from wsikd.grade.runs.resume_engine import settle
        from wsikd.slides.threads import use_threads

        settings = PredictSettings(
            workers=use_threads(self._threads),
            engine=self.engine,
            precision=self.precision,
            exact=False,
        )
        settings = replace(settings, **options)
        if self._ready is None:
            _, first = open_predictor(self.path, self.device, settings)
            settle(first, [entry], None, None)
            self._ready = first
        ready = self._ready
        computes = ready.settings
        settings = replace(settings, engine=computes.engine, precision=computes.precision)
        found = SlidePredictor(ready.network, ready.spec, device=ready.place, settings=settings)
        found.engine = ready.engine
        found.settle(computes.engine, computes.precision)
        return found

    def __repr__(self) -> str:
        from wsikd.models.files.facts import main_facts

        return f"Student('{self._name}', {', '.join(main_facts(self._bundle).values())})"

    def _repr_html_(self) -> str:
        from wsikd.models.files.facts import facts
        from wsikd.slides.html import card

        return card(f"Student {self._name}", facts(self._bundle))

    @property
    def _name(self) -> str:
        return self.path.parent.name if self.path.name == "student" else self.path.name


def _entry(slide: One | Slide) -> SlideEntry:
    if not isinstance(slide, Slide):
        from wsikd.slides.file_format import slide_stem

        path = Path(text_of(slide, "wsikd.infer takes several slides"))
        return SlideEntry(path, slide_stem(path))
    info = slide.info
    mpp = info.mpp
    return SlideEntry(
        slide.path,
        slide.name,
        mpp=mpp.x if mpp and mpp.source == "slide_mpp" else None,
        mpp_source="slide_mpp",
        series=info.series,
        accept_grey=info.accept_grey,
    )


def load_student(
    path: One,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Student:
    """Open a student or a teacher. The weights are read, and checked, at the first prediction.

    Args:
        path: a run folder of ``wsikd distill``, or a bundle (``model.safetensors``, ``card.json``).
        device: "auto", "cpu" or "cuda:0".
        engine: "auto" (OpenVINO on a CPU, PyTorch on a GPU), "torch", "compile", "onnx",
            "openvino".
        precision: "fp32", "bf16", "fp16" (GPUs only), or "auto": bf16 where the processor has it,
            fp16 on other GPUs, if fields of the first slide get the classes that they get in fp32.
        threads: reading threads; default one a core.

    Returns:
        The student.

    Raises:
        ConfigError: ``path`` holds something else.
        BundleError: it is missing, unfinished or damaged.

    Examples:
        >>> import wsikd
        >>> wsikd.load_student("runs/student").classes
        ('NC', 'G3', 'G4', 'G5')
    """
    bundle = peek_grader(Path(path), "load_student")
    return Student(bundle, device=device, engine=engine, precision=precision, threads=threads)
