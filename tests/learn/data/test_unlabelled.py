"""Fields without a label: where they may be used, and how an epoch draws them."""

import shutil
from collections import Counter

import numpy as np
import pytest

from tests.learn.data.test_stores import tile
from wsikd.core.errors import DataError
from wsikd.learn.data.patches import load_patches, with_share
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.data.splits import EXTRA
from wsikd.learn.data.unlabelled import mixed, pattern_of, spread_order


def drop_labels(patches_on_disk, csv, bare):
    """The same CSV without the class of the rows for which ``bare(row)`` is true."""
    rows = patches_on_disk.rows(csv)
    for row in rows:
        if bare(row):
            row["label"] = row["class"] = ""
    patches_on_disk.write_rows(csv, rows)
    return csv


def slides_of(patches, part):
    return {patches.slide[i] for i in patches.indices(part)}


def test_every_field_of_a_store_is_listed(tmp_path):
    for i, label in enumerate(("NC", "G3", None, "NC", "G3", None)):
        split = "val" if i in (3, 4, 5) else "train"
        tile(tmp_path, f"s{i}", seed=i, label=label, split=split)
    plain = load_patches(Data(paths=[str(tmp_path)], mpp=4.0), Split())
    more = load_patches(Data(paths=[str(tmp_path)], mpp=4.0, unlabelled=True), Split())
    assert slides_of(more, EXTRA) == {"s2"}  # s5 is in the validation part
    assert set(more.label[more.indices(EXTRA)]) == {-1}
    for part in ("train", "val"):
        assert [more.slide[i] for i in more.indices(part)] == [
            plain.slide[i] for i in plain.indices(part)
        ]
    assert more.classes == plain.classes
    chosen = more.indices(EXTRA)[:2]
    assert more.images(chosen).shape == (2, 3, 16, 16)


def test_slides_and_patients_of_other_parts_are_left_out(tmp_path, patches_on_disk):
    """Half of the fields of every slide have no label, and all of s6 and s7."""
    csv = patches_on_disk.write(tmp_path / "set", patient=lambda s: f"p{s // 2}")
    drop_labels(patches_on_disk, csv, lambda r: r["slide"] in "s6 s7" or (r["image"] > "s0_004.png"
                and int(r["image"][3:6]) > 4))  # fmt: skip
    data = Data(paths=[str(csv)], unlabelled=True)
    for seed in range(4):
        patches = load_patches(data, Split(val=0.34, seed=seed, test=0.34))
        apart = {patches.group[i] for p in ("val", "test") for i in patches.indices(p)}
        extra = {patches.group[i] for i in patches.indices(EXTRA)}
        assert extra.isdisjoint(apart)
        assert "patient p3" in extra
        assert set(patches.split) == {"train", "val", "test", EXTRA}
        plain = load_patches(Data(paths=[str(csv)], unlabelled=True), Split(val=0.34, seed=seed))
        assert (plain.label[plain.indices("train")] >= 0).all()


