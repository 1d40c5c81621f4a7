"""The colour input of a network: RGB, grey, or the density of one stain.

Grey and density are brought to mean 0 and deviation 1 within each patch, so that neither stain nor
brightness distinguishes one slide from another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
LEAST_GREY = 1.0
"""Least standard deviation in grey levels; patches below count as empty and are not scaled."""
LEAST_DENSITY = 0.01
"""Least standard deviation in optical density, likewise."""

STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
"""Optical density of haematoxylin, eosin and a residual in red, green and blue: A. Ruifrok and
D. Johnston, "Quantification of histochemical staining by color deconvolution", 2001, table 1
(eosin) and section "H&E"; scaled to length 1 before use."""


def _first_stain() -> tuple[float, ...]:
    """Weights of the densities in red, green and blue that give the first of ``STAINS``."""
    stains = np.asarray(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    return tuple(np.linalg.inv(stains)[:, 0].tolist())


def without_colour(x: Tensor, colour: str) -> Tensor:
    """One channel of a patch, normalised per patch and repeated three times.

    Args:
        x: float (B, 3, H, W), 0 to 255, RGB.
        colour: "grey", the luma 0.299 R + 0.587 G + 0.114 B; or "haematoxylin", its share of the
            optical density -log10((I + 1) / 256) after deconvolution with ``STAINS``.

    Returns:
        (B, 3, H, W): mean 0 and deviation 1 (ddof 0) over each patch's pixels; patches that deviate
        by less than ``LEAST_GREY`` or ``LEAST_DENSITY`` are divided by that instead.
    """
    if colour == "grey":
        weight: tuple[float, ...] = LUMA
        least = LEAST_GREY
    elif colour == "haematoxylin":
        weight, least = _first_stain(), LEAST_DENSITY
        x = -torch.log10((x + 1) / 256)
    else:
        raise ValueError(f"colour {colour!r} is neither 'grey' nor 'haematoxylin'")
    one = (x.permute(0, 2, 3, 1) @ x.new_tensor(weight))[:, None]
    one = one - one.mean((2, 3), keepdim=True)
    deviation = one.pow(2).mean((2, 3), keepdim=True).sqrt()
    return (one / deviation.clamp_min(least)).expand(-1, 3, -1, -1)
