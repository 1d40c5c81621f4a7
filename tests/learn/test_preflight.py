"""What nothing can be learnt from is refused by labels alone."""

import csv

import numpy as np
import pytest

from tests.tiles.stores import write_store
from wsikd.core.errors import StoreError
from wsikd.learn.data import sources
from wsikd.learn.data.joined import join
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.data.sources import list_sources, open_sources
from wsikd.learn.patch.settings import RunConfig
from wsikd.learn.preflight import check_labels, check_run
from wsikd.tiles.store import TileStore, read_labels

PART = {0: "train", 1: "train", 2: "val"}


def write_csv(folder, classes, splits=PART):
    """A labels CSV of three slides, a patch of each of their classes; the images are empty."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "slide", "class", "split"])
        for slide, split in splits.items():
            for name in classes(slide):
                image = f"{slide}_{name}.png"
                (folder / image).touch()
                table.writerow([image, f"s{slide}", name, split])
    return folder


def write_folders(folder, names):
    for name in names:
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohorts")
    both = ("NC", "G3")
    write_csv(root / "both", lambda _: both)
    write_csv(root / "one", lambda _: both[:1])
    write_csv(root / "train", lambda slide: both if slide == 2 else both[:1])
    write_csv(root / "bare", lambda _: both, dict.fromkeys(PART, "train"))
    write_folders(root / "folders", ["train/NC/a_1", "train/NC/a_2", "train/G3/b_1", "val/NC/b_2"])
    for slide in PART:
        labels = dict.fromkeys(("one", "both"), [0] * 7) | {"both": [slide % 2] * 7}
        for kind, own in labels.items():
            path = root / f"{kind}_stores" / f"{slide}.zarr"
            write_store(path, labels=own, name=f"s{slide}", split=PART[slide])
    (root / "run.yaml").write_text("method: supervised\n")
    return root


@pytest.mark.parametrize("data", ["both", "both_stores"])
def test_labels_are_listed_as_for_the_training_and_nothing_is_said(place, data, caplog):
    given = Data(paths=[str(place / data)])
    check_labels(given, Split())
    assert caplog.text == ""  # the training warns of small parts
    quick, whole = join(list_sources(given), given), join(open_sources(given), given)
    np.testing.assert_array_equal(quick.label, whole.label)
    for name in ("slide", "patient", "given", "tissue", "classes"):
        assert getattr(quick, name) == getattr(whole, name)


def test_data_of_several_settings_are_read_once(place, monkeypatch):
    read = []
    monkeypatch.setattr(
        sources, "read_csv", lambda *a, own=sources.read_csv, **k: read.append(a) or own(*a, **k)
    )
    config = RunConfig(method="supervised", data=Data(paths=[str(place / "both")]))
    other = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 0.5})})
    check_run(config, other)
    assert len(read) == 1


@pytest.mark.parametrize("name", ["label", "tissue"])
def test_a_lost_column_is_no_cohort_of_one_class(tmp_path, name):
    made = write_store(tmp_path / "s.zarr")
    label, tissue = read_labels(made.path)[1:]
    np.testing.assert_array_equal(label, made.patches.label)
    np.testing.assert_array_equal(tissue, made.patches.tissue)
    (tmp_path / "s.zarr" / "patches" / name / "c" / "0").unlink()
    for read in (TileStore.open, read_labels):
        with pytest.raises(StoreError, match=f"lacks the column '{name}'"):
            read(tmp_path / "s.zarr")
