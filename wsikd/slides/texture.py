"""What fields look like in colour and texture, as some eighty numbers a field.

Optical density is split into octaves with the wavelet of A. Haar. The numbers of an octave are the
energy of its details along three directions of colour, how these go together, how peaked and how
skewed the details are, and whether strong details lie together, in the octave and in the one below.
The numbers of the whole field are means, spreads and skewnesses. Mirroring a field and turning it
by quarter turns change none of them. B fields of H x W pixels, C colours, N pixels, K numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Planes = NDArray[np.float32]
    Numbers = NDArray[np.float64]

OCTAVES = 4
_LEAST_SIDE = 4
_AT_ONCE = 1 << 16
"""Pixels of the fields that are looked at together."""
_FLOOR = 2e-3
"""Optical density below which a detail is noise of the grey levels."""
_DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)
_COLOURS = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], np.float32) / np.float32(3)
"""Darkness, red against blue, green against both."""
_PAIRS = ((0, 1), (0, 2), (1, 2))
_GLASS = 0.05
"""Optical density, mean of the three colours, below which a pixel is glass."""


def texture(patches: NDArray[np.uint8], *, colour: bool = True) -> NDArray[np.float64]:
    """The numbers of some fields: float64 (B, K); K depends on the size and ``colour`` only.

    Args:
        patches: uint8 (B, H, W, 3), all of one size.
        colour: False looks at the mean of the three densities only.
    """
    return look(patches, colour=colour)[0]


def tissue_share(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the pixels of some fields that are not glass: uint8 (B, H, W, 3) -> (B,)."""
    return look(patches, colour=False)[1]


