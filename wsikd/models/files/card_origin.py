"""Where a network comes from: its teacher, and the weights that its training started from."""

from __future__ import annotations

from wsikd.models.files.card_part import CardPart, Real


class TaughtBy(CardPart):
    """The teacher of a network: a grader, or an encoder."""

    id: str | None = None
    licence: str | None = None
    sha256: str | None = None
    arch: str | None = None
    mpp: Real | None = None
    dim: int | None = None


class InitWeights(CardPart):
    """The pretrained weights that a training started from.

    Attributes:
        source: "package:NAME VERSION", "file", "timm:NAME" or "torchvision:NAME". A network
            that starts from its teacher has the teacher's entry.
        file: name of the file, where there is one.
        sha256: digest of that file, or of the state dict.
        licence: terms of these weights.
        keys: "as named", or "by order": the file names its tensors otherwise, and each was
            recognised by its place, shape and last name.
    """

    source: str
    file: str | None = None
    sha256: str
    licence: str
    keys: str | None = None
