"""The pictures of a scored run, and how far student and teacher look at the same places."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import WsikdError
from wsikd.core.run import RunDir, write_json_atomic
from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.score.attention_maps import AttentionPair
    from wsikd.learn.score.test_record import Scored, Subject

logger = logging.getLogger(__name__)


def write_pictures(
    subject: Subject, scored: Scored, folder: Path, *, device: str = "cpu"
) -> dict[str, Any]:
    """Write PNGs of a scoring to a folder, and ``report.json``.

    ``curves.png`` (where there is a run), ``confusion_<split>.png``, ``reliability_<split>.png``
    and, for a student whose teacher is still there, ``attention.png`` of four validation patches.

    Args:
        subject: what was scored.
        scored: the scoring.
        folder: where to; made if missing.
        device: where to compute attention.

    Returns:
        ``files`` and ``attention_agreement``, the mean correlation of the teacher's class
        attention with the student's, None where it was not computed.

    Raises:
        OutputError: a file cannot be written.
    """
    from wsikd.learn.score import plots as curves

    split, record = scored.record["split"], scored.record
    names = [f"confusion_{split}.png", f"reliability_{split}.png"]
    curves.plot_confusion(record["confusion"], record["classes"], folder / names[0])
    shown = {"as trained": softmax(scored.logits)}
    if record["calibration"]:
        temperature = record["calibration"]["temperature"]
        shown[f"temperature {temperature:.2f}"] = softmax(scored.logits, temperature)
    curves.plot_reliability(shown, scored.truth, folder / names[1])
    rows = RunDir(subject.place).read_metrics() if subject.config else []
    if any("epoch" in r for r in rows):
        names.insert(0, "curves.png")
        curves.plot_curves(rows, folder / names[0])
    agreement, pairs = attention_of(subject, scored.patches, scored.indices, device)
    if pairs:
        names.append("attention.png")
        curves.plot_attention(pairs, record["classes"], folder / names[-1])
    facts = {"split": split, "files": names, "attention_agreement": agreement}
    if "looks" in record:
        facts["looks"] = record["looks"]
    write_json_atomic(folder / "report.json", facts)
    return facts


def attention_of(
    subject: Subject, patches: PatchSet, otherwise: NDArray[np.int64], device: str
) -> tuple[float | None, list[AttentionPair]]:
    """Agreement of attention and pairs; nothing for a run without a usable teacher.

    Validation patches are read; ``otherwise`` those of these indices, where there are none.
    """
    from wsikd.learn.score.attention_maps import compare_attention
    from wsikd.models.files.bundle import load_bundle

    config = subject.config
    if config is None or not config.teachers:
        return None, []
    val = patches.indices("val")
    indices = val if len(val) else otherwise
    try:
        teacher = load_bundle(Path(config.teachers[0]))
    except WsikdError as error:
        logger.warning("no attention maps: %s", error)
        return None, []
    networks = teacher.network(), subject.bundle.network()
    if not all(network.pooled for network in networks):
        return None, []  # tokens give no class attention in closed form
    attention = getattr(config, "attention", None)  # of methods that compare it
    return compare_attention(
        *networks,
        patches,
        indices,
        examples=max(4, len(patches.classes)),
        factor=round(subject.bundle.spec.mpp / patches.mpp),
        **({} if attention is None else {"form": attention.form}),
        device=device,
    )
