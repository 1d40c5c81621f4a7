"""Augmentation of a batch on its device. One draw per patch: every view is made from its result."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from wsikd.models.device import upload

if TYPE_CHECKING:
    from wsikd.learn.data.augment_settings import Augment

LUMA = (0.299, 0.587, 0.114)


class Part(NamedTuple):
    """Which patches of a step these are: from ``start`` on, of ``whole``."""

    start: int
    whole: int


class Chance:
    """Draws for a part of a step as if for the whole, however many processes share it.

    It draws on the CPU whatever the device, so that all devices augment alike.
    """

    def __init__(
        self,
        generator: torch.Generator,
        part: Part | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - it does not change
    ) -> None:
        """Draw from ``generator``, of the CPU, for ``device``; no part: all patches are here."""
        self.generator, self.part, self.device = generator, part, device

    def rand(self, count: int, *more: int) -> Tensor:
        """Uniform in 0 to 1, for each of ``count`` patches: float32 (count, *more)."""
        return upload(self._draw(count, (), more), self.device)

    def rows(self, rows: int, count: int) -> Tensor:
        """Uniform in 0 to 1: float32 (rows, count), on the CPU."""
        return self._draw(count, (rows,), ())

    def _draw(self, count: int, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
        start, whole = self.part or (0, count)
        drawn = torch.rand((*before, whole, *after), generator=self.generator)
        return drawn.narrow(len(before), start, count)


def augment(patches: Tensor, options: Augment, chance: Chance) -> Tensor:
    """Turn, mirror, bend and recolour each patch by its own draw.

    Args:
        patches: uint8 or float (B, 3, H, W), 0 to 255.
        options: how much of each.
        chance: on the device of ``patches``; the same state gives the same result.

    Returns:
        float32 (B, 3, H, W), within 0 to 255.
    """
    return recolour(bend(patches, options, chance), options, chance)


def bend(patches: Tensor, options: Augment, chance: Chance) -> Tensor:
    """The first half of :func:`augment`: geometry."""
    x = patches
    if options.crop_px is not None:
        x = _crops(x, options.crop_px, chance)
    if options.flips:
        x = turned(x, draw_turns(len(x), options, chance))
    x = x.float()
    if options.moves:
        x = _affine(x, options, chance)
    return x


def recolour(x: Tensor, options: Augment, chance: Chance) -> Tensor:
    """The second half of :func:`augment`: colours; float (B, 3, H, W)."""
    if options.stain:
        x = _perhaps(x, _stain(x, options.stain, chance), options, chance)
    if options.brightness or options.contrast or options.saturation:
        x = _perhaps(x, _colour(x, options, chance), options, chance)
    return x


def _crops(x: Tensor, side: int, chance: Chance) -> Tensor:
    """A square part of each patch, wherever it fits with equal chance."""
    rows, columns = (x.shape[-2] - side + 1, x.shape[-1] - side + 1)
    draw = chance.rows(2, len(x))
    places = (draw * torch.tensor([[rows], [columns]])).long().T.tolist()
    parts = [
        p[:, top : top + side, left : left + side] for p, (top, left) in zip(x, places, strict=True)
    ]
    return torch.stack(parts)


def recolours(options: Augment) -> bool:
    """Whether :func:`recolour` does anything."""
    return any((options.stain, options.brightness, options.contrast, options.saturation))


def draw_turns(count: int, options: Augment, chance: Chance) -> Tensor:
    """Which patches are mirrored left-right, upside down and along the diagonal.

    Returns:
        bool (3, B), on the CPU.
    """
    turns = chance.rows(3, count) < 0.5
    if options.flips == "horizontal":
        turns[1:] = False
    return turns


def _uniform(count: int, spread: float, chance: Chance, *more: int) -> Tensor:
    return 1 + spread * (2 * chance.rand(count, *more) - 1)


def _perhaps(x: Tensor, changed: Tensor, options: Augment, chance: Chance) -> Tensor:
    """Each patch changed, or not, by a coin of its own."""
    if options.probability == 1:
        return changed
    return torch.where(_coin(len(x), options, chance)[:, None, None, None], changed, x)


def _coin(count: int, options: Augment, chance: Chance) -> Tensor:
    if options.probability == 1:
        return torch.ones(count, dtype=torch.bool, device=chance.device)
    return chance.rand(count) < options.probability


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """The eight symmetries of a square (four of an oblong), chosen by :func:`draw_turns`."""
    square = x.shape[-1] == x.shape[-2]
    if x.device.type == "cuda":
        return _turned_at_once(x, turns, square=square)
    made = []
    for patch, (left, up, diagonal) in zip(x, turns.T.tolist(), strict=True):
        axes = [axis for axis, flip in ((-1, left), (-2, up)) if flip]
        patch = patch.flip(axes) if axes else patch
        made.append(patch.transpose(-1, -2) if diagonal and square else patch)
    return torch.stack(made)


def _turned_at_once(x: Tensor, turns: Tensor, *, square: bool) -> Tensor:
    """The same for the whole batch: three launches on a GPU in place of several a patch."""
    left, up, diagonal = upload(turns, x.device)[..., None, None, None]
    x = torch.where(left, x.flip(-1), x)
    x = torch.where(up, x.flip(-2), x)
    return torch.where(diagonal, x.transpose(-1, -2), x) if square else x


def _affine(x: Tensor, options: Augment, chance: Chance) -> Tensor:
    """Shift, scale and turn in one resampling; each by a coin of its own."""
    count = len(x)
    turn = (_uniform(count, 1.0, chance) - 1) * math.radians(options.rotate_deg)
    turn = turn * _coin(count, options, chance)
    if options.scale_range is None:
        size = _uniform(count, options.scale, chance)
    else:
        low, high = options.scale_range
        size = low + (high - low) * chance.rand(count)
    size = torch.where(_coin(count, options, chance), size, torch.ones_like(size))
    cos, sin = turn.cos() / size, turn.sin() / size
    aspect = x.shape[-1] / x.shape[-2]
    zero = torch.zeros_like(cos)
    aside = zero
    if options.shift:
        aside = 2 * (_uniform(count, options.shift, chance) - 1) * _coin(count, options, chance)
    rows = [torch.stack([cos, -sin / aspect, aside], 1), torch.stack([sin * aspect, cos, zero], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    padding = {"mirror": "reflection", "zero": "zeros"}[options.padding]
    return functional.grid_sample(
        x, grid, mode="bilinear", padding_mode=padding, align_corners=False
    )


def _stain(x: Tensor, spread: float, chance: Chance) -> Tensor:
    """Scale the optical density of each channel: I' = I_0 (I / I_0)^g, I_0 = 255."""
    gain = _uniform(len(x), spread, chance, 3)[:, :, None, None]
    return 255 * ((x + 1) / 256) ** gain


def _colour(x: Tensor, options: Augment, chance: Chance) -> Tensor:
    """Brightness, contrast and saturation as one affine map of colours per patch."""
    count = len(x)
    bright = _uniform(count, options.brightness, chance)
    contrast = _uniform(count, options.contrast, chance)
    saturation = _uniform(count, options.saturation, chance)[:, None, None]
    luma = _luma(x.device)
    mixing = saturation * torch.eye(3, device=x.device) + (1 - saturation) * luma.expand(3, 3)
    grey = (x.mean((2, 3)) * luma).sum(1)  # saturation leaves the mean grey as it is
    mixing = mixing * (bright * contrast)[:, None, None]
    shift = bright * (1 - contrast) * grey
    y = torch.einsum("bdc,bchw->bdhw", mixing, x) + shift[:, None, None, None]
    return y.clamp(0, 255)


@lru_cache(maxsize=8)
def _luma(device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # it is kept, and used in training too
        return upload(torch.tensor(LUMA), device)
