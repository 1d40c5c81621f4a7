"""The version of wsikd, and its permitted use."""

import re
from importlib.metadata import PackageNotFoundError, distribution

_VERSION = re.compile(r"^Version:[ \t]*(\S+)[ \t]*$", re.MULTILINE)


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed.

    It is read from the head of the package's metadata, since the parser of e-mails that
    ``importlib.metadata`` uses takes milliseconds a package.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        return None
    head = (found.read_text("METADATA") or "").partition("\n\n")[0]
    stated = _VERSION.search(head)
    return stated[1] if stated else found.version


__version__ = installed("wsikd") or "0+unknown"
"""``0+unknown`` for a source tree that was never installed."""

RESEARCH_USE = "For research use only, not for diagnosis."
NOT_ASSESSED = "Cribriform and intraductal growth are not assessed."
"""Said wherever a Gleason score stands."""
