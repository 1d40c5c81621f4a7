"""The name and version that people give to a network; both are in its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.output.markers import BUNDLE, FileKind
from wsikd.core.run import write_json_atomic
from wsikd.models.files.bundle import find_bundle
from wsikd.models.files.card import CARD, REMEDY, AnyCard, Card, read_content, reason
from wsikd.models.files.limits import GivenName, GivenVersion

if TYPE_CHECKING:
    from typing import Any

_OWN = FileKind("the card of a network", lambda file: BUNDLE.own(file.parent))


def name_bundle(path: str | Path, name: str, version: str | None = None) -> Card:
    """Name a network of any kind: only ``card.json`` is written, as a whole.

    Args:
        path: a bundle or run folder.
        name: up to 80 printable characters. It replaces an earlier name.
        version: up to 40 printable characters. It replaces an earlier version; None removes it.

    Returns:
        The new card.

    Raises:
        ConfigError: name or version is empty, too long or not printable.
        BundleError: there is no network, or its card is damaged.
        OutputError: the card cannot be written.
    """
    check_name(name, version)
    folder = find_bundle(Path(path))
    content = read_content(folder / CARD)
    _checked(folder / CARD, content)
    given = {"name": name} | ({} if version is None else {"version": version})
    rest = {key: value for key, value in content.items() if key not in ("name", "version")}
    card = _card(rest | given)
    write_json_atomic(folder / CARD, card.record(), _OWN)
    return card


def check_name(name: str, version: str | None = None) -> None:
    """Refuse what :func:`name_bundle` would. Raises ConfigError."""
    try:
        TypeAdapter(GivenName).validate_python(name)
        if version is not None:
            TypeAdapter(GivenVersion).validate_python(version)
    except ValueError as error:
        remedy = "give a short text without control characters"
        raise ConfigError("the new name", reason(error), remedy) from error


def _card(content: dict[str, Any]) -> Card:
    card: Card = TypeAdapter[Card](AnyCard).validate_python(content)
    return card


def _checked(file: Path, content: dict[str, Any]) -> None:
    try:
        _card({k: v for k, v in content.items() if k not in ("name", "version")})
    except ValueError as error:
        raise BundleError(file, f"is not a card of wsikd ({reason(error):.200})", REMEDY) from error
