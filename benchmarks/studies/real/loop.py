"""Take one run after another, as long as time and budget last."""

from __future__ import annotations

import fnmatch
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.studies.real.listing import write_labels
from benchmarks.studies.real.meter import entries, metered, spent_s
from benchmarks.studies.real.plan import TEST, Plan
from benchmarks.studies.real.settings import read_study
from benchmarks.studies.real.work import do, score
from benchmarks.studies.study_folder import claim
from wsikd.core.errors import ConfigError, OutputError
from wsikd.core.output.lock import locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.studies.real.plan import Job

logger = logging.getLogger(__name__)
WAIT_S = 5.0


@dataclass(frozen=True)
class Limits:
    """What a call may do: patterns of names (none: all), when it ends, CPU-hours of the study."""

    only: tuple[str, ...] = ()
    until: float | None = None
    cpu_hours: float = 18.0

    def are_reached(self, out: Path) -> bool:
        """Whether no further run may begin."""
        late = self.until is not None and time.monotonic() >= self.until
        return late or spent_s(out) >= 3600 * self.cpu_hours


def prepare(out: Path, overrides: Sequence[str]) -> tuple[Plan, dict[str, Path]]:
    """Open a study's folder and write the labels of its sets.

    Raises:
        ConfigError: a setting is wrong, or the colon set is not named.
        DataError: a set cannot be read.
        OutputError: the folder holds another study.
    """
    settings = read_study(overrides)
    if not settings.colon:
        raise ConfigError("colon", "is not set", "give --set colon=FOLDER")
    claim(out, settings)
    sets = {"colon": settings.colon, "prostate": settings.prostate}
    with locked(out / "data", wait_s=60):
        labels = {k: write_labels(Path(v), k, out / "data") for k, v in sets.items() if v}
    return Plan(settings, out.resolve()), labels


def work(plan: Plan, labels: dict[str, Path], limits: Limits) -> None:
    """Train what is not done, in order, and score blocks that are complete.

    Raises:
        WsikdError: a run failed; what is finished stays for the next call.
    """
    torch.set_num_threads(1)
    wanted = [job for job in plan.jobs if chosen(job, limits.only)]
    while not limits.are_reached(plan.out):
        score_finished(plan)
        open_ = [job for job in wanted if not plan.is_done(job)]
        if not open_:
            return
        if not any(plan.is_ready(job) and _take(plan, job, labels) for job in open_):
            if not any(_is_busy(plan, job) for job in open_):
                logger.warning("%d runs wait for others that were not chosen", len(open_))
                return
            time.sleep(WAIT_S)


def chosen(job: Job, only: Sequence[str]) -> bool:
    """Whether a run's name matches a pattern."""
    return not only or any(fnmatch.fnmatch(job.name, pattern) for pattern in only)


def _lock_of(plan: Plan, job: Job) -> Path:
    return plan.out / "locks" / job.name.replace("/", "-")


def _is_busy(plan: Plan, job: Job) -> bool:
    try:
        with locked(_lock_of(plan, job)):
            return False
    except OutputError:
        return True


def _take(plan: Plan, job: Job, labels: dict[str, Path]) -> bool:
    """Do a run; false where another process is doing it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(_lock_of(plan, job)))
        except OutputError:
            return False
        if not plan.is_done(job):
            logger.info("%s", job.name)
            with metered(plan.out, job.name):
                do(plan, job, labels[plan.data_of(job)])
    return True


def score_finished(plan: Plan) -> None:
    """Predict and score the evaluation part of each finished run of a block, once."""
    for job in dict.fromkeys(job for block in plan.blocks for job in plan.compared(block)):
        if plan.is_done(job) and not (plan.kept(job) / TEST).is_file():
            lock = locked(plan.out / "locks" / "score", wait_s=3600)
            with lock, metered(plan.out, f"{job.name}/evaluation"):
                score(plan, job)


def listed(plan: Plan) -> list[str]:
    """A line a run, and a last one with the sums."""
    done = {job: plan.is_done(job) for job in plan.jobs}
    cost: dict[str, float] = {}
    for entry in entries(plan.out):
        cost[entry["job"]] = cost.get(entry["job"], 0.0) + entry["cpu_s"]
    lines = []
    for job in plan.jobs:
        at = plan.place(job)
        state = "done" if done[job] else "begun" if job.name in cost else "open"
        note = f" (is {at})" if at not in (None, job.name) else ""
        spent = f" {cost[job.name]:.0f} CPU-s" if job.name in cost else ""
        lines.append(f"{job.name}: {state}{spent}{note}")
    total = spent_s(plan.out) / 3600
    scored = [block for block in plan.blocks if plan.is_scored(block)]
    lines.append(
        f"{sum(done.values())} of {len(done)} runs done, {total:.2f} CPU-hours; "
        f"blocks scored: {', '.join(scored) or 'none'}"
    )
    return lines
