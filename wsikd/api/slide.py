"""``wsikd.open_slide`` and the slide that it returns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import ConfigError, MissingMppError
from wsikd.slides import base

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsikd.slides.base import Mpp, SlideInfo


class Description:
    """What ``wsikd info`` prints of a slide.

    Attributes:
        record: JSON values, as ``wsikd info --json`` prints them.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Use :meth:`Slide.describe`."""
        self.record = dict(record)

    def to_text(self) -> str:
        """The lines of ``wsikd info``."""
        from wsikd.tiles.runs.info import fields_text, to_text

        return "\n".join([to_text(self.record), *fields_text(self.record)])

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{one['fields']} fields at {one['magnification']:g}x" for one in self.record["fields"]
        )
        return f"Description('{self.record['name']}', {counts})"

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(self.to_text())}</pre>"


_OPENSLIDE = {
    "properties": "use describe(); a vendor's properties may name the patient",
    "get_thumbnail": "use thumbnail()",
    "associated_images": "labels and macro images are never read",
    "get_best_level_for_downsample": "see level_downsamples",
}
"""Names of OpenSlide that a slide does not have, and what to use."""


class Slide:
    """An open slide: pixels with a scale.

    Words are OpenSlide's: a *level* is one stored resolution, its *downsample* its size relative
    to level 0; sizes are (width, height), positions (x, y). Close it, or use a ``with`` block.

    Attributes:
        reader: what reads the file; it follows ``wsikd.slides.base.Slide``.
        info: what is known of the slide; no label image, no patient data.
        path: the file or folder.

    Examples:
        >>> import wsikd
        >>> with wsikd.open_slide("s.svs") as slide:
        ...     slide.dimensions, slide.mpp.x
        ((2048, 1536), 0.5)
    """

    def __init__(self, reader: base.Slide) -> None:
        """Wrap an open reader; use :func:`open_slide`."""
        self.reader = reader
        self.info: SlideInfo = reader.info
        self.path: Path = reader.path

    @property
    def name(self) -> str:
        """The name of its results: the stem of the file."""
        return self.info.name

    @property
    def dimensions(self) -> tuple[int, int]:
        """Level-0 (width, height) in px."""
        return self.info.dimensions

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self.info.level_dimensions)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) in px of each level."""
        return self.info.level_dimensions

    @property
    def level_downsamples(self) -> tuple[tuple[float, float], ...]:
        """Size of each level's pixel in level-0 px, (x, y)."""
        return self.info.level_downsamples

    @property
    def mpp(self) -> Mpp:
        """Resolution of level 0: ``mpp.x`` and ``mpp.y`` in um per pixel, ``mpp.source``.

        Raises:
            MissingMppError: neither the file nor ``slide_mpp`` says it.
        """
        return self.reader.mpp

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read pixels as OpenSlide does, with the alpha channel already on the background.

        Args:
            location: level-0 (x, y) of the upper left corner.
            level: which level is read.
            size: (width, height) in px of that level.

        Returns:
            uint8 (height, width, 3), R, G, B.

        Raises:
            ConfigError: there is no such level.
            RegionReadError: the file is damaged there.

        Examples:
            >>> import wsikd
            >>> with wsikd.open_slide("s.svs") as slide:
            ...     slide.read_region((0, 0), 0, (300, 200)).shape
            (200, 300, 3)
        """
        downs = self.level_downsamples
        if not 0 <= level < len(downs):
            raise ConfigError(self.name, f"has no level {level}", f"give 0 to {len(downs) - 1}")
        x, y = (round(v / down) for v, down in zip(location, downs[level], strict=True))
        return self.reader.read_level(level, (x, y), size)

    def read_level(
        self, level: int, location: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Read pixels on a level's own grid: ``location`` is (x, y) in px of that level.

        Returns:
            uint8 (height, width, 3), R, G, B.

        Raises:
            RegionReadError: the file is damaged there.
        """
        return self.reader.read_level(level, location, size)

    def thumbnail(self, max_px: int = 512) -> NDArray[np.uint8]:
        """A picture of the whole slide: uint8 (height, width, 3), ``max_px`` at its longest side.

        Raises:
            RegionReadError: the slide is damaged.
        """
        from wsikd.grade.reports.thumbnail import thumbnail

        return thumbnail(self.reader, max_px)[0]

    def plot(self, ax: Axes | None = None, *, max_px: int = 1000) -> Axes:
        """Draw the slide with axes in mm, or in level-0 px where the resolution is not known.

        Args:
            ax: matplotlib axes; new ones by default.
            max_px: longest side of the picture.

        Returns:
            The axes.
        """
        from wsikd.api.plots import new_axes, show

        axes = ax or new_axes()
        show(axes, self.thumbnail(max_px), self.info, (0, 0, *self.dimensions))
        axes.set_title(self.name)
        return axes

    def describe(
        self,
        magnifications: Sequence[float] = (10.0, 2.5),
        patch_px: int = 512,
        *,
        tissue: str = "otsu",
        min_tissue: float = 0.1,
        threads: int | None = None,
    ) -> Description:
        """Levels, resolution, tissue, and fields at magnifications, as ``wsikd info`` prints them.

        Args:
            magnifications: to count fields for.
            patch_px: patch side in px at the highest of them.
            tissue: "otsu", "all", or another masker.
            min_tissue: smallest share of tissue in a field, 0 to 1.
            threads: number of reading threads; by default one per core.

        Raises:
            MissingMppError: the resolution is not known.
            ConfigError: the sizes do not go together.
            RegionReadError: the slide is damaged.

        Examples:
            >>> import wsikd
            >>> with wsikd.open_slide("s.svs") as slide:
            ...     found = slide.describe(patch_px=256)
            >>> [one["fields"] for one in found.record["fields"]]
            [12, 12]
        """
        from wsikd.slides.threads import use_threads
        from wsikd.tiles.runs.info import Asked, describe, fields_of

        sizes = tuple(sorted(set(magnifications), reverse=True))
        asked = Asked(sizes, patch_px, tissue, min_tissue, threads)
        asked.check()
        self.mpp  # noqa: B018 - raises where nothing more can be said
        found = describe(self.reader)
        return Description(found | fields_of(self.reader, None, asked, use_threads(threads)))

    def close(self) -> None:
        """Release the file."""
        self.reader.close()

    if not TYPE_CHECKING:  # or type checkers would take any name for one that exists

        def __getattr__(self, name: str) -> object:
            meant = f"; {_OPENSLIDE[name]}" if name in _OPENSLIDE else ""
            raise AttributeError(f"'Slide' object has no attribute {name!r}{meant}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"Slide('{self.name}', {width} x {height} px, {self._mpp_text()})"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import PICTURE_PX, card

        width, height = self.dimensions
        downs = ", ".join(f"{down[0]:.4g}" for down in self.level_downsamples)
        rows: dict[str, Any] = {
            "dimensions": f"{width} x {height} px",
            "resolution": self._mpp_text(),
            "downsamples": downs,
            "vendor": self.info.vendor,
            "reader": self.info.reader,
        }
        return card(self.name, rows, self.thumbnail(PICTURE_PX))

    def _mpp_text(self) -> str:
        try:
            mpp = self.mpp
        except MissingMppError:
            return "resolution unknown"
        return f"{mpp.x:.4g} um/px" if mpp.x == mpp.y else f"{mpp.x:.4g} x {mpp.y:.4g} um/px"


def open_slide(
    path: str | Path,
    *,
    slide_mpp: float | None = None,
    reader: str = "auto",
    series: int | None = None,
    accept_grey: bool = False,
) -> Slide:
    """Open a slide.

    Args:
        path: a slide file, or a folder that holds one DICOM slide or one OME-Zarr image.
        slide_mpp: um per level-0 pixel; it overrides what the file says.
        reader: "auto", "openslide", "direct" or "tiatoolbox".
        series: which image of a file with several, from 0; default the largest scan.
        accept_grey: open slides that are not brightfield: grey, dark or fluorescent ones.

    Returns:
        The open slide.

    Raises:
        SlideError: the file is missing, damaged, or no slide.
        NotBrightfieldError: its metadata say that it is not brightfield RGB.
        MissingMppError: ``slide_mpp`` is implausible.

    Examples:
        >>> import wsikd
        >>> wsikd.open_slide("s.svs")
        Slide('s', 2048 x 1536 px, 0.5 um/px)
    """
    return Slide(
        base.open_slide(
            Path(path), slide_mpp=slide_mpp, reader=reader, series=series, accept_grey=accept_grey
        )
    )
