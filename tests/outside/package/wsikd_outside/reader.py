"""Slides kept as NumPy archives: ``rgb``, uint8 (height, width, 3), and ``mpp``, um per pixel."""

import numpy as np

from wsikd.slides.base import Mpp, SlideInfo
from wsikd.slides.file_format import fingerprint
from wsikd.slides.mpp import Evidence, resolve_mpp


class NpzReader:
    """An open slide of one level; see ``wsikd.slides.base.Slide``."""

    suffixes = (".npz",)  # files that count as slides in the folders a command is given

    def __init__(self, path, *, slide_mpp=None, mpp_source="slide_mpp", name=None, series=None):
        with np.load(path) as file:
            self.rgb, stated = file["rgb"], float(file["mpp"])
        self.path = path
        evidence = Evidence((Mpp(stated, stated, "npz"),))
        height, width = self.rgb.shape[:2]
        self.info = SlideInfo(
            name=name or path.stem, file=path.name, fingerprint=fingerprint(path),
            vendor="numpy", reader="outside", dimensions=(width, height),
            level_dimensions=((width, height),), level_downsamples=((1.0, 1.0),),
            mpp=resolve_mpp(path.name, evidence, given=slide_mpp, given_source=mpp_source),
            objective_power=None, bounds=(0, 0, width, height), background=(255, 255, 255),
        )  # fmt: skip

    @property
    def mpp(self):
        return self.info.mpp

    def read_level(self, level, location, size):
        """uint8 (height, width, 3); background beyond the slide."""
        (x, y), (width, height) = location, size
        out = np.full((height, width, 3), self.info.background, np.uint8)
        left, top = max(x, 0), max(y, 0)
        part = self.rgb[top : max(y + height, 0), left : max(x + width, 0)]
        out[top - y :, left - x :][: part.shape[0], : part.shape[1]] = part
        return out

    def close(self):
        self.rgb = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