def look(
    patches: NDArray[np.uint8], *, colour: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """:func:`texture`, and share of the pixels that are not glass: float64 (B, K) and (B,)."""
    most = max(1, _AT_ONCE // (patches.shape[1] * patches.shape[2]))
    parts = [
        _look(patches[start : start + most], colour=colour)
        for start in range(0, len(patches), most)
    ]
    numbers, shares = zip(*parts, strict=True)
    return np.concatenate(numbers), np.concatenate(shares)


def _look(patches: NDArray[np.uint8], *, colour: bool) -> tuple[Numbers, Numbers]:
    density = _DENSITY[np.ascontiguousarray(patches.transpose(0, 3, 1, 2))]
    grey = density.mean(1, keepdims=True)
    share = (grey > _GLASS).mean((1, 2, 3))
    if not colour:
        density = grey
    found, below = _whole(density), None
    for _ in range(OCTAVES):
        if min(density.shape[2:]) < _LEAST_SIDE:
            break
        density, steps = _halved(density)
        found += _octave(*steps)
        strength = _strength(steps, density.shape[2:])
        found.append(_together(strength, below))
        below = _blocks(strength)
    return np.concatenate(found, 1).astype(np.float64), share


def _whole(density: Planes) -> list[Planes]:
    """Means along the colours, and how the densities spread about them."""
    flat = density.reshape(*density.shape[:2], -1)
    mean = flat.mean(2)
    away = flat - mean[:, :, None]
    energy, pairs = _energies(_covariance(away))
    along = mean if mean.shape[1] == 1 else _single(mean @ _COLOURS.T)
    return [along, energy, *pairs, _skewness(away)]


def _halved(density: Planes) -> tuple[Planes, tuple[Planes, Planes, Planes]]:
    """Half the resolution, and what is lost: steps down, across and diagonal, each (B, C, N)."""
    height, width = (side // 2 * 2 for side in density.shape[2:])
    one, two, three, four = (
        density[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)
    )
    upper, lower, upper_step, lower_step = one + two, three + four, one - two, three - four
    shape = (*density.shape[:2], -1)
    steps = (upper - lower, upper_step + lower_step, upper_step - lower_step)
    down, across, diagonal = (_single(step.reshape(shape) / 2) for step in steps)
    return _single((upper + lower) / 4), (down, across, diagonal)


def _octave(down: Planes, across: Planes, diagonal: Planes) -> list[Planes]:
    both = _single((_covariance(down) + _covariance(across)) / 2)
    corner = _covariance(diagonal)
    energy, pairs = _energies(both)
    of_corner, _ = _energies(corner)
    own = np.einsum("bcc->bc", both)
    peaked = (np.abs(down).mean(2) + np.abs(across).mean(2)) / 2 + _FLOOR
    # The pixels of a block lie about its mean by plus or minus half of each step.
    square = (2 * own + np.einsum("bcc->bc", corner)) / 4
    cube = np.einsum("bcn,bcn->bc", down * across, diagonal) * (0.75 / down.shape[2])
    spread = np.sqrt(square) + _FLOOR
    skewness = cube / (spread * spread * spread)
    return [energy, of_corner - energy, peaked / (np.sqrt(own) + _FLOOR), *pairs, skewness]


def _strength(steps: tuple[Planes, Planes, Planes], shape: tuple[int, ...]) -> Planes:
    """Strength of the details in darkness: (B, rows, columns)."""
    down, across, diagonal = (step.mean(1) for step in steps)
    found = np.sqrt(down * down + across * across + diagonal * diagonal)
    return _single(found.reshape(-1, *shape))


def _together(strength: Planes, below: Planes | None) -> Planes:
    """Spread of the strength over its mean, correlation of neighbours, and with the octave below.

    (B, 2), or (B, 3) where there is an octave below.
    """
    flat = strength.reshape(len(strength), -1)
    mean = flat.mean(1)
    away = strength - mean[:, None, None]
    spread = flat.std(1)
    neighbours = (away[:, 1:] * away[:, :-1]).mean((1, 2))
    neighbours += (away[:, :, 1:] * away[:, :, :-1]).mean((1, 2))
    found = [spread / (mean + _FLOOR), neighbours / (2 * (spread + _FLOOR) ** 2)]
    if below is not None:
        other = below - below.mean((1, 2), keepdims=True)
        both = (other * away).mean((1, 2))
        found.append(both / ((other.std((1, 2)) + _FLOOR) * (spread + _FLOOR)))
    return np.stack(found, 1)


def _blocks(strength: Planes) -> Planes:
    """Means of blocks of 2 x 2."""
    height, width = (side // 2 * 2 for side in strength.shape[1:])
    part = strength[:, :height, :width]
    total = part[:, ::2, ::2] + part[:, 1::2, ::2] + part[:, ::2, 1::2] + part[:, 1::2, 1::2]
    return _single(total / 4)


def _single(values: NDArray[np.floating]) -> Planes:
    return np.asarray(values, np.float32)


def _covariance(planes: Planes) -> Planes:
    """(B, C, N) -> (B, C, C)."""
    return _single(planes @ planes.transpose(0, 2, 1) / planes.shape[2])


def _energies(covariance: Planes) -> tuple[Planes, list[Planes]]:
    """Logarithms of the spreads along the colours, and, of several colours, their correlations."""
    if covariance.shape[1] == 1:
        return np.log(np.sqrt(np.maximum(covariance[:, 0], 0)) + _FLOOR), []
    turned = _COLOURS @ covariance @ _COLOURS.T
    spread = np.sqrt(np.maximum(np.einsum("bcc->bc", turned), 0)) + _FLOOR
    pairs = [turned[:, i, j] / (spread[:, i] * spread[:, j]) for i, j in _PAIRS]
    return np.log(spread), [np.stack(pairs, 1)]


def _skewness(away: Planes) -> Planes:
    """Skewness of numbers with their mean subtracted: (B, C, N) -> (B, C)."""
    square = away * away
    count = np.float32(away.shape[2])
    spread = np.sqrt(square.sum(2) / count) + _FLOOR
    cube = np.einsum("bcn,bcn->bc", square, away) / count
    return _single(cube / (spread * spread * spread))
