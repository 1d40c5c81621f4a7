"""Tissue is what is darker than a fixed grey."""

import numpy as np


def dark(thumbnail, mpp):
    """Find tissue on a thumbnail.

    Args:
        thumbnail: uint8 (height, width, 3), the whole slide.
        mpp: um per pixel of the thumbnail.

    Returns:
        bool (height, width), true on tissue. Small pieces and holes are filtered afterwards.
    """
    grey = thumbnail.astype(np.float32).mean(axis=2)
    return grey < 220
