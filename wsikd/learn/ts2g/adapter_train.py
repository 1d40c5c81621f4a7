"""Training an embedder, selected by the loss on validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.learn.data.parts import check_parts, slides_text
from wsikd.learn.data.views import Views
from wsikd.learn.engine.on_machine import cache_of
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.ts2g.method import Ts2g, Ts2gConfig, embedding_terms
from wsikd.learn.ts2g.pairs import PairSet, load_pairs
from wsikd.models.backbones.open import build_backbone
from wsikd.models.backbones.pretrained import open_weights
from wsikd.models.backbones.resnet_trunks import TRUNK_FILE, arch_of, resnet_weights
from wsikd.models.backbones.weights_package import HUB
from wsikd.models.backbones.weights_package import PREFIX as PACKAGE
from wsikd.models.encoders.adapter import Adapter, Embedder, save_embedder
from wsikd.models.encoders.base import RANDOM, Encoder, EncoderSpec, read_state
from wsikd.models.graders.pooled import NORMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.ts2g.method import Trunk
    from wsikd.models.backbones.base import Backbone
    from wsikd.models.files.card_origin import InitWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedResult:
    """The result of a run.

    Attributes:
        path: the run folder.
        bundle: the embedder in it.
        best_epoch: epoch it was taken from, counted from 1.
        metrics: on the validation patches: ``cosine`` similarity to the teacher's embeddings, and
            ``r2``, the share of their variance that is explained.
        patches: number of validation patches; ``slides``: of their slides.
    """

    path: Path
    bundle: Path
    best_epoch: int
    metrics: dict[str, Any]
    patches: int
    slides: int

    def text(self) -> str:
        """The result as a line."""
        cosine, r2 = self.metrics["cosine"], self.metrics["r2"]
        return (
            f"{self.bundle}: on validation cosine {cosine:.3f} to the teacher's embeddings, "
            f"{r2:.1%} of their variance explained (epoch {self.best_epoch}, "
            f"{self.patches} patches of {slides_text(self.slides)})"
        )


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


class EmbedTask(Task[PairSet, Ts2gConfig, EmbedResult]):
    """Trains an adapter on a frozen trunk; an epoch is better by its loss on validation.

    The loss is the configured mix of terms. The cosine, which it went by before, is blind to the
    length of an embedding: on a weak trunk its best epoch may explain less than no variance.

    Attributes:
        targets: embeddings float32 (N, D) in the scale in which the adapter is to give them.
    """

    method: Ts2g
    targets: NDArray[np.float32]

    def load(self, given: PairSet | None = None, resumed: RunDir | None = None) -> None:
        """List patches with their embeddings, and read the trunk."""
        self.data = given or load_pairs(self.config.data, self.config.split)
        check_parts(self.data.split, self.data.slide)
        self._trunk, self._origin = open_trunk(self.config.trunk)

    def build(self) -> None:
        """The adapter behind the trunk."""
        student = _student(self.config, self._trunk, self.data)
        self.targets = _as_taught(student, self.data.targets, self.config)
        learner = self.config.learner
        assert issubclass(learner, Ts2g)
        self.method = learner.build(self.config, student, torch.from_numpy(self.targets))

    def make_views(self, device: torch.device) -> Views:
        """As of a grader of patches."""
        return Views(self.data, self.config, self.method.views, seed=self.seed, device=device)

    def begin(self, trainer: Trainer[PairSet]) -> None:
        """Read the patches."""
        patches = self.data
        for name in ("train", "val", "test"):
            chosen = patches.indices(name)
            slides = len({patches.slide[i] for i in chosen})
            logger.info("%s: %d patches of %d slides", name, len(chosen), slides)
        used = np.flatnonzero(patches.split != "test")
        patches.keep(used, cache_of(self.config.data.cache_gb), trainer.threads)

    def validate(self, logits: NDArray[np.float64]) -> dict[str, Any]:
        """Loss and fit of embeddings (M, D)."""
        target = torch.from_numpy(self.targets[self.data.indices("val")])
        found, weights = torch.from_numpy(logits).float(), self.config.weights
        terms = embedding_terms(found, target)
        loss = sum(weights[k] * float(v) for k, v in terms.items() if k in weights)
        return {"loss": loss, **fit_of(found.numpy(), target.numpy())}

    def export(self, trainer: Trainer[PairSet]) -> EmbedResult:
        """Score the embedder on validation and write it."""
        run, best, val, config = trainer.run, trainer.best.epoch, trainer.val_indices, self.config
        metrics = fit_of(trainer.predict(val).astype(np.float32), self.targets[val])
        student = self.method.student
        assert isinstance(student.network, Embedder)
        if trainer.team.is_first:
            teacher = dict(self.data.bags[0].info.encoder)
            save_embedder(
                run.student, student.network.to("cpu"), student.spec, arch=config.trunk.arch,
                **({"init_weights": self._origin.record()} if self._origin else {}),
                teacher={k: teacher.get(k) for k in ("id", "licence", "sha256", "dim")},
                targets=config.targets, data=self.data.digests,
                metrics={"split": "val", "patches": len(val), **metrics},
                training={"seed": self.seed, "epochs": config.optim.epochs, "best_epoch": best},
            )  # fmt: skip
            run.append_metrics({"event": "final", "val": metrics})
        slides = len({self.data.slide[i] for i in val})
        return EmbedResult(run.path, run.student, best, metrics, len(val), slides)


def open_trunk(trunk: Trunk) -> tuple[Backbone, InitWeights | None]:
    """The frozen network in front, with its weights, and where pretrained ones are from.

    Raises:
        ConfigError: it is unknown, or its weights are not available or do not fit.
    """
    if trunk.weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same trunk for every seed of the adapter
            return build_backbone(trunk.arch), None
    if trunk.weights in (None, HUB) or trunk.weights.startswith(PACKAGE):
        found = open_weights(trunk.arch, trunk.weights, key="trunk.weights")
        return build_backbone(trunk.arch, weights=dict(found.state)), found.origin
    file = Path(trunk.weights)
    if file.is_dir():
        file = file / "student" / TRUNK_FILE
    state = read_state(file)
    if (width := {"resnet18": 512, "resnet50": 2048}.get(trunk.arch)) is not None:
        state = resnet_weights(state, file)
        if (held := arch_of(state)) != trunk.arch:
            raise ConfigError(
                file, f"holds {held}, not {trunk.arch}", f"set trunk.arch, or give a {trunk.arch}"
            )
        head = {"fc.weight": torch.zeros(1000, width), "fc.bias": torch.zeros(1000)}
        state = {**state, **head}
    try:
        return build_backbone(trunk.arch, weights=state), None
    except KeyError as error:
        raise ConfigError(file, f"lacks {error}", f"give weights of {trunk.arch}") from error


def _student(config: Ts2gConfig, trunk: Backbone, patches: PairSet) -> Encoder:
    """The embedder around a trunk, with what scales its output back."""
    side, factor = patches.patch_px, round(config.factor)
    if side % factor:
        raise ConfigError(
            "data.student_mpp", f"patches of {side} px do not divide by {factor}",
            f"set data.patch_px={side // factor * factor}",
        )  # fmt: skip
    tap, targets = config.trunk.tap, patches.targets
    dim = targets.shape[1]
    if tap not in trunk.taps:
        raise ConfigError(
            f"trunk.tap {tap}", "is not a tap of the trunk", f"choose among {', '.join(trunk.taps)}"
        )
    embedder = Embedder(trunk, tap, Adapter(config.adapter, trunk.taps[tap].channels, dim), dim)
    if config.targets == "standardise":
        own = targets[patches.indices("train")]
        embedder.shift.copy_(torch.from_numpy(own.mean(0)))
        embedder.scale.copy_(torch.from_numpy(np.maximum(own.std(0), 1e-6)))
    teacher = patches.bags[0].info.encoder
    mean, std = ((values[0], values[1], values[2]) for values in NORMS[config.trunk.input_norm])
    spec = EncoderSpec(
        id=f"{config.adapter} on {config.trunk.arch} {tap}, after {teacher.get('id', 'unknown')}",
        licence=f"teacher: {teacher.get('licence', 'not stated')}",
        dim=dim,
        sha256="",
        input_px=None,
        mean=mean,
        std=std,
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
