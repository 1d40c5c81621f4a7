"""The rules that a student's card and the user ask for together."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsikd.core.cancer_threshold import PATTERN_MOST, SENSITIVITY, thresholds
from wsikd.grade.gleason_rules import BIOPSY_CAP_MM2, Rules

if TYPE_CHECKING:
    from wsikd.models.files.card import GraderCard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """The user's choices; None takes the value of the student's card.

    Attributes:
        specimen: "biopsy" or "prostatectomy".
        min_area_mm2: least summed area of cancer; then nothing else decides whether there is any.
        min_pattern: least share of the cancer for a pattern to count, 0 to 1.
        sensitivity: share of slides with cancer that must be found, 0 to 1.
        minor_4: see ``Rules``.
        minor_5: see ``Rules``.
    """

    specimen: str = "biopsy"
    min_area_mm2: float | None = None
    min_pattern: float | None = None
    sensitivity: float = SENSITIVITY
    minor_4: str = "secondary"
    minor_5: str = "secondary"


def rules_for(card: GraderCard | None, asked: Asked) -> Rules:
    """The rules by which a student's slides are graded.

    A least area in the card of wsikd 0.1.0, which was meant for each pattern alone, is asked of all
    patterns together. Cards without a least share of a pattern ask for 5 % of the cancer.

    Raises:
        ConfigError: a choice is unknown.
    """
    chosen = thresholds(card.cancer.record() if card and card.cancer else {}, asked.sensitivity)
    share = chosen.pattern_share if asked.min_pattern is None else asked.min_pattern
    rules = Rules(
        specimen=asked.specimen, min_pattern=share, minor_4=asked.minor_4, minor_5=asked.minor_5
    )
    if asked.min_area_mm2 is not None:
        rules = replace(rules, min_area_mm2=asked.min_area_mm2)
    else:
        rules = replace(
            rules,
            min_area_mm2=float((card and card.min_area_mm2) or 0.0),
            cancer_share=chosen.cancer_share,
            expected_share=chosen.expected_share,
            area_cap_mm2=BIOPSY_CAP_MM2 if asked.specimen == "biopsy" else None,
        )
    rules.check()
    if card and not card.cancer and asked.min_pattern is None:
        log.info(
            "the student's card has no least share of a pattern: a pattern counts from %.0f %% of "
            "the cancer (--min-pattern)",
            100 * PATTERN_MOST,
        )
    return rules
