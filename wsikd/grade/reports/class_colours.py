"""One colour per class, the same in every output."""

from __future__ import annotations

from wsikd.core.classes import pattern_of

# Chosen by search: over H&E any two tints differ by a CIEDE2000 of at least 14 for colour-blind
# readers, and by at least 6 in lightness, for grey prints.
_GLEASON = {0: (35, 172, 255), 3: (200, 251, 13), 4: (250, 34, 21), 5: (9, 0, 28)}
_CYCLE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (90, 90, 90),
)  # Okabe and Ito, Color Universal Design (2008)


def class_colour(name: str, index: int) -> tuple[int, int, int]:
    """Colour of a class, distinguishable for colour-blind readers: (red, green, blue), 0 to 255.

    Args:
        name: class name; Gleason patterns and benign tissue have fixed colours.
        index: place among the classes, which selects the colour of any other class.
    """
    pattern = pattern_of(name)
    return _CYCLE[index % len(_CYCLE)] if pattern is None else _GLEASON[pattern]
