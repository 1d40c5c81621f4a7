"""The base of every part of a card."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Real = int | float
"""A number that keeps its type in the file: 2 does not become 2.0."""


class CardPart(BaseModel):
    """A part of a card."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)

    def record(self) -> dict[str, Any]:
        """JSON values of the entries that were given, without defaults."""
        return self.model_dump(exclude_unset=True)
