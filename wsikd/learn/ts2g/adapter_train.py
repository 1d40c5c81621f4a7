"""Training an embedder: ``wsikd.learn.engine.trainer``, selected by the loss on validation."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.core.run import RunDir
from wsikd.learn.data.parts import check_parts, told_slides
from wsikd.learn.data.patches import PatchSet
from wsikd.learn.data.views import Views
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.loggers import check_loggers, log_to
from wsikd.learn.engine.trainer import Trainer, run_epochs
from wsikd.learn.patch.build import seed_weights
from wsikd.learn.ts2g.adapter_settings import Ts2gConfig
from wsikd.learn.ts2g.method import Ts2g, embedding_terms
from wsikd.learn.ts2g.pairs import load_pairs
from wsikd.models.backbones.open import build_backbone, imagenet_weights
from wsikd.models.backbones.resnet_trunks import TRUNK_FILE, arch_of, resnet_weights
from wsikd.models.device import deterministic
from wsikd.models.encoders.adapter import Adapter, Embedder, save_embedder
from wsikd.models.encoders.base import RANDOM, Encoder, EncoderSpec, read_state
from wsikd.models.graders.pooled import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wsikd.bags.bag import Bag
    from wsikd.learn.ts2g.adapter_settings import Trunk
    from wsikd.models.backbones.base import Backbone

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedResult:
    """What a run came to.

    Attributes:
        path: the run folder.
        bundle: the embedder in it.
        best_epoch: epoch it was taken from, counted from 1.
        metrics: on the validation patches: ``cosine`` similarity to the teacher's embeddings, and
            ``r2``, the share of their variance that is explained.
        patches: of validation, and the slides that they lie on.
    """

    path: Path
    bundle: Path
    best_epoch: int
    metrics: dict[str, Any]
    patches: int
    slides: int

    def told(self) -> str:
        """What it came to, in a line."""
        cosine, r2 = self.metrics["cosine"], self.metrics["r2"]
        return (
            f"{self.bundle}: on validation cosine {cosine:.3f} to the teacher's embeddings, "
            f"{r2:.1%} of their variance explained (epoch {self.best_epoch}, "
            f"{self.patches} patches of {told_slides(self.slides)})"
        )


class EmbedTrainer(Trainer[PatchSet, Ts2gConfig]):
    """Trains an adapter; an epoch is better by its loss on validation.

    The loss is the configured mix of terms. The cosine, which it went by before, is blind to the
    length of an embedding: on a weak trunk its best epoch may explain less than no variance.
    """

    targets: NDArray[np.float32]

    def _make_views(self) -> Views:
        config = cast("Any", self.config)
        return Views(self.patches, config, self.method.views, seed=self.seed, device=self.device)

    def _validate(self) -> dict[str, Any]:
        target = torch.from_numpy(self.targets[self.val_indices])
        found = torch.from_numpy(self._checked_logits()).float()
        terms = embedding_terms(found, target)
        loss = sum(self.config.weights[k] * float(v) for k, v in terms.items()
                   if k in self.config.weights)  # fmt: skip
        return {"loss": loss, **fit_of(found.numpy(), target.numpy())}


def fit_of(
    found: NDArray[np.float32],
    target: NDArray[np.float32],
    centre: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Mean cosine between embeddings (N, D), and the share of the targets' variance explained.

    The variance is that around ``centre`` (D,), by default the targets' own mean.
    """
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(target, axis=1)
    cosine = (found * target).sum(1) / np.maximum(norms, 1e-12)
    rest = ((found - target) ** 2).sum()
    spread = ((target - (target.mean(0) if centre is None else centre)) ** 2).sum()
    return {"cosine": float(cosine.mean()), "r2": float(1 - rest / max(spread, 1e-12))}


def train_embedder(
    config: Ts2gConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    loggers: Sequence[str] = (),
    told: Callable[[int, int], None] | None = None,
) -> EmbedResult:
    """Train an embedder and write its run folder; see ``train_bags`` for the arguments.

    Raises:
        WsikdError: of the kind that names the fault.
    """
    check_loggers(loggers)
    run, team = RunDir(out), Team(config, device)
    with deterministic(wanted=config.optim.deterministic), team:
        resumed = team.first(lambda: run.check(config, resume=resume, seed=seed))
        patches, targets, bags = load_pairs(config.data, config.split)
        check_parts(patches.split, patches.slide)
        trunk = open_trunk(config.trunk)
        seed_weights(seed)
        student = _student(config, trunk, patches, targets, bags)
        scaled = _as_taught(student, targets, config)
        method = Ts2g(student, torch.from_numpy(scaled), list(config.weights))
        trainer = EmbedTrainer(method, patches, config, run, seed=seed, team=team, told=told)
        trainer.targets = scaled
        made = {"device": team.device.type, "processes": team.size, "data": patches.digests}
        team.first(lambda: run.start(config, resume=resume, seed=seed, **made))
        with log_to(run.log_file) if team.is_first else nullcontext():
            for name in ("train", "val", "test"):
                chosen = patches.indices(name)
                slides = len({patches.slide[i] for i in chosen})
                logger.info("%s: %d patches of %d slides", name, len(chosen), slides)
            used = np.flatnonzero(patches.split != "test")
            patches.keep(used, config.data.cache_gb, config.optim.threads)
            run_epochs(trainer, resume=resume, resumed=resumed, loggers=loggers)
            return _finish(trainer, config, bags)


