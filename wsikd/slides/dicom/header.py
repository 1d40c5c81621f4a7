"""The few elements of a DICOM file's header that say which slide it belongs to, and its size.

Read without pydicom, since a folder of ten thousand instances is looked through before the first
slide is opened.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage."""

_HEAD_BYTES = (1 << 16, 1 << 22)
_SYNTAX, _CLASS, _IMAGE_TYPE, _SERIES = 0x0002_0010, 0x0008_0016, 0x0008_0008, 0x0020_000E
_CONCATENATION, _ORGANIZATION = 0x0020_9161, 0x0020_9311
_SAMPLES, _PHOTOMETRIC, _FRAMES, _BITS = 0x0028_0002, 0x0028_0004, 0x0028_0008, 0x0028_0100
_ROWS, _COLUMNS, _WIDTH, _HEIGHT = 0x0028_0010, 0x0028_0011, 0x0048_0006, 0x0048_0007
_LAST = _HEIGHT
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED = 0xFFFF_FFFF
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_IMPLICIT, _BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class FrameClaim:
    """Frame attributes of a whole-slide image.

    ``size`` and ``frame_px`` are (width, height) in px of the whole level and of a frame; ``count``
    is NumberOfFrames as it is written, None without it; ``organization`` is TILED_FULL,
    TILED_SPARSE or empty; ``concatenation`` is the UID that the parts of a level share; ``bits``
    are those of a pixel.
    """

    size: tuple[int, int]
    frame_px: tuple[int, int]
    count: str | None
    organization: str
    concatenation: str
    syntax: str
    photometric: str
    bits: int


@dataclass(frozen=True)
class DicomHeader:
    """``series`` is the SeriesInstanceUID, ``image_type`` the values of ImageType.

    ``frames`` is None where the file is not a whole-slide image, or does not state its size.
    """

    series: str
    sop_class: str
    image_type: tuple[str, ...]
    frames: FrameClaim | None = None

    @property
    def is_scan(self) -> bool:
        """Whether it is a whole-slide image, and not its label, overview or thumbnail."""
        flavour = self.image_type[2] if len(self.image_type) > 2 else "VOLUME"
        return self.sop_class == WHOLE_SLIDE_IMAGE and flavour == "VOLUME"


def read_header(path: Path) -> DicomHeader | None:
    """The header of a DICOM file; None where the file is none, is torn, or is deflated."""
    for size in _HEAD_BYTES:
        try:
            with path.open("rb") as stream:
                head = stream.read(size)
        except OSError:
            return None
        found = _header(head)
        whole = found is not None and (found.frames or found.sop_class != WHOLE_SLIDE_IMAGE)
        if whole or len(head) < size:
            break
    return found


def _header(head: bytes) -> DicomHeader | None:
    if head[128:132] != b"DICM":
        return None
    texts: dict[int, str] = {}
    numbers: dict[int, int] = {}
    with suppress(struct.error, IndexError):
        for tag, value, order in _elements(head):
            texts[tag] = value.decode("ascii", "replace").strip("\0 ")
            numbers[tag] = int.from_bytes(value[:4], "big" if order == ">" else "little")
            if tag == _SERIES and texts.get(_CLASS) != WHOLE_SLIDE_IMAGE:
                break
    if not texts.get(_SERIES):
        return None
    kinds = tuple(v.strip() for v in texts.get(_IMAGE_TYPE, "").split("\\"))
    return DicomHeader(texts[_SERIES], texts.get(_CLASS, ""), kinds, _frames(texts, numbers))


def _frames(texts: dict[int, str], numbers: dict[int, int]) -> FrameClaim | None:
    if not {_WIDTH, _HEIGHT, _COLUMNS, _ROWS} <= numbers.keys():
        return None
    return FrameClaim(
        size=(numbers[_WIDTH], numbers[_HEIGHT]),
        frame_px=(numbers[_COLUMNS], numbers[_ROWS]),
        count=texts.get(_FRAMES),
        organization=texts.get(_ORGANIZATION, ""),
        concatenation=texts.get(_CONCATENATION, ""),
        syntax=texts.get(_SYNTAX, ""),
        photometric=texts.get(_PHOTOMETRIC, ""),
        bits=numbers.get(_SAMPLES, 1) * numbers.get(_BITS, 8),
    )


def _elements(head: bytes) -> Iterator[tuple[int, bytes, str]]:
    """Elements of the file meta group and of the data set's first level up to the size.

    Each is its tag, its value and the order of its bytes.

    Raises struct.error at the end of the bytes.
    """
    at, depth, order, explicit = 132, 0, "<", True
    in_meta, syntax = True, ""
    while True:
        if in_meta and head[at : at + 2] != b"\2\0":
            in_meta = False
            if syntax == _DEFLATED:
                return
            order, explicit = (">" if syntax == _BIG else "<"), syntax != _IMPLICIT
        group, element = struct.unpack_from(f"{order}HH", head, at)
        tag = group << 16 | element
        length, at = _length(head, at + 4, order, explicit=explicit and group != 0xFFFE)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        else:
            if depth <= 0 and _LAST < tag < _ITEM:
                return
            value = head[at : at + length]
            if len(value) < length:
                raise struct.error
            at += length
            if tag == _SYNTAX:
                syntax = value.decode("ascii", "replace").strip("\0 ")
            if depth <= 0 and tag != _ITEM:
                yield tag, value, order


def _length(head: bytes, at: int, order: str, *, explicit: bool) -> tuple[int, int]:
    """Length of an element's value, and where the value begins."""
    if not explicit:
        return struct.unpack_from(f"{order}I", head, at)[0], at + 4
    kind = head[at : at + 2]
    if kind in _LONG:
        return struct.unpack_from(f"{order}I", head, at + 4)[0], at + 8
    return struct.unpack_from(f"{order}H", head, at + 2)[0], at + 4
