"""What "auto" means on a device, and what a run records of it."""

import pytest
import torch
import yaml

from tests.learn.engine.test_finite import student, trained
from tests.learn.patch.test_train import config
from wsikd.core.errors import ConfigError
from wsikd.core.run import RunDir
from wsikd.core.workers import machine
from wsikd.learn.engine import distributed
from wsikd.learn.engine.distributed import with_precision
from wsikd.learn.patch.train import PatchTask, distill


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("precision")


@pytest.mark.parametrize(
    ("native", "optim", "meant"),
    [
        (True, {}, "bf16-mixed"),
        (True, {"deterministic": True}, "32-true"),
        (False, {}, "32-true"),
        (False, {"precision": "16-mixed"}, "16-mixed"),
        (True, {"precision": "32-true"}, "32-true"),
    ],
)
def test_auto_on_a_gpu(native, optim, meant, stripes, monkeypatch):
    monkeypatch.setattr(distributed, "pick_device", lambda _: torch.device("cuda", 0))
    asked = []

    def supported(including_emulation):
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    found = with_precision(config(stripes, optim=optim), "auto")
    assert found.optim.precision == meant
    assert asked in ([], [False])
    assert found.optim.epochs == 4


def test_a_run_records_what_it_used(stripes, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(machine, "usable_cores", lambda *_: 6)
    monkeypatch.setattr(machine, "available_memory", lambda *_: 20 * 10**9)
    monkeypatch.setattr(PatchTask, "export", lambda self, _: None)
    settings = config(stripes, optim={"epochs": 1})
    distill(settings, tmp_path / "run", device="cpu")
    run = RunDir(tmp_path / "run")
    said = {"precision": "32-true", "threads": 6, "cache_gb": 8.0}
    assert run.read_provenance()["machine"] == said
    kept = yaml.safe_load(run.config_file.read_text())
    assert kept["optim"]["precision"] == "32-true"
    assert (kept["optim"]["threads"], kept["data"]["cache_gb"]) == ("auto", "auto")
    assert "cpu, 32-true, 6 reading threads, up to 8 GB of data in memory" in caplog.text


def test_a_run_of_an_earlier_version_is_resumed(stripes, tmp_path, monkeypatch):
    """It kept threads and memory as numbers, and the precision by name."""
    monkeypatch.setattr(PatchTask, "export", lambda self, _: None)
    kept = {"threads": 2, "precision": "32-true", "epochs": 1}
    distill(config(stripes, optim=kept, data={"cache_gb": 4.0}), tmp_path / "run", device="cpu")
    distill(config(stripes, optim={"epochs": 1}), tmp_path / "run", device="cpu", resume=True)
    RunDir(tmp_path / "run").check(config(stripes, optim={"epochs": 1}), resume=True)


def test_backbones_are_compiled_while_they_train(stripes, place, tmp_path, monkeypatch):
    compiled, used = [], []

    def stand_in(function):
        compiled.append(function)

        def calls(*given):
            used.append(function)
            return function(*given)

        return calls

    monkeypatch.setattr(torch, "compile", stand_in)
    monkeypatch.setattr(PatchTask, "export", lambda self, _: self.method)
    method = trained(student(stripes, place, optim={"compile": True}), tmp_path / "run")
    assert {f.__self__ for f in compiled} == {method.student.backbone, method.teacher.backbone}
    assert set(used) == set(compiled)
    assert "forward_taps" not in vars(method.student.backbone)


def test_what_differentiates_twice_is_not_compiled(stripes, place, tmp_path):
    settings = student(stripes, place, optim={"compile": True}, weights={"ce": 1.0, "at_grad": 1.0})
    with pytest.raises(ConfigError, match=r"optim\.compile: these terms differentiate twice"):
        distill(settings, tmp_path / "run", device="cpu")
