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

OCTAVES = 4
_LEAST_SIDE = 4
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
    density = np.ascontiguousarray(np.moveaxis(_DENSITY[patches], 3, 1))
    if not colour:
        density = density.mean(1, keepdims=True)
    found, below = _whole(density), None
    for _ in range(OCTAVES):
        if min(density.shape[2:]) < _LEAST_SIDE:
            break
        density, straight, diagonal, skewness = _halved(density)
        found += [*_octave(straight, diagonal), skewness]
        strength = _strength(straight, diagonal, density.shape[2:])
        found.append(_together(strength, below))
        below = _blocks(strength)
    return np.concatenate(found, 1).astype(np.float64)


def tissue_share(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the pixels of some fields that are not glass: uint8 (B, H, W, 3) -> (B,)."""
    return np.asarray((_DENSITY[patches].mean(3) > _GLASS).mean((1, 2)), np.float64)


def _whole(density: Planes) -> list[Planes]:
    """Means along the colours, and how the densities spread about them."""
    flat = density.reshape(*density.shape[:2], -1)
    mean = flat.mean(2)
    away = flat - mean[:, :, None]
    energy, pairs = _energies(_covariance(away))
    along = mean if mean.shape[1] == 1 else _single(mean @ _COLOURS.T)
    return [along, energy, *pairs, _skewness(away)]


def _halved(density: Planes) -> tuple[Planes, Planes, Planes, Planes]:
    """Half the resolution, and what is lost: straight (B, C, 2 N) and diagonal (B, C, N) details,
    and the skewness of the pixels about their block's mean.
    """  # fmt: skip
    height, width = (side // 2 * 2 for side in density.shape[2:])
    one, two, three, four = (
        density[:, :, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)
    )
    upper, lower, upper_step, lower_step = one + two, three + four, one - two, three - four
    half = (upper + lower) / 4
    shape = (*density.shape[:2], -1)
    straight = np.concatenate(
        [(upper - lower).reshape(shape), (upper_step + lower_step).reshape(shape)], 2
    )
    diagonal = (upper_step - lower_step).reshape(shape)
    block = np.concatenate([(part - half).reshape(shape) for part in (one, two, three, four)], 2)
    return _single(half), _single(straight / 2), _single(diagonal / 2), _skewness(block)


def _octave(straight: Planes, diagonal: Planes) -> list[Planes]:
    covariance = _covariance(straight)
    energy, pairs = _energies(covariance)
    across, _ = _energies(_covariance(diagonal))
    own = np.sqrt(np.einsum("bcc->bc", covariance)) + _FLOOR
    peaked = (np.abs(straight).mean(2) + _FLOOR) / own
    return [energy, across - energy, peaked, *pairs]


def _strength(straight: Planes, diagonal: Planes, shape: tuple[int, ...]) -> Planes:
    """Of the details in darkness: (B, rows, columns)."""
    two, one = straight.mean(1).reshape(len(straight), 2, -1), diagonal.mean(1)
    found = np.sqrt(two[:, 0] ** 2 + two[:, 1] ** 2 + one**2)
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
    """Of numbers about their mean: (B, C, N) -> (B, C)."""
    square = away * away
    spread = np.sqrt(square.mean(2)) + _FLOOR
    return _single((square * away).mean(2) / spread**3)
