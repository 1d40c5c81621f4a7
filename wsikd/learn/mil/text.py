"""Figures of slides from their bags as ``wsikd evaluate`` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.intervals import (
    MIN_GROUPS_AUC,
    MIN_GROUPS_AUC_DIFFERENCE,
    NO_INTERVAL,
    NO_INTERVAL_OF_DIFFERENCE,
)
from wsikd.core.output.looks import looks_text
from wsikd.learn.mil.train import TOLD

if TYPE_CHECKING:
    from collections.abc import Mapping


def bag_text(record: Mapping[str, Any]) -> str:
    """A record of ``wsikd.learn.mil.evaluate.evaluate_bags`` as lines."""
    lines = [f"{record['split']}: {record['bags']} slides of {record['groups']} slides or patients"]
    if "looks" in record:
        lines.append(looks_text(record["looks"]))
    lines += _figures(record)
    if record["groups"] < MIN_GROUPS_AUC:
        lines.append(NO_INTERVAL)
    if record["threshold"] is not None:
        positive = record["classes"][-1]
        lines.append(f"threshold on {positive}: {record['threshold']:.3g}, chosen on validation")
        lines += _assured(record.get("point") or {})
        lines.append("accuracy and balanced accuracy go by the likelier class, not the threshold")
    found = record.get("drop_in")
    if found is not None:
        lines += ["", f"the same network on bags by {found['encoder'] or 'an unnamed encoder'}:"]
        lines += _figures(found["figures"])
        lines.append(f"{'AUC, difference':<20}{_value(found['auc_difference'])}")
        if record["groups"] < MIN_GROUPS_AUC_DIFFERENCE:
            lines.append(NO_INTERVAL_OF_DIFFERENCE)
        share, kappa = found["agreement"]["share"], found["agreement"]["kappa"]
        shown = "undefined" if kappa is None else f"{kappa:.3f}"
        lines.append(f"decisions agree on {share:.1%} of the slides, kappa {shown}")
        if found["speed_ratio"] is not None:
            ratio = found["speed_ratio"]
            lines.append(f"when the bags were made, its encoder was {ratio:.1f} times as fast")
    return "\n".join(lines)


def _figures(found: Mapping[str, Any]) -> list[str]:
    names = ("accuracy", *TOLD)
    return [
        f"{name.replace('_', ' ').replace('auc', 'AUC'):<20}{_value(found[name])}"
        for name in names
        if name in found
    ]


def _value(figure: Mapping[str, Any]) -> str:
    value, between = figure["value"], figure["interval"]
    own = f"{'-' if value is None else f'{value:.3f}':>8}"
    return own if between is None else f"{own}  {between[0]:.3f} to {between[1]:.3f}"


def _assured(point: Mapping[str, Any]) -> list[str]:
    """What a threshold at a sensitivity keeps on further slides; nothing for other rules."""
    if not isinstance(assured := point.get("assured"), float):
        return []
    said = (
        f"it assures a sensitivity of {assured:.2f} with {point['confidence']:.0%} confidence, by "
        f"{point['positives']} positive slides or patients"
    )
    if (needed := point.get("needed")) and needed > point["positives"]:
        said += f" ({needed} are needed for {point['sensitivity']:g})"
    return [said]
