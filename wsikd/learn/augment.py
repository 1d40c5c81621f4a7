"""Augmentation of a batch on its device. One draw per patch: every view is made from its result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from wsikd.learn.settings import Augment

LUMA = (0.299, 0.587, 0.114)


def augment(patches: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Turn, mirror, bend and recolour each patch by its own draw.

    Args:
        patches: uint8 or float (B, 3, H, W), 0 to 255.
        options: how much of each.
        generator: on the device of ``patches``; the same state gives the same result.

    Returns:
        float32 (B, 3, H, W), within 0 to 255.
    """
    return recolour(bend(patches, options, generator), options, generator)


def bend(patches: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """The first half of :func:`augment`: what moves pixels."""
    x = patches
    if options.crop_px is not None:
        x = _crops(x, options.crop_px, generator)
    if options.flips:
        x = turned(x, draw_turns(len(x), generator))
    x = x.float()
    if options.rotate_deg or options.scale:
        x = _affine(x, options, generator)
    return x


def recolour(x: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """The second half of :func:`augment`: what changes colours; float (B, 3, H, W)."""
    if options.stain:
        x = _stain(x, options.stain, generator)
    if options.brightness or options.contrast or options.saturation:
        x = _colour(x, options, generator)
    return x


def _crops(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square part of each patch, wherever it fits with equal chance."""
    rows, columns = (x.shape[-2] - side + 1, x.shape[-1] - side + 1)
    draw = torch.rand(2, len(x), generator=generator, device=generator.device).cpu()
    places = (draw * torch.tensor([[rows], [columns]])).long().T.tolist()
    parts = [
        p[:, top : top + side, left : left + side] for p, (top, left) in zip(x, places, strict=True)
    ]
    return torch.stack(parts)


def recolours(options: Augment) -> bool:
    """Whether :func:`recolour` does anything."""
    return any((options.stain, options.brightness, options.contrast, options.saturation))


def draw_turns(count: int, generator: torch.Generator) -> Tensor:
    """Which patches are mirrored left-right, upside down and along the diagonal: bool (3, B)."""
    return torch.rand(3, count, generator=generator, device=generator.device) < 0.5


def _uniform(count: int, spread: float, generator: torch.Generator, *more: int) -> Tensor:
    draw = torch.rand(count, *more, generator=generator, device=generator.device)
    return 1 + spread * (2 * draw - 1)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """The eight symmetries of a square (four of an oblong), chosen by :func:`draw_turns`."""
    square = x.shape[-1] == x.shape[-2]
    made = []
    for patch, (left, up, diagonal) in zip(x, turns.T.tolist(), strict=True):
        axes = [axis for axis, flip in ((-1, left), (-2, up)) if flip]
        patch = patch.flip(axes) if axes else patch
        made.append(patch.transpose(-1, -2) if diagonal and square else patch)
    return torch.stack(made)


def _affine(x: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    count = len(x)
    turn = (_uniform(count, 1.0, generator) - 1) * math.radians(options.rotate_deg)
    size = _uniform(count, options.scale, generator)
    cos, sin = turn.cos() / size, turn.sin() / size
    aspect = x.shape[-1] / x.shape[-2]
    zero = torch.zeros_like(cos)
    rows = [torch.stack([cos, -sin / aspect, zero], 1), torch.stack([sin * aspect, cos, zero], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _stain(x: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Scale the optical density of each channel: I' = I_0 (I / I_0)^g, I_0 = 255."""
    gain = _uniform(len(x), spread, generator, 3)[:, :, None, None]
    return 255 * ((x + 1) / 256) ** gain


def _colour(x: Tensor, options: Augment, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation as one affine map of colours per patch."""
    count = len(x)
    bright = _uniform(count, options.brightness, generator)
    contrast = _uniform(count, options.contrast, generator)
    saturation = _uniform(count, options.saturation, generator)[:, None, None]
    luma = torch.tensor(LUMA, device=x.device)
    mixing = saturation * torch.eye(3, device=x.device) + (1 - saturation) * luma.expand(3, 3)
    grey = (x.mean((2, 3)) * luma).sum(1)  # saturation leaves the mean grey as it is
    mixing = mixing * (bright * contrast)[:, None, None]
    shift = bright * (1 - contrast) * grey
    y = torch.einsum("bdc,bchw->bdhw", mixing, x) + shift[:, None, None, None]
    return y.clamp(0, 255)
