"""Slides through OpenSlide: the reference reader, and the authority on metadata."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from wsikd.core.errors import MissingMppError, RegionReadError, SlideError, one_line
from wsikd.core.faults import similar
from wsikd.slides.base import Mpp, SlideInfo, printable
from wsikd.slides.checks.doubt import Doubt
from wsikd.slides.checks.stated import doubt_of_properties, doubt_of_tiff
from wsikd.slides.dicom.claims import stored_frames
from wsikd.slides.dicom.frames import frame_colours
from wsikd.slides.dicom.grouping import dicom_files, group_series, why_no_scan
from wsikd.slides.file_format import fingerprint, slide_stem
from wsikd.slides.mpp import openslide_evidence, resolve_mpp
from wsikd.slides.readers.jpeg_colours import page_claim, page_colours
from wsikd.slides.tiff.absent_tiles import AbsentTiles
from wsikd.slides.tiff.contents import check_colours, check_upright, checked, survey
from wsikd.slides.tiff.resolution import evidence_of
from wsikd.slides.tiff.tile_tables import absent_tiles, check_tables
from wsikd.slides.tiff.vendor_tables import check_vendor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import openslide
    import tifffile
    from numpy.typing import NDArray

    from wsikd.slides.mpp import Evidence
    from wsikd.slides.tiff.contents import TiffSeries, TiffSurvey

_MOST_TILE_PX = 1 << 26
UNKNOWN = "not a slide format that OpenSlide supports, or truncated"
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
OTHER_IMAGE = "OpenSlide shows another image of this file"
DICOM = "dicom"
FLAT = ("generic-tiff", "aperio")
"""Vendors whose TIFF directories mean what they say; OpenSlide composes those of the others."""


class OpenSlideReader:
    """A slide that OpenSlide opens. Threads may share it; a process opens its own."""

    def __init__(
        self,
        path: Path,
        *,
        slide_mpp: float | None = None,
        mpp_source: str = "slide_mpp",
        name: str | None = None,
        series: int | None = None,
    ) -> None:
        """Open the slide; see :func:`wsikd.slides.base.open_slide`."""
        self.path = path
        self.file = _main_file(path)
        self.survey, self._fault = _surveyed(path)
        self._frames = {} if self.survey or self._fault else stored_frames(self.file)
        self._handle = _open(self.file)
        self._lock = threading.Lock()
        try:
            self._begin(slide_mpp, mpp_source, name, series)
        except BaseException:
            self._handle.close()
            raise

    def _begin(
        self, slide_mpp: float | None, mpp_source: str, name: str | None, series: int | None
    ) -> None:
        """Read the metadata of the image that OpenSlide shows."""
        path, properties = self.path, self._handle.properties
        self.series = self._series(properties.get("openslide.vendor"), series)
        self.absent = self._absent(properties.get("openslide.vendor"))
        self._missing: MissingMppError | None = None
        mpp: Mpp | None = None
        evidence = self._evidence(properties)
        try:
            mpp = resolve_mpp(
                printable(path.name),
                evidence,
                given=slide_mpp,
                given_source=mpp_source,
            )
        except MissingMppError as error:
            if slide_mpp is not None:
                raise
            self._missing = error
        dimensions = self._handle.dimensions
        levels = tuple(self._handle.level_dimensions)
        check_pyramid(path, levels)
        _check_tiles(path, properties, len(levels))
        self._mean_downsamples = tuple(self._handle.level_downsamples)
        self.info = SlideInfo(
            name=name or printable(slide_stem(path)),
            file=printable(path.name),
            fingerprint=fingerprint(path, self._asked(series)),
            vendor=properties.get("openslide.vendor", "unknown"),
            reader="openslide",
            dimensions=dimensions,
            level_dimensions=levels,
            level_downsamples=exact_downsamples(levels),
            mpp=mpp,
            objective_power=evidence.power,
            bounds=_bounds(properties, dimensions),
            background=_background(properties.get("openslide.background-color", "FFFFFF")),
            icc_profile="openslide.icc-size" in properties,
            series=self.series.number if self.series else 0,
        )
        self.stated = self._doubt(properties)
        doubt = self.stated or self._mistaken(properties.get("openslide.vendor"))
        self.info = replace(self.info, doubt=doubt)

    def _series(self, vendor: str | None, number: int | None) -> TiffSeries | None:
        """The series of the TIFF that is shown; None where OpenSlide composes it of several.

        Raises:
            SlideError: OpenSlide shows another one than is to be read, or the file has no such.
        """
        if self._fault and vendor in FLAT:
            raise self._fault
        if self.survey is None or vendor not in FLAT:
            checked(self.path, number or 0, 1)
            return None
        wanted = self.survey.choose(number)
        sizes = {(page.imagewidth, page.imagelength) for page in wanted.levels}
        shown = self._handle.level_dimensions
        first = next(one for one in self.survey.series if one.size == wanted.size)
        # OpenSlide takes every reduced image of a generic TIFF for a level of its first one.
        lent = vendor == "generic-tiff" and len(set(shown)) < len(shown)
        if lent or shown[0] != wanted.size or first is not wanted or not set(shown) <= sizes:
            width, height = shown[0]
            fault = f"{OTHER_IMAGE} ({width} x {height} px) than series {wanted.number}"
            raise SlideError(printable(self.path.name), fault, "open it with --reader auto")
        check_upright(self.path, wanted)
        check_colours(self.path, wanted)
        check_tables(self.path, self.survey.file_bytes, wanted.levels, filled=vendor == "aperio")
        return wanted

    def _absent(self, vendor: str | None) -> AbsentTiles:
        """Tiles that were never scanned; OpenSlide fills those of Aperio's lower levels.

        Raises SlideError where the tables of a vendor's TIFF are impossible.
        """
        if vendor == DICOM:
            return AbsentTiles([self._frames.get(size) for size in self._handle.level_dimensions])
        if self.series is None:
            if self.survey is None:
                return AbsentTiles(())
            return check_vendor(self.survey, vendor, self._handle.level_dimensions)
        if vendor == "aperio":
            return absent_tiles(self.series.levels[:1])
        by_size = {(page.imagewidth, page.imagelength): page for page in self.series.levels}
        return absent_tiles([by_size[size] for size in self._handle.level_dimensions])

    def _evidence(self, properties: Mapping[str, str]) -> Evidence:
        if self.series is None or properties.get("openslide.vendor") == "aperio":
            return openslide_evidence(properties)
        assert self.survey is not None
        return evidence_of(self.series, self.survey.silent)

    def _doubt(self, properties: Mapping[str, str]) -> Doubt | None:
        """Metadata that contradict brightfield RGB."""
        doubt = doubt_of_properties(properties)
        if doubt is None and self.survey is not None and self.series is not None:
            doubt = doubt_of_tiff(self.survey, self.series)
        return doubt

    def _mistaken(self, vendor: str | None) -> Doubt | None:
        """The doubt where OpenSlide decodes JPEG by a claim that the JPEG data contradict."""
        found = None
        if vendor == DICOM:
            found = frame_colours(self.file)
        elif self.survey is not None:
            pages = self.series.levels if self.series else _tiled(self.survey)
            claims = ((page_claim(page), page_colours(self.path, page)) for page in pages[:1])
            found = next(((claim, own) for claim, own in claims if claim and own), None)
        if found is None:
            return None
        reason = f"its metadata say {found[0]} and its JPEG data are {found[1]}"
        return Doubt(reason, final=True, remedy="open it with --reader auto, or convert it")

    def _asked(self, number: int | None) -> int | None:
        """The series, where it is another than the one that is read by default."""
        if number is None or self.survey is None or self.series is None:
            return None
        return number if self.survey.choose() is not self.series else None

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
        from openslide import OpenSlideError

        # OpenSlide divides the location by its own mean downsample; rounding to the nearest level-0
        # pixel keeps the sub-pixel shift it resamples with below half a level-0 pixel.
        scale = self._mean_downsamples[level]
        corner = (round(location[0] * scale), round(location[1] * scale))
        handle = self._handle
        try:
            rgba = np.asarray(handle.read_region(corner, level, size))
        except OpenSlideError:
            rgba = self._read_alone(handle, corner, level, size)
        return on_background(rgba, self.info.background)

    def close(self) -> None:
        """Release the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read_alone(
        self, dead: openslide.OpenSlide, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read once more through a handle that no other thread holds.

        A handle that failed once fails for ever, so the fault may be another thread's region.
        """
        from openslide import OpenSlideError

        alone = _open(self.file)
        try:
            rgba = np.asarray(alone.read_region(corner, level, size))
        except OpenSlideError as error:
            alone.close()
            self._replace(dead, _open(self.file))
            x, y = corner
            raise RegionReadError(
                printable(self.path.name),
                f"level {level} cannot be read at level-0 x={x}, y={y} ({one_line(str(error))})",
                "the file is damaged there; copy or scan it again",
            ) from error
        self._replace(dead, alone)
        return rgba

    def _replace(self, dead: openslide.OpenSlide, fresh: openslide.OpenSlide) -> None:
        """Take a fresh handle, unless another thread has replaced the dead one already."""
        with self._lock:
            if self._handle is dead:
                self._handle = fresh
                return
        fresh.close()


def exact_downsamples(levels: Sequence[tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    """True downsample of each level on x and y.

    A scanner halves and drops the odd row, so 2967 / 1483 = 2.00067 stands for 2. Where both axes
    fit one whole number, that is the downsample; otherwise it is the ratio of the sizes.

    >>> exact_downsamples([(46000, 32914), (11500, 8228)])
    ((1.0, 1.0), (4.0, 4.0))
    """
    width, height = levels[0]
    exact: list[tuple[float, float]] = []
    for w, h in levels:
        ratios = (width / w, height / h)
        whole = {round(r) for r in ratios} | {2 ** round(float(np.log2(ratios[0])))}
        fits = [d for d in sorted(whole) if _fits(width, w, d) and _fits(height, h, d)]
        exact.append((float(fits[0]), float(fits[0])) if fits else ratios)
    return tuple(exact)


def _fits(full: int, reduced: int, downsample: int) -> bool:
    return reduced in (full // downsample, -(-full // downsample))


def _main_file(path: Path) -> Path:
    """The file OpenSlide opens: for a DICOM folder, any instance of its series."""
    if not path.exists():
        raise SlideError(printable(path), "no such file", f"check the path{similar(path)}")
    if not path.is_dir():
        return path
    found, others = group_series(dicom_files(path))
    if len(found) > 1:
        fault = f"a folder with {len(found)} DICOM slides"
        raise SlideError(printable(path), fault, f"name a file of one, as {found[0].main.name}")
    if not found:
        fault = "a folder without DICOM files is not a slide"
        if others:
            fault = f"its DICOM files hold no slide ({why_no_scan(others[0])})"
        raise SlideError(printable(path), fault, "name the slides in it")
    return found[0].main


def _surveyed(path: Path) -> tuple[TiffSurvey | None, SlideError | None]:
    """The series of a TIFF, or why they cannot be read."""
    try:
        return survey(path), None
    except SlideError as fault:
        return None, fault


def _open(path: Path) -> openslide.OpenSlide:
    try:
        import openslide  # here: much of wsikd is used where it is not installed
    except (ImportError, OSError) as error:
        raise SlideError(
            printable(path.name), f"OpenSlide cannot be imported ({one_line(str(error))})",
            "pip install openslide-python openslide-bin",
        ) from error  # fmt: skip
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(printable(path.name), UNKNOWN, _remedy(path)) from error
    except openslide.OpenSlideError as error:
        raise SlideError(
            printable(path.name),
            f"OpenSlide cannot open it ({one_line(str(error))})",
            "the file is damaged or in an unknown format; copy it again or convert it",
        ) from error


def _remedy(path: Path) -> str:
    """How to fix a file that OpenSlide does not know."""
    if path.suffix.lower() == ".mrxs" != path.suffix:
        return (
            f"rename it to {printable(path.stem)}.mrxs: OpenSlide recognises only the lower-case "
            f"extension"
        )
    if path.suffix.lower() in _PICTURES:
        return (
            "a picture has no levels and no resolution: give the scanner's file, or the patch "
            "pictures of a training to wsikd distill --data"
        )
    return "convert it to a pyramidal TIFF, copy it again, or leave it out"


def check_pyramid(path: Path, levels: Sequence[tuple[int, int]]) -> None:
    """Refuse levels that are empty, or larger than level 0; raises SlideError."""
    for number, (width, height) in enumerate(levels):
        if min(width, height) < 1 or width > levels[0][0] or height > levels[0][1]:
            fault = f"level {number} claims {width} x {height} px, level 0 {levels[0][0]} x "
            raise SlideError(
                printable(path.name), f"{fault}{levels[0][1]}", "the file is damaged; copy it again"
            )


def _check_tiles(path: Path, properties: Mapping[str, str], levels: int) -> None:
    """Refuse tiles that no slide has: OpenSlide takes memory for a whole one, or aborts."""
    for number in range(levels):
        tile = [properties.get(f"openslide.level[{number}].tile-{s}") for s in ("width", "height")]
        if math.prod(int(side or 0) for side in tile) > _MOST_TILE_PX:
            fault = f"level {number} claims tiles of {' x '.join(side or '?' for side in tile)} px"
            raise SlideError(printable(path.name), fault, "the file is damaged; copy it again")


def _bounds(
    properties: Mapping[str, str], dimensions: tuple[int, int]
) -> tuple[int, int, int, int]:
    keys = [f"openslide.bounds-{side}" for side in ("x", "y", "width", "height")]
    if not all(key in properties for key in keys):
        return (0, 0, *dimensions)
    x, y, width, height = (int(properties[key]) for key in keys)
    return (x, y, width, height)


def _tiled(found: TiffSurvey) -> list[tifffile.TiffPage]:
    """Tiled directories of a TIFF, the largest first."""
    pages = [page for one in found.series for page in one.levels if page.is_tiled]
    return sorted(pages, key=lambda page: -page.imagewidth * page.imagelength)


def _background(hexadecimal: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(hexadecimal[:6])
    return (red, green, blue)


def associated_images(path: Path) -> dict[str, tuple[int, int]]:
    """(width, height) of the label, macro and thumbnail that OpenSlide finds beside the scan."""
    with _open(_main_file(path)) as handle:
        found = handle.properties
        return {
            name: (
                int(found.get(f"openslide.associated.{name}.width", 0)),
                int(found.get(f"openslide.associated.{name}.height", 0)),
            )
            for name in sorted(handle.associated_images)
        }


def on_background(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Compose straight alpha over the background colour: uint8 (H, W, 4) -> (H, W, 3)."""
    alpha = rgba[..., 3]
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    if alpha.size == 0 or alpha.min() == 255:
        return rgb
    weight = alpha[..., None].astype(np.uint32)
    mixed = rgb * weight + np.asarray(background, np.uint32) * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)
