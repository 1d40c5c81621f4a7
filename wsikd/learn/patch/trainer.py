"""The training loop on patches: their views, and an epoch judged by quadratic kappa."""

from __future__ import annotations

from typing import Any

from wsikd.learn.data.patches import PatchSet
from wsikd.learn.data.views import Views
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.patch.settings import RunConfig
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.calibrate import negative_log_likelihood


class PatchTrainer(Trainer[PatchSet, RunConfig]):
    """Trains a grader on patches; an epoch is better by its kappa on validation."""

    score = "kappa"
    views: Views

    def _make_views(self) -> Views:
        return Views(
            self.patches, self.config, self.method.views, seed=self.seed, device=self.device
        )

    def _validate(self) -> dict[str, Any]:
        logits = self._checked_logits()
        truth = self.patches.label[self.val_indices]
        loss = negative_log_likelihood(logits, truth)
        matrix = evaluate.confusion(truth, logits.argmax(1), len(self.patches.classes))
        summary = evaluate.summarise(matrix, self.patches.classes)
        return {"loss": loss, **{k: summary[k] for k in ("kappa", "balanced_accuracy", "accuracy")}}