def open_trunk(trunk: Trunk) -> Backbone:
    """The frozen network in front, with its weights.

    Raises:
        ConfigError: it is unknown, or its weights are not to be had or do not fit.
    """
    if trunk.weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same trunk for every seed of the adapter
            return build_backbone(trunk.arch)
    if trunk.weights is None:
        weights = dict(imagenet_weights(trunk.arch, None))
        return build_backbone(trunk.arch, weights=weights)
    file = Path(trunk.weights)
    if file.is_dir():
        file = file / "student" / TRUNK_FILE
    state = read_state(file)
    if (width := {"resnet18": 512, "resnet50": 2048}.get(trunk.arch)) is not None:
        state = resnet_weights(state, file)
        if (found := arch_of(state)) != trunk.arch:
            raise ConfigError(
                file, f"holds {found}, not {trunk.arch}", f"set trunk.arch, or give a {trunk.arch}"
            )
        head = {"fc.weight": torch.zeros(1000, width), "fc.bias": torch.zeros(1000)}
        state = {**state, **head}
    try:
        return build_backbone(trunk.arch, weights=state)
    except KeyError as error:
        raise ConfigError(file, f"lacks {error}", f"give weights of {trunk.arch}") from error


def _student(
    config: Ts2gConfig,
    trunk: Backbone,
    patches: PatchSet,
    targets: NDArray[np.float32],
    bags: Sequence[Bag],
) -> Encoder:
    """The embedder around a trunk, with what scales its output back."""
    side, factor = patches.patch_px, round(config.factor)
    if side % factor:
        raise ConfigError(
            "data.student_mpp", f"patches of {side} px do not divide by {factor}",
            f"set data.patch_px={side // factor * factor}",
        )  # fmt: skip
    tap, dim = config.trunk.tap, targets.shape[1]
    if tap not in trunk.taps:
        raise ConfigError(
            f"trunk.tap {tap}", "is no tap of the trunk", f"choose among {', '.join(trunk.taps)}"
        )
    embedder = Embedder(trunk, tap, Adapter(config.adapter, trunk.taps[tap].channels, dim), dim)
    if config.targets == "standardise":
        own = targets[patches.indices("train")]
        embedder.shift.copy_(torch.from_numpy(own.mean(0)))
        embedder.scale.copy_(torch.from_numpy(np.maximum(own.std(0), 1e-6)))
    teacher = bags[0].info.encoder
    none = config.trunk.input_norm == "none"
    spec = EncoderSpec(
        id=f"{config.adapter} on {config.trunk.arch} {tap}, after {teacher.get('id', 'unknown')}",
        licence=f"teacher: {teacher.get('licence', 'not stated')}",
        dim=dim,
        sha256="",
        input_px=None,
        mean=(0.0,) * 3 if none else IMAGENET_MEAN,
        std=(1.0,) * 3 if none else IMAGENET_STD,
        mpp=config.low_mpp,
        patch_px=side // factor,
    )
    return Encoder(embedder, spec)


def _as_taught(
    student: Encoder, targets: NDArray[np.float32], config: Ts2gConfig
) -> NDArray[np.float32]:
    """Targets in the scale in which the adapter is to give them."""
    if config.targets == "normalise":
        norms = np.linalg.norm(targets, axis=1, keepdims=True)
        return targets / np.maximum(norms, 1e-12)  # type: ignore[no-any-return]
    embedder = student.network
    assert isinstance(embedder, Embedder)
    return (targets - embedder.shift.numpy()) / embedder.scale.numpy()  # type: ignore[no-any-return]


def _finish(trainer: EmbedTrainer, config: Ts2gConfig, bags: Sequence[Bag]) -> EmbedResult:
    val = trainer.val_indices
    metrics = fit_of(trainer.predict(val).astype(np.float32), trainer.targets[val])
    student, bundle = trainer.method.student, trainer.run.student
    assert isinstance(student, Encoder)
    assert isinstance(student.network, Embedder)
    if trainer.team.is_first:
        teacher = dict(bags[0].info.encoder)
        save_embedder(
            bundle, student.network.to("cpu"), student.spec, arch=config.trunk.arch,
            teacher={k: teacher.get(k) for k in ("id", "licence", "sha256", "dim")},
            targets=config.targets, data=trainer.patches.digests,
            metrics={"split": "val", "patches": len(val), **metrics},
            training={"seed": trainer.seed, "epochs": config.optim.epochs,
                      "best_epoch": trainer.best.epoch},
        )  # fmt: skip
        trainer.run.append_metrics({"event": "final", "val": metrics})
    slides = len({trainer.patches.slide[i] for i in val})
    return EmbedResult(trainer.run.path, bundle, trainer.best.epoch, metrics, len(val), slides)
