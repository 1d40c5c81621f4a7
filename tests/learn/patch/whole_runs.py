"""Trainings by ``wsikd distill``: stopped and continued, and by two processes."""

import json

import pytest
import yaml

from tests.learn.engine.torchrun import forked
from tests.learn.methods.test_contract import killed_in_the_second_epoch, wsikd


def epochs(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if "raw" in row]


def resumes_to_the_byte(told, folder, monkeypatch):
    """A run that is killed in its second epoch and continued ends with the weights of ``whole``."""
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump(told))
    train = ("distill", "-c", file, "--seed", 1, "--device", "cpu", "-o")
    wsikd(*train, folder / "whole")
    with killed_in_the_second_epoch(monkeypatch):
        wsikd(*train, folder / "killed")
    wsikd(*train, folder / "killed", "--resume")
    whole, killed = (folder / name for name in ("whole", "killed"))
    one, two = (run / "student/model.safetensors" for run in (whole, killed))
    assert one.read_bytes() == two.read_bytes()
    return whole, killed


def two_processes_train_what_one_does(told, folder, figures=("raw",)):
    """Each epoch of two processes has the terms, the validation loss or both of one."""
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump(told))
    asked = ["distill", "-c", file, "--device", "cpu", "--seed", "3"]
    wsikd(*asked, "-o", folder / "one")
    done = forked(*asked, "-o", folder / "two")
    assert (folder / "two" / "student" / "card.json").exists(), done.stderr
    for one, two in zip(epochs(folder / "one"), epochs(folder / "two"), strict=True):
        if "raw" in figures:
            assert two["raw"] == pytest.approx(one["raw"], rel=2e-3, abs=2e-4)
        if "val" in figures:
            assert two["val"]["loss"] == pytest.approx(one["val"]["loss"], rel=1e-3)
