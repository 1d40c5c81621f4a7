"""Distil a high-magnification tissue grader into a low-magnification one.

For research use only, not for diagnosis.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wsikd")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"

RESEARCH_USE = "For research use only, not for diagnosis."
