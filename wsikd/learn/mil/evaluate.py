"""Score a bag network; and put another encoder's bags under the same, unchanged network.

The second is the drop-in check: a head that was trained on a teacher's embeddings reads those that
a student gives of the same slides. Where it still works, the student can take the teacher's place.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.agreement import confusion, kappa
from wsikd.core.config import load_config
from wsikd.core.errors import DataError, OutputError
from wsikd.core.intervals import MIN_GROUPS_AUC_DIFFERENCE, difference_interval, leave_out
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir, write_json_atomic
from wsikd.core.softmax import softmax
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.method import MilConfig
from wsikd.learn.mil.train import score_bags
from wsikd.learn.score.looked_at import look_at_bags
from wsikd.learn.score.metrics import weighted
from wsikd.learn.score.scored_run import SCORES, read_scores
from wsikd.models.files.bag_bundle import load_bag_network

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.mil.data import BagSet
    from wsikd.models.files.bag_bundle import BagBundle

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Said:
    """Predictions for bags: probabilities float64 (N, C) and attention, by bag."""

    probability: NDArray[np.float64]
    attention: list[NDArray[np.float32]]


class BagReader:
    """A bag network that reads one bag after another."""

    def __init__(self, bundle: BagBundle) -> None:
        """Make the network."""
        self.network = bundle.network()
        self.temperature = float(bundle.card.temperature or 1.0)

    def __call__(self, features: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Calibrated probabilities (C,) and attention (n,) of embeddings float32 (n, D)."""
        with torch.inference_mode():
            found = self.network(features[None], torch.ones(1, len(features), dtype=torch.bool))
        probability = softmax(found.logits.double().numpy(), self.temperature)[0]
        return probability, found.attention[0].numpy()


def run_network(bundle: BagBundle, bags: BagSet, indices: NDArray[np.int64]) -> Said:
    """Read bags with a network; probabilities are calibrated by the card's temperature.

    Raises:
        DataError: the embeddings are of another width.
    """
    if bags.dim != bundle.dim:
        raise DataError(
            bags.bags[0].path, f"has embeddings of {bags.dim} numbers, the network takes "
            f"{bundle.dim}",
            "give bags of the encoder that it was trained on, or of one fitted to that encoder",
        )  # fmt: skip
    reader = BagReader(bundle)
    found = [reader(bags.features(int(index))) for index in indices]
    return Said(np.stack([p for p, _ in found]), [a for _, a in found])


def evaluate_bags(
    run: Path,
    split: str,
    *,
    by: str,
    data: Sequence[str] = (),
    against: Sequence[str] = (),
    again: bool = False,
    loaded: BagSet | None = None,
) -> dict[str, Any]:
    """Score a run of ``method: mil`` on its validation or test bags, and write that down.

    Args:
        run: the run folder.
        split: "val" or "test", as the run divides the slides.
        by: name of the user, kept in the record.
        data: where its bags lie now; none: as its settings say.
        against: bags of another encoder, of the same slides: the drop-in check.
        again: score the test part although it has been scored before.
        loaded: its bags, where they are read already.

    Returns:
        The record, as kept in ``scores.json``.

    Raises:
        BundleError, ConfigError: the run cannot be read.
        DataError: bags are missing, or are not those that it was trained on.
        OutputError: the test part has been scored and ``again`` is false.
    """
    bundle = load_bag_network(run)
    config = load_config(MilConfig, RunDir(run).config_file)
    bags = loaded or _bags(config, data)
    if bags.digests != bundle.card.data:
        raise DataError(run, "was trained on other bags", "restore them, or give them with --data")
    chosen = bags.indices(split)
    if not len(chosen):
        raise DataError(
            "split", f"there are no {split} bags", "set split.test, or give data with a split"
        )
    with locked(run / SCORES):
        before = read_scores(run / SCORES)
        earlier = [s for s in before if s["split"] == split and s["data"] == bags.digests]
        if split == "test" and earlier and not again:
            raise OutputError(
                run, f"its test part was scored on {earlier[-1]['time']} by {earlier[-1]['by']}",
                "use --split val for model selection, or give --again to score it once more, "
                "which is recorded",
            )  # fmt: skip
        start = {
            "split": split, "time": datetime.now(UTC).isoformat(timespec="seconds"), "by": by,
            "times_before": len(earlier), "data": bags.digests, "sha256": bundle.sha256,
        }  # fmt: skip
        if split == "test":  # whoever stops it from here on may have seen it
            start["looks"] = look_at_bags(
                bags, chosen, command="wsikd evaluate", sha256=bundle.sha256
            )
            write_json_atomic(run / SCORES, {"scores": [*before, start]})
        said = run_network(bundle, bags, chosen)
        groups = [bags.group[i] for i in chosen]
        truth = bags.label[chosen]
        record = {**start, **score_bags(truth, said.probability, groups, bundle.threshold),
                  "classes": list(bundle.classes), "threshold": bundle.threshold,
                  "point": bundle.card.point}  # fmt: skip
        if against:
            record["drop_in"] = drop_in(bundle, config, against, bags, chosen, said)
        write_json_atomic(run / SCORES, {"scores": [*before, record]})
    return record


