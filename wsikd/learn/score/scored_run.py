"""Runs and bundles to score, their records, and the scores of their teachers."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError, WsikdError
from wsikd.core.run import RunDir
from wsikd.core.softmax import softmax
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.metrics import measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.patch.settings import RunConfig
    from wsikd.models.files.bundle import StudentBundle

logger = logging.getLogger(__name__)
SCORES = "scores.json"


@dataclass(frozen=True)
class Subject:
    """The run or bundle to score.

    Attributes:
        bundle: the network.
        place: the run folder, or the bundle's own where it lies in none.
        config: configuration of the run; None for a bundle alone.
    """

    bundle: StudentBundle
    place: Path
    config: RunConfig | None

    @property
    def scores_file(self) -> Path:
        """Where its scores are kept."""
        return self.place / SCORES


def open_subject(path: Path) -> Subject:
    """Read a run folder, the bundle in one, or a bundle alone.

    Raises:
        BundleError: there is none, or it is damaged.
        ConfigError: the run's config.yaml is.
    """
    from wsikd.learn.patch.settings import load_grading
    from wsikd.models.files.bundle import load_bundle

    bundle = load_bundle(path)
    for place in (path, bundle.path.parent):
        file = RunDir(place).config_file
        if file.is_file():
            return Subject(bundle, place, load_grading(file))
    return Subject(bundle, bundle.path, None)


def read_scores(file: Path) -> list[dict[str, Any]]:
    """The scorings that ``scores.json`` holds; none where there is no such file.

    Raises:
        OutputError: it is damaged.
    """
    if not file.exists():
        return []
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
        assert all({"split", "data", "time", "by"} <= set(s) for s in scores)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise OutputError(
            file, "cannot be read as a record of scores", "restore it from a copy"
        ) from error
    return list(scores)


def teacher_beside(
    subject: Subject, patches: PatchSet, split: str, *, device: str = "cpu"
) -> dict[str, Any] | None:
    """Scores and cost of the run's teacher, of several the first, on the same patches.

    The test part is for one look: of it, only what the teacher's own record says is repeated.

    Args:
        subject: what is scored.
        patches: where the split comes from.
        split: "val" or "test".
        device: where to compute.

    Returns:
        JSON values ``mpp``, ``macs`` and ``figures``; None for a run without a teacher, or whose
        teacher is not there, reads finer patches, or was not scored on this test part.
    """
    from wsikd.models.files.bundle import load_bundle

    if subject.config is None or not subject.config.teachers:
        return None
    try:
        bundle = load_bundle(Path(subject.config.teachers[0]))
        evaluate.check_fit(bundle, patches)
        if split == "test":
            figures = _recorded(bundle, patches)
        else:
            chosen, network = patches.indices(split), bundle.network().to(device)
            logits = evaluate.predict(network, patches, chosen, mpp=bundle.spec.mpp, device=device)
            truth = patches.label[chosen]
            figures = numbers(measure(truth, softmax(logits), benign=patches.benign))
    except WsikdError as error:
        logger.info("no figures of the teacher: %s", error)
        return None
    if figures is None:
        return None
    return {"mpp": bundle.spec.mpp, "macs": bundle.card.macs, "figures": figures}


def _recorded(bundle: StudentBundle, patches: PatchSet) -> dict[str, float | None] | None:
    """Its latest figures on the test part of these data, from its own ``scores.json``."""
    wanted = ("test", patches.digests, bundle.sha256)
    for s in reversed(read_scores(open_subject(bundle.path).scores_file)):
        if (s["split"], s["data"], s.get("sha256")) == wanted and "figures" in s:
            f1 = {f"f1_{i}": s["f1"].get(name) for i, name in enumerate(patches.classes)}
            return {**s["figures"], **f1}
    return None


def numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as JSON values; undefined ones are None."""
    return {k: v if math.isfinite(v) else None for k, v in values.items()}
