"""Attention comes back where the patches lie."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.mil.test_train import config, write_cohort
from wsikd.api.attention import attention_map
from wsikd.bags.bag import Bag, BagInfo, open_bag, write_bag
from wsikd.core.errors import DataError
from wsikd.learn.engine.train import train
from wsikd.learn.mil.train import BagTask
from wsikd.slides.base import open_slide
from wsikd.tiles.grid import TileGrid


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("attend")
    cohort = write_cohort(root / "cohort")
    train(BagTask, config(cohort), root / "run", device="cpu")
    return root / "run"


def bag_on(slide_file, path, *, marked, stride=None):
    """A bag of every field of a slide; the marked one holds what decides the class."""
    with open_slide(slide_file) as slide:
        grid = TileGrid.plan(slide, 1.0, 64, stride)
        rows, columns = map(np.ravel, np.mgrid[: grid.rows, : grid.columns])
        xy = grid.boxes(rows, columns)[:, :2]
    features = np.random.default_rng(0).normal(size=(len(xy), 6)).astype(np.float32)
    features[marked, 0] += 8
    about = {"sha256": "e", "patches": {"stride_px": stride}}
    write_bag(path, BagInfo(slide_file.stem, about, 1.0, 64, grid.field_px), features, xy)
    return open_bag(path), xy


@pytest.mark.parametrize("stride", [None, 32])
def test_attention_lies_on_its_patch(slide_file, run, tmp_path, stride):
    bag, xy = bag_on(slide_file, tmp_path / "bags" / "odd.zarr", marked=7, stride=stride)
    command = ["attend", str(run), "-i", str(slide_file), "--bags", str(tmp_path / "bags"),
               "-o", str(tmp_path / "out")]  # fmt: skip
    found = CliRunner().invoke(main, command, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "1 drawn" in found.output
    with (tmp_path / "out" / "odd" / "tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    best = max(rows, key=lambda r: float(r["prob_attention"]))
    assert float(best["prob_attention"]) == pytest.approx(1.0)
    assert abs(float(best["minx"]) - xy[7, 0]) <= 1
    assert abs(float(best["miny"]) - xy[7, 1]) <= 1
    assert (tmp_path / "out" / "odd" / "heat.png").is_file()
    assert len(rows) == len(bag)


def test_a_slide_without_its_bag(slide_file, run, tmp_path):
    bag_on(slide_file, tmp_path / "bags" / "other.zarr", marked=0)
    command = ["attend", str(run), "-i", str(slide_file), "--bags", str(tmp_path / "bags"),
               "-o", str(tmp_path / "out")]  # fmt: skip
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 3
    assert "odd: has no bag; make it with wsikd embed" in found.output


def test_patches_on_no_grid(slide_file, tmp_path):
    bag, xy = bag_on(slide_file, tmp_path / "a.zarr", marked=0)
    attention = np.ones(len(xy), np.float32)
    with open_slide(slide_file) as slide:
        made = attention_map(slide, bag, attention)
        assert made.valid_hw.all()
        write_bag(tmp_path / "b.zarr", bag.info, bag.features(), xy + 30)
        with pytest.raises(DataError, match="no grid of this slide"):
            attention_map(slide, open_bag(tmp_path / "b.zarr"), attention)
        bare = Bag(bag.path, BagInfo("s"), bag.shape)
        with pytest.raises(DataError, match="size of its patches"):
            attention_map(slide, bare, attention)
