"""Names of networks, and the packages that make them. Imports no torch."""

from __future__ import annotations

import difflib

from wsikd.core.errors import ConfigError
from wsikd.core.registry import KINDS, check_known, known_names, load_target, source_of
from wsikd.models.tables import AGGREGATORS, BACKBONES, ENCODERS, GRADERS

TIMM = "timm"


def split_encoder(name: str) -> tuple[str, str] | None:
    """Prefix and argument of an encoder's name; None if it is the path of a file or folder."""
    prefix, colon, argument = name.partition(":")
    known = colon and prefix in known_names(ENCODERS, "encoders")
    return (prefix, argument) if known else None


def no_encoder(name: str) -> ConfigError:
    """The error for a name that is neither an encoder nor an existing path."""
    prefixes = known_names(ENCODERS, "encoders")
    prefix, colon, argument = name.partition(":")
    close = difflib.get_close_matches(prefix, prefixes, n=1, cutoff=0.5) if colon else []
    meant = f"did you mean '{close[0]}:{argument}'? " if close else ""
    forms = [f"{p}:NAME" if p == TIMM else f"{p}:FILE" for p in ENCODERS]
    forms += [f"{p}:ARGUMENT" for p in prefixes if p not in ENCODERS]
    return ConfigError(
        f"--encoder {name}",
        "is neither a bundle, a timm network nor a file",
        f"{meant}give a folder, {', '.join(forms[:-1])} or {forms[-1]}",
    )


def is_grader(arch: str) -> bool:
    """Whether a name is in ``GRADERS`` or a package's graders, and not a backbone."""
    if arch in GRADERS:
        return True
    return arch not in BACKBONES and source_of(GRADERS, arch, kind="graders") is not None


def check_grader(arch: str) -> None:
    """Refuse a name that neither wsikd nor a package offers; timm checks its own names later.

    Raises:
        ConfigError: the name is unknown.
    """
    if not arch.startswith(f"{TIMM}:") and not is_grader(arch):
        check_known({**BACKBONES, **GRADERS}, arch, kind="backbones")


def check_aggregator(arch: str) -> None:
    """Refuse a bag network that neither wsikd nor a package offers. Raises ConfigError."""
    check_known(AGGREGATORS, arch, kind="aggregators")


def card_entry(arch: str, *kinds: str) -> dict[str, str]:
    """The card's entry for a network of another package: its name and version.

    Args:
        arch: name of the network.
        kinds: kinds that it may be, from ``wsikd.core.registry.KINDS``.

    Returns:
        ``{"package": "name 1.0"}``, or nothing for networks of wsikd and of timm.
    """
    found = [source_of(load_target(KINDS[kind]), arch, kind=kind) for kind in kinds]
    source = next((one for one in found if one is not None), None)
    return {} if source is None else {"package": source}


def install_it(package: str | None, remedy: str) -> str:
    """The remedy for a network that cannot be made: install the package that its card names.

    Args:
        package: entry of the card; None if it names none.
        remedy: the remedy without a package.
    """
    return f"install the package {package}, which makes it" if package else remedy
