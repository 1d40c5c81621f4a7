"""Is a JPEG stream RGB or YCbCr? Its own markers say so, whatever the file around it claims.

A TIFF tag or a DICOM attribute may be wrong. The markers are asked in the order of libjpeg: JFIF
means YCbCr, Adobe's marker says which, components named R, G, B are what they are called. Chroma of
fewer samples than luma is YCbCr too. A stream that says nothing of this is what the file claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile

    Colours = Literal["RGB", "YCbCr"]

START = b"\xff\xd8"
# APP14 of Adobe with transform 0: so that the decoder does not take the components for YCbCr.
RGB_MARK = bytes.fromhex("ffee000e41646f626500640000000000")
JFIF_MARK = bytes.fromhex("ffe000104a46494600010100000100010000")
JPEG = 7
_RGB, _YCBCR = 2, 6
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})
_SCAN, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_MOST_HEAD = 1 << 16


@dataclass(frozen=True)
class Framing:
    """How a stream is handed to a decoder: ``prefix`` in place of its first ``skip`` bytes."""

    prefix: bytes = b""
    skip: int = 2

    def of(self, data: bytes) -> bytes:
        """The stream to decode."""
        return self.prefix + data[self.skip :] if self.prefix else data


def colours_of(stream: bytes) -> Colours | None:
    """Colour information in the markers before a stream's first scan; None without any.

    Args:
        stream: the first bytes of a JPEG stream, with the tables that it shares.
    """
    adobe: int | None = None
    for marker, body in _segments(stream):
        if marker == _APP0 and body.startswith(b"JFIF\0"):
            return "YCbCr"
        if marker == _APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        if marker in _FRAMES and len(body) >= 15 and body[5] == 3:
            names, sampling = body[6:15:3], body[7:15:3]
            if adobe is not None:
                return "YCbCr" if adobe else "RGB"
            if names == b"RGB":
                return "RGB"
            return "YCbCr" if sampling[0] != sampling[1] else None
    return None


def framings(
    claim: Colours, head: bytes, tables: bytes = b""
) -> tuple[Framing, Framing, Colours | None]:
    """How to decode streams by the file's metadata, and by their own markers.

    Args:
        claim: what the file says.
        head: the first bytes of one of the streams.
        tables: JPEG tables that they share, without their first and last markers.

    Returns:
        The claim's framing, the right one, and what the streams are where that is not the claim.
    """
    found = colours_of(START + tables + head[2:])
    plain = Framing(START + tables if tables else b"")
    if claim == "RGB":
        as_claimed = Framing(START + RGB_MARK + tables, 2 + _jfif_bytes(head))
    else:
        as_claimed = Framing(START + JFIF_MARK + tables) if found == "RGB" else plain
    if found is None or found == claim:
        return as_claimed, as_claimed, None
    return as_claimed, plain, found


def page_claim(page: tifffile.TiffPage) -> Colours | None:
    """Colour space of JPEG streams by the TIFF directory; None for other streams."""
    if page.compression != JPEG or page.samplesperpixel != 3 or page.planarconfig != 1:
        return None
    return {_RGB: "RGB", _YCBCR: "YCbCr"}.get(int(page.photometric))  # type: ignore[return-value]


def page_colours(path: Path, page: tifffile.TiffPage) -> Colours | None:
    """Actual colour space of a directory's JPEG streams, if the directory is wrong."""
    claim = page_claim(page)
    if claim is None:
        return None
    tables = page.jpegtables[2:-2] if page.jpegtables else b""
    return framings(claim, first_stream(path, page.dataoffsets, page.databytecounts), tables)[2]


def first_stream(path: Path, offsets: tuple[int, ...], counts: tuple[int, ...]) -> bytes:
    """The first bytes of the first stream that is there; empty where none is."""
    place = next(((o, n) for o, n in zip(offsets, counts, strict=False) if n > 2), None)
    if place is None:
        return b""
    try:
        with path.open("rb") as file:
            file.seek(place[0])
            return file.read(min(place[1], _MOST_HEAD))
    except (OSError, ValueError, OverflowError):  # whoever reads the tiles finds their faults
        return b""


def _segments(stream: bytes) -> list[tuple[int, bytes]]:
    """Markers with their bodies up to the first scan, or to where the stream makes no sense."""
    found, at = [], 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == _SCAN or length < 2:
            break
        found.append((marker, stream[at + 4 : at + 2 + length]))
        at += 2 + length
    return found


def _jfif_bytes(head: bytes) -> int:
    """Length of a JFIF segment at a stream's beginning."""
    is_jfif = head[2:4] == b"\xff\xe0" and head[6:11] == b"JFIF\0"
    return 2 + int.from_bytes(head[4:6], "big") if is_jfif else 0
