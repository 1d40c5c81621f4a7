"""Drawn pixels, slides in memory, damaged files, and slow references for this folder's tests."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import tifffile

from wsikd.core.errors import MissingMppError
from wsikd.slides.base import Mpp, SlideInfo

GLASS = 243


def tissue_rgb(width, height, box=None, *, seed=0, coarse=6):
    """Glass with a box (x, y, width, height) of pink, mottled tissue; default all of it."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), GLASS, np.uint8)
    x, y, w, h = box or (0, 0, width, height)
    noise = rng.integers(-40, 41, (h // coarse + 2, w // coarse + 2, 3)).astype(np.int16)
    mottle = cv2.resize(noise, (w, h), interpolation=cv2.INTER_LINEAR)
    rgb[y : y + h, x : x + w] = np.clip(mottle + [190, 120, 170], 0, 255)
    return rgb


def copy_slide(source, target):
    """A file of the same pixels that counts as another slide: its name follows the last byte."""
    target.write_bytes(source.read_bytes() + target.name.encode())
    return target


def level0(path):
    """OpenSlide's own level-0 pixels of an opaque slide: uint8 (height, width, 3)."""
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3].copy()


def area_average(pixels, start, factor, size, beyond=0.0):
    """Means over cells by the antiderivative, float64; outside of ``pixels`` is ``beyond``."""
    out = pixels.astype(np.float64) - beyond
    for axis, first, step, count in (
        (0, start[1], factor[1], size[1]),
        (1, *_x(start, factor, size)),
    ):
        total = np.concatenate([np.zeros_like(np.take(out, [0], axis)), out.cumsum(axis)], axis)
        edges = np.clip(first + step * np.arange(count + 1), 0, out.shape[axis])
        below = np.minimum(edges.astype(int), out.shape[axis] - 1)
        share = (edges - below).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        at = np.take(total, below, axis) * (1 - share) + np.take(total, below + 1, axis) * share
        out = np.diff(at, axis=axis) / step
    return out + beyond


def _x(start, factor, size):
    return start[0], factor[0], size[0]


def break_tile(path, index, page=0):
    """Make one JPEG tile of a TIFF unreadable; the file still opens."""
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[page].dataoffsets[index]
    with Path(path).open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\0" * 16)


class MemorySlide:
    """A slide in memory whose levels are given as arrays."""

    def __init__(self, *levels, mpp=(0.5, 0.5), bounds=None, background=(255, 255, 255)):
        self.path = Path("memory.svs")
        self.levels = levels
        sizes = [(rgb.shape[1], rgb.shape[0]) for rgb in levels]
        self.info = SlideInfo(
            name="memory",
            file="memory.svs",
            fingerprint="0" * 16,
            vendor="none",
            reader="memory",
            dimensions=sizes[0],
            level_dimensions=tuple(sizes),
            level_downsamples=tuple(
                (sizes[0][0] / width, sizes[0][1] / height) for width, height in sizes
            ),
            mpp=Mpp(*mpp, "the test") if mpp else None,
            objective_power=None,
            bounds=bounds or (0, 0, *sizes[0]),
            background=background,
        )

    @property
    def mpp(self):
        if self.info.mpp is None:
            raise MissingMppError("memory.svs", "none", "none")
        return self.info.mpp

    def read_level(self, level, location, size):
        (x, y), (width, height) = location, size
        rgb = self.levels[level]
        out = np.empty((height, width, 3), np.uint8)
        out[:] = self.info.background
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, rgb.shape[1]), min(y + height, rgb.shape[0])
        if left < right and top < bottom:
            out[top - y : bottom - y, left - x : right - x] = rgb[top:bottom, left:right]
        return out

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
