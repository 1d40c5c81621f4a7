"""``wsikd.tile``: slides become tile stores."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

from wsikd.api.many import Many, One, failures_of, names_of, only
from wsikd.core.output.batch import Batch
from wsikd.core.registry import nearest
from wsikd.tiles.store import TileStore

if TYPE_CHECKING:
    from typing import Unpack

    from wsikd.core.errors import WsikdError
    from wsikd.tiles.runs.run import Running

log = logging.getLogger(__name__)


class TileOptions(TypedDict, total=False):
    """How slides are tiled. Missing options have the defaults of ``wsikd tile``.

    Attributes:
        stride_px: distance of patches in px at the finest resolution; default the patch side.
        annotations: QuPath GeoJSON, ASAP XML or a mask of class values; or a folder of them, named
            after the slides.
        label_map: what a mask value, an ASAP group or a QuPath class is called, {"3": "G3"}.
        classes: label names in order, ["NC", "G3"] or "NC,G3"; default those annotated.
        min_cover: share of a field that a class must cover to label it, 0 to 1.
        min_purity: share of a field's annotated area that its class must have, 0 to 1.
        tissue: "otsu", "all", another masker, your own mask, or a folder of masks.
        min_tissue: smallest share of tissue in a field, 0 to 1.
        min_tissue_um2: pieces of tissue below this area in um2 are dropped.
        max_hole_um2: holes in tissue below this area in um2 are filled.
        route: "area", the average of the finest resolution, or "pyramid", the scanner's levels.
        codec: "none", "zstd" or "jpeg".
        ome_version: "0.5" or "0.4".
        slide_mpp: um per level-0 pixel, for slides without a resolution in manifest and file.
        reader: "auto", "openslide", "direct" or "tiatoolbox".
        series: which image of a file with several; default the largest scan.
        accept_grey: read slides that are not brightfield.
        overwrite: tile again, replacing what is there.
    """

    stride_px: int | None
    annotations: One | None
    label_map: Mapping[str, str]
    classes: Sequence[str] | str
    min_cover: float
    min_purity: float
    tissue: str
    min_tissue: float
    min_tissue_um2: float | None
    max_hole_um2: float | None
    route: str
    codec: str
    ome_version: str
    slide_mpp: float | None
    reader: str
    series: int | None
    accept_grey: bool
    overwrite: bool


_INSTEAD = {
    "mag": "give mpp=(1.0, 4.0), which is 10x and 2.5x",
    "magnification": "give mpp=(1.0, 4.0), which is 10x and 2.5x",
    "patch_size": "did you mean 'patch_px'?",
    "stride": "did you mean 'stride_px'?",
    "min_tissue_area": "did you mean 'min_tissue_um2'?",
    "max_hole_area": "did you mean 'max_hole_um2'?",
}
"""Names of the command line that are others in Python."""


class Stores(Sequence[TileStore]):
    """The tile stores of a run, opened when they are asked for, and the slides that failed.

    Attributes:
        paths: slide name -> folder of its store.
        failures: slide name -> its error.
        summary: how many were made and how many were already there.

    Examples:
        >>> import wsikd
        >>> stores = wsikd.tile(["slides"], "more", mpp=(1.0, 4.0), patch_px=256)
        >>> len(stores), len(stores.failures)
        (2, 0)
        >>> stores["a"]  # or by number
        TileStore('a.zarr', 12 fields, 256 px at 1 um/px, 64 px at 4 um/px)
    """

    def __init__(
        self, paths: Mapping[str, Path], failures: Mapping[str, WsikdError], summary: str
    ) -> None:
        """Use :func:`tile`."""
        self.paths, self.failures, self.summary = dict(paths), dict(failures), summary

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int | str) -> TileStore: ...
    @overload
    def __getitem__(self, index: slice) -> list[TileStore]: ...
    def __getitem__(self, index: int | str | slice) -> TileStore | list[TileStore]:
        """Open a store by the name of its slide, or by its number."""
        if isinstance(index, str):
            if index not in self.paths:
                raise KeyError(f"{index}: {nearest(index, self.paths)}")
            return TileStore.open(self.paths[index])
        places = list(self.paths.values())
        if isinstance(index, slice):
            return [TileStore.open(place) for place in places[index]]
        return TileStore.open(places[index])

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Stores({len(self)}: {self.summary}{failed})"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import table

        rows: list[list[object]] = [[name, place.name, ""] for name, place in self.paths.items()]
        rows += [[name, "", error] for name, error in self.failures.items()]
        return table(repr(self), ["slide", "store", "failure"], rows)


@overload
def tile(
    slides: One,
    out: One,
    *,
    mpp: Sequence[float] = ...,
    patch_px: int = ...,
    threads: int | None = ...,
    jobs: int = ...,
    **options: Unpack[TileOptions],
) -> TileStore: ...
@overload
def tile(
    slides: Many,
    out: One,
    *,
    mpp: Sequence[float] = ...,
    patch_px: int = ...,
    threads: int | None = ...,
    jobs: int = ...,
    **options: Unpack[TileOptions],
) -> Stores: ...
def tile(
    slides: One | Many,
    out: One,
    *,
    mpp: Sequence[float] = (1.0, 4.0),
    patch_px: int = 512,
    threads: int | None = None,
    jobs: int = 0,
    **options: Unpack[TileOptions],
) -> TileStore | Stores:
    """Tile slides into OME-Zarr stores, several resolutions of the same fields in each.

    A slide that is already tiled is skipped; a store with other settings is refused. In a list, a
    slide that fails does not stop the others.

    Args:
        slides: one slide; or a list of slides, folders, globs and CSV manifests.
        out: folder for one ``<slide>.zarr`` a slide.
        mpp: um per pixel of each resolution; 1.0 is 10x, 4.0 is 2.5x.
        patch_px: patch side in px at the finest of them.
        threads: reading threads; default one a core.
        jobs: slides at a time, each in its own process, so that a file that crashes its
            reader does not stop the others. A script then needs
            ``if __name__ == "__main__":``. 0 reads them in this process.
        options: see :class:`TileOptions`.

    Returns:
        For one slide its store; for a list all stores, and the failures by slide.

    Raises:
        ConfigError: a setting is wrong, or no patch gets a label although labels are asked for.
        NoSlidesError: no slide is named.
        WsikdError: the only slide failed.

    Examples:
        >>> import wsikd
        >>> store = wsikd.tile("s.svs", "stores", mpp=(1.0, 4.0), patch_px=256)
        >>> store
        TileStore('s.zarr', 12 fields, 256 px at 1 um/px, 64 px at 4 um/px)
        >>> field = store[0]
        >>> field[1.0].shape, field[4.0].shape
        ((256, 256, 3), (64, 64, 3))
    """
    from wsikd.slides.threads import use_threads
    from wsikd.tiles.runs.run import Running

    how = Running(jobs, use_threads(threads, jobs), 10.0)
    asked: dict[str, Any] = {
        **_checked(options), "inputs": names_of(slides), "out": Path(out), "mpps": tuple(mpp),
        "patch_px": patch_px, "option": "wsikd.tile",
    }  # fmt: skip
    stores = _tile(asked, how, slides if isinstance(slides, (str, os.PathLike)) else None)
    if not isinstance(slides, (str, os.PathLike)):
        return stores
    for error in stores.failures.values():
        raise error
    return stores[0]


def _tile(asked: Mapping[str, Any], how: Running, alone: One | None) -> Stores:
    from wsikd.tiles.runs.plan import TileRequest, plan_tiles
    from wsikd.tiles.runs.run import run_tiles

    request = TileRequest(**asked)
    plan = plan_tiles(request, how)
    if alone is not None:
        only(alone, len(plan.jobs) + len(plan.unmasked))
    batch = Batch(request.out)
    for entry, error in plan.unmasked:
        batch.failed(entry, error)
    done = run_tiles(plan.jobs, how, batch, request.out, plan.labels, plan.left_out)
    batch.keep_failures(logging.WARNING)
    if done.unlabelled is not None:
        if not batch.failures:
            raise done.unlabelled
        log.warning("%s", done.unlabelled)
    paths = {job.entry.name: job.store for job in plan.jobs if job.entry.name in done.tiled}
    return Stores(paths, failures_of(batch), done.summary)


def _checked(options: TileOptions) -> dict[str, Any]:
    """The options as a request takes them. Raises ConfigError for one that is not known."""
    from wsikd.core.errors import ConfigError

    known = [*TileOptions.__annotations__, "mpp", "patch_px", "threads", "jobs"]
    for name in options:
        if name not in known:
            remedy = _INSTEAD.get(name) or nearest(name, known)
            raise ConfigError(name, "is not an option of wsikd.tile", remedy)
    found: dict[str, Any] = dict(options)
    if found.get("annotations") is not None:
        found["annotations"] = Path(found["annotations"])
    if "label_map" in found:
        found["label_map"] = tuple(f"{k}={v}" for k, v in found["label_map"].items())
    if "classes" in found:
        names = found["classes"]
        found["classes"] = (names if isinstance(names, str) else ",".join(names)) or None
    return found
