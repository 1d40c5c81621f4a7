"""Training on the slides' own lower levels, beside averages of the finer pixels."""

import numpy as np
import pytest
import torch

from tests.learn.grading import grading
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import DataError
from wsikd.learn.data.augment import Chance, augment
from wsikd.learn.data.patches import load_patches
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Progress
from wsikd.learn.methods.supervised import Supervised
from wsikd.learn.patch.settings import Augment
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import StoreSettings
from wsikd.tiles.write import SlideNotes, tile_slide


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pyramid")
    for i, label in enumerate(("NC", "G3", "NC", "G3")):
        make(folder, f"s{i}", label, "val" if i > 1 else "train", "pyramid", seed=i)
    return folder


def make(folder, name, label, split, route, seed=0):
    file = folder / f"{name}.svs"
    rgb = tissue_rgb(701, 507, (100, 80, 500, 400), seed=seed, coarse=6)
    write_pyramid(file, rgb, mpp=0.5, power=20, downsamples=(1, 4, 8))
    settings = StoreSettings(
        (1.0, 4.0), 64, 64, "otsu", 0.1, ("NC", "G3"), 0.5, route=route
    )  # fmt: skip
    with open_slide(file) as slide:
        tile_slide(slide, folder / f"{name}.zarr", settings, SlideNotes(label=label, split=split))


def config(stores, low_source, **augmentation):
    return grading({
        "method": "supervised", "network": {"width": 0.25},
        "data": {"paths": [str(stores)], "student_mpp": 4.0, "low_source": low_source},
        "optim": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0},
        "augment": augmentation,
    })  # fmt: skip


def views(stores, low_source, tmp_path, at=Progress(0, 2, 3, 9), **augmentation):  # noqa: B008
    """Patches of one batch, and what the student is given of them."""
    settings = config(stores, low_source, **augmentation)
    patches = load_patches(settings.data, settings.split)
    method = Supervised(build_grader("vgg_small", 2, width=0.25))
    task = PatchTask(settings, seed=4)
    task.data, task.method = patches, method
    views, chosen = task.make_views(torch.device("cpu")), np.arange(12)
    return patches, chosen, views.batch(views.read(chosen), chosen, at).views["low"]


STILL = {"flips": False, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}


def test_pixels_are_the_store_s_own(stores, tmp_path):
    patches, chosen, low = views(stores, "pyramid", tmp_path, **STILL)
    given = config(stores, "area")
    own = load_patches(given.data.model_copy(update={"mpp": 4.0}), given.split)
    assert torch.equal(low, own.images(chosen).float())
    average = downsample(patches.images(chosen), 4)
    assert 0.1 < (low - average).abs().mean() < 8  # the same tissue, not the same pixels


def test_geometry_and_colour_are_those_of_the_fine_patch(stores, tmp_path, monkeypatch):
    """With the average in place of the stored pixels, both ways must give the same view."""
    options = {"flips": True, "stain": 0.0, "contrast": 0.1, "saturation": 0.1, "brightness": 0.1}
    patches, chosen, average = views(stores, "area", tmp_path / "a", **options)
    exact = downsample(patches.images(chosen), 4)
    monkeypatch.setattr(type(patches), "low_images", lambda *_: exact)
    _, _, moved = views(stores, "pyramid", tmp_path / "p", **options)
    assert (moved - average).abs().mean() < 0.1  # not 0: white is cut off before or after
    assert (moved - exact).abs().mean() > 3  # something was drawn
    chance = Chance(torch.Generator().manual_seed(0))
    assert not torch.equal(augment(exact, Augment(**options), chance), moved)


def test_mixed_takes_either_for_each_patch(stores, tmp_path):
    _, _, low = views(stores, "mixed", tmp_path / "m", **STILL)
    _, _, own = views(stores, "pyramid", tmp_path / "p", **STILL)
    _, _, average = views(stores, "area", tmp_path / "a", **STILL)
    taken = [torch.equal(x, y) for x, y in zip(low, own, strict=True)]
    assert 0 < sum(taken) < len(taken)
    for i, is_own in enumerate(taken):
        assert is_own or torch.equal(low[i], average[i])


def test_validation_reads_averages(stores, tmp_path):
    patches, chosen, low = views(stores, "pyramid", tmp_path, at=None)
    assert torch.equal(low, downsample(patches.images(chosen), 4))


def test_a_run_on_mixed_sources_ends(stores, tmp_path):
    result = distill(config(stores, "mixed"), tmp_path / "run", device="cpu")
    assert result.bundle.is_dir()


def test_stores_of_averages_and_files_are_refused(stores, stripes, tmp_path):
    make(tmp_path, "one", "NC", "train", "area")
    make(tmp_path, "two", "G3", "train", "area", seed=1)
    make(tmp_path, "three", "G3", "val", "area", seed=2)
    with pytest.raises(DataError, match=r"own pixels at 4 um/px; tile with --route pyramid"):
        distill(config(tmp_path, "mixed"), tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match=r"is not a tile store.*data\.low_source=area"):
        distill(config(stripes, "pyramid"), tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match=r"needs data\.student_mpp above data\.mpp"):
        grading({"method": "supervised", "data": {"low_source": "mixed"}})
