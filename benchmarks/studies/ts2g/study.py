"""TS2G-KD end to end on a generated cohort: detector, adapters, bag networks, drop-in check.

What stands in for the foundation model is a ResNet-18 trained on another generated task: to tell
shapes, discs with nuclei of many sizes, on further slides that hold no rare cell. Its embeddings
are thus neither made for the cohort's labels nor those of a general model, and its speed says
nothing of one's. Every student sees as many patches in training, whatever it chooses them from; one
is a control on a trunk that was never trained. Adapters and heads are trained with several seeds;
slides, detector and teacher are drawn once.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from benchmarks.studies.study_folder import claim
from benchmarks.studies.ts2g.cells import write_cells
from benchmarks.studies.ts2g.data import cut_boxes, holds, write_teacher_patches
from benchmarks.studies.ts2g.settings import ASKED_BY, TEACHER, slug
from wsikd.bags.bag import open_bag
from wsikd.bags.embed import Embedder, settings_for
from wsikd.core.config import Settings, parse_config
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir, write_json_atomic
from wsikd.learn.engine.train import train
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.evaluate import decide, evaluate_bags, run_network
from wsikd.learn.mil.method import MilConfig
from wsikd.learn.mil.train import BagTask
from wsikd.learn.patch.settings import RunConfig
from wsikd.learn.patch.train import PatchTask
from wsikd.learn.ts2g.adapter_train import EmbedTask, fit_of
from wsikd.learn.ts2g.detect_data import load_boxes
from wsikd.learn.ts2g.detect_method import Detect, DetectConfig
from wsikd.learn.ts2g.detect_train import (
    DetectTask,
    ImageViews,
    average_precision,
    load_detector,
)
from wsikd.learn.ts2g.method import Select, Ts2gConfig
from wsikd.learn.ts2g.select_patches import choose, open_scorer
from wsikd.models.encoders.open import open_encoder
from wsikd.models.files.bag_bundle import load_bag_network
from wsikd.models.files.bundle import CARD
from wsikd.slides.base import open_slide
from wsikd.tiles.metadata import SlideNotes
from wsikd.tiles.store import StoreSettings, TileStore
from wsikd.tiles.write import tile_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.studies.ts2g.cells import CellSlide
    from benchmarks.studies.ts2g.settings import Student, StudyConfig
    from wsikd.learn.engine.trainer import Task

logger = logging.getLogger(__name__)
FEW_BOXES = {
    "box_batch_size_per_image": 32, "rpn_pre_nms_top_n_train": 300, "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 20,
}  # fmt: skip
"""Boxes that the detector looks at: some dozens are plenty for a handful of cells."""
ANCHORS = (28.0, 40.0, 56.0, 80.0)
"""Sides of boxes that are tried, in slide pixels: a rare cell's is 25 to 29."""
TRUNK = "resnet18"
LOOKS = 15
"""Times that encoders are timed, in turns."""


