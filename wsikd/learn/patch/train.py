"""Training a grader of patches, with a teacher or without."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import DataError
from wsikd.core.softmax import softmax
from wsikd.learn.data.parts import checked
from wsikd.learn.data.patches import PatchSet, load_patches
from wsikd.learn.data.resident import budget_of
from wsikd.learn.data.smote import with_invented
from wsikd.learn.data.splits import EXTRA, epoch_order, listed
from wsikd.learn.data.unlabelled import mixed, pattern_of, spread_order
from wsikd.learn.data.views import Views
from wsikd.learn.engine.leakage import check_unseen, unseen_by
from wsikd.learn.engine.on_machine import cache_of
from wsikd.learn.engine.train import train
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.patch.build import (
    build_method,
    build_student,
    check_teachers,
    digests_of,
    init_stream,
    input_spec,
    log_cost,
    open_teachers,
)
from wsikd.learn.patch.export import RunResult, Trained, write_student
from wsikd.learn.patch.frozen_cache import open_maps
from wsikd.learn.patch.settings import RunConfig
from wsikd.learn.patch.teacher_cache import open_targets
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.calibrate import negative_log_likelihood
from wsikd.learn.score.metrics import measure
from wsikd.models.backbones.freeze import leave_frozen

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.models.files.bundle import InputSpec, StudentBundle


class PatchTask(Task[PatchSet, RunConfig, RunResult]):
    """Grades patches; ``optim.select`` names what makes an epoch better on validation.

    Attributes:
        select: what chooses the epoch; that of the run where one is resumed.
        teachers: those of the method, empty for one without; set with the data.
        answering: bool (N, K), which teachers answer for each patch; None: all do.
        spec: what the trained network is to be given; set with the method.
        extra_classes: the teacher's class of each patch without a label, int64 (M,).
    """

    select: str
    views: Views
    teachers: tuple[StudentBundle, ...]
    answering: NDArray[np.bool_] | None = None
    spec: InputSpec
    extra_classes: NDArray[np.int64]

    def __init__(self, config: RunConfig, *, seed: int = 0) -> None:
        """See ``wsikd.learn.patch.settings``."""
        super().__init__(config, seed=seed)
        self.init_stream = init_stream(config)
        self.smooth, self.ema = config.optim.smooth, config.optim.ema
        self._made: dict[str, Any] | None = None
        self._smote: dict[str, Any] = {}

    @property
    def teacher(self) -> StudentBundle | None:
        """The first teacher, whose features are matched and whom ``infer`` may ask again."""
        return self.teachers[0] if self.teachers else None

    def load(self, given: PatchSet | None = None, resumed: RunDir | None = None) -> None:
        """Open the teachers and list the patches, which they must not have seen."""
        config, self.teachers = self.config, open_teachers(self.config)
        if resumed is not None:
            check_teachers(resumed, self.teachers)
            self._made = resumed.read_provenance()
        self.data = checked(given or load_patches(config.data, config.split))
        self.select = config.optim.select or ("kappa" if self.data.ordered else "balanced_accuracy")
        if self._made is not None:  # runs of 0.1.0 do not say: all were selected by kappa
            self.select = self._made.get("select", "kappa")
        self.takes_last = self.select == "last"
        self.score = None if self.select in ("loss", "last") else self.select
        for name, teacher in zip(config.teachers, self.teachers, strict=False):
            check_unseen(
                teacher,
                self.data,
                ("val", "test"),
                who="the teacher" if len(self.teachers) == 1 else f"teacher {name}",
                remedy="give a teacher of the same split, or set split.check_teacher=false if only "
                "the names are the same",
                allow=not config.split.check_teacher,
            )
        if config.teacher_answers == "unseen":
            self.answering = self._answering()

    def _answering(self) -> NDArray[np.bool_]:
        """Which teachers have not seen each patch; every training patch has one. DataError."""
        found = np.stack([unseen_by(teacher, self.data) for teacher in self.teachers], 1)
        train = self.data.trained_on
        left = train[~found[train].any(1)]
        if len(left):
            raise DataError(
                listed("slide", list(dict.fromkeys(self.data.slide[i] for i in left))),
                "every teacher was trained or selected on it" if len(left) == 1
                else "every teacher was trained or selected on their slides, patients or images",
                "give a teacher that was trained without them (split.crossfit)",
            )  # fmt: skip
        return found

    def build(self) -> None:
        """Student and method; SMOTE's patches are added to those that were given."""
        config, patches = self.config, self.data
        student = build_student(config, patches, self.teacher)
        self.spec = input_spec(config, student, patches)
        self.method = build_method(config, student, self.teachers, patches.classes, self.answering)
        if config.data.smote is not None:
            self.data, counts = with_invented(patches, config.data, seed=self.seed, made=self._made)
            self._smote = {"smote": counts}

    def trained_on(self) -> NDArray[np.int64]:
        """The training part, with patches that have no label."""
        return self.data.trained_on

    def order(self, trainer: Trainer[PatchSet]) -> NDArray[np.int64]:
        """As the configuration draws them; a fixed share of each batch has no label."""
        extra = self.data.indices(EXTRA)
        if not len(extra):
            return super().order(trainer)
        at = {"seed": self.seed, "epoch": trainer.epoch}
        balance = bool(self.config.optim.balance)
        share = self.config.data.unlabelled_share
        pattern = pattern_of(trainer.steps, trainer.batch_size, share)
        known, count = self.data.indices("train"), int(pattern.sum())
        own = epoch_order(self.data.label[known], len(pattern) - count, **at, balance=balance)
        number = {slide: n for n, slide in enumerate(dict.fromkeys(self.data.slide))}
        slides = np.array([number[self.data.slide[i]] for i in extra])
        others = spread_order(self.extra_classes, slides, count, **at, balance=balance)
        return mixed(known[own], extra[others], pattern)

    def param_groups(self) -> list[dict[str, Any]]:
        """The head, and what is trained beside the student, in groups of their own if asked."""
        groups, optim = super().param_groups(), self.config.optim
        if optim.head_lr is None:
            return groups
        head = {id(p) for net in (self.method.student.head, self.method.helpers)
                for p in net.parameters()}  # fmt: skip
        parted = []
        for group in groups:
            own = [p for p in group["params"] if id(p) in head]
            rest = [p for p in group["params"] if id(p) not in head]
            parted += [group | {"params": rest},
                       group | {"params": own, "lr_factor": optim.head_lr / optim.lr}]  # fmt: skip
        return [group for group in parted if group["params"]]

    def make_views(self, device: torch.device) -> Views:
        """As the method wants them."""
        mix = self.config.mix if self.config.mix.used else None
        return Views(
            self.data, self.config, self.method.views, seed=self.seed, device=device, mix=mix
        )

    def record(self) -> dict[str, Any]:
        """Digests of data and teacher, origin of the first weights, SMOTE's counts."""
        teacher = digests_of(self.teachers)
        made: dict[str, Any] = {"data": self.data.digests, "teacher_sha256": teacher}
        made["select"] = self.select
        if self.method.student.origin is not None:
            made["init_weights"] = self.method.student.origin.record()
        return made | self._smote

    def begin(self, trainer: Trainer[PatchSet]) -> None:
        """Read the patches, and ask the teacher where its answers are kept."""
        config, patches, views = self.config, self.data, self.views
        log_cost(self.spec, self.method.student, self.teacher)
        used = np.flatnonzero(np.isin(patches.split, ("train", EXTRA, "val")))
        limit, threads = cache_of(config.data.cache_gb), trainer.threads
        patches.keep(used, limit, threads)
        if self.teachers:
            views.targets = open_targets(
                config, self.method, patches, digests_of(self.teachers), team=trainer.team,
                batch_size=trainer.batch_size, run=trainer.run.path,
            )  # fmt: skip
            self.extra_classes = trainer.team.first(lambda: self._extra_classes(trainer))
        if views.averaged:
            patches.keep_averages(views.factor, limit, used, threads)
        views.hold(used, budget_of(config.data.device_gb, trainer.device), threads)
        views.maps = open_maps(
            config, self.method, patches, batch_size=trainer.batch_size, limit_gb=limit,
            threads=threads,
        )  # fmt: skip

    def _extra_classes(self, trainer: Trainer[PatchSet]) -> NDArray[np.int64]:
        """The teacher's class of each patch without a label, int64 (M,)."""
        extra, targets = self.data.indices(EXTRA), self.views.targets
        if targets is not None:
            return targets.classes(extra)
        if not len(extra):
            return extra
        chance: Any = 0.0
        for column, teacher in enumerate(self.teachers):
            network, device = teacher.network().to(trainer.team.device), trainer.team.device
            logits = evaluate.predict(
                network, self.data, extra, mpp=teacher.spec.mpp, device=str(device)
            )
            if len(self.teachers) == 1:
                return logits.argmax(1)  # type: ignore[no-any-return]
            counts = True if self.answering is None else self.answering[extra, column][:, None]
            chance = chance + softmax(logits) * counts
        return np.asarray(chance.argmax(1), np.int64)

    def validate(self, logits: NDArray[np.float64]) -> dict[str, Any]:
        """Loss, kappa and accuracies, and the AUC where it selects."""
        truth = self.data.label[self.data.indices("val")]
        loss = negative_log_likelihood(logits, truth)
        matrix = evaluate.confusion(truth, logits.argmax(1), len(self.data.classes))
        summary = evaluate.summarise(matrix, self.data.classes, ordered=self.data.ordered)
        found = {k: summary[k] for k in ("kappa", "balanced_accuracy", "accuracy")}
        if self.select == "auc":
            auc = measure(truth, softmax(logits))["auc_macro"]
            found["auc"] = auc if math.isfinite(auc) else None
        return {"loss": loss, **found}

    def export(self, trainer: Trainer[PatchSet]) -> RunResult:
        """Score the best student on validation, choose the area threshold, write the bundle."""
        self.views.maps = None
        leave_frozen(self.method.student.backbone)
        logits, team = trainer.predict(trainer.val_indices), trainer.team
        best, method = trainer.best.epoch, self.method
        trained = Trained(method.student, self.spec, self.teachers, logits, best)
        about = {"seed": self.seed, "processes": team.size}
        return team.first(
            lambda: write_student(trained, self.config, self.data, self.views, trainer.run, **about)
        )


distill = partial(train, PatchTask)
"""Train the network of a configuration; see :func:`wsikd.learn.engine.train.train`."""
