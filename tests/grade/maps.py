"""Slides in memory and grade maps of known content, for the tests of this folder."""

from pathlib import Path

import numpy as np

from wsikd.grade.grademap import GradeMap
from wsikd.slides.base import Mpp, SlideInfo

CLASSES = ("NC", "G3", "G4", "G5")
MPP = 0.499
CELL = 64 / MPP  # 128.2565 level-0 px
ORIGIN = (23.37, 41.81)
BOUNDS = (11, 7, 1201, 963)
# the square: cells (1..3, 2..4) of class G4
SQUARE = (ORIGIN[0] + 2 * CELL, ORIGIN[1] + CELL, ORIGIN[0] + 5 * CELL, ORIGIN[1] + 4 * CELL)


class FakeSlide:
    """A slide in memory: level 0 as given, coarser ones by plain averaging."""

    def __init__(self, rgb, downsamples=(1,), bounds=None):
        self.path = Path("PATIENT-7.svs")
        self.levels = [averaged(rgb, down) for down in downsamples]
        self.largest_read = 0
        self.reads = []
        size = (rgb.shape[1], rgb.shape[0])
        self.info = SlideInfo(
            name="slide 1",
            file="PATIENT-7.svs",
            fingerprint="0123abcd",
            vendor="SECRETVENDOR",
            reader="fake",
            dimensions=size,
            level_dimensions=tuple((r.shape[1], r.shape[0]) for r in self.levels),
            level_downsamples=tuple((float(d), float(d)) for d in downsamples),
            mpp=Mpp(MPP, MPP, "/home/PATIENT-7/slides.csv"),
            objective_power=20,
            bounds=bounds or (0, 0, *size),
            background=(255, 255, 255),
        )

    @property
    def mpp(self):
        return self.info.mpp

    def read_level(self, level, location, size):
        self.largest_read = max(self.largest_read, size[0] * size[1])
        self.reads.append(level)
        out = np.full((size[1], size[0], 3), 255, np.uint8)
        (x, y), rgb = location, self.levels[level]
        assert x >= 0
        assert y >= 0
        part = rgb[y : y + size[1], x : x + size[0]]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass


def averaged(rgb, factor):
    if factor == 1:  # each block is its pixel
        return rgb.copy()
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    blocks = rgb[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def white_slide():
    return FakeSlide(np.full((991, 1237, 3), 255, np.uint8), bounds=BOUNDS)


def map_of(grades, classes=CLASSES, info=None, **placement):
    """A map whose most probable classes are ``grades`` (-1: not read)."""
    grades = np.asarray(grades, np.int64)
    valid = grades >= 0
    rng = np.random.default_rng(5)
    probability = rng.uniform(0, 0.1, (len(classes), *grades.shape)).astype(np.float32)
    np.put_along_axis(probability, np.maximum(grades, 0)[None], np.float32(0.7), 0)
    probability /= probability.sum(0)
    probability[:, ~valid] = np.nan
    return GradeMap(
        probability_khw=probability,
        valid_hw=valid,
        tissue_hw=np.where(valid, 0.5, 0).astype(np.float32),
        classes=tuple(classes),
        slide=info or white_slide().info,
        seconds={"read": 1.0},
        **{"mpp": 64.0, "origin_xy": ORIGIN, "cell_px": (CELL, CELL)} | placement,
    )


def square_map(**changes):
    grades = np.zeros((6, 8), int)
    grades[1:4, 2:5] = 2
    grades[5] = -1
    return map_of(grades, **changes)