class Study:
    """The stages, each of which leaves alone what is finished.

    Args:
        config: see :class:`StudyConfig`.
        out: folder of the study.
        device: "auto", "cpu" or "cuda:0".
    """

    def __init__(self, config: StudyConfig, out: Path, *, device: str = "auto") -> None:
        """Name the folder; :meth:`run` makes it."""
        self.config, self.out, self.device = config, out.resolve(), device
        self.seed = config.seed
        self.seeds = range(config.seed, config.seed + config.repeats)

    def run(self) -> None:
        """Do what is not finished.

        Raises:
            OutputError: the folder holds a study of other settings.
            WsikdError: a stage failed; what is finished stays for the next call.
        """
        with locked(self.out):
            claim(self.out, self.config)
            config = self.config
            slides = write_cells(
                self.out / "slides", seed=self.seed, slides=config.slides, size_px=config.size_px
            )
            stages: list[tuple[str, Callable[[], None]]] = [
                ("stores", partial(self._tile, slides)),
                ("the stand-in for a foundation model", self._teacher),
                ("stage 1, detector", partial(self._detector, slides)),
                ("stage 3 on the teacher's bags", partial(self._heads, TEACHER)),
                ("patch selection", partial(self._select, slides)),
            ]
            for name, student in config.students.items():
                stages.append((f"stage 2, {name}", partial(self._student, name, student, slides)))
                stages.append((f"stage 3, {name}", partial(self._heads, name)))
            stages.append(("speed", partial(self._time, slides)))
            for number, (name, work) in enumerate(stages, start=1):
                logger.info("%d of %d: %s", number, len(stages), name)
                work()

    @property
    def encoders(self) -> list[str]:
        """The teacher, and the students by name."""
        return [TEACHER, *self.config.students]

    def bags(self, encoder: str, seed: int) -> Path:
        """Folder of an encoder's bags; the teacher has one for all seeds."""
        return self.out / "bags" / self._named(encoder, seed)

    def adapter(self, student: str, seed: int) -> Path:
        """Run folder of a student."""
        return self.out / "runs" / f"adapter-{self._named(student, seed)}"

    def head(self, encoder: str, arch: str, seed: int) -> Path:
        """Run folder of a bag network on an encoder's bags."""
        return self.out / "runs" / f"mil-{slug(encoder)}-{arch}-{seed}"

    def said(self, head_of: str, encoder: str, arch: str, seed: int) -> Path:
        """What a head trained on one encoder's bags says of another's test bags."""
        names = (slug(head_of), "on", slug(encoder), arch, str(seed))
        return self.out / "said" / f"{'-'.join(names)}.json"

    def fit(self, student: str, seed: int) -> Path:
        """How near a student is to the teacher on test patches."""
        return self.out / "fit" / f"{self._named(student, seed)}.json"

    @property
    def detector(self) -> Path:
        """Run folder of stage 1."""
        return self.out / "runs" / "detector"

    @staticmethod
    def _named(encoder: str, seed: int) -> str:
        return TEACHER if encoder == TEACHER else f"{slug(encoder)}-{seed}"

    def _tile(self, slides: list[CellSlide]) -> None:
        config = self.config
        settings = StoreSettings(
            mpps=tuple(sorted({1.0, *(s.mpp for s in config.students.values())})),
            patch_px=config.patch_px, stride_px=config.patch_px, tissue="otsu", min_tissue=0.5,
            classes=(), min_cover=0.5,
        )  # fmt: skip
        for slide in slides:
            with open_slide(slide.path) as opened:
                notes = SlideNotes(label=slide.label, split=slide.split)
                store = self.out / "stores" / f"{slide.path.stem}.zarr"
                tile_slide(opened, store, settings, notes)

    def _teacher(self) -> None:
        folder, own = self.out / "runs" / TEACHER, self.config
        labels = write_teacher_patches(
            self.out / "teacher_patches", seed=own.seed, slides=own.teacher_slides,
            size_px=own.size_px, patch_px=own.patch_px,
        )  # fmt: skip
        config = _parsed(RunConfig, {
            "method": "supervised",
            "data": {"paths": [str(labels)], "mpp": 1.0},
            "network": {"arch": TRUNK},
            "optim": {"epochs": own.teacher_epochs, "batch_size": 16},
        })  # fmt: skip
        self._train(PatchTask, config, folder, self.seed)
        self._embed(TEACHER, folder, self.seed)

    def _detector(self, slides: list[CellSlide]) -> None:
        boxes, config = self.out / "boxes", self.config
        for split in ("train", "val", "test"):
            if not (boxes / f"{split}.json").is_file():
                chosen = [s for s in slides if s.split == split]
                write_json_atomic(boxes / f"{split}.json", cut_boxes(chosen, boxes, config.tile_px))
        scale = config.image_px / config.tile_px
        settings = _parsed(DetectConfig, {
            "method": "detector",
            "data": {"train": str(boxes / "train.json"), "val": str(boxes / "val.json"),
                     "images": str(boxes / "images")},
            "network": {"arch": "fasterrcnn", "image_px": config.image_px, "backbone": TRUNK,
                        "layers": [2, 3, 4], "anchors_px": [scale * a for a in ANCHORS],
                        "options": FEW_BOXES},
            "optim": {"epochs": config.detector_epochs, "batch_size": 4, "lr": 1e-3},
        })  # fmt: skip
        self._train(DetectTask, settings, self.detector, self.seed)
        file = self.out / "detector.json"
        if not file.is_file():
            found = load_boxes(boxes / "test.json", boxes / "val.json", boxes / "images")
            method = Detect(load_detector(self.detector), found, flips=False)
            views, test = ImageViews(found, torch.device("cpu")), found.indices("train")
            told: dict[str, Any] = dict(average_precision(method, views, test, 4))
            cells = sum(len(found.boxes[i]) for i in test)
            write_json_atomic(file, {**told, "images": len(test), "boxes": cells})

    def _select(self, slides: list[CellSlide]) -> None:
        """How many of the patches with a rare cell are among those chosen."""
        file = self.out / "selection.json"
        if file.is_file():
            return
        score, how = open_scorer(self._scorer()), Select(mode="top", count=self.config.count)
        held = chosen = patches = taken = 0
        for number, slide in enumerate(slides):
            if slide.split != "train" or not len(slide.boxes):
                continue
            bag = open_bag(self.bags(TEACHER, self.seed) / f"{slide.path.stem}.zarr")
            rare = holds(bag.coords(), self.config.patch_px, slide.boxes)
            best = choose(bag.features(), how, score=score, entropy=(0, number))
            held, chosen = held + int(rare.sum()), chosen + int(rare[best].sum())
            patches, taken = patches + len(bag), taken + len(best)
        write_json_atomic(file, {"rare_patches": held, "chosen": chosen, "patches": patches,
                                 "taken": taken})  # fmt: skip

    def _scorer(self) -> Path:
        """The mean-pooling network that chooses patches: of the teacher's bags, the first seed."""
        return self._mil(TEACHER, "mean", self.seed)

    def _student(self, name: str, student: Student, slides: list[CellSlide]) -> None:
        own = self.config
        trunk = str(self.detector) if student.trunk == "detector" else "random"
        for seed in self.seeds:
            config = _parsed(Ts2gConfig, {
                "method": "ts2g",
                "data": {"paths": [str(self.out / "stores")],
                         "targets": [str(self.bags(TEACHER, seed))],
                         "mpp": 1.0, "student_mpp": student.mpp,
                         "select": {"mode": student.select, "count": own.count, "seed": seed,
                                    "scorer": str(self._scorer())}},
                "trunk": {"arch": TRUNK, "weights": trunk},
                "optim": {"epochs": own.adapter_epochs, "epoch_patches": own.adapter_patches},
            })  # fmt: skip
            self._train(EmbedTask, config, self.adapter(name, seed), seed)
            self._embed(name, self.adapter(name, seed), seed)
            self._measure_fit(name, seed, slides)

    def _measure_fit(self, name: str, seed: int, slides: list[CellSlide]) -> None:
        file = self.fit(name, seed)
        if file.is_file():
            return
        own, theirs, rare = [], [], []
        for slide in (s for s in slides if s.split == "test"):
            bag = open_bag(self.bags(name, seed) / f"{slide.path.stem}.zarr")
            own.append(bag.features())
            theirs.append(open_bag(self.bags(TEACHER, seed) / bag.path.name).features())
            rare.append(holds(bag.coords(), self.config.patch_px, slide.boxes))
        found, target, held = np.concatenate(own), np.concatenate(theirs), np.concatenate(rare)
        told: dict[str, Any] = {"test": {"patches": len(found), **fit_of(found, target)}}
        if held.any():
            few = fit_of(found[held], target[held], target.mean(0))
            told["rare"] = {"patches": int(held.sum()), **few}
        write_json_atomic(file, told)

    def _embed(self, name: str, run: Path, seed: int) -> None:
        encoder = open_encoder(str(run))
        embedder = Embedder(encoder, settings_for(encoder, None, None), device=self.device)
        for path in sorted((self.out / "stores").glob("*.zarr")):
            embedder.embed_store(TileStore.open(path), self.bags(name, seed) / path.name)

    def _mil(self, encoder: str, arch: str, seed: int) -> Path:
        config = _parsed(MilConfig, {
            "method": "mil",
            "data": {"paths": [str(self.bags(encoder, seed))], "classes": ["negative", "positive"]},
            "network": {"arch": arch},
            "optim": {"epochs": self.config.mil_epochs, "lr": 1e-3, "batch_size": 4},
        })  # fmt: skip
        run = self.head(encoder, arch, seed)
        self._train(BagTask, config, run, seed)
        return run

    def _heads(self, encoder: str) -> None:
        """Heads on an encoder's own bags; the teacher's heads, unchanged, on a student's."""
        for seed in self.seeds:
            for arch in self.config.heads:
                run = self._mil(encoder, arch, seed)
                if not self.said(encoder, encoder, arch, seed).is_file():
                    evaluate_bags(run, "test", by=ASKED_BY, again=True)
                self._ask(run, self.said(encoder, encoder, arch, seed), self.bags(encoder, seed))
                dropped = self.said(TEACHER, encoder, arch, seed)
                self._ask(self.head(TEACHER, arch, seed), dropped, self.bags(encoder, seed))

    def _ask(self, run: Path, file: Path, folder: Path) -> None:
        """Keep what a head says of the test bags in a folder."""
        if file.is_file():
            return
        bundle = load_bag_network(run)
        content = yaml.safe_load(RunDir(run).config_file.read_text(encoding="utf-8"))
        config: MilConfig = _parsed(MilConfig, content)
        data = config.data.model_copy(update={"paths": [str(folder)]})
        bags = load_bags(data, config.split)
        chosen = bags.indices("test")
        said = run_network(bundle, bags, chosen).probability
        write_json_atomic(file, {
            "slide": [bags.slide[i] for i in chosen], "label": bags.label[chosen].tolist(),
            "probability": said[:, 1].tolist(),
            "decided": decide(said, bundle.threshold).tolist(),
        })  # fmt: skip

    def _time(self, slides: list[CellSlide]) -> None:
        """CPU time of each encoder for the same fields of a test slide, in turns; reading apart."""
        file = self.out / "speed.json"
        if file.is_file():
            return
        name = next(s.path.stem for s in slides if s.split == "test")
        store = TileStore.open(self.out / "stores" / f"{name}.zarr")
        timed: dict[str, list[float]] = {}
        work: dict[str, Callable[[], torch.Tensor]] = {}
        rows = range(min(32, len(store.patches)))
        for encoder in self.encoders:
            run = self.out / "runs" / TEACHER
            network = open_encoder(
                str(run if encoder == TEACHER else self.adapter(encoder, self.seed))
            )
            mpp = float(network.spec.mpp or 1.0)
            patches = np.stack([store.read_patch(i, mpp) for i in rows]).transpose(0, 3, 1, 2)
            work[encoder] = partial(network, torch.from_numpy(patches.copy()))
        with torch.inference_mode():
            for look in range(LOOKS + 1):
                for encoder, go in work.items():
                    start = time.process_time()
                    go()
                    if look:  # the first warms up
                        spent = time.process_time() - start
                        timed.setdefault(encoder, []).append(1000 * spent / len(rows))
        write_json_atomic(file, {"patches": len(rows), "ms_per_patch": timed})

    def _train(
        self, kind: type[Task[Any, Any, Any]], config: Settings, folder: Path, seed: int
    ) -> None:
        if not (RunDir(folder).student / CARD).is_file():
            train(kind, config, folder, seed=seed, device=self.device, resume=True)


def _parsed(model: Any, content: dict[str, Any]) -> Any:
    return parse_config(model, content, name=ASKED_BY)
