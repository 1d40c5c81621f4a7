"""``wsikd.attend``: where on its slides a slide classifier looks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.api.grademap import GradeMap
from wsikd.api.many import Many, One, failures_of, names_of
from wsikd.core.errors import DataError
from wsikd.core.output.batch import Batch
from wsikd.grade.grademap import GradeMap as Plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsikd.bags.bag import Bag
    from wsikd.core.errors import WsikdError
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.entry import SlideEntry

FORMATS = ("zarr", "csv", "geojson", "heat")


class Attention(Mapping[str, tuple[str, float]]):
    """Decisions of a classifier: slide name -> (class, its probability).

    Attributes:
        path: the folder, with one folder a slide.
        failures: slide name -> its error.

    Examples:
        >>> import wsikd
        >>> found = wsikd.attend("runs/mil", ["slides"], bags="slide-bags", out="attention")
        >>> sorted(found)
        ['a', 'b']
        >>> found.map("a").classes
        ('rest', 'attention')
    """

    def __init__(
        self,
        path: Path,
        decided: Mapping[str, tuple[str, float]],
        failures: Mapping[str, WsikdError],
    ) -> None:
        """Use :func:`attend`."""
        self.path, self._decided, self.failures = path, dict(decided), dict(failures)

    def __getitem__(self, name: str) -> tuple[str, float]:
        return self._decided[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decided)

    def __len__(self) -> int:
        return len(self._decided)

    def map(self, name: str, *, slide: str | Path | None = None) -> GradeMap:
        """The map of a slide, where "zarr" is among the formats.

        Its classes are "rest" and "attention": the attention of a field as a share of the highest.

        Args:
            name: the slide's.
            slide: its file, for pictures.

        Raises:
            StoreNotFoundError: there is no such map.
        """
        return GradeMap.load(self.path / name, slide=slide)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Attention('{self.path}', {len(self)} drawn{failed})"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import table

        rows: list[list[object]] = [
            [name, decided, f"{probability:.0%}", ""]
            for name, (decided, probability) in self.items()
        ]
        rows += [[name, "", "", error] for name, error in self.failures.items()]
        return table(repr(self), ["slide", "class", "probability", "failure"], rows)


def attend(
    run: One,
    slides: One | Many,
    *,
    bags: One | Many,
    out: One,
    formats: Sequence[str] = FORMATS,
    slide_mpp: float | None = None,
    threads: int | None = None,
) -> Attention:
    """Draw the attention of a slide classifier, as ``wsikd attend`` does.

    Args:
        run: a run of method mil.
        slides: a slide, folder, glob or CSV manifest, or a list of them.
        bags: bags of these slides, or folders of them.
        out: folder for one folder a slide.
        formats: what is written of each slide, as :meth:`GradeMap.save` takes it.
        slide_mpp: um per level-0 pixel, for slides where neither manifest nor file says it.
        threads: number of computing threads; by default one per core.

    Returns:
        Class and probability by slide, and the failures.

    Raises:
        WsikdError: nothing can be drawn: the run, the bags, the inputs or ``out``.

    Examples:
        >>> import wsikd
        >>> found = wsikd.attend("runs/mil", "s.svs", bags="slide-bags", out="attention")
        >>> print(found.failures["s"])
        s: has no bag; make it with wsikd embed
    """
    batch = Batch(Path(out))
    request = AttendRequest(
        Path(run), names_of(slides), [Path(one) for one in names_of(bags)], Path(out),
        formats, threads=threads, slide_mpp=slide_mpp,
    )  # fmt: skip
    decided = draw_attention(request, batch)
    batch.keep_failures(logging.WARNING)
    return Attention(Path(out), decided, failures_of(batch))


@dataclass(frozen=True)
class AttendRequest:
    """A request: run, slides, bags and output; see :func:`attend`."""

    run: Path
    inputs: Sequence[str]
    bags: Sequence[Path]
    out: Path
    formats: Sequence[str]
    threads: int | None = None
    slide_mpp: float | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False


def draw_attention(request: AttendRequest, batch: Batch) -> dict[str, tuple[str, float]]:
    """Draw every slide; one that fails is recorded in ``batch``.

    Returns:
        Slide name -> (class, its probability).

    Raises:
        WsikdError: nothing can be drawn.
    """
    from wsikd.bags.bag import find_bags
    from wsikd.bags.made import bags_made
    from wsikd.grade.runs.folder import formats_of
    from wsikd.models.files.peek import check_network
    from wsikd.slides.listing.inputs import check_slides, existing
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names
    from wsikd.slides.what_is import BAGS, CLASSIFIER, check_role

    check_network(request.run, "RUN", CLASSIFIER)
    for place in request.bags:
        check_role(place, "--bags", BAGS)
    formats = formats_of(request.formats)
    found = {path.stem: path for path in find_bags(request.bags)}
    check_slides(request.inputs)
    entries = find_slides(
        request.inputs, slide_mpp=request.slide_mpp, reader=request.reader,
        series=request.series, accept_grey=request.accept_grey,
    )  # fmt: skip
    entries = existing(entries, batch)
    decided: dict[str, tuple[str, float]] = {}
    if not entries:
        return decided
    for folder in dict.fromkeys(path.parent for path in found.values()):
        entries = settle_names(entries, bags_made(folder))

    from wsikd.learn.mil.classify import Classifier

    classifier = Classifier(request.run, request.threads)

    def work(entry: SlideEntry) -> str:
        if entry.name not in found:
            raise DataError(entry.name, "has no bag", "make it with wsikd embed")
        bag, label, probability, attention = classifier.read(found[entry.name])
        _write(entry, bag, attention, request, formats)
        decided[entry.name] = (label, probability)
        return f"{label} {probability:.0%}, in {request.out / entry.name}"

    batch.run(entries, work)
    return decided


def _write(
    entry: SlideEntry, bag: Bag, attention: Any, request: AttendRequest, formats: tuple[str, ...]
) -> None:
    """Write the files of one slide; its folder appears whole."""
    from wsikd.core.output.lock import locked
    from wsikd.core.output.markers import ATTENTION, ATTENTION_FILE
    from wsikd.core.output.place import Place
    from wsikd.core.run import write_json_atomic
    from wsikd.grade.exports import formats_for, write_all
    from wsikd.slides.listing.manifest import open_entry

    with open_entry(entry) as slide:
        made = attention_map(slide, bag, attention)
        read = [bag.path, request.run, *(f for f in (entry.path, entry.mask) if f)]
        place = Place(request.out / entry.name, ATTENTION, request.out, read)
        place.check()
        with locked(place.path):
            place.recover()
            with place.made() as part:
                write_json_atomic(part / ATTENTION_FILE, {"kind": ATTENTION.name})
                write_all(made, part, formats_for(formats, slide), slide=slide)


def attention_map(slide: Slide, bag: Bag, attention: Any) -> Plain:
    """The attention of a bag's patches on their slide's grid.

    Args:
        slide: the open slide.
        bag: whose patches lie on a regular grid from the slide's bounds on.
        attention: float32 (N,).

    Raises:
        DataError: the bag does not state the size of its patches, or they lie on no such grid.
    """
    info = bag.info
    if info.field_px is None or info.mpp is None or info.patch_px is None:
        raise DataError(bag.path, "does not state the size of its patches", "use wsikd embed")
    stride = (info.encoder.get("patches") or {}).get("stride_px") or info.patch_px
    cell = np.asarray(info.field_px) * stride / info.patch_px
    origin = np.asarray(slide.info.bounds[:2], np.float64)
    place = (bag.coords() - origin) / cell
    whole = np.rint(place).astype(int)
    if (whole < 0).any() or np.abs((place - whole) * cell).max() > 1:
        raise DataError(bag.path, "its patches lie on no grid of this slide", "embed this slide")
    columns, rows = whole.T
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    valid = np.zeros(shape, bool)
    valid[rows, columns] = True
    share = np.full(shape, np.nan, np.float32)
    share[rows, columns] = attention / max(float(attention.max()), 1e-12)
    return Plain(
        probability_khw=np.stack([1 - share, share]),
        valid_hw=valid,
        tissue_hw=valid.astype(np.float32),
        mpp=info.mpp * stride,
        origin_xy=(float(origin[0]), float(origin[1])),
        cell_px=(float(cell[0]), float(cell[1])),
        classes=("rest", "attention"),
        slide=slide.info,
    )
