"""Runs of ``method: slpd``: what they leave, that they go on as if never stopped, what they refuse.

The networks are tiny; what they learn is not judged here.
"""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.cohort import ENCODER, TINY, write_cohort
from tests.learn.engine.torchrun import ROOT, torchrun
from wsikd.core.errors import BundleError, ConfigError, NonFiniteLossError
from wsikd.learn.engine.configurations import load_settings
from wsikd.learn.engine.runs import load_run
from wsikd.learn.engine.train import train
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.slpd.data import check_crops, load_regions
from wsikd.learn.slpd.method import Bank
from wsikd.learn.slpd.prototypes import NOBODY, PrototypeTable
from wsikd.learn.slpd.train import SlpdTask
from wsikd.models.files.bundle import load_bundle
from wsikd.models.files.region_bundle import load_region_encoder
from wsikd.models.slide_level.region_vit import RegionShape


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are slower on two threads, and far slower where both cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slpd")
    write_cohort(folder / "regions", few=(3,))
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture(scope="module")
def finished(place):
    """A run of the command line, and what it printed."""
    out = place / "run"
    asked = ["distill", "-c", str(place / "tiny.yaml"), "--data", str(place / "regions"), "-o"]
    return out, CliRunner().invoke(main, [*asked, str(out), "--device", "cpu"])


def settings(place, *overrides):
    return load_run(place / "tiny.yaml", overrides, data=[place / "regions"]).config


def test_a_run_leaves_an_encoder_and_prototypes(place, finished):
    out, done = finished
    assert done.exit_code == 0, done.output
    assert "region encoder after 3 epochs, loss" in done.output
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("epoch") for row in rows] == [1, 2, 3, None]
    assert rows[0]["raw"]["intra"] == rows[0]["raw"]["inter"] == 0
    assert all(rows[n]["raw"][name] > 0 for n in (1, 2) for name in ("dino", "intra", "inter"))
    assert {p.name for p in (out / "checkpoints").iterdir()} == {"last.ckpt", "epoch_2.ckpt"}
    encoder = load_region_encoder(out)
    table = PrototypeTable.load(out)
    grids = torch.from_numpy(load_regions(settings(place).data).table.read(range(50)))
    assert encoder(grids).shape == (50, 8)
    middle = encoder.bottleneck(grids[:, :, :4, :4])  # the centre of 5 tiles is the first 4
    assert torch.allclose(middle.norm(dim=1), torch.ones(50))
    assert table.valid.tolist() == [True, True, True, False, True]
    own = table.prototypes[table.slide_index, table.assignment.clip(0)]
    kept = table.assignment != NOBODY
    np.testing.assert_allclose((own * middle.numpy()).sum(1)[kept], table.closeness[kept],
                               atol=1e-5)  # fmt: skip
    assert table.about["epoch"] == 3


def test_a_slide_with_few_regions_has_no_prototypes_and_is_no_neighbour(finished):
    table = PrototypeTable.load(finished[0])
    assert 3 not in table.neighbours
    assert (table.neighbours[3] == NOBODY).all()
    assert (table.assignment[table.slide_index == 3] == NOBODY).all()
    assert not table.prototypes[3].any()


