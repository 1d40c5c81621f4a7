"""What ``wsikd tile`` says of labels: refusals before the work, warnings, and counts by class."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from wsikd.core.errors import ConfigError
    from wsikd.slides.annotations.label_check import Cohort
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.tiles.labels import LabelCount

log = logging.getLogger(__name__)


@dataclass
class Labels:
    """The classes of a run, and the labels that its slides turn out to have.

    ``asked`` is the option that asks for labels, None where nothing does.
    """

    classes: tuple[str, ...]
    asked: str | None = None
    counts: dict[str, LabelCount] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)

    def add(self, entry: SlideEntry, count: LabelCount) -> str:
        """Count a slide; returns its patches by class, for its line."""
        self.counts[entry.name] = count
        if entry.annotation is None and entry.label is None:
            self.bare.add(entry.name)
        return self._text(count.patches, count.per_class, zeros=False)

    def finish(self, say: Callable[[str], None], *, dry: bool) -> ConfigError | None:
        """Log warnings, and report the patches of all slides by class.

        Returns:
            An error where labels were asked for and no patch has one.
        """
        from wsikd.core.errors import ConfigError

        self._warn_of_annotations()
        patches = sum(count.patches for count in self.counts.values())
        sums, slides = self._sums(), len(self.counts)
        if self.classes and slides:
            say(f"in all {self._text(patches, sums, zeros=True)}")
        if self.asked is None or not slides:
            return None
        if sum(sums):
            self._warn_of_slides()
            return None
        fault = f"no patch gets a label ({patches} patches of {slides} slide(s))"
        remedy = "check --annotations, --classes, --label-map and --min-cover"
        if not dry:
            fault += "; the stores stay, without labels"
            remedy += ", then tile again with --overwrite"
        return ConfigError(self.asked, fault, remedy)

    def _sums(self) -> tuple[int, ...]:
        columns = zip(*(count.per_class for count in self.counts.values()), strict=True)
        return tuple(map(sum, columns))

    def _text(self, patches: int, per_class: Sequence[int], *, zeros: bool) -> str:
        if not self.classes:
            return f"{patches} patches"
        parts = [
            f"{name} {n}" for name, n in zip(self.classes, per_class, strict=True) if n or zeros
        ]
        if rest := patches - sum(per_class):
            parts.append(f"unlabelled {rest}")
        return f"{patches} patches ({', '.join(parts)})" if parts else "0 patches"

    def _warn_of_annotations(self) -> None:
        from wsikd.slides.annotations.label_check import listing
        from wsikd.slides.annotations.label_map import OPTION

        odd = {name: count.remarks for name, count in self.counts.items()}
        if off := {name: r for name, r in odd.items() if r.off_slide}:
            each = listing(f"{name} ({r.off_slide} of {r.polygons})" for name, r in off.items())
            log.warning("annotated polygons wholly or mostly off the slide: %s", each)
        if unnamed := {name: r.unnamed_values for name, r in odd.items() if r.unnamed_values}:
            values = sorted({value for found in unnamed.values() for value in found})
            log.warning(
                "mask values that %s does not name are ignored: %s (%s)",
                OPTION,
                listing(map(str, values), 10),
                listing(unnamed),
            )

    def _warn_of_slides(self) -> None:
        from wsikd.slides.annotations.label_check import listing

        without = [n for n, count in self.counts.items() if count.patches and not count.labelled]
        drawn = [name for name in without if name not in self.bare]
        of = len(self.counts)
        if drawn:
            log.warning(
                "annotated or labelled, but without a labelled patch: %d of %d slides: %s "
                "(no class covers enough of a field: see --patch-size and --min-cover)",
                len(drawn), of, listing(drawn),
            )  # fmt: skip
        if bare := [name for name in without if name in self.bare]:
            log.warning(
                "neither annotation nor label: %d of %d slides: %s", len(bare), of, listing(bare)
            )


def plan_labels(
    entries: Sequence[SlideEntry],
    label_map: Sequence[tuple[str, str]],
    *,
    annotations: Path | None,
    classes: str | None,
    apart: bool,
    stall_s: float,
) -> Labels:
    """Find the classes of a run, and warn of problems.

    Args:
        entries: the slides.
        label_map: source -> class.
        annotations: what ``--annotations`` gave.
        classes: what ``--classes`` gave.
        apart: masks whose values are not known are read in a process that may crash.
        stall_s: how long that may take without progress.

    Raises:
        ConfigError: labels are asked for, and no annotation or label can give one; see
            ``wsikd.slides.annotations.label_check``.
    """
    from wsikd.slides.annotations.label_check import CLASSES, check_classes, warnings_of
    from wsikd.slides.annotations.label_map import OPTION

    wanted = _named_classes(classes) if classes else ()
    asked = {
        f"--annotations {annotations}": annotations is not None,
        CLASSES: bool(wanted),
        OPTION: bool(label_map),
        "manifest": any(entry.annotation or entry.label for entry in entries),
    }
    option = next((name for name, given in asked.items() if given), None)
    if option is None or not entries:
        return Labels(wanted)
    cohort = _survey(entries, label_map, apart=apart, stall_s=stall_s)
    cohort.asked = option
    check_classes(cohort, dict(label_map), wanted)
    for line in warnings_of(cohort, dict(label_map), wanted):
        log.warning("%s", line)
    return Labels(wanted or tuple(cohort.places), option)


def _named_classes(text: str) -> tuple[str, ...]:
    """Names of ``A, B,C`` in the order given; raises ConfigError where one is empty or double."""
    from wsikd.core.errors import ConfigError
    from wsikd.slides.annotations.label_map import plain_name

    names = tuple(plain_name(name) for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            "--classes", f"'{text}' repeats a name or names no class", "give them as A,B,C"
        )
    return names


def _survey(
    entries: Sequence[SlideEntry],
    label_map: Sequence[tuple[str, str]],
    *,
    apart: bool,
    stall_s: float,
) -> Cohort:
    """What all annotations and labels hold. Raises ConfigError for a mask without classes."""
    from wsikd.core.errors import ConfigError
    from wsikd.core.workers.process import Task, WorkerPool, run_here
    from wsikd.slides.annotations.label_check import Cohort
    from wsikd.slides.annotations.survey import reads_pixels
    from wsikd.tiles.jobs import survey_job

    cohort = Cohort(labels={entry.name: entry.label for entry in entries if entry.label})
    files = {str(entry.annotation): entry.annotation for entry in entries if entry.annotation}
    tasks = [Task(name, survey_job, (files[name], label_map)) for name in sorted(files)]
    # The decoder of a damaged mask may crash.
    apart = apart and any(reads_pixels(file, label_map) for file in files.values())
    with WorkerPool(stall_s=stall_s) as pool:
        for outcome in (pool.run if apart else run_here)(tasks):
            if isinstance(outcome.error, ConfigError):
                raise outcome.error
            if outcome.error:
                log.debug("%s", outcome.error)  # raised again when that slide's turn comes
                cohort.unread += 1
            else:
                file = files[outcome.task.name]
                cohort.files[_shown(file, files.values())] = outcome.value
    return cohort


def _shown(file: Path, files: Iterable[Path]) -> str:
    """A file's name; its path where another has the same name."""
    return file.name if sum(f.name == file.name for f in files) == 1 else str(file)
