"""Rules of the Gleason score: specimen, thresholds, and contested choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SPECIMENS = ("biopsy", "prostatectomy")
MINOR = ("secondary", "minor")
MINOR_SHARE = 0.05
BIOPSY_CAP_MM2 = 0.5
RULES_OF = "GUPS 2019"
_NAMES = ("specimen", "minor_4", "minor_5")


@dataclass(frozen=True)
class Rules:
    """How areas become a Gleason score, see ``docs/gleason.md``.

    A slide has cancer where the summed area of all patterns reaches :meth:`least_cancer`, or the
    expected area reaches :meth:`least_expected`.

    Attributes:
        specimen: "biopsy" or "prostatectomy".
        min_area_mm2: least summed area of cancer, in mm2.
        cancer_share: the same as a share of the graded tissue, 0 to 1.
        expected_share: least expected area of cancer as a share of the graded tissue; None leaves
            the decision to the summed area.
        min_pattern: least share of the cancer for a pattern to count, 0 to 1.
        area_cap_mm2: greatest summed area that may be asked for; None for no cap.
        minor_4: a pattern 4 below 5 % of a pattern 3 cancer, in prostatectomies: "secondary"
            (3+4) or "minor" (3+3, minor pattern 4).
        minor_5: a pattern 5 below 5 % outside grade groups 2 and 3, in prostatectomies:
            "secondary" (4+5) or "minor" (4+4, minor pattern 5).
    """

    specimen: str = "biopsy"
    min_area_mm2: float = 0.0
    cancer_share: float = 0.0
    expected_share: float | None = None
    min_pattern: float = 0.0
    area_cap_mm2: float | None = None
    minor_4: str = "secondary"
    minor_5: str = "secondary"

    def least_cancer(self, tissue_mm2: float) -> float:
        """Summed area of cancer in mm2 that a slide with so much tissue must have."""
        least = max(self.min_area_mm2, self.cancer_share * tissue_mm2)
        return least if self.area_cap_mm2 is None else min(least, self.area_cap_mm2)

    def least_expected(self, tissue_mm2: float) -> float | None:
        """Expected area of cancer in mm2 that suffices; None where it does not decide."""
        return None if self.expected_share is None else self.expected_share * tissue_mm2

    def check(self) -> None:
        """Refuse unknown choices. Raises ConfigError."""
        for name, known in zip(_NAMES, (SPECIMENS, MINOR, MINOR), strict=True):
            if (value := getattr(self, name)) not in known:
                option = f"--{name.replace('_', '-')}: {' or '.join(known)}"
                raise ConfigError(value, f"no such {name.replace('_', ' ')}", option)

    def record(self) -> dict[str, Any]:
        """For ``result.json``."""
        return {name: getattr(self, name) for name in Rules.__dataclass_fields__} | {
            "rules": RULES_OF
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Rules:
        """The rules in a record of ``result.json``; missing ones have their default.

        A record of wsikd 0.1.0 has a specimen and a least area only.

        Raises:
            ConfigError: a rule is neither a name nor a number.
        """
        known = asdict(Rules())
        found = {k: v for k in known if (v := record.get(k)) is not None}
        for key, value in found.items():
            if not isinstance(value, str | int | float):
                raise ConfigError(f"result.json: {key}", "is damaged", "grade the slide again")
        return Rules(**found)