@pytest.mark.parametrize("variant", ["intra_inter", pytest.param("dino", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(place, tmp_path, monkeypatch, variant):
    config = settings(place, f"variant={variant}", "optim.keep_every=0")
    train(SlpdTask, config, tmp_path / "whole", device="cpu")
    begin, entered = SlpdTask.begin_epoch, []

    def killed(self, trainer):
        entered.append(trainer.epoch)
        if trainer.epoch == 2 and len(entered) == 3:
            raise KeyboardInterrupt
        begin(self, trainer)

    monkeypatch.setattr(SlpdTask, "begin_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        train(SlpdTask, config, tmp_path / "broken", device="cpu")
    torch.rand(7)  # other chance in between must not matter
    train(SlpdTask, config, tmp_path / "broken", device="cpu", resume=True)
    assert entered == [0, 1, 2, 2]
    whole, broken = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "broken")
    )
    assert same(whole, broken)
    one, two = (rows_of(tmp_path / name) for name in ("whole", "broken"))
    assert one == two
    assert len(one) == 4
    if variant == "intra_inter":
        tables = [PrototypeTable.load(tmp_path / name) for name in ("whole", "broken")]
        np.testing.assert_array_equal(tables[0].prototypes, tables[1].prototypes)
        held = whole["helpers"]["bank._extra_state"]
        assert set(held) == set(Bank.names)
        assert held["prototypes"].shape == (5, 2, 6)
        assert all(whole["helpers"][f"centres.{name}"].any() for name in ("dino", "intra", "inter"))


@pytest.mark.slow
def test_two_processes_train_what_one_does(place, tmp_path):
    """Views, centres, means over regions with prototypes and the table are of the whole batch."""
    asked = ["distill", "-c", place / "tiny.yaml", "--data", place / "regions", "--device", "cpu",
             "--set", "network.drop_path=0", "--set", "optim.epochs=2", "--seed", "3"]  # fmt: skip
    alone = CliRunner().invoke(main, [*map(str, asked), "-o", str(tmp_path / "one")])
    assert alone.exit_code == 0, alone.output
    done = torchrun(*asked, "-o", tmp_path / "two", timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1  # told once
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one[:2], two[:2], strict=True):
        assert b["raw"] == pytest.approx(a["raw"], rel=1e-3)
        assert b["spread"] == pytest.approx(a["spread"], rel=1e-3)
    tables = [PrototypeTable.load(tmp_path / name) for name in ("one", "two")]
    np.testing.assert_array_equal(tables[0].assignment, tables[1].assignment)
    np.testing.assert_allclose(tables[0].prototypes, tables[1].prototypes, atol=1e-3)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def rows_of(run):
    """What was told of the epochs, but for the time they took."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting")} for row in rows]


def test_the_last_layer_is_held_and_decay_follows_the_step(place, tmp_path, monkeypatch):
    seen, step = [], Trainer._step

    def watched(self, *given):
        found = step(self, *given)
        groups = self.optimizer.param_groups
        seen.append((
            self.epoch, self.method.student.last.weight.detach().clone(),
            [g["weight_decay"] for g in groups], groups[0]["lr"],
        ))  # fmt: skip
        return found

    monkeypatch.setattr(Trainer, "_step", watched)
    done = []
    train(
        SlpdTask, settings(place, "variant=dino"), tmp_path / "run", device="cpu",
        on_step=lambda *counts: done.append(counts),
    )  # fmt: skip
    steps = 50 // 8  # what does not fill a batch is left out
    assert done == [(i + 1, 3 * steps) for i in range(3 * steps)]
    assert [s[0] for s in seen] == [0] * steps + [1] * steps + [2] * steps
    first, whole = seen[0][1], 3 * steps
    assert all(torch.equal(s[1], first) for s in seen[:steps])
    assert not torch.equal(seen[steps][1], first)
    assert all(s[2][1] == 0 for s in seen)
    expected = [0.4 - 0.18 * (1 + np.cos(np.pi * t / whole)) for t in range(whole)]
    np.testing.assert_allclose([s[2][0] for s in seen], expected)
    rates = [s[3] for s in seen]
    peak = 0.02 * 8 / 256
    np.testing.assert_allclose(rates[:steps], np.linspace(0, peak, steps))
    rest = np.arange(whole - steps) / (whole - steps)
    np.testing.assert_allclose(rates[steps:], 1e-6 + (peak - 1e-6) * (1 + np.cos(np.pi * rest)) / 2)


def test_a_loss_that_is_no_number_stops_the_run(place, tmp_path):
    config = settings(place, "optim.lr=1e30", "optim.clip=0", "optim.warmup_epochs=0")
    with pytest.raises(NonFiniteLossError, match="loss term 'dino': is nan in epoch"):
        train(SlpdTask, config, tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("crops.global_grid=6", "crops.global_grid 6: is more than the 5 x 5 tiles of a region"),
        ("prototypes.least_regions=13", "prototypes.least_regions 13: is more than the 12 regions"),
        ("prototypes.start_epoch=3", "start_epoch 3 is never reached in 3 epochs"),
        ("data.leave_out=[s9]", "data.leave_out s9: is neither a slide nor a patient"),
        ("weights.intar=1", "'intar' is not a term of variant intra_inter"),
        ("network.heads=3", "heads 3 does not divide width 8"),
        ("crops.local_grid=5", "local_grid 5 is more than global_grid 4"),
    ],
)
def test_settings_that_cannot_be_are_told_in_a_line(place, tmp_path, override, told):
    with pytest.raises(ConfigError, match=told):
        train(SlpdTask, settings(place, override), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "grid"), [("slpd", 16), ("small", 16), ("low_magnification", 8)])
def test_configurations_fit_the_regions_that_they_name(name, grid):
    config = load_settings(ROOT / "configs" / "slpd" / f"{name}.yaml")
    check_crops(config.crops, (384, grid, grid))
    with pytest.raises(ConfigError, match=r"set crops\.global_grid=3 and crops\.local_grid=1"):
        check_crops(config.crops, (384, 4, 4))


def test_the_published_configuration_has_the_published_numbers():
    config = load_settings(ROOT / "configs" / "slpd" / "slpd.yaml")
    optim, defaults = config.optim, RegionShape()
    assert optim.lr * optim.batch_size / 256 == pytest.approx(1e-3)
    assert RegionShape(dim=384, table=14, **config.network.model_dump()) == defaults
    assert (optim.epochs, optim.warmup_epochs, optim.momentum, optim.clip) == (100, 10, 0.996, 3)
    assert (optim.weight_decay, optim.weight_decay_end, optim.lr_end) == (0.04, 0.4, 1e-6)
    assert (config.student_temperature, config.teacher_temperature) == (0.1, 0.04)
    assert (config.prototypes.start_epoch, config.prototypes.clusters) == (21, 4)


def test_slides_and_patients_can_be_left_out(place):
    kept = load_regions(settings(place, "data.leave_out=[s0, p2]").data)
    assert kept.table.slides == ("s1", "s3", "s4")
    assert len(kept) == 12 + 2 + 12


def test_regions_of_another_making_are_refused(finished):
    encoder = load_region_encoder(finished[0])
    encoder.check(ENCODER, (6, 5, 5), 0.5, what="x")
    cases = [
        ({**ENCODER, "sha256": "cd" * 32}, (6, 5, 5), 0.5, "sha256 'cdcdcdcdcdcdcdcd'"),
        ({**ENCODER, "mean": [0.4] * 3}, (6, 5, 5), 0.5, "mean"),
        (ENCODER, (7, 5, 5), 0.5, r"are 7 x 5 x 5 a region, .* takes 6 x 5 x 5"),
        (ENCODER, (6, 5, 5), 2.0, "are at 2 um/px"),
    ]
    for given, shape, mpp, told in cases:
        with pytest.raises(BundleError, match=f"grids: .*{told}.*; give regions"):
            encoder.check(given, shape, mpp, what="grids")


def test_a_damaged_encoder_is_refused(finished, tmp_path):
    import shutil

    shutil.copytree(finished[0] / "student", tmp_path / "student")
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    card["network"]["width"] = 10
    (tmp_path / "student" / "card.json").write_text(json.dumps(card))
    with pytest.raises(BundleError, match="does not match its weights"):
        load_region_encoder(tmp_path)
    with pytest.raises(
        BundleError, match="kind 'region', which does not grade patches; give a run"
    ):
        load_bundle(tmp_path)
