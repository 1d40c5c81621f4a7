"""Every exception of wsikd, on one page.

Each reads *object: fault; remedy* in one line, so that a user who sees nothing else knows which
file is meant and how to fix it.
"""

import re

MALFORMED = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError,
    RecursionError,
)  # fmt: skip
"""Errors that Python raises if data have another structure than expected."""
UNREADABLE = (*MALFORMED, OSError, RuntimeError, SystemError, EOFError, MemoryError)
"""``MALFORMED`` and errors of libraries at damaged bytes and at sizes beyond the memory."""
_LONGEST_WORD, _LONGEST = 300, 1000
# Control characters, halves of surrogate pairs, line separators, and marks that turn the direction.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class WsikdError(Exception):
    """Base of all errors that a user can fix.

    ``exit_code`` is that of a command which ends with the error: 2 for a wrong call, setting, file
    or machine, 3 for a slide, 4 where there is no slide, 1 for a fault of wsikd itself.
    """

    exit_code = 2
    elsewhere = False
    """Whether another process of the same training reports it."""

    def __init__(self, subject: object, fault: str, remedy: str) -> None:
        """Name the object, what is wrong with it, and how to fix it."""
        self.subject = _printed(str(subject))
        self.fault, self.remedy = one_line(fault), one_line(remedy)
        super().__init__(self.subject, self.fault, self.remedy)

    def __str__(self) -> str:
        return f"{self.subject}: {self.fault}; {self.remedy}"


class ConfigError(WsikdError, ValueError):
    """A setting is unknown, of the wrong kind, or contradicts another."""


class NoSlidesError(WsikdError):
    """The input names no slide at all."""

    exit_code = 4


class SlideError(WsikdError):
    """A slide cannot be opened or used."""

    exit_code = 3


class NotBrightfieldError(SlideError):
    """A slide is not stained tissue in transmitted light, or not in 8-bit RGB."""


class MissingMppError(SlideError):
    """A slide has no credible resolution, and none was given."""


class RegionReadError(SlideError):
    """A region of an opened slide cannot be read."""


class AnnotationError(WsikdError):
    """An annotation file cannot be understood."""


class StoreError(WsikdError):
    """A tile store cannot be used."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no tile store at this place."""


class IncompleteStoreError(StoreError):
    """A tile store was left unfinished."""


class StoreMismatchError(StoreError):
    """A tile store was made with other settings or from another slide."""


class DataError(WsikdError):
    """Training data are missing, mislabelled, or leak between splits."""


class BundleError(WsikdError):
    """A student bundle is missing, damaged, or does not fit its use."""


class CheckpointError(WsikdError):
    """A training checkpoint cannot be resumed."""


class NonFiniteLossError(WsikdError):
    """A loss term is no longer a finite number."""


class OutputError(WsikdError):
    """A result cannot be written where it was asked for."""


class UnforeseenError(WsikdError):
    """A fault of wsikd itself, not of its input."""

    exit_code = 1


def one_line(text: str) -> str:
    """Join the lines of a message, and replace characters that a terminal cannot show.

    Control characters are spelt out. Of a very long word, or text, the middle is left out: messages
    quote the contents of files.
    """
    return _printed(" ".join(_shortened(word, _LONGEST_WORD) for word in text.split()))


def _printed(text: str) -> str:
    shown = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return _shortened(shown, _LONGEST)


def _shortened(text: str, longest: int) -> str:
    half = longest // 2 - 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"
