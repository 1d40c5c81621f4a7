"""Names of slides and classes as file names: safe everywhere, distinct, and always the same.

A name that is valid on every file system stays as it is. Any other is changed, and gets six digits
of the hash of the original text, so that names stay distinct. A name does not depend on the other
names of a run, unless two differ only in case or Unicode form.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_NAME_BYTES = 200
"""Longest safe name. File systems allow 255 bytes; the rest is for prefixes and suffixes of wsikd,
as in ``labels-NAME.csv.4194304.part`` and ``NAME_100000_100000.png``."""
HASH_DIGITS = 6

_BAD = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]')
_SURROGATE = re.compile("[\ud800-\udfff]")
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE
)
_OURS = re.compile(
    r"(summary\.csv|failures\.csv|student-.*\.json|.*\.(part|partial|lock|replaced|old))",
    re.IGNORECASE | re.DOTALL,
)


def safe_name(text: str, taken: Collection[str] = ()) -> str:
    """A text as the name of a file or folder.

    Args:
        text: any text, e.g. a file's stem; it may contain bytes that are not UTF-8, in Python's
            form for file names (surrogates).
        taken: keys, by :func:`name_key`, of names that are in use.

    Returns:
        ``text`` if it is a safe name. Otherwise characters that some file system refuses become
        ``_``, bytes that are not UTF-8 become ``_xNN``, dots and spaces at the ends are removed,
        names that Windows or wsikd reserve get a leading ``_``, a long name is cut to
        ``MAX_NAME_BYTES`` of UTF-8, and ``-`` with six digits of the text's hash is appended.

    >>> safe_name("TCGA-XX 1.2"), safe_name("..")
    ('TCGA-XX 1.2', '_-5ec1f7')
    """
    name = _BAD.sub("_", _SURROGATE.sub(_spelt, text)).strip(" ").rstrip(". ")
    if not name.strip(". _") and name != text:
        name = "_"
    if _RESERVED.fullmatch(name) or _OURS.fullmatch(name) or name.startswith("."):
        name = f"_{name.lstrip('.')}"
    if name == text and _fits(name) and name_key(name) not in taken:
        return name
    return hashed_name(name, text, taken)


def hashed_name(name: str, text: str, taken: Collection[str] = ()) -> str:
    """A safe name with digits of the hash of ``text``: six, or more if that name is in use."""
    digest = hashlib.sha256(_bytes(text)).hexdigest()
    for digits in range(HASH_DIGITS, len(digest) + 1):
        ending = f"-{digest[:digits]}"
        made = _cut(name, MAX_NAME_BYTES - len(ending)) + ending
        if name_key(made) not in taken:
            break
    return made


def name_key(name: str) -> str:
    """A key that is equal for names that some file system treats as equal: case, Unicode form."""
    if name.isascii():  # the same, for thousands of names
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _fits(name: str) -> bool:
    return 0 < len(name.encode()) <= MAX_NAME_BYTES


def _cut(name: str, limit: int) -> str:
    return name.encode()[:limit].decode("utf-8", "ignore").rstrip(". ") or "_"


def _spelt(match: re.Match[str]) -> str:
    """A byte that is not UTF-8, or half a UTF-16 character, as ASCII."""
    code = ord(match.group())
    return f"_x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"_u{code:04x}"
