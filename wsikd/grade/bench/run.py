"""Teacher against students over the same tissue: time by stage, throughput, agreement.

All run in turn (teacher, student, teacher, student, ...), so that a drift of the machine's speed
affects them equally; medians are compared. A run covers a whole slide: open, find tissue, read and
decode, resize, forward, write. Reading overlaps computing, so the stages may add up to more than
the total.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil
import torch

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.agreement import confusion, kappa
from wsikd.core.faults import explain
from wsikd.core.timing import StageClock
from wsikd.grade.bench.choice import drawn_grades, trade
from wsikd.grade.bench.slide_grades import check_labels
from wsikd.grade.bench.types import Benched, Contender, Passes, Question, Run
from wsikd.grade.escalation.predictor import EscalatingPredictor, check_comparable
from wsikd.grade.escalation.rule import Rule
from wsikd.grade.exports import write_all
from wsikd.grade.guard_verdict import guard_text
from wsikd.grade.runs.results import ACCEPTED
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsikd.core.errors import WsikdError
    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)
STAGES = ("open", "tissue", "read", "resize", "forward", "write")


def run_bench(
    entries: Sequence[SlideEntry],
    teacher: Contender,
    *students: Contender,
    question: Question | None = None,
    repeats: int = 3,
    on_progress: Callable[[int, int], None] | None = None,
    on_failure: Callable[[SlideEntry, WsikdError], None] | None = None,
) -> dict[str, Any] | None:
    """Time all contenders on every slide and compare their maps.

    Args:
        entries: the slides; kappa is computed with their annotations or labels, if there are any.
        teacher: the network at the higher magnification.
        students: the networks at lower ones, the highest first.
        question: budgets, margin and labels.
        repeats: timed passes of each, after one that is not timed.
        on_progress: called with (slides done, slides in all).
        on_failure: called with a slide that fails, which is then left out; an unexpected error is
            reported as a WsikdError. Without it, the error is raised.

    Returns:
        A record ready for JSON: environment, contenders, slides, totals, ratios, agreement, points
        of cost and kappa, and the choice; None if no slide could be read.

    Raises:
        SlideError, MissingMppError, RegionReadError: from the slides.
        ConfigError: the contenders read different fields, or no label is for one of the slides.
    """
    question = question or Question()
    for student in students:
        check_comparable(teacher.predictor.spec, student.predictor.spec)
    check_labels(question, teacher.predictor.spec.classes, entries)
    nets = (teacher, *students)
    asked = [_asking(teacher, students[0], b) for b in question.budgets] if len(nets) == 2 else []
    everyone = (*nets, *asked)
    done: list[Benched] = []
    for number, entry in enumerate(entries):
        try:
            passes = _bench_slide(everyone, entry, repeats)
            done.append(
                Benched(entry, passes, drawn_grades(passes[0].grade_map, entry, question.label_map))
            )
        except Exception as error:
            if on_failure is None:
                raise
            log.debug("%s", entry.path, exc_info=True)
            on_failure(entry, explain(entry.path.name, error))
        if on_progress:
            on_progress(number + 1, len(entries))
    if not done:
        return None
    runs = {c.name: [s.passes[i].runs for s in done] for i, c in enumerate(everyone)}
    maps = {c.name: [s.passes[i].grade_map for s in done] for i, c in enumerate(everyone)}
    record: dict[str, Any] = {
        "wsikd": __version__,
        "note": RESEARCH_USE,
        "environment": environment(teacher.predictor.device),
        "repeats": repeats,
        "contenders": [_contender(c) for c in nets],
        "slides": [
            {
                "name": s.entry.name,
                **({ACCEPTED: True} if s.entry.accept_grey else {}),  # as in results of infer
                **{c.name: _slide(runs[c.name][i]) for c in everyone},
            }
            for i, s in enumerate(done)
        ],
        "totals": {c.name: _totals(runs[c.name]) for c in everyone},
    }
    record["speed_up"] = _speed_up(runs[teacher.name], runs[students[-1].name])
    if all(c.trained for c in nets):
        record["agreement"] = agreement(maps[teacher.name], maps[students[-1].name])
        record |= trade(everyone, question, done, record["totals"], maps)
    return record


def _asking(teacher: Contender, student: Contender, budget: float) -> Contender:
    """The student with a teacher that reads the most uncertain share ``budget`` of the fields."""
    assert not isinstance(student.predictor, EscalatingPredictor)
    assert not isinstance(teacher.predictor, EscalatingPredictor)
    temperature = None if student.card is None else student.card.temperature
    predictor = EscalatingPredictor(
        student.predictor, teacher.predictor, Rule(budget, None, temperature)
    )
    macs = round(student.macs + budget * teacher.macs)
    return Contender(
        f"{student.name} + {budget:.3g}", predictor, macs, trained=True, card=student.card
    )


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the libraries of the measurement, without host name."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "cache": "warm: one pass over each slide is not timed",
    }


def agreement(teacher: Sequence[GradeMap], student: Sequence[GradeMap]) -> dict[str, Any]:
    """Agreement of the student's maps with the teacher's, over all fields that both read.

    Returns:
        kappa (unweighted) and kappa_quadratic (Cohen 1960, 1968), agreement in all, and by the
        teacher's class; fields compared. Undefined values are None, such as all over no field.
    """
    first, second = [], []
    for t, s in zip(teacher, student, strict=True):
        both = t.valid_hw & s.valid_hw
        first.append(t.grade_hw[both])
        second.append(s.grade_hw[both])
    a, b = np.concatenate(first), np.concatenate(second)
    classes = teacher[0].classes
    table = confusion(a, b, len(classes))
    plain, quadratic = (kappa(table, quadratic=weighted) for weighted in (False, True))
    return {
        "fields": len(a),
        "kappa": plain if math.isfinite(plain) else None,
        "kappa_quadratic": quadratic if math.isfinite(quadratic) else None,
        "same": float((a == b).mean()) if len(a) else None,
        "by_class": {
            name: float(table[k, k] / table[k].sum()) if table[k].sum() else None
            for k, name in enumerate(classes)
        },
        "confusion": table.tolist(),
        "classes": list(classes),
    }


def _bench_slide(pair: Sequence[Contender], entry: SlideEntry, repeats: int) -> list[Passes]:
    first = [Passes([], _one_pass(contender, entry)[1]) for contender in pair]
    for _ in range(repeats):
        for contender, passes in zip(pair, first, strict=True):
            passes.runs.append(_one_pass(contender, entry)[0])
    return first


def _one_pass(contender: Contender, entry: SlideEntry) -> tuple[Run, GradeMap]:
    clock = StageClock()
    predictor = contender.predictor
    with _PeakMemory(predictor.device) as memory, tempfile.TemporaryDirectory() as folder:
        cpu, begun = time.process_time(), time.perf_counter()
        with clock("open"):
            slide = open_entry(entry)
        with slide:
            grade_map = predictor.predict(slide, mask_file=entry.mask, clock=clock)
            with clock("write"):
                write_all(grade_map, Path(folder), slide=slide)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    fields = int(grade_map.valid_hw.sum())
    mm2 = float(grade_map.tissue_hw[grade_map.valid_hw].sum() * grade_map.cell_mm2)
    stages = {stage: clock.seconds.get(stage, 0.0) for stage in STAGES}
    peaks = memory.peak_mb, memory.peak_mb - memory.start_mb, memory.cuda_mb
    return Run(stages, wall, cpu, *peaks, fields, mm2), grade_map


class _PeakMemory:
    """Samples this process's resident memory in a thread; torch reports the GPU's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cuda_mb = 0.0 if device.type == "cuda" else None

    def __enter__(self) -> Self:
        if self.cuda_mb is not None:
            torch.cuda.reset_peak_memory_stats(self.device)
        self.peak_mb = self.start_mb = _resident_mb()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.cuda_mb is not None:
            self.cuda_mb = torch.cuda.max_memory_allocated(self.device) / 2**20

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, _resident_mb())
            if self._stop.wait(0.02):
                return


