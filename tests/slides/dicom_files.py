"""DICOM files of a header and no pixels."""

import struct

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


def write_dicom(
    path, series, flavour="VOLUME", *, sop_class=WSI, syntax=EXPLICIT, number=0, nested=False
):
    """A DICOM file without pixels: series UID, image type, and ``number`` in its last element."""
    order, explicit = (">" if syntax == BIG else "<"), syntax != IMPLICIT
    body = _element(order, explicit, 0x0008, 0x0008, b"CS", f"DERIVED\\PRIMARY\\{flavour}\\NONE")
    body += _element(order, explicit, 0x0008, 0x0016, b"UI", sop_class)
    if nested:
        body += _sequence(order, explicit)
    body += _element(order, explicit, 0x0020, 0x000E, b"UI", series)
    body += _element(order, explicit, 0x0020, 0x0013, b"IS", str(number))
    meta = _element("<", True, 0x0002, 0x0010, b"UI", syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + body)
    return path


def _element(order, explicit, group, element, kind, text):
    value = text.encode() + (b"\0" if kind == b"UI" else b" ") * (len(text) % 2)
    head = struct.pack(f"{order}HH", group, element)
    length = struct.pack(f"{order}H", len(value)) if explicit else b""
    return head + (kind + length if explicit else struct.pack(f"{order}I", len(value))) + value


def _sequence(order, explicit):
    """A sequence and an item of undefined length, which hold a series UID of another image."""
    undefined = 0xFFFFFFFF
    kind = b"SQ\0\0" if explicit else b""
    inner = _element(order, explicit, 0x0020, 0x000E, b"UI", "9.9.9")
    return (
        struct.pack(f"{order}HH", 0x0008, 0x1140)
        + kind
        + struct.pack(f"{order}I", undefined)
        + struct.pack(f"{order}HHI", 0xFFFE, 0xE000, undefined)
        + inner
        + struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0)
        + struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
    )
