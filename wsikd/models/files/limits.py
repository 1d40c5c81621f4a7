"""Limits on the numbers and names of a card, and pydantic types that check them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator
from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

LARGEST = {"patch_px": 8192, "upsample": 16, "width": 16.0, "drop_pools": 16, "mpp": 1000.0,
           "options": 4096.0, "temperature": 100.0, "threshold": 1.0, "dim": 1 << 20,
           "grid": 1 << 10}  # fmt: skip
SMALLEST = {"mpp": 0.01, "patch_px": 8, "upsample": 1, "width": 0.01, "temperature": 0.01,
            "std": 1e-6}  # fmt: skip


@dataclass(frozen=True)
class Within:
    """Marks a number of a card, as in ``Annotated[float, Within("mpp")]``.

    The value stays as it is in the file (2 does not become 2.0), so that a card that is read and
    written again has the same bytes.

    Attributes:
        name: its entry, which may have limits in ``LARGEST`` and ``SMALLEST``.
        least: smallest valid value, in addition to ``SMALLEST``.
        most: largest valid value; by default that of ``LARGEST``.
        integer: only integers are valid.
    """

    name: str
    least: float = -math.inf
    most: float | None = None
    integer: bool = False

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """A validator by :func:`number` or :func:`whole`."""
        del source, handler
        return core_schema.no_info_plain_validator_function(self._checked)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Type and limits."""
        del schema, handler
        low, high = _limits(self.name, self.least, self.most)
        ends = {"minimum": low, "maximum": high}
        kind = "integer" if self.integer else "number"
        return {"type": kind, **{k: v for k, v in ends.items() if math.isfinite(v)}}

    def _checked(self, value: Any) -> Any:
        (whole if self.integer else number)(value, self.name, least=self.least, most=self.most)
        return value


def number(value: Any, name: str, *, least: float = -math.inf, most: float | None = None) -> float:
    """Check that a value is a finite number within its limits.

    Args:
        value: value of a card.
        name: its entry.
        least: smallest valid value, in addition to ``SMALLEST``.
        most: largest valid value; by default that of ``LARGEST``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number")
    found = float(value) if abs(value) < 2**1000 else math.inf
    low, high = _limits(name, least, most)
    if not math.isfinite(found) or not low <= found <= high:
        raise ValueError(f"{name} {found:g} is out of range, {low:g} to {high:g}")
    return found


def whole(value: Any, name: str, *, least: float = 0.0, most: float | None = None) -> int:
    """Check that a value is an integer within the same limits. Raises ValueError."""
    found = number(value, name, least=max(least, 0.0), most=most)
    if not found.is_integer():
        raise ValueError(f"{name} must be a whole number")
    return int(found)


def _limits(name: str, least: float, most: float | None) -> tuple[float, float]:
    if most is not None:
        return least, most
    return max(least, SMALLEST.get(name, -math.inf)), LARGEST.get(name, math.inf)


def _class_names(names: Sequence[str]) -> Sequence[str]:
    """Check that there are two or more distinct printable names. Raises ValueError."""
    for name in names:
        if not name.strip() or not name.isprintable():
            raise ValueError("classes must be names")
        if len(name) > 200:
            raise ValueError("classes must be names of up to 200 characters")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("classes must be two or more, each named once")
    return names


def _network_name(name: str) -> str:
    if not name.isprintable() or len(name) > 200:
        raise ValueError("arch must be a name")
    return name


def _printable(text: str, what: str, most: int) -> str:
    if not text or text != text.strip() or not text.isprintable() or len(text) > most:
        raise ValueError(f"{what} must be 1 to {most} printable characters in one line")
    return text


def _given_name(name: str) -> str:
    return _printable(name, "name", 80)


def _given_version(version: str) -> str:
    return _printable(version, "version", 40)


ClassNames = Annotated[list[str], AfterValidator(_class_names)]
NetworkName = Annotated[str, AfterValidator(_network_name)]
GivenName = Annotated[str, AfterValidator(_given_name)]
GivenVersion = Annotated[str, AfterValidator(_given_version)]
