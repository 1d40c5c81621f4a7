"""Damage to bytes that knows nothing of their format."""

BOUNDARIES = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31,
              2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**64 - 1)  # fmt: skip


def mutate_bytes(data, rng):
    """One to three operations on a copy of ``data``."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        if len(data) < 4:
            return data + b"\0"
        data = rng.choice(OPERATIONS)(data, rng)
    return data


def flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(data, rng):
    return data[: rng.choice((0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data))))]


def swap(data, rng):
    (a, b), (c, d) = sorted((_block(data, rng), _block(data, rng)))
    if b > c:
        return flip(data, rng)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def duplicate(data, rng):
    a, b = _block(data, rng)
    return data[:b] + data[a:b] + data[b:]


def remove(data, rng):
    a, b = _block(data, rng)
    return data[:a] + data[b:]


def fill(data, rng):
    a, b = _block(data, rng)
    return data[:a] + bytes([rng.choice((0, 255, 65))]) * (b - a) + data[b:]


def boundary(data, rng):
    """An extreme whole number at a random place, of 1, 2, 4 or 8 bytes."""
    return put_boundary(data, rng.randrange(len(data)), rng.choice((1, 2, 4, 8)), rng)


def put_boundary(data, place, size, rng):
    order = rng.choice(("little", "big"))
    value = (rng.choice(BOUNDARIES) % (1 << 8 * size)).to_bytes(size, order)
    return (data[:place] + value + data[place + size :])[: max(len(data), place + size)]


def _block(data, rng):
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 512, 4096)))


OPERATIONS = (flip, truncate, swap, duplicate, remove, fill, boundary, boundary)
