"""Choice of the cheapest student that grades as well as its teacher.

The answer to "which magnification may I use" is a non-inferiority test (S. Wellek, *Testing
Statistical Hypotheses of Equivalence and Noninferiority*, CRC Press 2010): a student passes where
the lower bound of kappa(student) - kappa(teacher) is above -margin, see
:mod:`wsikd.grade.bench.margin_bound`. The comparison is paired: both kappas are computed on the
same slides. Students are tested from the highest magnification down, and testing ends with the
first that fails: in such a fixed sequence each test keeps its full level (P. Westfall, A. Krishen,
"Optimally weighted, fixed sequence and gatekeeper multiple testing procedures", J. Stat. Plan.
Inference 99, 2001).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion
from wsikd.core.classes import pattern_of
from wsikd.core.intervals import MIN_GROUPS, difference_interval, interval
from wsikd.core.leak_hashes import saw_scan
from wsikd.core.output.looks import Part
from wsikd.grade.bench import sequence
from wsikd.grade.bench.margin_bound import LEVELS, lower_bound
from wsikd.grade.bench.slide_grades import gather_slides
from wsikd.grade.bench.types import Gradings
from wsikd.grade.escalation.predictor import EscalatingPredictor
from wsikd.slides.annotations.read import read_annotation
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.grade.bench.types import Benched, Contender, Question
    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)
MIN_COVER = 0.5


def trade(
    everyone: Sequence[Contender],
    question: Question,
    done: Sequence[Benched],
    totals: Mapping[str, Any],
    maps: Mapping[str, Sequence[GradeMap]],
) -> dict[str, Any]:
    """Compute cost and kappa of every contender, and choose a student if a margin is given.

    Args:
        everyone: the teacher, its students, then students that ask the teacher.
        question: budgets, margin and labels.
        done: the timed slides.
        totals: times of each contender, by name.
        maps: grade maps of each contender, slide by slide.

    Returns:
        Entries of the record: ``compared``, ``points`` (cheapest first), ``choice``, ``seen``, and
        with labels of slides ``compared_slides``.
    """
    teacher = everyone[0].name
    alone = [c for c in everyone if not isinstance(c.predictor, EscalatingPredictor)]
    gradings = gather(maps, [s.drawn for s in done], [s.entry for s in done], teacher)
    slides, extra = gather_slides(everyone, question, done, maps) if question.labels else (None, {})
    points = []
    for one in everyone:
        budget, share, kind = None, None, "teacher" if one.name == teacher else "student"
        if isinstance(one.predictor, EscalatingPredictor):
            kind, budget = "escalated", one.predictor.rule.budget
            asked = (m.escalated_hw for m in maps[one.name])
            again = sum(int(a.sum()) for a in asked if a is not None)
            share = again / max(totals[one.name]["fields"], 1)
        cpu = totals[one.name]["cpu_s"]
        points.append({
            "name": one.name,
            "kind": kind,
            "magnification": 10 / one.predictor.spec.mpp,
            "macs": one.macs,
            "budget": budget,
            "share": share,
            "wall_s": totals[one.name]["wall_s"],
            "cpu_s": cpu,
            "cpu_share": cpu["median"] / max(totals[teacher]["cpu_s"]["median"], 1e-9),
            **graded(gradings, one.name),
            **({f"slide_{k}": v for k, v in graded(slides, one.name).items()} if slides else {}),
        })  # fmt: skip
    seen = seen_slides({c.name: c.card and c.card.seen for c in alone}, maps[teacher])
    choice = None
    if question.margin is None:
        part = Part.of(m.slide.fingerprint for m in maps[teacher])
        sequence.keep_without(part, everyone[0].card.sha256 if everyone[0].card else teacher)
    else:
        choice = _answer(alone, slides or gradings, question.margin, seen, maps[teacher])
    return {
        "compared": gradings.facts(),
        **({"compared_slides": {**slides.facts(), **extra}} if slides else {}),
        "points": sorted(points, key=lambda p: p["cpu_s"]["median"]),
        "choice": choice,
        "seen": seen,
    }


def _answer(
    alone: Sequence[Contender],
    gradings: Gradings,
    margin: float,
    seen: Mapping[str, dict[str, str] | None],
    maps: Sequence[GradeMap],
) -> dict[str, Any]:
    """Choose, unless the networks learnt from the slides or an earlier call ended the sequence."""
    part = Part.of(m.slide.fingerprint for m in maps)
    networks = [c.card.sha256 if c.card else c.name for c in alone]
    asked = sequence.ask(part, margin, gradings.unit, networks)
    before, seen_times = sequence.asked_before(part), sequence.seen_before(part)
    if said := sequence.seen_text(seen_times):
        log.warning("%s", said)
    names = [c.name for c in alone]
    choice = choose(
        gradings, names[0], names[1:], margin, obstacle=sequence.obstacle(seen, before, asked)
    )
    sequence.keep(part, asked, choice)
    kept = ("time", "margin", "unit", "failed")
    return choice | {
        "earlier": [{k: look.get(k) for k in kept} for look in before],
        "seen_without_margin": seen_times,
    }


def drawn_grades(
    grade_map: GradeMap, entry: SlideEntry, label_map: Sequence[tuple[str, str]] = ()
) -> NDArray[np.int16] | None:
    """The reference class of each cell of a map: the annotation's, else the slide's label.

    Args:
        grade_map: a map of the slide; only its grid and its valid cells are used.
        entry: the slide, with its annotation or label.
        label_map: classes of the annotation, see ``read_annotation``.

    Returns:
        int16 (rows, columns), -1 where there is no reference; None if the slide has none at all.

    Raises:
        AnnotationError, ConfigError, SlideError: as ``read_annotation`` does.
    """
    found = np.full(grade_map.valid_hw.shape, -1, np.int16)
    if entry.annotation is not None:
        with open_entry(entry) as slide:
            annotation = read_annotation(entry.annotation, slide, label_map)
        if annotation.names:
            label, _ = annotation.label(grade_map.boxes(), grade_map.classes, min_cover=MIN_COVER)
            found[grade_map.valid_hw] = label
            return found
    if entry.label in grade_map.classes:
        found[grade_map.valid_hw] = grade_map.classes.index(entry.label)
        return found
    return None


def gather(
    maps: Mapping[str, Sequence[GradeMap]],
    drawn: Sequence[NDArray[np.int16] | None],
    entries: Sequence[SlideEntry],
    teacher: str,
) -> Gradings:
    """Compare maps field by field with the annotations, or with the teacher's map without any.

    Args:
        maps: grade maps of each contender, slide by slide.
        drawn: reference classes of each slide, from :func:`drawn_grades`.
        entries: the slides.
        teacher: name of the teacher in ``maps``.
    """
    known = any(grades is not None for grades in drawn)
    classes = maps[teacher][0].classes
    groups: dict[str, int] = {}
    place, each = [], []
    for number, entry in enumerate(entries):
        truth = drawn[number] if known else maps[teacher][number].grade_hw
        if truth is None:
            continue
        both = truth >= 0
        for own in maps.values():
            both = both & own[number].valid_hw
        name = f"slide {entry.name}" if entry.patient is None else f"patient {entry.patient}"
        place.append(groups.setdefault(name, len(groups)))
        each.append(
            [confusion(truth[both], own[number].grade_hw[both], len(classes))
             for own in maps.values()]
        )  # fmt: skip
    counts = np.zeros((len(maps), len(groups), len(classes), len(classes)), np.int64)
    for index, tables in zip(place, each, strict=True):
        counts[:, index] += np.stack(tables)
    return Gradings(
        dict(zip(maps, counts, strict=True)),
        "drawn" if known else "teacher",
        int(counts[0].sum()),
        len(place),
        all(pattern_of(name) is not None for name in classes),
    )


def graded(gradings: Gradings, name: str) -> dict[str, Any]:
    """Kappa of a contender and its 95 % interval over groups, as JSON values."""
    value = gradings.kappa(name)
    span = interval(gradings.without(name), "kappa")
    return {
        "kappa": value if math.isfinite(value) else None,
        "interval": span and [round(v, 6) for v in span],
    }


def choose(
    gradings: Gradings,
    teacher: str,
    students: Sequence[str],
    margin: float,
    *,
    obstacle: str | None = None,
) -> dict[str, Any]:
    """Choose the cheapest student that is not inferior to its teacher by a margin of kappa.

    Args:
        gradings: grades of the teacher and all students.
        teacher: its name.
        students: names in the order of the tests, from the highest magnification down.
        margin: how much kappa a student may lose.
        obstacle: reason to choose none, whatever the figures are.

    Returns:
        JSON values. ``tests`` has for each student its difference from the teacher, the 95 %
        interval of the difference, the one-sided lower bound, and ``not_inferior``; this is None
        for students after the first failure, which are not tested. ``chosen`` is the last that
        passed, or None. If the first student has no bound, none is chosen, and ``refused`` gives
        the reason.
    """
    base = gradings.without(teacher)
    tests: list[dict[str, Any]] = []
    chosen, open_ = None, True
    for name in students:
        own = gradings.without(name)
        difference = float(own[0] - base[0])
        lower = lower_bound(gradings, name, teacher)
        span = difference_interval(own, base, "kappa")
        passed = lower is not None and lower > -margin
        tests.append({
            "name": name,
            "difference": difference if math.isfinite(difference) else None,
            "interval": span and [round(v, 6) for v in span],
            "lower": lower,
            "not_inferior": passed if open_ else None,
        })  # fmt: skip
        open_ = open_ and passed
        chosen = name if open_ else chosen
    refused = obstacle
    if tests and tests[0]["lower"] is None:
        refused = refused or _no_bound(gradings)
    if refused:
        chosen = None
        tests = [{**test, "not_inferior": None} for test in tests]
        log.warning("--margin %g: %s", margin, refused)
    return {
        "margin": margin,
        "level": LEVELS[gradings.unit],
        "unit": gradings.unit,
        "groups": gradings.groups,
        "few": gradings.groups < MIN_GROUPS,
        "tests": tests,
        "chosen": chosen,
        "refused": refused,
    }


def _no_bound(gradings: Gradings) -> str:
    """The reason why a difference of kappas has no bound, and the remedy."""
    why = (
        f"{gradings.groups} slide(s) or patient(s) with a reference are too few for a bound"
        if gradings.groups < MIN_GROUPS
        else f"kappa is undefined without one of {gradings.groups} slides or patients, which are "
        "too much alike"
    )
    return f"no conclusion: {why}; compare at least {MIN_GROUPS} of several grades"


def seen_slides(
    records: Mapping[str, Any], maps: Sequence[GradeMap]
) -> dict[str, dict[str, str] | None]:
    """Find slides that each network or its teacher learnt from, and warn of them.

    Args:
        records: the entry ``seen`` of each network's card, by name.
        maps: one grade map of each slide.

    Returns:
        Name -> {slide: part of the data set}; None if the card does not list its training data.
    """
    found: dict[str, dict[str, str] | None] = {}
    for name, record in records.items():
        try:
            parts = {m.slide.name: saw_scan(record, m.slide.fingerprint) for m in maps}
        except (LookupError, TypeError):
            log.warning(
                "the card of %s does not list its training data: leakage is not checked", name
            )
            found[name] = None
            continue
        found[name] = {slide: part for slide, part in parts.items() if part}
        if seen := found[name]:
            log.warning(
                "%s was trained on %d of the slides (%s): its kappa is too high",
                name, len(seen), ", ".join(list(seen)[:5]) + (", ..." if len(seen) > 5 else ""),
            )  # fmt: skip
    return found
