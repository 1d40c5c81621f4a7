"""A request to tile becomes one job per slide."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.slides.annotations.label_map import parse_label_map
from wsikd.slides.listing.inputs import check_slides
from wsikd.slides.listing.manifest import discover_slides
from wsikd.slides.listing.once import settle_names
from wsikd.slides.listing.sidecar import DRAWN, no_mask, own_masks, sidecar
from wsikd.slides.tissue.find import default_areas
from wsikd.tiles.blocks import check_route
from wsikd.tiles.codecs import check_codec
from wsikd.tiles.grid import patch_sizes
from wsikd.tiles.jobs import TileJob
from wsikd.tiles.metadata import KEY_BYTES, KEY_FILE, project_key
from wsikd.tiles.runs.labels import plan_labels
from wsikd.tiles.runs.made import stores_made
from wsikd.tiles.store import StoreSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.core.errors import AnnotationError
    from wsikd.slides.listing.entry import SlideEntry
    from wsikd.slides.listing.search import LeftOut
    from wsikd.tiles.runs.labels import Labels
    from wsikd.tiles.runs.run import Running


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TileRequest:
    """Which slides are tiled, and how.

    Attributes:
        inputs: slides, folders, globs, manifests.
        out: folder of the stores.
        mpps: um per pixel of each resolution.
        patch_px: patch side in px at the finest of them.
        stride_px: distance of patches in px there; default the patch side.
        annotations: a file, or a folder of files named after the slides.
        label_map: "source=class" each, or a YAML file.
        classes: names as "A,B,C"; default those annotated.
        min_cover: share of a field that a class must cover to label it.
        min_purity: share of a field's annotated area that its class must have.
        tissue: an entry of ``MASKERS``, a mask, or a folder of masks.
        min_tissue: smallest share of tissue in a field.
        min_tissue_um2: pieces of tissue below this area are dropped; default the method's.
        max_hole_um2: holes below this area are filled; default the method's.
        route: "area" or "pyramid".
        codec: "none", "zstd" or "jpeg".
        ome_version: "0.5" or "0.4".
        slide_mpp: um per level-0 pixel where neither manifest nor file says it.
        reader: an entry of ``READERS``.
        series: which image of a file with several; default the largest scan.
        accept_grey: read slides that are not brightfield.
        overwrite: tile again, replacing what is there.
        option: how messages call ``inputs``.
    """

    inputs: Sequence[str]
    out: Path
    mpps: Sequence[float]
    patch_px: int
    stride_px: int | None = None
    annotations: Path | None = None
    label_map: Sequence[str] = ()
    classes: str | None = None
    min_cover: float = 0.5
    min_purity: float = 0.0
    tissue: str = "otsu"
    min_tissue: float = 0.1
    min_tissue_um2: float | None = None
    max_hole_um2: float | None = None
    route: str = "area"
    codec: str = "none"
    ome_version: str = "0.5"
    slide_mpp: float | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False
    overwrite: bool = False
    option: str = "-i"

    def check(self) -> None:
        """Refuse settings that contradict each other. Raises ConfigError."""
        check_codec(self.codec, self.ome_version)
        check_route(self.route)
        patch_sizes(self.finest_first, self.patch_px, self.stride_px or self.patch_px)

    @property
    def finest_first(self) -> tuple[float, ...]:
        """The resolutions, each once, the finest first."""
        return tuple(sorted(set(self.mpps)))


@dataclass(frozen=True)
class TilePlan:
    """The slides of a run: jobs, those without a mask of their own, and files left out."""

    jobs: list[TileJob]
    labels: Labels
    left_out: list[LeftOut]
    unmasked: list[tuple[SlideEntry, AnnotationError]]


def plan_tiles(asked: TileRequest, how: Running, *, writes: bool = True) -> TilePlan:
    """Find the slides of a run, and what each is tiled with.

    Args:
        asked: the request.
        how: where and how it runs.
        writes: whether stores are written; a dry run makes no folder and draws no key.

    Raises:
        ConfigError: settings contradict each other, or the inputs are not slides.
        NoSlidesError: the inputs name no slide.
    """
    asked.check()
    renamed = parse_label_map(asked.label_map)
    check_slides(asked.inputs, asked.option)
    found = discover_slides(
        asked.inputs,
        slide_mpp=asked.slide_mpp,
        annotations=asked.annotations,
        reader=asked.reader,
        series=asked.series,
        accept_grey=asked.accept_grey,
    )
    named = settle_names(found.entries, stores_made(asked.out))
    method, entries, unmasked = own_masks(asked.tissue, named)
    labels = plan_labels(
        entries,
        renamed,
        annotations=asked.annotations,
        classes=asked.classes,
        apart=how.jobs > 0,
        stall_s=60 * how.stall_min,
    )
    _warn_of_unread(asked, entries)
    settings = _settings(asked, method, renamed, labels.classes)
    if writes:
        asked.out.mkdir(parents=True, exist_ok=True)
    key = _key(entries, asked.out, writes=writes)
    jobs = [
        TileJob(entry, asked.out, settings, renamed, key, how.threads, asked.overwrite)
        for entry in entries
    ]
    without = [(entry, no_mask(entry, asked.tissue)) for entry in unmasked]
    return TilePlan(jobs, labels, found.left_out, without)


def _warn_of_unread(asked: TileRequest, entries: Sequence[SlideEntry]) -> None:
    """Warn that slides without annotations have files of annotations beside them."""
    if asked.annotations or any(entry.annotation or entry.label for entry in entries):
        return
    drawn = [e for e in entries if sidecar(e.path.parent, e.path, DRAWN)]
    if drawn:
        log.warning(
            "the stores get no labels: %d of %d slides have annotations beside them; to read "
            "these, give --annotations %s",
            len(drawn), len(entries), shlex.quote(str(drawn[0].path.parent)),
        )  # fmt: skip


def _settings(
    asked: TileRequest,
    method: str,
    renamed: tuple[tuple[str, str], ...],
    classes: tuple[str, ...],
) -> StoreSettings:
    usual = default_areas(method)
    least, hole = asked.min_tissue_um2, asked.max_hole_um2
    return StoreSettings(
        mpps=asked.finest_first,
        patch_px=asked.patch_px,
        stride_px=asked.stride_px or asked.patch_px,
        tissue=method,
        min_tissue=asked.min_tissue,
        classes=classes,
        min_cover=asked.min_cover,
        min_purity=asked.min_purity,
        label_map=renamed,
        min_tissue_um2=usual.min_tissue_um2 if least is None else least,
        max_hole_um2=usual.max_hole_um2 if hole is None else hole,
        route=asked.route,
        codec=asked.codec,
        ome_version=asked.ome_version,
    )


def _key(entries: Sequence[SlideEntry], out: Path, *, writes: bool) -> bytes | None:
    """The key that hashes patients, None where no patient is named.

    A dry run draws no key: where there is none, no store of these patients can be there either.
    """
    if not any(entry.patient for entry in entries):
        return None
    return project_key(out) if writes or (out / KEY_FILE).exists() else bytes(KEY_BYTES)
