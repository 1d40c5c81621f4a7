"""The runs of the study in the order of the protocol: names, settings, teachers and places."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from benchmarks.studies.real import arms
from benchmarks.studies.real.arms import ARMS, BLOCKS, CE, PRIMARY, PROSTATE, TEACHER, TUNED, TUNING

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.studies.real.arms import Block
    from benchmarks.studies.real.settings import Real

ABOUT, VAL, TEST = "about.json", "val.npz", "test.npz"


@dataclass(frozen=True)
class Job:
    """One training: of a trial of block T, or of a fold and a seed."""

    block: str
    arm: str
    fold: int
    seed: int
    trial: int | None = None

    @property
    def name(self) -> str:
        """Its folder below ``runs`` and ``predictions``."""
        last = f"fold{self.fold}-seed{self.seed}" if self.trial is None else f"trial{self.trial}"
        return f"{self.block}/{self.arm}/{last}"


class Plan:
    """All runs of a study, and where each stands.

    Attributes:
        study: its settings.
        out: its folder.
    """

    def __init__(self, study: Real, out: Path) -> None:
        """See the class."""
        self.study, self.out = study, out

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """Those whose data are given."""
        return {
            name: block for name, block in BLOCKS.items() if name != PROSTATE or self.study.prostate
        }

    @cached_property
    def jobs(self) -> list[Job]:
        """In the order of the protocol."""
        first = (0, self.study.seeds[0])
        found = [Job(TUNING, arm, *first, trial) for arm in TUNED for trial in range(arms.TRIALS)]
        for name in self.blocks:
            found += self.of_block(name)
        return found

    def of_block(self, name: str) -> list[Job]:
        """The runs that a block trains: a teacher, then its students, fold by fold."""
        block, study = self.blocks[name], self.study
        taught: dict[Job, list[Job]] = {}
        places = product(range(study.folds), study.few_seeds if block.few else study.seeds)
        for fold, seed in places:
            students = taught.setdefault(self.teacher_at(name, fold, seed), [])
            students += [Job(name, arm, fold, seed) for arm in block.arms]
        units = sorted(taught.items(), key=lambda unit: study.teacher_seeds.index(unit[0].seed))
        return [
            job
            for teacher, students in units
            for job in ([teacher, *students] if block.own_teacher else students)
        ]

    def data_of(self, job: Job) -> str:
        """The set that it reads."""
        return self.blocks[PRIMARY if job.block == TUNING else job.block].data

    def teacher(self, job: Job) -> Job | None:
        """Whose answers a run learns from."""
        if not ARMS[job.arm].distils:
            return None
        block = PRIMARY if job.block == TUNING else job.block
        if job.arm == arms.SELF:
            return Job(block, CE, job.fold, job.seed)
        return self.teacher_at(block, job.fold, job.seed)

    def teacher_at(self, name: str, fold: int, seed: int) -> Job:
        """The teacher with which the students of a block, fold and seed are compared."""
        block = self.blocks[name]
        own = (
            self.study.teacher_seed(seed) if block.teachers is None else self.study.teacher_seeds[0]
        )
        return Job(name if block.own_teacher else PRIMARY, TEACHER, fold, own)

    def place(self, job: Job) -> str | None:
        """Its folder below ``runs`` and ``predictions``; None: not known before tuning is done.

        The winning trial of an arm is its run of block A with the first fold and seed.
        """
        first = (PRIMARY, 0, self.study.seeds[0])
        if (job.block, job.fold, job.seed) != first or job.arm not in TUNED:
            return job.name
        best = self.winner(job.arm)
        return None if best is None else Job(TUNING, job.arm, job.fold, job.seed, best).name

    def run_folder(self, job: Job) -> Path:
        """Of a job whose place is known."""
        return self.out / "runs" / str(self.place(job))

    def kept(self, job: Job) -> Path:
        """Folder of its predictions."""
        return self.out / "predictions" / str(self.place(job))

    def is_done(self, job: Job) -> bool:
        """Whether it is trained, and its validation part predicted."""
        return self.place(job) is not None and (self.kept(job) / ABOUT).is_file()

    def is_ready(self, job: Job) -> bool:
        """Whether all that it needs is done."""
        teacher = self.teacher(job)
        if self.place(job) is None or (teacher is not None and not self.is_done(teacher)):
            return False
        if job.trial is not None:
            return job.trial + 1 < arms.TRIALS or all(
                self._score(job.arm, n) is not None for n in (0, 1)
            )
        return job.block == PROSTATE or self.winner(self.tuned_as(job)) is not None

    @staticmethod
    def tuned_as(job: Job) -> str:
        """The arm whose winning settings a run has."""
        return job.arm if job.arm in TUNED else "kd"

    def settings(self, job: Job) -> dict[str, Any]:
        """Dotted key -> value, over ``base.yaml``, of a job that is ready."""
        arm, block = ARMS[job.arm], self.blocks[PRIMARY if job.block == TUNING else job.block]
        is_teacher, study = job.arm == TEACHER, self.study
        found: dict[str, Any] = {"split.folds": study.folds, "split.fold": job.fold}
        found |= {
            **(block.settings or {}),
            **((block.teacher if is_teacher else block.student) or {}),
        }
        found |= arm.settings
        if arm.distils:
            found |= block.distilled or {}
            low = {"teacher_cache": "off"}
            high = {"teacher_cache": "disk", "teacher_cache_dir": str(self.out / "targets")}
            found |= low if job.arm == arms.SELF else high
        if job.trial is not None:
            found |= self.trial(job.arm, job.trial)
        elif job.block != PROSTATE:
            tuned = self.tuned_as(job)
            best = self.trial(tuned, self.winner(tuned) or 0)
            found |= best if tuned == job.arm else {"optim.lr": best["optim.lr"]}
        return found | study.changes

    def trial(self, arm: str, number: int) -> dict[str, Any]:
        """The settings that a trial adds."""
        own = ARMS[arm]
        if number + 1 < arms.TRIALS:
            return {"optim.lr": own.rates[number]}
        scores = [self._score(arm, n) or 0.0 for n in (0, 1)]
        return {"optim.lr": own.rates[int(scores[1] > scores[0])], **(own.third or {})}

    def winner(self, arm: str) -> int | None:
        """The best trial of an arm, the earlier of equal ones; None before all are done."""
        scores = [self._score(arm, n) for n in range(arms.TRIALS)]
        known = [s for s in scores if s is not None]
        return known.index(max(known)) if len(known) == arms.TRIALS else None

    def _score(self, arm: str, trial: int) -> float | None:
        """Mean AUC of a trial on the inner validation part."""
        job = Job(TUNING, arm, 0, self.study.seeds[0], trial)
        file = self.out / "predictions" / job.name / ABOUT
        if not file.is_file():
            return None
        return float(json.loads(file.read_text(encoding="utf-8"))["validation"]["auc_macro"])

    def is_complete(self, block: str) -> bool:
        """Whether all runs of a block are done, so that its table may be made."""
        return all(self.is_done(job) for job in self.compared(block))

    def is_scored(self, block: str) -> bool:
        """Whether all evaluation parts of a block have predictions."""
        return self.is_complete(block) and all(
            (self.kept(job) / TEST).is_file() for job in self.compared(block)
        )

    def compared(self, block: str) -> list[Job]:
        """The runs of a block and the teachers that they are compared with."""
        jobs = self.of_block(block)
        at = dict.fromkeys((job.fold, job.seed) for job in jobs if job.arm != TEACHER)
        others = [self.row_at(block, arm, *place) for place in at for arm in self.rows(block)]
        return list(dict.fromkeys([*jobs, *others]))

    def rows(self, block: str) -> tuple[str, ...]:
        """The arms of a block's table, the teacher first."""
        return TEACHER, *self.blocks[block].arms, *self.blocks[block].beside

    def row_at(self, block: str, arm: str, fold: int, seed: int) -> Job:
        """The run that a row of a block's table has for a fold and a student's seed."""
        if arm == TEACHER:
            return self.teacher_at(block, fold, seed)
        own = arm in self.blocks[block].arms
        return Job(block if own else PRIMARY, arm, fold, seed)