def _resident_mb() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def _contender(contender: Contender) -> dict[str, Any]:
    spec = contender.predictor.spec
    return {
        "name": contender.name,
        "mpp": spec.mpp,
        "magnification": 10 / spec.mpp,
        "patch_px": spec.patch_px,
        "input": f"x{spec.upsample}",
        "macs_per_field": contender.macs,
        "trained": contender.trained,
        **({"guard": guard_text(contender.card)} if contender.trained else {}),
        "engine": _engine(contender),
        "max_fields": contender.predictor.settings.max_fields,
    }


def _engine(contender: Contender) -> str:
    """The engine and its precision."""
    assert not isinstance(contender.predictor, EscalatingPredictor)
    engine = contender.predictor.ready()
    return f"{engine.name} {engine.precision}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def _slide(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "fields": runs[0].fields,
        "tissue_mm2": runs[0].mm2,
        "wall_s": spread([r.wall for r in runs]),
        "cpu_s": spread([r.cpu for r in runs]),
        "stages_s": {s: spread([r.stages[s] for r in runs]) for s in STAGES},
    }


def _totals(slides: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Sums over all slides, repeat by repeat."""
    rounds = list(zip(*slides, strict=True))
    passes = [run for runs in slides for run in runs]
    wall = [sum(r.wall for r in one) for one in rounds]
    fields = sum(runs[0].fields for runs in slides)
    mm2 = sum(runs[0].mm2 for runs in slides)
    return {
        "fields": fields,
        "tissue_mm2": mm2,
        "wall_s": spread(wall),
        "cpu_s": spread([sum(r.cpu for r in one) for one in rounds]),
        "stages_s": {s: spread([sum(r.stages[s] for r in one) for one in rounds]) for s in STAGES},
        "fields_per_s": spread([fields / max(w, 1e-9) for w in wall]),
        "mm2_per_s": spread([mm2 / max(w, 1e-9) for w in wall]),
        "slides_per_h": spread([3600 * len(slides) / max(w, 1e-9) for w in wall]),
        "peak_rss_mb": max(r.peak_rss_mb for r in passes),
        "rise_mb": median(r.rise_mb for r in passes),
        "cuda_mb": max((r.cuda_mb for r in passes if r.cuda_mb is not None), default=None),
    }


def _speed_up(teacher: Sequence[Sequence[Run]], student: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """Ratios teacher / student, paired repeat by repeat; None if the student took no time."""

    def ratios(value: Callable[[Run], float]) -> dict[str, float] | None:
        pairs = zip(zip(*teacher, strict=True), zip(*student, strict=True), strict=True)
        sums = [(sum(map(value, t)), sum(map(value, s))) for t, s in pairs]
        return spread([t / s for t, s in sums]) if all(s > 0 for _, s in sums) else None

    return {
        "wall": ratios(lambda r: r.wall),
        "cpu": ratios(lambda r: r.cpu),
        **{stage: ratios(partial(_stage, stage)) for stage in STAGES},
    }


def _stage(name: str, run: Run) -> float:
    return run.stages[name]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
