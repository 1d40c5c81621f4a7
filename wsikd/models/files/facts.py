"""Description of a student or teacher in words, from its card, without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.models.files.guard_file import FEATURES
from wsikd.models.guard import ENOUGH

if TYPE_CHECKING:
    from wsikd.models.files.bundle import StudentBundle
    from wsikd.models.files.card import GraderCard


def main_facts(bundle: StudentBundle) -> dict[str, str]:
    """Network, classes, input and calibration."""
    spec = bundle.spec
    enlarged = f", enlarged {spec.upsample} times" if spec.upsample > 1 else ""
    calibrated = bundle.temperature is not None
    return {
        "network": bundle.arch,
        "classes": " ".join(spec.classes),
        "input": f"{spec.patch_px} px at {spec.mpp:g} um/px{enlarged}",
        "probabilities": "calibrated" if calibrated else "not calibrated",
    }


def facts(bundle: StudentBundle) -> dict[str, str]:
    """All facts that a page or ``wsikd info`` shows."""
    card = bundle.card
    rows = {} if card.name is None else {"name": card.called}
    rows |= {**main_facts(bundle), "method": card.method or "unknown"}
    if card.teachers:
        rows["teachers"] = ", ".join((one.sha256 or "unknown")[:12] for one in card.teachers)
    rows["multiply-accumulates"] = f"{(card.macs or 0) / 1e9:.3g} G a patch"
    for name in ("kappa", "balanced_accuracy"):
        value = (card.metrics or {}).get(name)
        if isinstance(value, int | float):
            rows[f"{name.replace('_', ' ')} on validation"] = f"{value:.3f}"
    rows["least area of cancer"] = f"{bundle.min_area_mm2:.3g} mm2"
    rows["guard"] = guard_fact(card)
    rows["use"] = card.use or ""
    return rows


def guard_fact(card: GraderCard) -> str:
    """Description of the guard.

    E.g. "colour and texture, threshold 4.05, 5 training slides, 1 validation slide; weak (below 19
    validation slides)".
    """
    entry = card.guard
    if entry is None:
        return "none: slides unlike the training are graded like others"
    kind = "network features" if entry.version == FEATURES else "colour and texture"
    weak = f"; weak (below {ENOUGH} validation slides)" if entry.weak else ""
    return f"{kind}, threshold {entry.threshold:.3g}, {guard_slides(card)}{weak}"


def guard_slides(card: GraderCard) -> str:
    """Numbers of slides that a guard was fitted on; empty without a guard."""
    entry = card.guard
    if entry is None:
        return ""
    parts = ((entry.train_slides, "training"), (entry.val_slides, "validation"))
    return ", ".join(f"{n} {part} slide{'' if n == 1 else 's'}" for n, part in parts)
