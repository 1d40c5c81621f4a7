"""The grade map of the front door: class probabilities of a slide that can be shown and saved."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.errors import ConfigError, OutputError, WsikdError
from wsikd.grade import grademap as plain
from wsikd.grade.gleason_rules import Rules
from wsikd.slides.listing.entry import SlideEntry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    import dask.array as da
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsikd.api.many import One
    from wsikd.core.shares import ShareErrors
    from wsikd.grade.cores import Core
    from wsikd.grade.reports.thumbnail import View

_OVERLAY_PX = 1000


@dataclass(frozen=True, repr=False, eq=False)
class GradeMap(plain.GradeMap):
    """Class probabilities of one slide, calibrated where the student's card has a temperature.

    Cell (row, column) covers the level-0 box that starts at ``origin_xy + (column, row) *
    cell_px`` and is ``cell_px`` large.

    Attributes:
        probability_khw: float32 (classes, rows, columns); NaN where nothing was read.
        valid_hw: bool (rows, columns); cells that the network read.
        tissue_hw: float32 (rows, columns); share of the cell covered by tissue, 0 to 1.
        grade_hw: int16 (rows, columns); most probable class, -1 where nothing was read.
        mpp: um per cell side.
        origin_xy: level-0 (x, y) of the corner of cell (0, 0).
        cell_px: level-0 (width, height) of a cell.
        classes: name of each class, in order.
        temperature: temperature of the calibration; None where the card has none.
        rules: rules of the score: specimen, thresholds of cancer, contested choices.
        entry: where the slide is; None where it is not at hand.
        errors: errors of shares on validation slides, for the intervals; None if unknown.
        withheld: why the slide gets no score, e.g. "withheld: unlike training"; None: it gets one.
        guard: how far the slide is from the training, the columns ``guard_distance`` and
            ``unlike_training`` and those that go with it; empty where the card has neither.

    Examples:
        >>> import wsikd
        >>> student = wsikd.load_student("runs/student")
        >>> grades = student.predict("s.svs")
        >>> grades.classes
        ('NC', 'G3', 'G4', 'G5')
        >>> grades.summary()["fields"]
        12
    """

    rules: Rules = field(default_factory=Rules)
    entry: SlideEntry | None = None
    errors: ShareErrors | None = None
    withheld: str | None = None
    guard: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        found: plain.GradeMap,
        *,
        rules: Rules | None = None,
        entry: SlideEntry | None = None,
        errors: ShareErrors | None = None,
        withheld: str | None = None,
        guard: Mapping[str, Any] | None = None,
    ) -> Self:
        """Take over a map of the packages below."""
        own = {f.name: getattr(found, f.name) for f in fields(plain.GradeMap)}
        return cls(
            **own, rules=rules or Rules(), entry=entry, errors=errors, withheld=withheld,
            guard=guard or {},
        )  # fmt: skip

    @classmethod
    def load(cls, folder: str | Path, *, slide: str | Path | None = None) -> Self:
        """Read the map of a slide that ``wsikd infer`` or :meth:`save` has written as "zarr".

        Args:
            folder: the slide's folder of results, or its ``grades.zarr``.
            slide: the slide, for pictures; results keep no paths.

        Raises:
            StoreNotFoundError: there is no complete grade map.

        Examples:
            >>> import wsikd
            >>> results = wsikd.infer(["s.svs"], "runs/student", "out")
            >>> wsikd.GradeMap.load("out/s").summary()["fields"]
            12
        """
        from wsikd.grade.domain_shift import COLUMNS
        from wsikd.grade.exports import MAP_FILE
        from wsikd.grade.exports.ome_zarr import read_alone
        from wsikd.grade.runs.record import read_record, student_card

        place = Path(folder)
        place = place if place.name == MAP_FILE else place / MAP_FILE
        record = read_record(place.parent)
        made = record.made_with if record else {}
        card = student_card(place.parents[1], record.summary.get("student")) if record else None
        found = read_alone(place)
        entry = None if slide is None else SlideEntry(Path(slide), found.slide.name)
        row = record.summary if record else {}
        status = str(row.get("grade_status"))
        return cls.of(
            found,
            rules=Rules.of(made),
            entry=entry,
            errors=card.share_errors if card else None,
            withheld=status if status.startswith("withheld") else None,
            guard={k: row[k] for k in ("guard_distance", *COLUMNS) if k in row},
        )

    @property
    def specimen(self) -> str:
        """Rule for the Gleason score: "biopsy" or "prostatectomy"."""
        return self.rules.specimen

    @property
    def min_area_mm2(self) -> float:
        """Least summed area of cancer in mm2."""
        return self.rules.min_area_mm2

    def summary(self) -> dict[str, str | float | int | None]:
        """The slide's row of ``summary.csv``: areas in mm2, shares, Gleason score, grade group.

        Shares, grade group and expected cancer have intervals (``_low``, ``_high``) where the card
        rests on enough validation slides; ``intervals`` says on how many, or why there are none.
        ``review`` says why the slide needs a second look; it is empty where it needs none.
        """
        from wsikd.grade.intervals import basis, intervals
        from wsikd.grade.review import reviewed
        from wsikd.grade.summary import summarise

        drawn = intervals(self, self.errors, self.rules)
        of_cancer = drawn.of_cancer if drawn and not self.withheld else None
        row = summarise(self, self.rules, drawn=drawn, of_cancer=of_cancer, withheld=self.withheld)
        return reviewed({**row, "intervals": basis(self, self.errors), **self.guard})

    def score(self) -> str:
        """Gleason score and grade group in words, or why there is none, and what is not assessed.

        Examples:
            >>> import wsikd
            >>> wsikd.load_student("runs/student").predict("s.svs").score().split(".")[-2]
            ' Cribriform and intraductal growth are not assessed'
        """
        from wsikd.grade.score_text import score_text

        found = score_text(self.summary())
        return f"{found}. {NOT_ASSESSED}" if found else ""

    def cores(self, *, merge_mm: float = 1.0) -> list[Core]:
        """The connected pieces of tissue, each with its own score; none where it is withheld.

        Args:
            merge_mm: pieces whose gap is at most so wide are one.

        Examples:
            >>> import wsikd
            >>> len(wsikd.load_student("runs/student").predict("s.svs").cores())
            1
        """
        from wsikd.grade.cores import cores

        return [] if self.withheld else cores(self, self.rules, merge_mm=merge_mm)

    def save(
        self, folder: One, formats: Sequence[str] | str = ("zarr", "csv", "geojson", "jpeg")
    ) -> dict[str, Path]:
        """Write the map to files.

        Args:
            folder: where; made if missing. Nothing in it is replaced.
            formats: "zarr", "ome-tiff", "csv", "uncertain", "geojson", "geojson-tiles",
                "jpeg", "png", "webp",
                "heat", "dicom-seg", or "all" that the slide can have.

        Returns:
            The file or folder written for each format.

        Raises:
            ConfigError: a format is unknown.
            SlideError: the slide cannot have one of them, or cannot be opened again.
            OutputError: a file is there already, or cannot be written.

        Examples:
            >>> import wsikd
            >>> grades = wsikd.load_student("runs/student").predict("s.svs")
            >>> files = grades.save("maps", formats=["geojson", "zarr"])
            >>> sorted(file.name for file in files.values())
            ['grades.geojson', 'grades.zarr']
        """
        from contextlib import ExitStack

        from wsikd.grade.exports import find_exporters, formats_for, write_all
        from wsikd.slides.listing.manifest import open_entry

        place = Path(folder)
        formats = [formats] if isinstance(formats, str) else formats
        with ExitStack() as stack:
            slide = stack.enter_context(open_entry(self.entry)) if self.entry else None
            names = tuple(find_exporters(formats)) if slide is None else formats_for(formats, slide)
            for exporter in find_exporters(names).values():
                if (place / exporter.file).exists():
                    raise OutputError(
                        place / exporter.file, "exists already", "choose another folder"
                    )
            return write_all(self, place, names, slide=slide)

    def to_numpy(self) -> NDArray[np.float32]:
        """Probabilities, float32 (classes, rows, columns); NaN where nothing was read."""
        return self.probability_khw

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001
        return np.array(self.probability_khw, dtype=dtype, copy=copy)

    def to_dask(self) -> da.Array:
        """Probabilities as a Dask array, float32 (classes, rows, columns), in blocks of 1,024."""
        import dask.array

        found: da.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
            self.probability_khw, chunks=(-1, 1024, 1024)
        )
        return found

    def to_geodataframe(self) -> Any:
        """Connected regions of equal grade as a GeoDataFrame, one row each.

        Columns: geometry (polygons in level-0 px of the slide), grade, area_mm2, tissue_mm2,
        prob_<class> (means) and uncertainty.

        It has no CRS; ``frame.to_file("regions.gpkg")`` writes it.

        Raises:
            ConfigError: geopandas is not installed.
        """
        from wsikd.grade.exports.geojson import regions_of

        try:
            from geopandas import GeoDataFrame
        except ImportError as error:
            raise ConfigError(
                "geopandas", "is not installed", "pip install 'wsikd[geo]'"
            ) from error
        import shapely

        left, top = self.slide.bounds[:2]
        rows, shapes = [], []
        for feature in regions_of(self):
            rings = [np.asarray(r) + (left, top) for r in feature["geometry"]["coordinates"]]
            shapes.append(shapely.Polygon(rings[0], rings[1:]))
            about = feature["properties"]
            rows.append({"grade": about["classification"]["name"], **about["measurements"]})
        measured = [f"prob_{name}" for name in self.classes]
        columns = ["grade", "area_mm2", "tissue_mm2", *measured, "uncertainty"]
        return GeoDataFrame(rows, columns=columns, geometry=shapes)

    def plot(self, ax: Axes | None = None, *, alpha: float = 0.45) -> Axes:
        """Draw the grades over the slide, or on white if the slide is not available.

        Args:
            ax: matplotlib axes; new ones by default.
            alpha: opacity of the colours, 0 to 1.

        Returns:
            The axes.

        Raises:
            SlideError: the slide cannot be opened again.

        Examples:
            >>> import wsikd
            >>> axes = wsikd.load_student("runs/student").predict("s.svs").plot()
            >>> axes.get_title()
            's'
        """
        from wsikd.api.plots import legend, new_axes, show
        from wsikd.grade.exports.overlay import paint
        from wsikd.grade.reports.class_colours import class_colour

        axes = ax or new_axes()
        seen = self._seen(_OVERLAY_PX)
        height, width = seen.rgb.shape[:2]
        box = (*seen.origin_xy, width / seen.scale[0], height / seen.scale[1])
        show(axes, paint(self, seen, alpha=alpha), self.slide, box)
        shares = self._shares()
        legend(
            axes,
            [
                (f"{name} {shares[name]}", class_colour(name, index))
                for index, name in enumerate(self.classes)
            ],
        )
        axes.set_title(self.slide.name)
        return axes

    def __repr__(self) -> str:
        rows, columns = self.valid_hw.shape
        fields_read = int(self.valid_hw.sum())
        state = "calibrated" if self.temperature is not None else "not calibrated"
        return (
            f"GradeMap('{self.slide.name}', {rows} x {columns} cells of {self.mpp:g} um, "
            f"{fields_read} fields, {state})"
        )

    def _repr_html_(self) -> str:
        from wsikd.grade.exports.overlay import paint
        from wsikd.grade.review import reasons
        from wsikd.grade.score_text import score_text
        from wsikd.slides.html import PICTURE_PX, card

        summary = self.summary()
        rows: dict[str, Any] = {"fields": summary["fields"]}
        if score := score_text(summary):
            rows["score"] = score
            rows["not assessed"] = NOT_ASSESSED
        if found := reasons(summary):
            rows["second look"] = " ".join(reason.text for reason in found)
        rows |= self._shares()
        rows["cell"] = f"{self.mpp:g} um"
        temperature = self.temperature
        rows["calibrated"] = "no" if temperature is None else f"temperature {temperature:.3g}"
        try:
            seen = self._seen(PICTURE_PX)
        except WsikdError:  # the slide has moved since
            seen = self._blank(PICTURE_PX)
        return card(self.slide.name, rows, paint(self, seen))

    def _shares(self) -> dict[str, str]:
        from wsikd.grade.summary import class_areas

        areas = class_areas(self)
        total = max(float(areas.sum()), 1e-12)
        return {name: f"{area / total:.0%}" for name, area in zip(self.classes, areas, strict=True)}

    def _seen(self, max_px: int) -> View:
        from wsikd.grade.reports.thumbnail import view
        from wsikd.slides.listing.manifest import open_entry

        if self.entry is None:
            return self._blank(max_px)
        with open_entry(self.entry) as slide:
            return view(slide, self.slide.bounds, max_px)

    def _blank(self, max_px: int) -> View:
        from wsikd.grade.exports.overlay import blank

        return blank(self, max_px)
