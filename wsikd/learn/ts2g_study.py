"""TS2G-KD end to end on a generated cohort: detector, adapters, bag networks, drop-in check.

What stands in for the foundation model is a small network trained with supervision on patches of
further slides by the same generator: it has been told what a rare cell is, so its bags are an upper
bound by construction, and its speed says nothing of a real one's. Two of the students are controls:
one learns from patches drawn at random, one on a trunk that was never trained.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml

from wsikd.core.config import Settings, dump_config, first_difference, parse_config
from wsikd.core.errors import OutputError
from wsikd.core.lock import locked
from wsikd.core.run import RunDir, write_json_atomic, write_text_atomic
from wsikd.learn.bag_data import load_bags
from wsikd.learn.bag_evaluate import drop_in, evaluate_bags, run_network
from wsikd.learn.bag_settings import MilConfig
from wsikd.learn.bag_train import train_bags
from wsikd.learn.detect_settings import DetectConfig
from wsikd.learn.detect_train import train_detector
from wsikd.learn.embed import Embedder, settings_for
from wsikd.learn.scoring import SCORES, read_scores
from wsikd.learn.select import choose, open_scorer
from wsikd.learn.settings import RunConfig
from wsikd.learn.train import distill
from wsikd.learn.ts2g_settings import Select, Ts2gConfig
from wsikd.learn.ts2g_study_data import cut_boxes, holds, write_teacher_patches
from wsikd.learn.ts2g_study_settings import ASKED_BY, TEACHER, slug
from wsikd.learn.ts2g_train import train_embedder
from wsikd.models.bag_bundle import load_bag_network
from wsikd.models.bundle import CARD
from wsikd.models.encoder import open_encoder
from wsikd.slides.base import open_slide
from wsikd.slides.synthetic_cells import write_cells
from wsikd.tiles.bags import open_bag
from wsikd.tiles.record import SlideNotes
from wsikd.tiles.store import StoreSettings, TileStore
from wsikd.tiles.tiling import tile_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsikd.learn.ts2g_study_settings import Student, StudyConfig
    from wsikd.slides.synthetic_cells import CellSlide

logger = logging.getLogger(__name__)
FEW_BOXES = {
    "box_batch_size_per_image": 64, "rpn_post_nms_top_n_train": 200, "rpn_post_nms_top_n_test": 100,
}  # fmt: skip
"""Boxes that the detector looks at: a few hundred are plenty for a handful of cells."""


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

    def run(self) -> None:
        """Do what is not finished.

        Raises:
            OutputError: the folder holds a study of other settings.
            WsikdError: a stage failed; what is finished stays for the next call.
        """
        with locked(self.out):
            self._claim()
            config = self.config
            slides = write_cells(
                self.out / "slides", seed=self.seed, slides=config.slides, size_px=config.size_px
            )
            stages: list[tuple[str, Callable[[], None]]] = [
                ("stores", partial(self._tile, slides)),
                ("the stand-in for a foundation model", self._teacher),
                ("stage 1, detector", partial(self._detector, slides)),
                ("patch selection", partial(self._select, slides)),
            ]
            for name, student in config.students.items():
                stages.append((f"stage 2, {name}", partial(self._student, name, student)))
            stages += [(f"stage 3, {name}", partial(self._heads, name)) for name in self.bags]
            stages.append(("drop-in check", self._drop_in))
            for number, (name, work) in enumerate(stages, start=1):
                logger.info("%d of %d: %s", number, len(stages), name)
                work()

    @property
    def bags(self) -> dict[str, Path]:
        """Folder of bags of every encoder, the teacher's first."""
        names = (TEACHER, *self.config.students)
        return {name: self.out / "bags" / slug(name) for name in names}

    def head(self, encoder: str, arch: str) -> Path:
        """Run folder of a bag network on an encoder's bags."""
        return self.out / "runs" / f"mil-{slug(encoder)}-{arch}"

    def adapter(self, student: str) -> Path:
        """Run folder of a student."""
        return self.out / "runs" / f"adapter-{slug(student)}"

    @property
    def detector(self) -> Path:
        """Run folder of stage 1."""
        return self.out / "runs" / "detector"

    def _claim(self) -> None:
        file = self.out / "study.yaml"
        if file.is_file():
            try:
                old = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError) as error:
                raise OutputError(file, "cannot be read", "choose another -o") from error
            now = self.config.model_dump(mode="json")
            if (key := first_difference(dict(old or {}), now)) is not None:
                raise OutputError(
                    self.out, f"holds a study with another '{key}'", "choose another -o"
                )
            return
        if self.out.is_dir() and any(self.out.iterdir()):
            raise OutputError(self.out, "is not empty and holds no study", "choose another -o")
        self.out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(file, dump_config(self.config))

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
            "network": {"arch": "vgg_small"},
            "optim": {"epochs": own.teacher_epochs, "batch_size": 16},
        })  # fmt: skip
        self._train(distill, config, folder)
        self._embed(TEACHER, folder)

    def _detector(self, slides: list[CellSlide]) -> None:
        boxes = self.out / "boxes"
        for split in ("train", "val"):
            if not (boxes / f"{split}.json").is_file():
                chosen = [s for s in slides if s.split == split]
                write_json_atomic(
                    boxes / f"{split}.json", cut_boxes(chosen, boxes, self.config.tile_px)
                )
        config = _parsed(DetectConfig, {
            "method": "detector",
            "data": {"train": str(boxes / "train.json"), "val": str(boxes / "val.json"),
                     "images": str(boxes / "images")},
            "network": {"arch": "fasterrcnn", "image_px": self.config.image_px,
                        "options": FEW_BOXES},
            "optim": {"epochs": self.config.detector_epochs, "batch_size": 4},
        })  # fmt: skip
        self._train(train_detector, config, self.detector)

    def _select(self, slides: list[CellSlide]) -> None:
        """How many of the patches with a rare cell are among those chosen."""
        scorer = self.head(TEACHER, "mean")
        self._mil(TEACHER, "mean")
        file = self.out / "selection.json"
        if file.is_file():
            return
        score, how = open_scorer(scorer), Select(mode="top", count=self.config.count)
        held = chosen = patches = taken = 0
        for number, slide in enumerate(slides):
            if slide.split != "train" or not len(slide.boxes):
                continue
            bag = open_bag(self.bags[TEACHER] / f"{slide.path.stem}.zarr")
            rare = holds(bag.coords(), self.config.patch_px, slide.boxes)
            best = choose(bag.features(), how, score=score, entropy=(0, number))
            held, chosen = held + int(rare.sum()), chosen + int(rare[best].sum())
            patches, taken = patches + len(bag), taken + len(best)
        write_json_atomic(file, {"rare_patches": held, "chosen": chosen, "patches": patches,
                                 "taken": taken})  # fmt: skip

    def _student(self, name: str, student: Student) -> None:
        config = _parsed(Ts2gConfig, {
            "method": "ts2g",
            "data": {"paths": [str(self.out / "stores")], "targets": [str(self.bags[TEACHER])],
                     "mpp": 1.0, "student_mpp": student.mpp,
                     "select": {"mode": student.select, "count": self.config.count,
                                "seed": self.seed, "scorer": str(self.head(TEACHER, "mean"))}},
            "trunk": {"weights": str(self.detector) if student.trunk == "detector" else "random"},
            "optim": {"epochs": self.config.adapter_epochs},
        })  # fmt: skip
        self._train(train_embedder, config, self.adapter(name))
        self._embed(name, self.adapter(name))

    def _embed(self, name: str, run: Path) -> None:
        encoder = open_encoder(str(run))
        embedder = Embedder(encoder, settings_for(encoder, None, None), device=self.device)
        for path in sorted((self.out / "stores").glob("*.zarr")):
            embedder.embed_store(TileStore.open(path), self.bags[name] / path.name)

    def _mil(self, encoder: str, arch: str) -> None:
        config = _parsed(MilConfig, {
            "method": "mil",
            "data": {"paths": [str(self.bags[encoder])], "classes": ["negative", "positive"]},
            "network": {"arch": arch},
            "optim": {"epochs": self.config.mil_epochs, "lr": 1e-3, "batch_size": 4},
        })  # fmt: skip
        self._train(train_bags, config, self.head(encoder, arch))

    def _heads(self, encoder: str) -> None:
        for arch in self.config.heads:
            self._mil(encoder, arch)
            run = self.head(encoder, arch)
            if scored_test(run) is None:
                evaluate_bags(run, "test", by=ASKED_BY, again=True)

    def _drop_in(self) -> None:
        for arch in self.config.heads:
            file = self.out / f"drop_in-{arch}.json"
            if file.is_file():
                continue
            run = self.head(TEACHER, arch)
            bundle, config = load_bag_network(run), _config_of(run)
            bags = load_bags(config.data, config.split)
            chosen = bags.indices("test")
            said = run_network(bundle, bags, chosen)
            write_json_atomic(file, {
                name: drop_in(bundle, config, [str(self.bags[name])], bags, chosen, said)
                for name in self.config.students
            })  # fmt: skip

    def _train(self, train: Callable[..., Any], config: Settings, folder: Path) -> None:
        if not (RunDir(folder).student / CARD).is_file():
            train(config, folder, seed=self.seed, device=self.device, resume=True)


def scored_test(run: Path) -> dict[str, Any] | None:
    """The finished scoring of a bag network on the test part, the first; None where there is none.

    Raises:
        WsikdError: the scores cannot be read.
    """
    kept = [s for s in read_scores(run / SCORES) if s["split"] == "test" and "auc" in s]
    return kept[0] if kept else None


def read_json(file: Path) -> Any:
    """Content of a JSON file of the study. Raises OutputError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(file, "cannot be read", "remove it and run again") from error


def _config_of(run: Path) -> MilConfig:
    content = yaml.safe_load(RunDir(run).config_file.read_text(encoding="utf-8"))
    found: MilConfig = _parsed(MilConfig, content)
    return found


def _parsed(model: Any, content: dict[str, Any]) -> Any:
    return parse_config(model, content, name=ASKED_BY)
