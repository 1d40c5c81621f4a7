"""Bags of a run: what is taken, what is left out, what is refused."""

import csv

import numpy as np
import pytest

from wsikd.bags.bag import BagInfo, write_bag
from wsikd.core.errors import DataError
from wsikd.learn.data.settings import Split
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.method import BagData, MilConfig

GIVEN = Split(given=True)


def write_bags(folder, count=8, dim=4, *, encoder="e", seed=0):
    """Bags a0, b1, a2...: class by letter, split by number, two slides a patient."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        label = "ab"[k % 2]
        features = rng.normal(size=(3 + k, dim)).astype(np.float32)
        info = BagInfo(
            f"{label}{k}", {"id": encoder, "sha256": encoder}, 1.0, 256, (512.0, 512.0),
            patient=f"p{k // 2}", split=("train", "train", "val", "test")[k // 2 % 4], label=label,
        )  # fmt: skip
        write_bag(folder / f"{info.slide}.zarr", info, features, np.zeros((3 + k, 2)))
    return folder


def load(folder, split=GIVEN, **data):
    return load_bags(BagData(paths=[str(folder)], **data), split)


def test_labels_splits_and_patients_are_the_bags(tmp_path):
    bags = load(write_bags(tmp_path))
    assert bags.classes == ("a", "b")
    assert [bags.classes[i] for i in bags.label] == [s[0] for s in bags.slide]
    assert sorted(bags.slide[i] for i in bags.indices("val")) == ["a4", "b5"]
    assert len(set(bags.group)) == 4
    assert bags.dim == 4


def test_a_split_is_drawn_by_patient(tmp_path):
    bags = load(write_bags(tmp_path, 16), Split(given=False, val=0.25))
    parts = {g: {bags.split[i] for i in range(16) if bags.group[i] == g} for g in bags.group}
    assert all(len(names) == 1 for names in parts.values())
    assert {"train", "val"} <= set(bags.split.tolist())


def test_what_a_csv_says_goes_first(tmp_path):
    write_bags(tmp_path / "bags")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([["slide", "label", "patient"], ["a0", "c", ""], ["b1", "c", "q"]])
    bags = load(tmp_path / "bags", labels=str(tmp_path / "labels.csv"))
    assert bags.classes == ("a", "b", "c")
    assert bags.label[bags.slide.index("a0")] == 2
    assert bags.group[bags.slide.index("b1")] == "patient q"
    assert bags.group[bags.slide.index("a0")] == "patient p0"


def test_one_unreadable_bag_among_many(tmp_path, caplog):
    write_bags(tmp_path)
    (tmp_path / "a2.zarr" / "features" / "zarr.json").unlink()
    (tmp_path / "x.h5").write_bytes(b"torn")
    bags = load(tmp_path)
    assert len(bags) == 7
    assert set(bags.left_out) == {"a2", "x"}
    assert "a2.zarr: cannot be read" in caplog.text
    assert "2 bags are left out: a2, x" in caplog.text


@pytest.mark.parametrize("sizes", [[3, 4], [0, 7, 2]])
def test_batches_are_filled_up_with_nan(tmp_path, sizes):
    bags = load(write_bags(tmp_path))
    order = np.array(sizes)
    (batch, indices), *rest = bags.batches(order, 3)
    assert not rest
    np.testing.assert_array_equal(indices, order)
    for place, index in enumerate(order):
        own = bags.bags[index].features()
        np.testing.assert_array_equal(batch[place, : len(own)], own)
        assert batch[place, len(own) :].isnan().all()


def test_without_room_bags_are_read_again(tmp_path):
    bags = load(write_bags(tmp_path), cache_gb=0)
    np.testing.assert_array_equal(bags.features(2), bags.bags[2].features())
    assert not bags._cache


def other_width(folder):
    write_bags(folder / "more", 1, 5)
    (folder / "more" / "a0.zarr").rename(folder / "z.zarr")


def other_encoder(folder):
    write_bags(folder / "more", 1, encoder="f")
    (folder / "more" / "a0.zarr").rename(folder / "z.zarr")


def twice(folder):
    write_bags(folder / "more", 1)
    (folder / "more" / "a0.zarr").rename(folder / "z.zarr")


@pytest.mark.parametrize(
    ("plant", "told"),
    [(other_width, "embeddings of"), (other_encoder, "is by f"), (twice, "is of slide 'a0'")],
)
def test_bags_that_do_not_go_together(tmp_path, plant, told):
    write_bags(tmp_path)
    plant(tmp_path)
    with pytest.raises(DataError, match=told):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("slide\na0\n", "no column 'label'"),
        ("slide,label\na0,x\na0,y\n", "line 3: names 'a0' twice"),
        ("slide,label\n,x\n", "line 2: names no slide"),
    ],
)
def test_a_table_that_is_wrong(tmp_path, text, told):
    write_bags(tmp_path / "bags")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        load(tmp_path / "bags", labels=str(tmp_path / "labels.csv"))


def test_grids_of_regions_are_no_vectors(tmp_path):
    for k, label in enumerate("ab"):
        info = BagInfo(f"s{k}", {"id": "e", "sha256": "e"}, label=label)
        features = np.zeros((3, 4, 2, 2), np.float32)
        write_bag(tmp_path / f"s{k}.zarr", info, features, np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"s0\.zarr: holds grids of regions, not vectors; make"):
        load(tmp_path)


def test_classes_that_are_wrong(tmp_path):
    write_bags(tmp_path)
    with pytest.raises(DataError, match="class 'b' is not among them"):
        load(tmp_path, classes=["a", "c"])
    write_bags(tmp_path / "one", 1)
    with pytest.raises(DataError, match="all bags are 'a'"):
        load(tmp_path / "one")


def test_weights_go_by_the_network():
    def weights(arch, **given):
        return MilConfig(method="mil", network={"arch": arch}, weights=given).weights

    assert weights("gated") == {"ce": 1.0, "instance": 0.0}
    assert weights("dsmil") == {"ce": 0.5, "instance": 0.5}
    assert weights("clam_sb", instance=1.0) == {"ce": 0.7, "instance": 1.0}
    with pytest.raises(ValueError, match="no loss on instances"):
        weights("gated", instance=1.0)
    with pytest.raises(ValueError, match="did you mean 'instance'"):
        weights("gated", instanc=1.0)


def test_a_share_leaves_training_slides_out_and_no_others(tmp_path):
    write_bags(tmp_path, 32)
    whole, half = (load(tmp_path, Split(given=True, share=s)) for s in (1.0, 0.5))
    for part in ("val", "test"):
        np.testing.assert_array_equal(whole.indices(part), half.indices(part))
    kept, left = half.indices("train"), np.flatnonzero(half.split == "none")
    assert sorted([*kept, *left]) == sorted(whole.indices("train"))
    assert len(kept) == len(left) == 8
    assert not {half.group[i] for i in kept} & {half.group[i] for i in left}
    assert whole.digests == half.digests
