"""Which slides, patients and images a network has learnt from, so that none of them judges it.

The card of a bundle holds keyed hashes, of its own data and of its teacher's; the key is drawn from
the data, so that cards of different data cannot be matched name by name.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import MALFORMED, BundleError, DataError
from wsikd.core.leak_hashes import hashes, seen_hash
from wsikd.learn.data.splits import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.models.files.bundle import StudentBundle

logger = logging.getLogger(__name__)
MAX_IMAGES = 10_000
FORBIDDEN = {"test": ("train", "val"), "val": ("train",)}
"""Part that judges a network -> parts of its own training that must not hold any of it."""


def record_seen(patches: PatchSet, teachers: Sequence[StudentBundle]) -> list[dict[str, Any]]:
    """The entries of a card on the data of the network and of its teachers.

    Of each part, "train" and "val", the hashes of all slides and patients and those of the images
    (files) or scans (tile stores) in one string of 12 characters each. Of more than 10 000 images
    those with the least hashes are kept, a sample that any other set meets alike.

    Args:
        patches: patches that it was trained on.
        teachers: those that it was distilled from.

    Returns:
        Its own record first, JSON values.
    """
    salt = hashlib.sha256("|".join(patches.digests).encode()).hexdigest()[:16]
    own: dict[str, Any] = {"salt": salt}
    for part in ("train", "val"):
        indices = patches.trained_on if part == "train" else patches.indices(part)
        names = sorted({h for _, h in _names(patches, indices, salt)})
        images = sorted({h for _, h in _images(patches, indices, salt)})[:MAX_IMAGES]
        own[part] = {"names": "".join(names), "images": "".join(images)}
    found: list[dict[str, Any]] = [own]
    for teacher in teachers:
        found += [record for record in teacher.card.seen or [] if record not in found]
    return found


def unseen_by(bundle: StudentBundle, patches: PatchSet) -> NDArray[np.bool_]:
    """Which patches a network has neither been trained nor selected on, by its card: bool (N,).

    Patches of a slide, a patient or an image that its card lists, or that of its own teacher, count
    as seen.

    Raises:
        BundleError: the card does not list its data, or the record is damaged.
    """
    records, unseen = bundle.card.seen, np.ones(len(patches.slide), bool)
    if not isinstance(records, list):
        raise BundleError(bundle.path, "its card does not list its training data", "train it again")
    try:
        for record in records:
            salt = str(record["salt"])
            known = {
                kind: hashes(record["train"][kind]) | hashes(record["val"][kind])
                for kind in ("names", "images")
            }
            for i in range(len(unseen)):
                names = (f"slide {patches.slide[i]}", patches.group[i])
                image = patches.content[i] if patches.content else None
                if any(seen_hash(name, salt) in known["names"] for name in names) or (
                    image is not None and seen_hash(image, salt) in known["images"]
                ):
                    unseen[i] = False
    except MALFORMED as error:
        raise BundleError(
            bundle.path, "its card's record of what was seen is damaged", "copy the bundle again"
        ) from error
    return unseen


def check_unseen(
    bundle: StudentBundle,
    patches: PatchSet,
    splits: Sequence[str],
    *,
    who: str,
    remedy: str,
    allow: bool = False,
) -> bool:
    """Refuse to judge by patches that a network, or its teacher, was trained or selected on.

    Args:
        bundle: the network; one whose card says nothing of this is only warned of.
        patches: patches of the scoring.
        splits: which parts of them, keys of ``FORBIDDEN``.
        who: how the message calls the network.
        remedy: how to fix it.
        allow: warn instead.

    Returns:
        Whether some were seen.

    Raises:
        DataError: some were seen; the message names their slides.
        BundleError: the card's record is damaged.
    """
    records = bundle.card.seen
    if not isinstance(records, list):
        logger.warning(
            "the card of %s does not list its training data: leakage is not checked", who
        )
        return False
    for split in splits:
        try:
            found = _seen(records, patches, split)
        except MALFORMED as error:
            raise BundleError(
                bundle.path,
                "its card's record of what was seen is damaged",
                "copy the bundle again",
            ) from error
        if found is None:
            continue
        slides, what, part = found
        done = "trained" if part == "train" else "selected"
        verb = "is" if len(slides) == 1 else "are"
        fault = f"{verb} in the {split} part, but {who} was {done} on {what}"
        if not allow:
            raise DataError(listed("slide", slides), fault, remedy)
        logger.warning("%s %s", listed("slide", slides), fault)
        return True
    return False


def _seen(
    records: Sequence[Mapping[str, Any]], patches: PatchSet, split: str
) -> tuple[list[str], str, str] | None:
    """Slides that were used in training, with the part and the kind of match."""
    indices = patches.indices(split)
    patients = split != "val" or patches.val_by == "group"
    for record in records:
        salt = str(record["salt"])
        for what, kind, hashed in (
            ("the same image", "images", _images),
            ("a slide or patient of that name", "names", _names),
        ):
            digests = list(hashed(patches, indices, salt, patients=patients))
            for part in FORBIDDEN[split]:
                known = hashes(record[part][kind])
                slides = [patches.slide[i] for i, digest in digests if digest in known]
                if slides:
                    return list(dict.fromkeys(slides)), what, part
    return None


def _names(
    patches: PatchSet, indices: NDArray[np.int64], salt: str, *, patients: bool = True
) -> Iterator[tuple[int, str]]:
    done: set[tuple[str, str]] = set()
    for i in indices.tolist():
        slide = patches.slide[i]
        for name in (f"slide {slide}", *([patches.group[i]] if patients else [])):
            if (slide, name) not in done:
                done.add((slide, name))
                yield i, seen_hash(name, salt)


def _images(
    patches: PatchSet, indices: NDArray[np.int64], salt: str, *, patients: bool = True
) -> Iterator[tuple[int, str]]:
    del patients  # an image is one whoever it is of
    done: set[str] = set()
    for i in indices.tolist():
        content = patches.content[i] if patches.content else None
        if content is not None and content not in done:
            done.add(content)
            yield i, seen_hash(content, salt)
