"""What wsikd takes from TIAToolbox. The only file that imports it; tables name it as a string.

Importing TIAToolbox takes half a minute, so this is paid only where a setting asks for it by name.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def otsu_masker(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """TIAToolbox's OtsuTissueMasker: uint8 (height, width, 3) -> bool (height, width)."""
    del mpp
    return _mask("OtsuTissueMasker", thumbnail)


def morphological_masker(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """TIAToolbox's MorphologicalMasker at ``mpp`` um/px: uint8 (H, W, 3) -> bool (H, W)."""
    return _mask("MorphologicalMasker", thumbnail, mpp=mpp)


def check() -> None:
    """Import what is used; raises ImportError."""
    _import()


def _mask(name: str, thumbnail: NDArray[np.uint8], **options: float) -> NDArray[np.bool_]:
    masker = getattr(_import(), name)(**options)
    try:
        found = masker.fit_transform([thumbnail])[0]
    except ValueError as error:
        raise ConfigError(
            f"--tissue ({name})", f"cannot mask this slide ({error})", "use --tissue otsu"
        ) from error
    return np.asarray(found, np.bool_)


def _import() -> object:
    """TIAToolbox's masker module; the root logger is left as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        from tiatoolbox.tools import tissuemask
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return tissuemask