def drop_in(
    bundle: BagBundle,
    config: MilConfig,
    against: Sequence[str],
    bags: BagSet,
    chosen: NDArray[np.int64],
    said: Said,
) -> dict[str, Any]:
    """Score the network on another encoder's bags of the same slides.

    Args:
        bundle: the network, which is not changed.
        config: its settings.
        against: the other encoder's bags.
        bags: those that it was trained on.
        chosen: which of them are scored.
        said: what it said of these.

    Returns:
        ``figures`` on the other bags; ``auc_difference`` with its paired interval over groups;
        ``agreement`` (share, and kappa) of the decisions; ``probability_correlation``; and
        ``speed_ratio``, how many times the other encoder was faster when the bags were made, None
        if they do not state it.

    Raises:
        DataError: a slide has no other bag, or the widths differ.
    """
    theirs = load_bags(config.data.model_copy(update={"paths": list(against)}), config.split)
    place = {name: k for k, name in enumerate(theirs.slide)}
    names = [bags.slide[i] for i in chosen]
    if missing := [n for n in names if n not in place]:
        raise DataError(against[0], f"has no bag of slide '{missing[0]}'", "embed the same slides")
    other_chosen = np.array([place[n] for n in names])
    other = run_network(bundle, theirs, other_chosen)
    truth, groups = bags.label[chosen], [bags.group[i] for i in chosen]
    own_call = decide(said.probability, bundle.threshold)
    other_call = decide(other.probability, bundle.threshold)
    matrix = confusion(own_call, other_call, len(bundle.classes))
    agreed = kappa(matrix, quadratic=False)
    own_s, other_s = (_seconds(b, c) for b, c in ((bags, chosen), (theirs, other_chosen)))
    return {
        "encoder": theirs.encoder.get("id"),
        "figures": score_bags(truth, other.probability, groups, bundle.threshold),
        "auc_difference": _difference(truth, said.probability, other.probability, groups),
        "agreement": {
            "share": float((own_call == other_call).mean()),
            "kappa": None if math.isnan(agreed) else agreed,
        },
        "probability_correlation": _correlation(said.probability, other.probability),
        "speed_ratio": own_s / other_s if own_s and other_s else None,
    }


def _bags(config: MilConfig, data: Sequence[str]) -> BagSet:
    own = config.data.model_copy(update={"paths": list(data)}) if data else config.data
    return load_bags(own, config.split)


def decide(probability: NDArray[np.float64], threshold: float | None) -> NDArray[np.int64]:
    """Classes int64 (N,) of probabilities (N, C), at a threshold on the last where there is one."""
    if threshold is None:
        return np.asarray(probability.argmax(1), np.int64)
    return (probability[:, 1] >= threshold).astype(np.int64)


def _difference(
    truth: NDArray[np.int64],
    own: NDArray[np.float64],
    other: NDArray[np.float64],
    groups: Sequence[str],
) -> dict[str, Any]:
    """AUC on the other bags minus AUC on its own, group by group."""
    known, group = np.unique(np.asarray(groups), return_inverse=True)

    without = leave_out(len(known))
    theirs, ours = (weighted(truth, p, group, without)["auc_macro"] for p in (other, own))
    value = float(theirs[0] - ours[0])
    spread = difference_interval(theirs, ours, "slides", least=MIN_GROUPS_AUC_DIFFERENCE)
    return {
        "value": None if math.isnan(value) else value,
        "interval": None if spread is None else list(spread),
    }


def _correlation(own: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    a, b = own[:, -1], other[:, -1]
    if len(a) < 3 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _seconds(bags: BagSet, indices: NDArray[np.int64]) -> float | None:
    """Seconds that the encoder computed and its patches were read, as stored in the bags."""
    found = [bags.bags[int(i)].seconds for i in indices]
    if any(s is None for s in found):
        return None
    return float(sum(sum(s.values()) for s in found if s is not None))
