"""``wsikd evaluate`` for a run of ``method: mil``: figures of slides from their bags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def is_bag_run(subject: Path) -> bool:
    """Whether a folder holds a bag network."""
    from wsikd.slides.what_is import CLASSIFIER, what_is

    return what_is(subject) == CLASSIFIER


def scored(
    subject: Path,
    split: str,
    *,
    by: str,
    data: Sequence[Path],
    against: Sequence[Path],
    again: bool,
) -> dict[str, Any]:
    """The record of a scoring; raises WsikdError."""
    from wsikd.learn.preflight import check_data
    from wsikd.slides.what_is import BAGS, GRIDS

    for places in filter(None, (data, against)):
        check_data(places, BAGS, GRIDS)

    from wsikd.learn.mil.evaluate import evaluate_bags

    return evaluate_bags(
        subject, split, by=by, data=[str(p) for p in data], against=[str(p) for p in against],
        again=again,
    )  # fmt: skip


def text(record: dict[str, Any]) -> str:
    """The record as lines."""
    from wsikd.core.intervals import MIN_GROUPS, NO_INTERVAL

    lines = [f"{record['split']}: {record['bags']} slides of {record['groups']} slides or patients"]
    lines += _figures(record)
    if record["groups"] < MIN_GROUPS:
        lines.append(NO_INTERVAL)
    if record["threshold"] is not None:
        positive = record["classes"][-1]
        lines.append(f"threshold on {positive}: {record['threshold']:.3g}, chosen on validation")
        lines.append("accuracy and balanced accuracy go by the likelier class, not the threshold")
    found = record.get("drop_in")
    if found is not None:
        lines += ["", f"the same network on bags by {found['encoder'] or 'an unnamed encoder'}:"]
        lines += _figures(found["figures"])
        lines.append(f"{'AUC, difference':<20}{_value(found['auc_difference'])}")
        share, kappa = found["agreement"]["share"], found["agreement"]["kappa"]
        told = "undefined" if kappa is None else f"{kappa:.3f}"
        lines.append(f"decisions agree on {share:.1%} of the slides, kappa {told}")
        if found["speed_ratio"] is not None:
            ratio = found["speed_ratio"]
            lines.append(f"when the bags were made, its encoder was {ratio:.1f} times as fast")
    return "\n".join(lines)


def _figures(found: dict[str, Any]) -> list[str]:
    from wsikd.learn.mil.train import TOLD

    names = ("accuracy", *TOLD)
    return [
        f"{name.replace('_', ' ').replace('auc', 'AUC'):<20}{_value(found[name])}"
        for name in names
        if name in found
    ]


def _value(figure: dict[str, Any]) -> str:
    value, between = figure["value"], figure["interval"]
    own = f"{'-' if value is None else f'{value:.3f}':>8}"
    return own if between is None else f"{own}  {between[0]:.3f} to {between[1]:.3f}"
