"""Names of slides and classes as file names: safe everywhere, distinct, and always the same.

A name that every file system takes stays as it is. Any other one is changed, and six digits of the
hash of the original text follow, so that two names never become one. A name does not depend on the
other names of a run, except where two differ in case or Unicode form only.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_NAME_BYTES = 200
"""Longest safe name. File systems take 255 bytes; the rest is for what wsikd appends or prepends,
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
        text: any text, e.g. a file's stem; bytes that are not UTF-8 may be in it as Python
            reads them from a file name (surrogates).
        taken: keys, by :func:`name_key`, of names that are not free.

    Returns:
        ``text`` where it is a safe name. Otherwise characters that some file system refuses become
        ``_``, bytes that are not UTF-8 ``_xNN``, dots and spaces at the ends go, names that Windows
        or wsikd keep for themselves begin with ``_``, a long name is cut to ``MAX_NAME_BYTES``
        of UTF-8, and ``-`` with six digits of the text's hash follows.

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
    """A safe name with digits of the hash of ``text``: six, or more where those are taken."""
    digest = hashlib.sha256(_bytes(text)).hexdigest()
    for digits in range(HASH_DIGITS, len(digest) + 1):
        ending = f"-{digest[:digits]}"
        made = _cut(name, MAX_NAME_BYTES - len(ending)) + ending
        if name_key(made) not in taken:
            break
    return made


def name_key(name: str) -> str:
    """What two names share that some file system holds for one: case and Unicode form."""
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
    """A byte that is not UTF-8, or half a character of UTF-16, in ASCII."""
    code = ord(match.group())
    return f"_x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"_u{code:04x}"
