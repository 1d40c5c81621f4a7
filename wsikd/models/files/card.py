"""A bundle's card: what is read from ``card.json``, and how it must look. Needs no PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import BundleError
from wsikd.core.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
COLOURS = ("rgb", "grey", "haematoxylin")
"""What a network may see of a patch, see ``wsikd.models.graders.colour_input``."""
CARD = "card.json"
CARD_BYTES = 4 << 20
LARGEST = {"patch_px": 8192, "upsample": 16, "width": 16.0, "drop_pools": 16, "mpp": 1000.0,
           "options": 4096.0, "temperature": 100.0, "threshold": 1.0, "dim": 1 << 20,
           "grid": 1 << 10}  # fmt: skip
SMALLEST = {"mpp": 0.01, "patch_px": 8, "upsample": 1, "width": 0.01, "temperature": 0.01,
            "std": 1e-6}  # fmt: skip


@dataclass(frozen=True)
class InputSpec:
    """What a network is to be given.

    Attributes:
        mpp: um per pixel of its patches.
        patch_px: side of a patch at that resolution.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        classes: names in the order of the logits.
        student_input: "native", "half" or "upsampled"; the network up-samples by itself.
        upsample: the factor by which it does.
        corner_aligned: it does so with corners on corners.
        colour: "rgb", or "grey" or "haematoxylin": the network takes colour away by itself, and
            mean and std are of what is left.
    """

    mpp: float
    patch_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    student_input: str = "native"
    upsample: int = 1
    corner_aligned: bool = False
    colour: str = "rgb"

    @property
    def field_um(self) -> float:
        """Side of the field of view in um."""
        return self.mpp * self.patch_px


def read_card(file: Path) -> dict[str, Any]:
    """Read ``card.json``. Raises BundleError where it is none, or of another format."""
    try:
        if file.stat().st_size > CARD_BYTES:
            raise BundleError(file, f"is larger than {CARD_BYTES >> 20} MB", "copy the bundle anew")
        card = read_json(file)
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(file, "is no JSON", "copy the bundle anew") from error
    if not isinstance(card, dict):
        raise BundleError(file, "is not a card of wsikd", "copy the bundle anew")
    if card.get("format") != FORMAT:
        raise BundleError(
            file, f"format {card.get('format')!r:.40} is not known", "use a wsikd that reads it"
        )
    check_finite(file, card)
    return card


def check_finite(file: Path, card: Mapping[str, Any]) -> None:
    """Refuse a card with NaN or infinity anywhere. Raises BundleError."""
    if place := _not_finite(card):
        fault = f"{place:.100} is not a finite number"
        raise BundleError(file, fault, "export the student again")


def _not_finite(value: Any) -> str | None:
    """Place of the first number that is NaN or infinite, as ``input.mpp``."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    inside = value.items() if isinstance(value, dict) else ()
    for name, part in enumerate(value) if isinstance(value, list) else inside:
        if (found := _not_finite(part)) is not None:
            return f"{name}.{found}".rstrip(".")
    return None


def input_spec(entries: Mapping[str, Any]) -> InputSpec:
    """What a card says of the input. Raises KeyError, TypeError, ValueError, AttributeError."""
    mean, std = (
        tuple(number(v, k) for v in _list(entries[k], k, length=3)) for k in ("mean", "std")
    )
    spec = InputSpec(
        mpp=number(entries["mpp"], "mpp"),
        patch_px=whole(entries["patch_px"], "patch_px"),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        classes=class_names(entries["classes"]),
        student_input=str(entries.get("student_input", "native")),
        upsample=whole(entries.get("upsample", 1), "upsample"),
        corner_aligned=entries.get("corner_aligned", False) is True,
        colour=str(entries.get("colour", "rgb")),
    )
    if spec.student_input not in ("native", "half", "upsampled"):
        raise ValueError("student_input must be native, half or upsampled")
    if spec.colour not in COLOURS:
        raise ValueError(f"colour {spec.colour!r} is not one of {COLOURS}")
    return spec


def network_of(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of its network, as ``assemble`` takes it; raises as :func:`input_spec`."""
    arch, options = entries["arch"], entries.get("options") or {}
    if not isinstance(arch, str) or not arch.isprintable() or len(arch) > 200:
        raise ValueError("arch must be a name")
    width = number(entries.get("width", 1.0), "width")
    for value in dict(options).values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float):
                number(float(one), "options")
    return {
        "arch": arch,
        "width": width,
        "drop_pools": whole(entries.get("drop_pools", 0), "drop_pools"),
        "options": dict(options),
    }


def number(value: Any, name: str, *, least: float = -math.inf, most: float | None = None) -> float:
    """A finite number.

    Args:
        value: of a card.
        name: its entry.
        least: the smallest that will do, beside ``SMALLEST``.
        most: the largest, by default that of ``LARGEST``.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number")
    found = float(value) if abs(value) < 2**1000 else math.inf
    low, high = least, LARGEST.get(name, math.inf) if most is None else most
    if most is None:
        low = max(low, SMALLEST.get(name, -math.inf))
    if not math.isfinite(found) or not low <= found <= high:
        raise ValueError(f"{name} {found:g} is out of range, {low:g} to {high:g}")
    return found


def optional(
    card: Mapping[str, Any], name: str, *, least: float = -math.inf, most: float | None = None
) -> float | None:
    """A number of a card, None where it has none; raises as :func:`number`."""
    value = card.get(name)
    return None if value is None else number(value, name, least=least, most=most)


def whole(value: Any, name: str, *, least: float = 0.0, most: float | None = None) -> int:
    """A whole number within the same limits. Raises TypeError, ValueError."""
    found = number(value, name, least=least, most=most)
    if not found.is_integer():
        raise ValueError(f"{name} must be a whole number")
    return int(found)


def _list(value: Any, name: str, length: int | None = None) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise TypeError(f"{name} must be a list{'' if length is None else f' of {length}'}")
    return value


def class_names(value: Any) -> tuple[str, ...]:
    """Two or more names, each once. Raises TypeError, ValueError."""
    classes = tuple(map(_class_name, _list(value, "classes")))
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError("classes must be two or more, each named once")
    return classes


def _class_name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise TypeError("classes must be names")
    if len(value) > 200:
        raise ValueError("classes must be names of up to 200 characters")
    return value
