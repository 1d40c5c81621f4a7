"""``wsikd.bench``: teacher and students over the same tissue."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.api.many import Many, One, failures_of, names_of
from wsikd.core.output.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from wsikd.core.errors import WsikdError


class Bench:
    """Cost and quality of teacher and students.

    Attributes:
        record: all figures, as ``bench.json`` holds them.
        failures: slide name -> its error.

    Examples:
        >>> import wsikd
        >>> found = wsikd.bench(["s.svs"], teacher="runs/teacher", student="runs/student",
        ...                     repeats=1, device="cpu")
        >>> found.speed_up > 0
        True
    """

    def __init__(self, record: Mapping[str, Any], failures: Mapping[str, WsikdError]) -> None:
        """Use :func:`bench`."""
        self.record, self.failures = dict(record), dict(failures)

    @property
    def speed_up(self) -> float:
        """Wall time of the teacher over that of the last student, median over the passes."""
        found = self.record["speed_up"]["wall"]
        return float(found["median"]) if found else float("nan")

    def to_markdown(self) -> str:
        """The tables that ``wsikd bench`` prints."""
        from wsikd.grade.bench.report import to_markdown

        return to_markdown(self.record)

    def save(self, folder: One) -> Path:
        """Write ``bench.json``, ``bench.md``, ``bench.png`` and ``kappa.png``; returns the folder.

        Raises:
            OutputError: files of these names are there that wsikd did not write, or the disk does
                not take them.
        """
        from wsikd.core.output.files import check_names
        from wsikd.core.output.markers import BENCH, BENCH_FILES
        from wsikd.grade.bench.compare import write_comparison

        place = Path(folder)
        check_names(place, BENCH_FILES, BENCH)
        write_comparison(self.record, place)
        return place

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the time of each stage of each network.

        Args:
            ax: matplotlib axes; new ones by default.

        Returns:
            The axes.
        """
        from wsikd.api.plots import new_axes
        from wsikd.grade.bench.report import draw_stages

        axes = ax or new_axes()
        draw_stages(self.record, axes)
        return axes

    def __repr__(self) -> str:
        slides = len(self.record["slides"])
        names = ", ".join(one["name"] for one in self.record["contenders"])
        return f"Bench({names}: {slides} slides, {self.speed_up:.3g} times as fast)"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.to_markdown())}</pre>"


def bench(
    slides: One | Many,
    *,
    teacher: One,
    student: One | Sequence[One],
    margin: float | None = None,
    budgets: Sequence[float] = (),
    annotations: One | None = None,
    repeats: int = 3,
    max_fields: int | None = None,
    tissue: str = "otsu",
    slide_mpp: float | None = None,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
) -> Bench:
    """Compare teacher and students over the same tissue, as ``wsikd bench`` does.

    Args:
        slides: a slide, folder, glob or CSV manifest, or a list of them.
        teacher: run folder or bundle.
        student: the same of the student, or a list of several.
        margin: kappa that may be lost: the cheapest student that loses no more is named.
        budgets: with one student: shares of its fields that the teacher reads again, 0 to 1.
        annotations: a file, or a folder of files named after the slides, for kappa against them.
        repeats: timed passes of each over each slide.
        max_fields: read an even sample of so many fields a slide.
        tissue: "otsu", "all", another masker, your own mask, or a folder of masks.
        slide_mpp: um per level-0 pixel, for slides without a resolution in manifest and file.
        device: "auto", "cpu" or "cuda:0".
        engine: "auto", "torch", "compile", "onnx" or "openvino".
        threads: reading threads; default one a core.

    Returns:
        The comparison.

    Raises:
        ConfigError: teacher and student are swapped, or a setting is wrong.
        BundleError: a network is missing or damaged.
        WsikdError: no slide could be read; it is the error of the first.

    Examples:
        >>> import wsikd
        >>> found = wsikd.bench("s.svs", teacher="runs/teacher", student="runs/student",
        ...                     repeats=1, device="cpu")
        >>> found.failures
        {}
    """
    from wsikd.core.errors import ConfigError, NoSlidesError
    from wsikd.core.workers.memory import keep_freed
    from wsikd.grade.bench.compare import open_students, open_trained
    from wsikd.grade.bench.run import run_bench
    from wsikd.grade.bench.types import BUDGETS, Question
    from wsikd.grade.predict import PredictSettings
    from wsikd.models.files.peek import check_networks
    from wsikd.slides.listing.inputs import check_slides, existing, own_tissue
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads

    students = [Path(name) for name in names_of(student)]
    if budgets and len(students) > 1:
        raise ConfigError("budgets", "goes with one student", "give one student")
    check_networks(Path(teacher), students)
    inputs = names_of(slides)
    check_slides(inputs, "wsikd.bench")
    keep_freed()
    settings = PredictSettings(
        tissue=tissue_method(tissue),
        workers=use_threads(threads),
        max_fields=max_fields,
        engine=engine,
    )
    batch = Batch(None)
    drawn = None if annotations is None else Path(annotations)
    entries = existing(find_slides(inputs, slide_mpp=slide_mpp, annotations=drawn), batch)
    networks = (
        open_trained("teacher", Path(teacher), device, settings),
        *open_students(tuple(students), device, settings),
    )
    record = run_bench(
        own_tissue(tissue, entries, batch),
        *networks,
        question=Question(tuple(budgets) or BUDGETS, margin),
        repeats=repeats,
        on_failure=batch.failed,
    )
    if record is None:
        for error in failures_of(batch).values():
            raise error
        raise NoSlidesError(", ".join(inputs), "no slide to compare", "give others")
    batch.keep_failures(logging.WARNING)
    return Bench(record, failures_of(batch))
