"""Every method, one of another package too, through the real commands.

Configuration, training, a kill, ``--resume`` to the same bytes, and scoring.
"""

import json
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.cohort import TINY
from tests.learn.cohort import write_cohort as write_regions
from tests.learn.mil.test_train import write_cohort as write_bags
from tests.learn.ts2g.test_adapter_train import write_pairs
from tests.learn.ts2g.test_detect_data import coco
from tests.outside.commands import PACKAGE
from wsikd.core.config import Settings
from wsikd.learn.engine.configurations import MethodConfig, model_of
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.methods import METHODS, find_method
from wsikd.learn.methods.base import Method

OPTIM = {"epochs": 2, "batch_size": 18}
HYBRID = {"units": [2, 1, 1], "dim": 8, "heads": 2, "depth": 1, "positions": 1}
BOXES = pytest.mark.skipif(find_spec("pycocotools") is None, reason="needs pycocotools")
NAMES = [*(n for n in METHODS if n != "detector"), pytest.param("detector", marks=BOXES), "outside"]
SCORED = ("supervised", "at_plus", "hdkd", "outside", "mil")


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The package outside, as if it were installed; one thread."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


def wsikd(*arguments, code=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


def grader(stripes, **more):
    return {"data": {"paths": [str(stripes)]}, "network": {"width": 0.25}, "optim": OPTIM} | more


def hybrid(arch, stride=2):
    own = {"arch": arch, "width": 0.125, "hybrid": HYBRID | {"stem_stride": stride}}
    return {"network": own}


def teacher_of(stripes, place, name, **more):
    """A teacher, trained once."""
    run = place / name
    if not run.exists():
        file = place / f"{name}.yaml"
        file.write_text(yaml.safe_dump(grader(stripes, method="supervised", **more)))
        wsikd("distill", "-c", file, "-o", run, "--device", "cpu")
    return str(run)


def content_of(name, stripes, place):
    """A small configuration of a method, its data written."""
    low = {"data": {"paths": [str(stripes)], "student_mpp": 2.0}}
    if name == "mil":
        data = {"paths": [str(write_bags(place / "bags", 20))]}
        return {"data": data, "network": {"arch": "mean"}, "optim": {"epochs": 2, "batch_size": 4}}
    if name == "slpd":
        write_regions(place / "regions")
        return yaml.safe_load(TINY) | {"data": {"paths": [str(place / "regions")]}}
    if name == "ts2g":
        write_pairs(place / "pairs")
        paths = {"paths": [str(place / "pairs/stores")], "targets": [str(place / "pairs/bags")]}
        trunk = {"arch": "vgg_small", "weights": "random", "tap": "F2"}
        return {"data": paths | {"mpp": 1.0}, "trunk": trunk, "optim": {"epochs": 2}}
    if name == "detector":
        parts = {"train": coco(place, "train", 2, size=(64, 48)),
                 "val": coco(place, "val", 1, size=(64, 48), start=9)}  # fmt: skip
        few = {"rpn_post_nms_top_n_train": 32, "rpn_post_nms_top_n_test": 32,
               "box_batch_size_per_image": 32}  # fmt: skip
        network = {"arch": "fasterrcnn", "backbone": "resnet18", "image_px": 48, "options": few,
                   "layers": [1, 2], "anchors_px": [8, 16, 32]}  # fmt: skip
        data = {k: str(v) for k, v in parts.items()}
        return {"data": data, "network": network, "optim": {"epochs": 2}}
    if name == "hdkd":
        teacher = teacher_of(stripes, place, "hybrid", **hybrid("hdkd_teacher", 4))
        return grader(stripes, teacher=teacher, **low, **hybrid("hdkd_student"))
    if name == "supervised":
        return grader(stripes)
    return grader(stripes, teacher=teacher_of(stripes, place, "teacher"), **low)


class Killed(BaseException):
    """As a signal would end it."""


@contextmanager
def killed_in_the_second_epoch(monkeypatch):
    epoch = Trainer._train_epoch

    def dies(self):
        if self.epoch == 1:
            raise Killed
        return epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", dies)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_all_that_is_asked(name):
    method = find_method(name)
    assert issubclass(method, Method)
    assert issubclass(method.Config, Settings)
    assert issubclass(model_of(name), MethodConfig)
    assert set(method.Config.model_fields) <= set(model_of(name).model_fields)
    assert any(weight for weight in method.TERMS.values())
    assert method.needs_teacher <= ("high" in method.views)


@pytest.mark.parametrize("name", NAMES)
def test_trained_killed_resumed_and_scored(name, stripes, place, monkeypatch):
    file, whole, killed = (place / f"{name}{end}" for end in (".run.yaml", "-whole", "-killed"))
    file.write_text(yaml.safe_dump({"method": name, **content_of(name, stripes, place)}))
    shown = yaml.safe_load(wsikd("config", file))
    assert shown["method"] == name
    train = ("distill", "-c", file, "--seed", 1, "--device", "cpu", "-o")
    wsikd(*train, whole)

    with killed_in_the_second_epoch(monkeypatch):
        wsikd(*train, killed)
    wsikd(*train, killed, "--resume")
    weights = [(run / "student/model.safetensors").read_bytes() for run in (whole, killed)]
    assert weights[0] == weights[1]
    if name in SCORED:
        scored = json.loads(wsikd("evaluate", killed, "--split", "val", "--no-report", "--json"))
        assert scored["split"] == "val"


def test_tasks_are_found():
    from wsikd.core.registry import load_target

    for name in METHODS:
        assert issubclass(load_target(find_method(name).task), Task)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("softnes=3", "softnes: unknown key; did you mean 'softness'?"),
        ("weights.sur=1", "'sur' is not a term of this method; did you mean 'sure'?"),
        ("softness=0", "softness: 0 is not valid"),
    ],
)
def test_faults_of_another_packages_settings_are_named(change, fault, stripes, place):
    file = place / "faulty.yaml"
    file.write_text(yaml.safe_dump({"method": "outside", **grader(stripes)}))
    assert fault in wsikd("config", file, "--set", change, code=2)
