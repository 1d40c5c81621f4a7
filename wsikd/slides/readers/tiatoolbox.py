"""Slides that OpenSlide does not know: TIFFs through tifffile, OME-Zarr and JP2 through TIAToolbox.

They decode; geometry, resolution and background are decided here, as for every other slide.
TIAToolbox's own ``read_rect`` is passed by: it pads with black, and reads coarse levels of OME-Zarr
in the wrong place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from wsikd.core.errors import MALFORMED, MissingMppError, RegionReadError, SlideError, one_line
from wsikd.core.registry import resolve
from wsikd.slides.base import Mpp, SlideInfo, printable
from wsikd.slides.checks.doubt import refusal
from wsikd.slides.checks.jpeg_check import JpegCheck
from wsikd.slides.checks.stated import samples_doubt
from wsikd.slides.file_format import fingerprint, kind_of, slide_stem
from wsikd.slides.mpp import resolve_mpp
from wsikd.slides.readers.openslide import check_pyramid, exact_downsamples, on_background
from wsikd.slides.readers.tiatoolbox_facts import Facts, read_facts
from wsikd.slides.readers.zarr_chunks import AbsentChunks, absent_chunks
from wsikd.slides.tiff.tile_tables import absent_tiles

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    from numpy.typing import NDArray

PIXELS: dict[str, str] = {
    "tiff": "wsikd.slides.tiff.pages:open_pages",
    "jp2": "wsikd.tia:open_jp2",
    "ome-zarr": "wsikd.tia:open_ome_zarr",
}
_WHITE = (255, 255, 255)
_REMEDIES = {
    "glymur": "pip install glymur, and your system's libopenjp2 (on Debian: libopenjp2-7)",
    "tiatoolbox": "pip install tiatoolbox",
}


class Pixels(Protocol):
    """Decoded levels of a file, the finest first."""

    sizes: tuple[tuple[int, int], ...]
    channels: int
    dtype: np.dtype[Any]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, channels) of a box that lies within the level."""

    def close(self) -> None:
        """Release the file."""


class ForeignReader:
    """A slide that tifffile or TIAToolbox decodes. Threads may share it, processes not."""

    def __init__(
        self,
        path: Path,
        *,
        slide_mpp: float | None = None,
        mpp_source: str = "slide_mpp",
        name: str | None = None,
        series: int | None = None,
        note: str = "asked for",
    ) -> None:
        """Open the slide; see :func:`wsikd.slides.base.open_slide`.

        ``note`` says why OpenSlide does not read it.
        """
        file = printable(path.name)
        if not path.exists():
            raise SlideError(printable(path), "no such file", "check the path")
        kind = kind_of(path)
        if kind is None:
            raise SlideError(
                file, "no TIFF, JP2 or OME-Zarr that TIAToolbox reads", "open it with --reader auto"
            )
        self.path = path
        facts = read_facts(path, kind, series)
        self._missing: MissingMppError | None = None
        mpp: Mpp | None = None
        try:
            mpp = resolve_mpp(file, facts.evidence, given=slide_mpp, given_source=mpp_source)
        except MissingMppError as error:
            if slide_mpp is not None:
                raise
            self._missing = error
        self._pixels = _open(path, kind, facts)
        sizes = self._pixels.sizes
        check_pyramid(path, sizes)
        # tifffile's decoder of JPEG fills up what is damaged.
        self._check = JpegCheck(path, facts.series.levels) if facts.series else None
        self.absent = absent_tiles(facts.series.levels if facts.series else ())
        self.unscanned = _absent(path) if kind == "ome-zarr" else None
        self.info = SlideInfo(
            name=name or printable(slide_stem(path)),
            file=file,
            fingerprint=fingerprint(path, None if facts.default else series),
            vendor=facts.vendor,
            reader="tifffile" if facts.series else "tiatoolbox",
            dimensions=sizes[0],
            level_dimensions=sizes,
            level_downsamples=exact_downsamples(sizes),
            mpp=mpp,
            objective_power=facts.evidence.power,
            bounds=(0, 0, *sizes[0]),
            background=_WHITE,
            reader_note=f"{note}; {self.unscanned}" if self.unscanned else note,
            icc_profile=facts.icc_profile,
            series=facts.series.number if facts.series else 0,
            doubt=facts.doubt or samples_doubt("uint8", self._pixels.channels),
            colours_corrected=getattr(self._pixels, "colours_corrected", False),
        )

    @property
    def mpp(self) -> Mpp:
        """Resolution of level 0; raises MissingMppError."""
        if self.info.mpp is None:
            assert self._missing is not None
            raise self._missing
        return self.info.mpp

    def read_level(
        self, level: int, location: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Pixels of one level: uint8 (height, width, 3); see the Slide protocol."""
        (x, y), (width, height) = location, size
        out = np.full((height, width, 3), 255, np.uint8)
        full = self.info.level_dimensions[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, full[0]), min(y + height, full[1])
        if left >= right or top >= bottom:
            return out
        try:
            if self._check:
                self._check.check(level, left, top, right - left, bottom - top)
            pixels = self._pixels.read(level, left, top, right - left, bottom - top)
        except Exception as error:  # a damaged file breaks a decoder anywhere
            raise RegionReadError(
                printable(self.path.name),
                f"level {level} cannot be read at its x={left}, y={top}, {right - left} x "
                f"{bottom - top} px ({one_line(str(error)) or type(error).__name__})",
                "the file is damaged there; copy or convert it again",
            ) from error
        if pixels.ndim == 2 or pixels.shape[2] == 1:
            pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, 2)
        elif pixels.shape[2] == 4:
            pixels = on_background(np.ascontiguousarray(pixels), _WHITE)
        out[top - y : bottom - y, left - x : right - x] = pixels
        return out

    def close(self) -> None:
        """Release the file."""
        self._pixels.close()
        if self._check:
            self._check.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _absent(path: Path) -> AbsentChunks:
    try:
        return absent_chunks(path)
    except (OSError, *MALFORMED) as error:
        fault = f"its chunks cannot be counted ({type(error).__name__}: {error})"
        raise SlideError(printable(path.name), one_line(fault), "copy it again") from error


def _open(path: Path, kind: str, facts: Facts) -> Pixels:
    """The file's pixels; raises SlideError where they are not 8-bit RGB, or cannot be read."""
    file = printable(path.name)
    try:
        opened = resolve(PIXELS, kind, kind="pixels")
        pixels: Pixels = opened(path, facts.series.levels) if facts.series else opened(path)
    except ImportError as error:
        library = next((n for n in _REMEDIES if n in str(error)), "tiatoolbox")
        fault = f"needs {library}, which cannot be imported ({error})"
        raise SlideError(file, fault, _REMEDIES[library]) from error
    except SlideError:
        raise
    except Exception as error:  # decoders raise many kinds of errors
        if "version of OpenJPEG" in str(error):  # how glymur says that the library is missing
            fault = f"needs OpenJPEG ({one_line(str(error))})"
            raise SlideError(file, fault, _REMEDIES["glymur"]) from error
        fault = f"its decoder cannot read it ({type(error).__name__}: {error})"
        raise SlideError(
            file, fault, "convert it to a pyramidal TIFF or OME-TIFF of 8-bit RGB"
        ) from error
    doubt = samples_doubt(str(pixels.dtype), pixels.channels)
    if doubt is not None and doubt.final:
        pixels.close()
        raise refusal(file, doubt)
    return pixels
