"""Training from tile stores, as ``wsikd tile`` makes them."""

import shutil

import numpy as np
import pytest

from tests.learn.grading import grading
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import DataError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.losses.maps import downsample
from wsikd.learn.patch.export import ABOVE
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import StoreSettings, TileStore
from wsikd.tiles.write import SlideNotes, tile_slide

SETTINGS = StoreSettings((1.0, 4.0), 64, 64, "otsu", 0.1, ("NC", "G3"), 0.5)


def tile(folder, name, *, settings=SETTINGS, seed=0, label="NC", **notes):
    file = folder / f"{name}.svs"
    coarse = 6 if label == "NC" else 40
    rgb = tissue_rgb(701, 507, (100, 80, 500, 400), seed=seed, coarse=coarse)
    write_pyramid(file, rgb, mpp=0.5, power=20)
    with open_slide(file) as slide:
        return tile_slide(
            slide, folder / f"{name}.zarr", settings, SlideNotes(label=label, **notes)
        )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    for i in range(4):
        tile(folder, f"s{i}", seed=i, label=("NC", "G3")[i % 2], split="val" if i > 1 else "train")
    return folder


def test_labels_splits_and_pixels_at_both_resolutions(stores):
    high = load_patches(Data(paths=[str(stores)], mpp=1.0), Split())
    low = load_patches(Data(paths=[str(stores)], mpp=4.0), Split())
    assert (high.patch_px, low.patch_px) == (64, 16)
    assert high.field_mm2 == pytest.approx(0.064**2)
    assert low.field_mm2 == pytest.approx(0.064**2)
    assert high.classes == ("NC", "G3")
    expected = [(f"s{i}", i % 2, "val" if i > 1 else "train") for i in range(4)]
    found = zip(high.slide, high.label.tolist(), high.split.tolist(), strict=True)
    assert sorted(set(found)) == expected
    assert len(high.digests) == 4
    assert 0 < high.tissue.min() < high.tissue.max() == 1
    chosen = range(0, len(high), 7)
    averaged = downsample(high.images(chosen), 4)
    assert np.abs(averaged.numpy() - low.images(chosen).float().numpy()).max() <= 1


def test_stores_that_do_not_agree_are_refused(tmp_path, stores):
    tile(
        tmp_path, "odd", settings=StoreSettings((1.0, 4.0), 32, 32, "otsu", 0.1, ("NC", "G3"), 0.5)
    )
    with pytest.raises(DataError, match=r"odd\.zarr: patch_px 32, but 64 in s0\.zarr"):
        load_patches(Data(paths=[str(stores), str(tmp_path / "odd.zarr")]), Split())
    with pytest.raises(DataError, match="holds 1, 4 um/px, not 2"):
        load_patches(Data(paths=[str(stores)], mpp=2.0), Split())


def test_one_slide_under_two_names_is_a_leak(tmp_path, stores):
    tile(tmp_path, "again", seed=0, label="NC", split="val")
    with pytest.raises(DataError, match=r"two names: is in both train and val \(2 slides: "):
        load_patches(Data(paths=[str(stores), str(tmp_path)]), Split())


def test_patients_come_from_the_store(tmp_path):
    for i in range(4):
        tile(tmp_path, f"s{i}", seed=i, label=("NC", "G3")[i % 2], patient=f"p{i // 2}")
    patches = load_patches(Data(paths=[str(tmp_path)]), Split(val=0.5))
    by_slide = dict(zip(patches.slide, patches.split.tolist(), strict=True))
    assert by_slide["s0"] == by_slide["s1"] != by_slide["s2"] == by_slide["s3"]


def test_unlabelled_stores_say_what_to_do(tmp_path):
    tile(tmp_path, "bare", label=None)
    with pytest.raises(DataError, match="no labelled patches; tile with annotations"):
        load_patches(Data(paths=[str(tmp_path)]), Split())


def test_training_chooses_the_thresholds_of_cancer(tmp_path, stores):
    config = grading(
        {
            "method": "supervised",
            "network": {"width": 0.25},
            "data": {"paths": [str(stores)]},
            "optim": {"epochs": 3, "batch_size": 16, "lr": 3e-3, "warmup_epochs": 0},
        }
    )
    result = distill(config, tmp_path / "run", device="cpu")
    card = load_bundle(tmp_path / "run").card
    assert result.min_area_mm2 == pytest.approx((1 + ABOVE) * 0.064**2)
    assert card.min_area_slides == card.cancer.slides == 2
    assert card.min_area_mm2 == result.min_area_mm2
    assert card.cancer.kept <= card.cancer.slides_with_cancer <= 2
    assert "min_area_jaccard" not in card.record()
    assert card.not_assessed == "Cribriform and intraductal growth are not assessed."
    digests = {TileStore.open(stores / f"s{i}.zarr").digest for i in range(4)}
    assert card.data == sorted(digests)
    assert ".zarr" not in (tmp_path / "run/student/card.json").read_text()
    shutil.rmtree(tmp_path / "run")
