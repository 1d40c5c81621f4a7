"""The doubt that a slide is brightfield RGB, and the error that says so."""

from __future__ import annotations

from dataclasses import dataclass

from wsikd.core.errors import NotBrightfieldError

ACCEPT = "--accept-grey"
NOT_RGB = ", so it is not brightfield RGB"


@dataclass(frozen=True)
class Doubt:
    """Why a slide may not be brightfield RGB; a ``final`` one holds whatever the user accepts."""

    reason: str
    final: bool = False
    remedy: str = "convert it to 8-bit RGB, or leave it out"


def refusal(file: str, doubt: Doubt) -> NotBrightfieldError:
    """The error of a slide that is not brightfield RGB, or not known to be."""
    remedy = doubt.remedy
    if not doubt.final:
        remedy = f"leave it out, or give {ACCEPT} to read it anyway"
    return NotBrightfieldError(file, doubt.reason + NOT_RGB, remedy)