def test_a_validation_part_by_slide_shares_patients_but_no_slide(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", patient=lambda s: f"p{s // 4}")
    drop_labels(patches_on_disk, csv, lambda r: int(r["image"][3:6]) > 4)
    patches = load_patches(
        Data(paths=[str(csv)], unlabelled=True), Split(val_by="slide", val=0.25, test=0)
    )
    assert slides_of(patches, EXTRA) == slides_of(patches, "train")
    assert slides_of(patches, EXTRA).isdisjoint(slides_of(patches, "val"))


def test_an_image_of_the_validation_part_is_found_without_its_label(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s > 5 else "train")
    drop_labels(patches_on_disk, csv, lambda r: r["image"] == "s0_000.png")
    images = csv.parent / "images"
    shutil.copy(images / "s7_000.png", images / "s0_000.png")
    with pytest.raises(DataError, match="also in"):
        load_patches(Data(paths=[str(csv)], unlabelled=True), Split())


def test_folders_hold_them_beside_the_classes(tmp_path, patches_on_disk):
    rng = np.random.default_rng(0)
    import cv2

    for slide in range(4):
        for folder in ("NC", "G3", "unlabelled"):
            (tmp_path / folder).mkdir(exist_ok=True)
            for i in range(2):
                image = patches_on_disk.draw(i, rng)
                cv2.imwrite(str(tmp_path / folder / f"s{slide}_{folder}{i}.png"), image)
    patches = load_patches(Data(paths=[str(tmp_path)], unlabelled=True), Split())
    assert patches.classes == ("NC", "G3")
    assert len(slides_of(patches, EXTRA)) == len(slides_of(patches, "train")) == 3
    with pytest.raises(DataError, match="unlabelled"):  # a class as any other, without the setting
        load_patches(Data(paths=[str(tmp_path)], classes=["NC", "G3"]), Split())


def test_rows_without_a_class_are_faults_unless_asked_for(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set")
    drop_labels(patches_on_disk, csv, lambda r: r["image"] == "s0_000.png")
    with pytest.raises(DataError, match="has no class"):
        load_patches(Data(paths=[str(csv)]), Split())
    drop_labels(patches_on_disk, csv, lambda r: True)
    with pytest.raises(DataError, match="holds no labelled patches"):
        load_patches(Data(paths=[str(csv)], unlabelled=True), Split())


def test_the_labels_that_a_share_leaves_out_are_hidden(stripes):
    data = Data(paths=[str(stripes)], unlabelled=True)
    whole = load_patches(data, Split())
    few = with_share(whole, Split(share=0.34))
    assert slides_of(few, "train") | slides_of(few, EXTRA) == slides_of(whole, "train")
    assert (few.label[few.indices(EXTRA)] == -1).all()
    assert (whole.label >= 0).all()
    assert len(few.trained_on) == len(whole.indices("train"))
    without = load_patches(Data(paths=[str(stripes)]), Split(share=0.34))
    assert not len(without.indices(EXTRA))


def test_classes_and_within_them_slides_are_drawn_equally_often():
    rng = np.random.default_rng(0)
    classes = rng.choice(3, 300, p=[0.7, 0.25, 0.05])
    slides = rng.choice(7, 300, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
    epochs = [spread_order(classes, slides, 210, seed=4, epoch=e) for e in range(6)]
    drawn = np.concatenate(epochs)
    assert all(len(e) == 210 for e in epochs)
    assert Counter(classes[drawn]) == dict.fromkeys(range(3), 420)
    for c in range(3):
        own = drawn[classes[drawn] == c]
        counts = Counter(slides[own])
        assert set(counts) == set(slides[classes == c])
        assert max(counts.values()) - min(counts.values()) <= 1
        for s in counts:  # none comes again before all have come
            times = Counter(own[slides[own] == s]).values()
            pool = np.sum((classes == c) & (slides == s))
            assert max(times) <= -(-counts[s] // pool)
    again = spread_order(classes, slides, 210, seed=4, epoch=3)
    assert np.array_equal(again, epochs[3])
    assert not np.array_equal(epochs[2], epochs[3])


def test_without_balance_every_patch_comes_once():
    classes, slides = np.repeat([0, 1], [18, 2]), np.repeat([0, 1], [15, 5])
    order = spread_order(classes, slides, 20, seed=0, epoch=2, balance=False)
    assert sorted(order) == list(range(20))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_every_batch_has_the_same_share(share):
    pattern = pattern_of(5, 20, share)
    assert (pattern.reshape(5, 20).sum(1) == round(20 * share)).all()
    for size in (2, 4):  # as processes share a batch
        parts = pattern.reshape(5, size, -1).sum(2)
        assert parts.max() - parts.min() <= 1
    known, extra = np.arange((~pattern).sum()), 1000 + np.arange(pattern.sum())
    order = mixed(known, extra, pattern)
    assert np.array_equal(order[pattern], extra)
    assert np.array_equal(order[~pattern], known)
