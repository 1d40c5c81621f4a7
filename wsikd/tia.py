"""What wsikd takes from TIAToolbox. The only file that imports it; tables name it as a string.

Importing TIAToolbox takes half a minute, so this is paid only where a setting asks for it by name.
"""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError, SlideError
from wsikd.slides.base import printable
from wsikd.slides.file_format import zarr_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def otsu_masker(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """TIAToolbox's OtsuTissueMasker: uint8 (height, width, 3) -> bool (height, width)."""
    del mpp
    return _mask("OtsuTissueMasker", thumbnail)


def morphological_masker(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """TIAToolbox's MorphologicalMasker at ``mpp`` um/px: uint8 (H, W, 3) -> bool (H, W)."""
    return _mask("MorphologicalMasker", thumbnail, mpp=mpp)


def student_model(bundle: str | Path, *, stride_px: int | None = None) -> tuple[Any, Any]:
    """A student as a model of TIAToolbox's engines, and how they are to feed it.

    ``PatchPredictor(model).run([slide], ioconfig=ioconfig, patch_mode=False,
    return_probabilities=True)`` then reads fields of the student's size at its resolution. Where
    the slide stores that resolution the probabilities are those of ``wsikd infer``; elsewhere the
    two resample differently.

    Args:
        bundle: a bundle, or a run folder of ``wsikd distill``.
        stride_px: distance of fields in px at the student's resolution; its patch by default.

    Returns:
        A ``tiatoolbox.models.models_abc.ModelABC`` whose ``class_dict`` names the classes, and an
        ``IOPatchPredictorConfig``.

    Raises:
        BundleError: the bundle is missing, damaged, or does not fit its card.
        ConfigError: the stride is larger than the patch or below 1.
    """
    from wsikd.models.files.bundle import load_bundle
    from wsikd.models.files.export import calibrated

    student = load_bundle(bundle)
    side = student.spec.patch_px
    stride = side if stride_px is None else stride_px
    if not 0 < stride <= side:
        raise ConfigError(
            "stride_px", f"{stride} px is larger than the patch or below 1", f"give 1 to {side}"
        )
    with _quiet("models.engine.io_config") as io:
        at = [{"units": "mpp", "resolution": student.spec.mpp}]
        ioconfig = io.IOPatchPredictorConfig(
            input_resolutions=at, output_resolutions=at, patch_input_shape=(side, side),
            stride_shape=(stride, stride),
        )  # fmt: skip
    return _student_class()(calibrated(student), student.spec.classes), ioconfig


@cache
def _student_class() -> Any:
    """The class of ``student_model``, made on use: its base is TIAToolbox's."""
    import torch

    with _quiet("models.models_abc") as abc:
        base: Any = abc.ModelABC

    class Student(base):  # type: ignore[misc]
        """Maps uint8 (B, 3, H, W) to logits; normalising is part of the network."""

        def __init__(self, network: torch.nn.Module, classes: Sequence[str]) -> None:
            super().__init__()
            self.network = network
            self.class_dict = dict(enumerate(classes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x)  # type: ignore[no-any-return]

        @staticmethod
        def preproc(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            """A patch as it is: uint8 (H, W, 3)."""
            return image

        @staticmethod
        def postproc(image: Any) -> Any:
            """Most probable class of probabilities (N, classes), NumPy's or Dask's."""
            return image.argmax(axis=-1)

        @staticmethod
        def infer_batch(
            model: torch.nn.Module, batch_data: Any, *, device: str
        ) -> NDArray[np.float32]:
            """Probabilities (B, classes) of uint8 patches (B, H, W, 3)."""
            x = torch.as_tensor(batch_data).to(device).permute(0, 3, 1, 2)
            with torch.inference_mode():
                return np.asarray(torch.softmax(model(x).float(), 1).cpu().numpy(), np.float32)

    return Student


def open_ome_zarr(path: Path) -> _Arrays:
    """Levels of an OME-Zarr image, finest first.

    Through TIAToolbox's NGFFWSIReader where it reads the layout (0.4, axes cyx or yxc, numbered
    datasets, channels described); else the arrays are taken as Zarr's, which TIAToolbox brings.

    Raises:
        SlideError: the image has several planes or time points, or no axes x, y and c.
    """
    warnings.filterwarnings("ignore", "Object at .* is not recognized")  # Zarr, of stray files
    attributes = zarr_attributes(path)
    multiscale = attributes["multiscales"][0]
    axes = "".join(axis["name"] for axis in multiscale["axes"])
    names = [str(one["path"]) for one in multiscale["datasets"]]
    known = (path / ".zattrs").exists() and axes in ("cyx", "yxc")
    with _quiet("wsicore.wsireader") as tia:
        if known and all(n.isdecimal() for n in names) and "rdefs" in attributes.get("omero", {}):
            reader = tia.NGFFWSIReader(path, post_proc=None)
            return _Arrays([reader.level_arrays[int(name)] for name in names])
        group = import_module("tiatoolbox.wsicore.wsireader.base").zarr.open_group(path, mode="r")
    return _Arrays([_Plane(path, group[name], axes) for name in names])


def open_jp2(path: Path) -> _Jp2:
    """Resolutions of a JP2 file through TIAToolbox's JP2WSIReader, which decodes parts of it."""
    with _quiet("wsicore.wsireader") as tia:
        _check_openjpeg()
        opened = _Jp2(tia.JP2WSIReader(path, post_proc=None))
    # glymur warns of bytes beyond the image; what cannot be decoded raises.
    warnings.filterwarnings("ignore", category=UserWarning, module="glymur")
    return opened


class _Arrays:
    """Levels as arrays (height, width, channels) that may be sliced."""

    def __init__(self, levels: Sequence[Any]) -> None:
        self._levels = levels
        self.sizes = tuple((int(one.shape[1]), int(one.shape[0])) for one in levels)
        first = levels[0]
        self.channels = int(first.shape[2]) if len(first.shape) == 3 else 1
        self.dtype = np.dtype(getattr(first, "array", first).dtype)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, channels) of a box that lies within the level."""
        return np.asarray(self._levels[level][y : y + height, x : x + width], np.uint8)

    def close(self) -> None:
        """Nothing is held open between reads."""


class _Jp2:
    """Resolutions of a JPEG 2000 image: level n has every 2^n-th pixel, rounded up."""

    def __init__(self, reader: Any) -> None:
        self._image = reader.glymur_jp2
        # One decoder, and what it is asked for, are shared state of a glymur image.
        self._lock = threading.Lock()
        height, width, *rest = self._image.shape
        self.channels = int(rest[0]) if rest else 1
        self.dtype = np.dtype(self._image.dtype)
        halvings = range(max(1, int(reader.info.level_count)))
        sizes = [(-(-width // 2**n), -(-height // 2**n)) for n in halvings]
        self.sizes = tuple((int(w), int(h)) for w, h in sizes)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, channels) of a box that lies within the level."""
        step = 2**level
        right = min((x + width) * step, self.sizes[0][0])
        bottom = min((y + height) * step, self.sizes[0][1])
        with self._lock:
            part = self._image[y * step : bottom : step, x * step : right : step]
        return np.asarray(part, np.uint8).reshape(height, width, self.channels)

    def close(self) -> None:
        """Nothing is held open between reads."""


class _Plane:
    """An array of any order of axes, seen as (height, width, channels)."""

    def __init__(self, path: Path, array: Any, axes: str) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        if not {"c", "y", "x"} <= set(axes) or any(sizes[a] > 1 for a in axes if a not in "cyx"):
            fault = f"an OME-Zarr of axes {axes} and shape {tuple(array.shape)} is not an RGB plane"
            raise SlideError(printable(path.name), fault, "write out one plane of it, axes c, y, x")
        self.array, self._axes = array, axes
        self.shape = (sizes["y"], sizes["x"], sizes["c"])

    def __getitem__(self, box: tuple[slice, slice]) -> NDArray[np.uint8]:
        taken = {"y": box[0], "x": box[1], "c": slice(None)}
        part = self.array[tuple(taken.get(axis, 0) for axis in self._axes)]
        left = [axis for axis in self._axes if axis in taken]
        return np.transpose(part, [left.index(axis) for axis in "yxc"])


def _check_openjpeg() -> None:
    """Raise ImportError where glymur is missing, or finds no library to decode with."""
    found = import_module("glymur").version.openjpeg_version
    if found.startswith("0."):
        raise ImportError("glymur finds no OpenJPEG library")


def check() -> None:
    """Import what is used; raises ImportError."""
    _import()
    with _quiet("wsicore.wsireader"):
        _check_openjpeg()


def _mask(name: str, thumbnail: NDArray[np.uint8], **options: float) -> NDArray[np.bool_]:
    masker = getattr(_import(), name)(**options)
    try:
        found = masker.fit_transform([thumbnail])[0]
    except ValueError as error:
        raise ConfigError(
            f"--tissue ({name})", f"cannot mask this slide ({error})", "use --tissue otsu"
        ) from error
    return np.asarray(found, np.bool_)


def _import() -> Any:
    """TIAToolbox's masker module."""
    with _quiet("tools.tissuemask") as module:
        return module


@contextmanager
def _quiet(module: str) -> Iterator[Any]:
    """A module of TIAToolbox, silent meanwhile; the root logger is left as it was found.

    Its warnings are of resolutions, which are decided elsewhere.
    """
    # It says of each codec that another package has brought it already.
    logging.getLogger("imagecodecs.numcodecs").setLevel(logging.ERROR)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        # SimpleITK, which it imports, crashes the process where its warnings are errors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tiatoolbox import logger

            loaded = import_module(f"tiatoolbox.{module}")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    before, logger.disabled = logger.disabled, True
    try:
        yield loaded
    finally:
        logger.disabled = before
