"""The version of wsikd, and its permitted use."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wsikd")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

RESEARCH_USE = "For research use only, not for diagnosis."
NOT_ASSESSED = "Cribriform and intraductal growth are not assessed."
"""Said wherever a Gleason score stands."""
