"""Damage to TIFF and DICOM that keeps most of their structure."""

import re
import struct

from tests.fuzz.raw import BOUNDARIES, put_boundary
from tests.fuzz.texts import mutate_xml

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TAGS = (254, 256, 257, 258, 259, 262, 270, 273, 274, 277, 278, 279, 282, 284, 296, 317, 320, 322,
         323, 324, 325, 330, 339, 347, 530, 700, 34675)  # fmt: skip
_CODES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 34712, 33003, 50001, 32773, 65535)


def mutate_tiff(data, rng):
    """Other types, counts, values or numbers of tags, of any directory of a little-endian TIFF."""
    if rng.random() < 0.3:
        return _describe(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        entries, links, big = _entries(data)
        if not entries or rng.random() < 0.05:
            place = rng.choice(links or [4])
            data = put_boundary(data, place, 8 if big else 4, rng)
            continue
        data = _change_tag(data, rng.choice(entries), rng, big=big)
    return data


def _describe(data, rng):
    """Another ImageDescription, put at the end of the file: OME-XML, or the text of a vendor."""
    entries, _, big = _entries(data)
    found = [at for at in entries if struct.unpack_from("<H", data, at)[0] == 270]
    if not found:
        return put_boundary(data, rng.choice(entries), 4, rng)
    at = rng.choice(found)
    form, room = ("<QQ", 8) if big else ("<II", 4)
    count, offset = struct.unpack_from(form, data, at + 4)
    text = data[offset : offset + count].rstrip(b"\0") if count > room else b""
    if text.startswith(b"<"):
        text = mutate_xml(text, rng)
    else:
        pieces = re.split(rb"([0-9.]+)", text)
        if len(pieces) > 1:
            pieces[rng.randrange(1, len(pieces), 2)] = rng.choice(_WORDS)
        text = b"".join(pieces)
    text += b"\0" * 9  # longer than what fits into the entry
    return _put_all(data, at + 4, form, len(text), len(data)) + text


def _put_all(data, at, form, *values):
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


def _change_tag(data, at, rng, *, big):
    code, kind = struct.unpack_from("<HH", data, at)
    count = struct.unpack_from("<Q" if big else "<I", data, at + 4)[0]
    value_at, room = (at + 12, 8) if big else (at + 8, 4)
    size = _SIZES.get(kind, 1)
    if size * count > room:
        offset = struct.unpack_from("<Q" if big else "<I", data, value_at)[0]
        if offset + size * count <= len(data) and rng.random() < 0.6:
            value_at = offset + size * rng.randrange(count)
            room = size
    else:
        room = size
    what = rng.randrange(8)
    if what == 0:
        return _put(data, at + 2, "<H", rng.choice(range(20)))
    if what == 1:
        return put_boundary(data, at + 4, room if room in (4, 8) else 4, rng)
    if what == 2:
        return _put(data, at, "<H", rng.choice(_TAGS))
    if what == 3 and code in (259, 262, 274, 284, 317, 339):
        return _put(data, value_at, "<H", rng.choice(_CODES))
    if what == 4:
        small = (rng.choice(range(20)) % 256).to_bytes(1, "little")
        return data[:value_at] + small + data[value_at + 1 :]
    return put_boundary(data, value_at, min(room, 8), rng)


def _put(data, at, form, value):
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def _entries(data):
    """Places of the entries of all directories, and of the links to them; whether it is BigTIFF."""
    big = data[2:3] == b"+"
    first, form, width = (8, "<Q", 20) if big else (4, "<I", 12)
    entries, links, todo, seen = [], [first], [first], set()
    while todo:
        link = todo.pop()
        if link + struct.calcsize(form) > len(data):
            continue
        at = struct.unpack_from(form, data, link)[0]
        head = 8 if big else 2
        if not at or at in seen or at + head > len(data):
            continue
        seen.add(at)
        count = struct.unpack_from("<Q" if big else "<H", data, at)[0]
        if count > 100 or at + head + count * width + struct.calcsize(form) > len(data):
            continue
        places = [at + head + i * width for i in range(count)]
        entries += places
        links.append(at + head + count * width)
        todo.append(links[-1])
        subs = [p for p in places if struct.unpack_from("<H", data, p)[0] == 330]
        todo += [place + (12 if big else 8) for place in subs]
    return entries, links, big


_VR = (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"OB",
       b"OW", b"PN", b"SH", b"SL", b"SQ", b"SS", b"ST", b"TM", b"UI", b"UL", b"UN",
       b"US")  # fmt: skip
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
_WORDS = (b"", b"0", b"-1", b"NaN", b"1\\2\\3", b"abc", b"\xff\xfe", b"999999999999", b"1.2.840",
          b"../../x", b"MONOCHROME2", b"YBR_FULL", b"LABEL", b"0\\0", b"1e400")  # fmt: skip


def mutate_dicom(data, rng):
    """Other values, lengths or types of elements; elements that are gone or come twice."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = _elements(data)
        if not found:
            return data[:-1]
        data = _change_element(data, *rng.choice(found), rng)
    return data


def _change_element(data, at, body, end, rng):
    what = rng.randrange(10)
    if what == 0:
        return data[:at] + data[end:]
    if what == 1:
        return data[:end] + data[at:end] + data[end:]
    if what == 2:
        return data[: at + 4] + rng.choice(_VR) + data[at + 6 :]
    if what == 3:
        size = body - at - 6 if body - at == 8 else 4
        return put_boundary(data, body - size, size, rng)
    if what in (4, 5) and end > body:
        return put_boundary(data, rng.randrange(body, end), min(end - body, 8, 1 << what - 3), rng)
    if what == 6:
        value = rng.choice(BOUNDARIES) % 2**32
        return data[:body] + struct.pack("<I", value)[: end - body] + data[min(end, body + 4) :]
    value = rng.choice(_WORDS)
    value += b" " * (len(value) % 2)
    if body - at != 8:
        return data[:body] + value[: end - body] + data[body + len(value[: end - body]) :]
    return data[: body - 2] + struct.pack("<H", len(value)) + value + data[end:]


def _elements(data):
    """(start, start of value, end) of what looks like an element with an explicit type.

    Elements within sequences are found too, and so is now and then what is none.
    """
    found = []
    for match in re.finditer(b"|".join(_VR), data[132:20_000]):
        at = match.start() + 132 - 4
        long = match[0] in _LONG
        body = at + (12 if long else 8)
        if body > len(data):
            continue
        size = struct.unpack_from("<I" if long else "<H", data, body - (4 if long else 2))[0]
        end = body + (0 if size == 2**32 - 1 else size)
        if end <= len(data) and data[at + 1] < 0x80 and at >= 132:
            found.append((at, body, end))
    return found
