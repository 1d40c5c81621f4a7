"""The cohort that the study of SLPD learns from: region grids of slides of known mixtures.

Either the embeddings of tiles are drawn themselves; or slides are drawn, read back through
OpenSlide, and their tiles embedded by a small network that was trained to tell kinds of tile apart
on further slides: a stand-in for a foundation model, which knows nothing of types of tissue or
labels. The types stay in ``truth.json``, for scoring.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks.studies.slpd.mixtures import (
    KINDS,
    draw_tile,
    draw_vectors,
    plan_mixtures,
    stain_tiles,
    write_mixture,
)
from benchmarks.studies.slpd.mixtures import region_corners as corners_of
from benchmarks.studies.slpd.settings import ASKED_BY
from wsikd.bags.bag import BagInfo, open_bag, write_bag
from wsikd.bags.embed import there
from wsikd.bags.embed_regions import RegionEmbedder, region_settings
from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir, aside, write_json_atomic, write_text_atomic
from wsikd.learn.patch.settings import parse_grading
from wsikd.learn.patch.train import distill
from wsikd.models.encoders.open import open_encoder
from wsikd.models.files.bundle import CARD
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.tiles.metadata import hide_patient

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.studies.slpd.mixtures import Mixture
    from benchmarks.studies.slpd.settings import Cohort
    from wsikd.bags.region_table import RegionTable

MPP = 0.5
GRIDS, TRUTH = "grids", "truth.json"
_KEY = b"generated"
"""Patients are invented: their names, and so the folds, are the same in every folder."""
_TILES_EACH = 40
"""Tiles of each kind that a slide gives to the tile encoder."""


def make_cohort(out: Path, cohort: Cohort, *, device: str = "auto") -> Path:
    """Make what is not there of the cohort.

    Args:
        out: folder of the study.
        cohort: see :class:`Cohort`.
        device: of the tile encoder.

    Returns:
        Folder of the region grids; ``truth.json`` lies beside it.

    Raises:
        WsikdError: a part cannot be made.
    """
    planned = plan_mixtures(
        seed=cohort.seed, slides=cohort.slides, regions=cohort.regions, grid=cohort.grid
    )
    if cohort.form == "grids":
        for one in planned:
            _draw_grids(out / GRIDS, one, cohort)
    else:
        _embed_slides(out, planned, cohort, device)
    if not (out / TRUTH).is_file():
        write_json_atomic(out / TRUTH, {one.name: _truth(out, one, cohort) for one in planned})
    return out / GRIDS


def read_truth(out: Path) -> dict[str, NDArray[np.int64]]:
    """True type of each region of each slide, in the order of its grids. Raises OutputError."""
    file = out / TRUTH
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {slide: np.array(about["types"], np.int64) for slide, about in found.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OutputError(file, "cannot be read", "remove it and run again") from error


def deal_labels(table: RegionTable, seed: int) -> dict[str, str]:
    """Labels by slide, where whole patients got the labels of others, drawn by seed."""
    own: dict[str, str] = {}
    for patient, label in zip(table.patients, table.labels, strict=True):
        own.setdefault(str(patient), str(label))
    drawn = np.random.default_rng([seed, 2**21]).permutation(sorted(own.values()))
    dealt = dict(zip(sorted(own), drawn.tolist(), strict=True))
    return {s: dealt[str(p)] for s, p in zip(table.slides, table.patients, strict=True)}


def _draw_grids(folder: Path, one: Mixture, cohort: Cohort) -> None:
    """Region grids without pixels."""
    path = folder / f"{one.name}.zarr"
    drawn: dict[str, Any] = {
        "dim": cohort.dim,
        "noise": cohort.noise,
        "patient_shift": cohort.patient_shift,
    }
    digest = hashlib.sha256(json.dumps([drawn, cohort.seed]).encode()).hexdigest()
    side = cohort.grid * cohort.tile_px
    with locked(path):
        info = BagInfo(
            one.name,
            {"id": "drawn embeddings", "licence": "none needed", "sha256": digest, **drawn},
            MPP, side, (float(side), float(side)), hide_patient(one.patient, folder, _KEY), None,
            one.label, hashlib.sha256(repr(one.seed).encode()).hexdigest(),
        )  # fmt: skip
        if there(path, info, regions=True) is None:
            xy = corners_of(len(one.types), side).astype(np.float64)
            write_bag(path, info, draw_vectors(one, **drawn), xy)


def _embed_slides(out: Path, planned: list[Mixture], cohort: Cohort, device: str) -> None:
    """Slides, a tile encoder, and their region grids."""
    encoder = open_encoder(str(_tile_encoder(out, cohort, device)))
    settings = region_settings(
        encoder, MPP, cohort.tile_px, cohort.grid * cohort.tile_px, tissue="otsu", min_tissue=0.5
    )
    embedder = RegionEmbedder(encoder, settings, device=device, batch_size=256, threads=1)
    for one in planned:
        path = out / GRIDS / f"{one.name}.zarr"
        if not path.exists():
            slide = write_mixture(out / "slides", one, tile_px=cohort.tile_px, mpp=MPP)
            entry = SlideEntry(slide, one.name, label=one.label, patient=one.patient)
            embedder.embed_slide(entry, path)


def _tile_encoder(out: Path, cohort: Cohort, device: str) -> Path:
    """The run of the stand-in for a foundation model."""
    folder, run = out / "tile_encoder", out / "tile_encoder" / "run"
    if (RunDir(run).student / CARD).is_file():
        return run
    labels = write_tiles(folder, cohort)
    content = {
        "method": "supervised",
        "data": {"paths": [str(labels)], "mpp": MPP},
        "network": {"arch": "vgg_small", "width": 0.5},
        "optim": {"epochs": cohort.encoder_epochs, "batch_size": 32},
    }
    config = parse_grading(content, name=ASKED_BY)
    distill(config, run, seed=cohort.seed, device=device, resume=True)
    return run


def write_tiles(folder: Path, cohort: Cohort) -> Path:
    """Write labelled tiles of slides that are not of the cohort, every fourth for validation.

    Args:
        folder: where to; what is finished in it stays.
        cohort: says how many, and the side of a tile.

    Returns:
        The labels CSV.

    Raises:
        OutputError: an image cannot be written.
    """
    file = folder / "labels.csv"
    if file.is_file():
        return file
    rows = [("image", "label", "class", "slide", "split")]
    for k in range(cohort.encoder_slides):
        rng = np.random.default_rng([cohort.seed, k, 2**20])
        for kind in range(KINDS):
            drawn = np.stack([draw_tile(rng, kind, cohort.tile_px) for _ in range(_TILES_EACH)])
            tiles = stain_tiles(rng, drawn, (cohort.seed, k, 2**20 + 1))
            for n, rgb in enumerate(tiles):
                name = f"t{k:02d}_{kind}_{n:03d}.png"
                _write_png(folder / "images" / name, rgb)
                split = "val" if k % 4 == 3 else "train"
                rows.append((name, str(kind), f"kind {kind}", f"t{k:02d}", split))
    write_text_atomic(file, csv_text(rows[0], rows[1:]))
    return file


def _write_png(file: Path, rgb: NDArray[np.uint8]) -> None:
    with aside(file, keep_suffix=True) as part:
        if not cv2.imwrite(str(part), np.ascontiguousarray(rgb[..., ::-1])):
            raise OutputError(file, "cannot be written", "free space, or choose another -o")


def _truth(out: Path, one: Mixture, cohort: Cohort) -> dict[str, Any]:
    """Label, patient and the types of the regions that were taken, in the order of the bag."""
    side = cohort.grid * cohort.tile_px
    corners = corners_of(len(one.types), side)
    kept = open_bag(out / GRIDS / f"{one.name}.zarr").coords()
    place = {tuple(xy): k for k, xy in enumerate(corners.tolist())}
    types = [int(one.types[place[tuple(np.rint(xy).astype(int).tolist())]]) for xy in kept]
    return {"label": one.label, "patient": one.patient, "types": types}
