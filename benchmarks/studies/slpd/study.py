"""SLPD end to end: region encoders with and without prototypes, and what each is worth.

Every encoder is judged twice: as the papers do, after it has learnt from the regions of all slides,
those of the test folds included, though from no label ("transductive"); and with an encoder of each
fold that has never read a region of a patient that the fold tests ("per_fold").
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.slpd.cohort import TRUTH, deal_labels, make_cohort, read_truth
from benchmarks.studies.slpd.mixtures import TYPES
from benchmarks.studies.slpd.scores import (
    bottleneck_of,
    check_left_out,
    mean_tiles_of,
    nearest_means,
    nearest_neighbours,
    read_rows,
    score_clusters,
)
from benchmarks.studies.slpd.settings import ASKED_BY, RAW, SHUFFLED, TRUE, UNTRAINED
from benchmarks.studies.study_folder import claim
from wsikd.bags.bag import find_bags
from wsikd.bags.region_table import open_regions
from wsikd.bags.region_vectors import VectorEmbedder, open_grids, write_vectors
from wsikd.core.config import parse_config
from wsikd.core.errors import DataError, OutputError
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir, write_json_atomic
from wsikd.learn.data.settings import Split
from wsikd.learn.data.splits import assign, keep_share
from wsikd.learn.engine.train import seed_weights, train
from wsikd.learn.mil.cross_validate import PREDICTIONS, cross_validate
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.method import BagData, MilConfig
from wsikd.learn.slpd.method import SlpdConfig
from wsikd.learn.slpd.train import SlpdTask, build
from wsikd.models.files.bundle import CARD
from wsikd.models.files.region_bundle import save_region_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.studies.slpd.settings import StudyConfig
    from wsikd.bags.bag import Bag
    from wsikd.bags.region_table import RegionTable
    from wsikd.bags.region_vectors import Encode
    from wsikd.learn.mil.data import BagSet

logger = logging.getLogger(__name__)
FOLDS_OF = "per_fold"
HEAD, NEAREST = "head", "nearest"
_SHARED = {RAW: "raw", TRUE: "truth"}


@dataclass(frozen=True)
class Vectors:
    """One way of making region vectors: a row of the tables.

    Attributes:
        seed: of the training and the slide's network.
        protocol: None where nothing is trained.
        variant: None where nothing is trained.
        plain: what is not trained: RAW, TRUE, SHUFFLED or UNTRAINED.
    """

    seed: int
    protocol: str | None = None
    variant: str | None = None
    plain: str = RAW

    @property
    def name(self) -> str:
        """As the tables call it."""
        return self.variant or self.plain

    @property
    def place(self) -> str:
        """Its folder below others."""
        if self.variant:
            return f"seed{self.seed}/{self.protocol}/{self.variant}"
        shared = _SHARED.get(self.plain)
        return shared or f"seed{self.seed}/{self.plain.replace(', ', '_').replace(' ', '_')}"

    @property
    def clustered(self) -> bool:
        """Whether clusters and neighbours are its own."""
        return self.plain != SHUFFLED


class Study:
    """The stages, each of which leaves alone what is finished.

    Args:
        config: see :class:`StudyConfig`.
        out: folder of the study.
        device: "auto", "cpu" or "cuda:0".
        data: region grids, or folders of them; none: the generated cohort.
    """

    def __init__(
        self, config: StudyConfig, out: Path, *, device: str = "auto", data: Sequence[Path] = ()
    ) -> None:
        """Name the folder; :meth:`run` makes it. Raises ConfigError."""
        self.config, self.out, self.device, self.data = config, out.resolve(), device, data
        self.grids: list[Path] = []
        self.left_out: dict[str, str] = {}
        self._loaded: dict[str, BagSet] = {}
        for variant in config.variants:
            self._pretraining(variant, ())

    @property
    def rows(self) -> list[Vectors]:
        """Every way of making region vectors; what is not trained once, its head for each seed."""
        plain = (RAW, UNTRAINED) if self.data else (RAW, TRUE, SHUFFLED, UNTRAINED)
        found = [Vectors(seed, plain=name) for name in plain for seed in self.config.seeds]
        for protocol in self.config.protocols:
            for seed in self.config.seeds:
                found += [Vectors(seed, protocol, variant) for variant in self.config.variants]
        return found

    def run(self) -> None:
        """Do what is not finished.

        Raises:
            OutputError: the folder holds a study of other settings or regions.
            WsikdError: a stage failed; what is finished stays for the next call.
        """
        with locked(self.out):
            claim(self.out, self.config)
            self._find_grids()
            self._baseline()
            for number, row in enumerate(self.rows, start=1):
                logger.info("%d of %d: seed %d, %s %s", number, len(self.rows), row.seed,
                            row.protocol or "", row.name)  # fmt: skip
                self._loaded.clear()
                if row.variant or row.plain == UNTRAINED:
                    self._vectors(row)
                self._classify(row)

    def bags(self, row: Vectors, fold: int) -> BagData:
        """Where the vectors of a fold lie."""
        more = f"fold{fold}" if row.protocol == FOLDS_OF else ""
        return BagData(
            paths=[str(self.out / "vectors" / row.place / more)], labels=self.config.labels
        )

    def split(self, share: float = 1.0) -> Split:
        """How folds are dealt: the same for every row."""
        config = self.config
        return Split(folds=config.folds, val=config.val, given=False, share=share)

    def scores_file(self, row: Vectors) -> Path:
        """Clusters and neighbours of a row."""
        return self.out / "scores" / f"{row.place}.json"

    def predictions(self, row: Vectors, share: float, by: str) -> list[dict[str, Any]]:
        """What was said of every slide by the fold that tests it. Raises DataError."""
        folder = self._heads(row, share)
        if by == NEAREST:
            return read_rows(folder / f"{NEAREST}.json")
        found: list[dict[str, Any]] = []
        for fold in range(self.config.folds):
            file = folder / "runs" / f"seed{row.seed}-fold{fold}" / PREDICTIONS
            found += [one | {"fold": fold} for one in read_rows(file)]
        return found

    def _heads(self, row: Vectors, share: float) -> Path:
        place = row.place if row.place.startswith("seed") else f"seed{row.seed}/{row.place}"
        return self.out / "heads" / place / f"labels{round(100 * share)}"

    def _find_grids(self) -> None:
        """List the grids that can be read, and refuse those of another study."""
        made = [] if self.data else [make_cohort(self.out, self.config.cohort, device=self.device)]
        for path in find_bags(self.data or made):
            try:
                bag = open_grids(path)
                bag.features()
            except DataError as error:
                logger.warning("%s", error)
                self.left_out[path.stem] = error.fault
                continue
            self.grids.append(path)
        if not self.grids:
            raise DataError(self.data[0], "holds no regions that can be read", "see the warnings")
        now = {"digest": self.table().digest, "left_out": self.left_out}
        file = self.out / "regions.json"
        if not file.is_file():
            write_json_atomic(file, now)
        elif json.loads(file.read_text(encoding="utf-8")) != now:
            raise OutputError(self.out, "holds a study of other regions", "choose another -o")

    def table(self) -> RegionTable:
        """All regions of the study."""
        return open_regions(self.grids)

    def _baseline(self) -> None:
        """Means over tiles and, where they are known, true types: vectors, clusters, neighbours."""
        row, table = Vectors(self.config.seeds[0]), self.table()
        for path in self.grids:
            bag = open_grids(path)
            self._write_plain(bag, row, mean_of_tiles, bag.dim)
        self._keep(row, lambda: self._scores(mean_tiles_of(table), self._labelled(row, 0)))
        if self.data:
            return
        row, types = Vectors(row.seed, plain=TRUE), read_truth(self.out)
        plain = {s: np.eye(len(TYPES), dtype=np.float32)[known] for s, known in types.items()}
        for one in (r for r in self.rows if r.plain == SHUFFLED):
            dealt = deal_labels(table, one.seed)
            for path in self.grids:
                bag = open_grids(path)
                info = replace(bag.info, label=dealt[bag.info.slide])
                given = _always(plain[bag.info.slide])
                self._write_plain(replace(bag, info=info), one, given, len(TYPES))
        for path in self.grids:
            bag = open_grids(path)
            self._write_plain(bag, row, _always(plain[bag.info.slide]), len(TYPES))
        features = np.concatenate([plain[slide] for slide in table.slides])
        self._keep(row, lambda: self._scores(features, self._labelled(row, 0)))

    def _write_plain(self, bag: Bag, row: Vectors, encode: Encode, dim: int) -> None:
        """Vectors that no network makes."""
        about = {"id": row.name, "licence": "none needed", "dim": dim, "sha256": row.name,
                 "tiles": dict(bag.info.encoder)}  # fmt: skip
        write_vectors(
            bag, self.out / "vectors" / row.place / f"{bag.path.stem}.zarr", about, encode, dim
        )

    def _labelled(self, row: Vectors, fold: int) -> BagSet:
        return self._load(self.bags(row, fold), self.split().model_copy(update={"fold": fold}))

    def _load(self, data: BagData, split: Split) -> BagSet:
        """Bags of a row, opened once."""
        key = data.paths[0]
        if key not in self._loaded:
            self._loaded[key] = load_bags(data, split)
        return divided_again(self._loaded[key], split)

    def _keep(self, row: Vectors, made: Callable[[], dict[str, Any]]) -> None:
        if not self.scores_file(row).is_file():
            write_json_atomic(self.scores_file(row), made())

    def _scores(self, features: Any, bags: BagSet) -> dict[str, Any]:
        """Clusters by prototypes of ``features``, and the nearest slides by mean vectors."""
        labels = {s: bags.classes[k] for s, k in zip(bags.slide, bags.label, strict=True)}
        known = None if self.data or not (self.out / TRUTH).is_file() else read_truth(self.out)
        return {
            "clusters": score_clusters(
                features, self.table(), self.config.prototypes, labels, known
            ),
            "means": nearest_means(bags),
        }

    def _pretraining(self, variant: str, leave_out: Sequence[str]) -> SlpdConfig:
        """Settings of a region encoder. Raises ConfigError."""
        config = self.config
        content = {
            "method": "slpd", "variant": variant,
            "data": {"paths": [str(p) for p in self.grids], "leave_out": sorted(leave_out)},
            **{k: getattr(config, k).model_dump(mode="json")
               for k in ("network", "crops", "prototypes", "optim")},
        }  # fmt: skip
        return parse_config(SlpdConfig, content, name=ASKED_BY)

    def _vectors(self, row: Vectors) -> None:
        """Region encoders of a row, their vectors and scores."""
        every = row.protocol != FOLDS_OF
        for fold in range(1 if every else self.config.folds):
            tested = [] if every else self._tested(fold)
            run = self.out / "runs" / row.place / ("" if every else f"fold{fold}")
            if row.variant:
                self._pretrain(row, run, tested)
            else:
                self._untrained(row, run)
            embedder = VectorEmbedder(run, device=self.device)
            if not every:
                bags = self._labelled(Vectors(row.seed), fold)
                names = {f"slide {bags.slide[i]}" for i in bags.indices("test")}
                names |= {bags.group[i] for i in bags.indices("test")}
                check_left_out(embedder.encoder, sorted(names))
            for path in self.grids:
                folder = self.bags(row, fold).paths[0]
                embedder.embed(path, type(path)(folder) / f"{path.stem}.zarr")
        self._keep(row, lambda: self._score_row(row))

    def _tested(self, fold: int) -> list[str]:
        """Slides and patients of a fold's test part, as the grids name them."""
        bags = self._labelled(Vectors(self.config.seeds[0]), fold)
        chosen = [bags.bags[i].info for i in bags.indices("test")]
        return sorted({i.slide for i in chosen} | {i.patient for i in chosen if i.patient})

    def _pretrain(self, row: Vectors, run: Path, tested: Sequence[str]) -> None:
        config = self._pretraining(str(row.variant), tested)
        if (RunDir(run).student / CARD).is_file():
            RunDir(run).check(config, resume=True, seed=row.seed)
            return
        train(SlpdTask, config, run, seed=row.seed, device=self.device, resume=True)

    def _untrained(self, row: Vectors, run: Path) -> None:
        """The encoder that a training of this seed begins with."""
        if (RunDir(run).student / CARD).is_file():
            return
        table = self.table()
        seed_weights(row.seed)
        teacher = build(self._pretraining("dino", ()), table.shape[0]).teacher
        save_region_encoder(
            RunDir(run).student, teacher, encoder=table.encoder, mpp=table.mpp,
            grid=table.shape[1], region_px=table.region_px, variant=UNTRAINED,
        )  # fmt: skip

    def _score_row(self, row: Vectors) -> dict[str, Any]:
        """Scores of a row; of a fold's own encoder only those of the slides that it tests."""
        found: dict[str, Any] = {"clusters": {}, "means": {}}
        every = row.protocol != FOLDS_OF
        for fold in range(1 if every else self.config.folds):
            run = self.out / "runs" / row.place / ("" if every else f"fold{fold}")
            encoder = VectorEmbedder(run, device="cpu").encoder
            bags = self._labelled(row, fold)
            scores = self._scores(bottleneck_of(encoder, self.table()), bags)
            wanted = bags.slide if every else [bags.slide[i] for i in bags.indices("test")]
            for kind, by_slide in scores.items():
                found[kind] |= {s: by_slide[s] for s in wanted if s in by_slide}
        return found

    def _classify(self, row: Vectors) -> None:
        """Slide networks and nearest neighbours, at every share of labels."""
        config = self.config
        data = [self.bags(row, fold) for fold in range(config.folds)]
        for share in config.shares:
            folder = self._heads(row, share)
            own = MilConfig(
                method="mil", data=data[0], split=self.split(share), network=config.head,
                optim=config.head_optim,
            )  # fmt: skip
            cross_validate(
                own, folder, folds=config.folds, seeds=[row.seed], device=self.device,
                paths=[one.paths for one in data], load=self._load,
            )  # fmt: skip
            file = folder / f"{NEAREST}.json"
            if not file.is_file():
                write_json_atomic(file, nearest_neighbours(
                    data, self.split(share), config.folds, config.neighbours,
                    load=self._load,
                ))  # fmt: skip


def _always(vectors: NDArray[np.float32]) -> Encode:
    """What gives these vectors, whatever the grids."""
    return lambda _: vectors


def mean_of_tiles(grids: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a region encoder is compared with: grids (N, D, g, g) to means over tiles (N, D)."""
    return np.asarray(grids.mean((2, 3)), np.float32)


def divided_again(bags: BagSet, split: Split) -> BagSet:
    """The same bags under a split that heeds none that they bring (``given`` false, or folds).

    Raises:
        ConfigError, DataError: as ``load_bags``.
    """
    slides = bags.slide
    patients = [None if g == f"slide {s}" else g for g, s in zip(bags.group, slides, strict=True)]
    names = assign(bags.label, slides, patients, [None] * len(slides), split)
    names = keep_share(names, bags.label, bags.group, split.share, split.share_seed)
    return replace(bags, split=names)
