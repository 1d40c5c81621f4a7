"""Keyed hashes of the training slides, for the card of a network."""

from __future__ import annotations

import hashlib
from typing import Any

HASH_CHARS = 12


def seen_hash(text: str, salt: str) -> str:
    """Salted hash of a name or fingerprint: 12 hexadecimal digits."""
    size = HASH_CHARS // 2
    return hashlib.blake2b(text.encode(), digest_size=size, key=salt.encode()).hexdigest()


def hashes(text: str) -> set[str]:
    """The hashes that a card holds in one string."""
    return {text[i : i + HASH_CHARS] for i in range(0, len(text), HASH_CHARS)}


def saw_scan(records: Any, fingerprint: str) -> str | None:
    """Whether a network or its teacher learnt from a slide file.

    Args:
        records: the entry ``seen`` of its card.
        fingerprint: fingerprint of the slide, see ``SlideInfo``.

    Returns:
        The part it was in, "train" or "val"; None where the card does not hold it.

    Raises:
        LookupError: the card does not say what was seen.
    """
    if not isinstance(records, list):
        raise LookupError("the card does not list the network's training data")
    for part in ("train", "val"):
        for record in records:
            if seen_hash(fingerprint, str(record["salt"])) in hashes(record[part]["images"]):
                return part
    return None
