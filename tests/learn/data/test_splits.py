import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikd.core.errors import DataError
from wsikd.learn.data.settings import Split
from wsikd.learn.data.splits import (
    LEFT_OUT,
    assign,
    check_leaks,
    deal_folds,
    epoch_order,
    frozen_pool,
    keep_share,
)


def deal(slides, per_slide, seed=0):
    rng = np.random.default_rng(seed)
    slide = [f"s{i}" for i in range(slides) for _ in range(per_slide)]
    return rng.integers(0, 3, len(slide)), slide


def where(names, keys):
    found = {}
    for name, key in zip(names.tolist(), keys, strict=True):
        found.setdefault(key, set()).add(name)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 30), st.integers(1, 20), st.integers(0, 5), st.sampled_from([0.0, 0.2]))
def test_no_slide_is_ever_divided(slides, per_slide, seed, test):
    label, slide = deal(slides, per_slide, seed)
    nothing = [None] * len(slide)
    names = assign(label, slide, nothing, nothing, Split(seed=seed, test=test))
    assert all(len(s) == 1 for s in where(names, slide).values())
    assert set(names) == ({"train", "val", "test"} if test else {"train", "val"})


def test_patients_stay_together_and_shares_are_met_by_class():
    label, slide = deal(60, 20)
    patient = [f"p{int(s[1:]) // 3}" for s in slide]
    names = assign(label, slide, patient, [None] * len(slide), Split(val=0.25))
    assert all(len(s) == 1 for s in where(names, patient).values())
    for c in range(3):
        assert np.mean(names[label == c] == "val") == pytest.approx(0.25, abs=0.06)
    again = assign(label, slide, patient, [None] * len(slide), Split(val=0.25))
    other = assign(label, slide, patient, [None] * len(slide), Split(val=0.25, seed=1))
    assert (names == again).all()
    assert (names != other).any()


def test_validation_of_few_patients_is_drawn_by_slide_and_the_test_part_by_patient():
    label, slide = deal(24, 6)
    patient = [f"p{int(s[1:]) // 6}" for s in slide]
    nothing = [None] * len(slide)
    for fold in range(4):
        names = assign(
            label, slide, patient, nothing, Split(folds=4, fold=fold, val_by="slide", val=0.3)
        )
        assert all(len(s) == 1 for s in where(names, slide).values())
        parts = where(names, patient)
        assert [p for p, s in parts.items() if "test" in s] == [
            p for p, s in parts.items() if s == {"test"}
        ]
        assert sum(s == {"test"} for s in parts.values()) == 1
        assert any(s == {"train", "val"} for s in parts.values())
    torn = ["test" if int(s[1:]) % 2 else "train" for s in slide]
    with pytest.raises(DataError, match="both"):
        assign(label, slide, patient, torn, Split(val_by="slide"))


def test_slides_of_one_class_each_are_stratified():
    label = np.repeat(np.arange(40) % 2, 5)
    slide = [f"s{i}" for i in range(40) for _ in range(5)]
    nothing = [None] * 200
    names = assign(label, slide, nothing, nothing, Split(val=0.25))
    assert [np.mean(names[label == c] == "val") for c in (0, 1)] == [0.25, 0.25]


def test_a_given_split_is_kept_and_validation_drawn_from_training():
    label, slide = deal(8, 6)
    nothing = [None] * 48
    given_split = ["test" if int(s[1:]) >= 6 else "train" for s in slide]
    names = assign(label, slide, nothing, given_split, Split())
    assert [n == "test" for n in names] == [g == "test" for g in given_split]
    assert "val" in names
    whole = ["val" if int(s[1:]) >= 6 else "train" for s in slide]
    assert assign(label, slide, nothing, whole, Split()).tolist() == whole
    ignored = assign(label, slide, nothing, whole, Split(given=False, seed=3))
    assert all(len(s) == 1 for s in where(ignored, slide).values())


def test_leaks_and_gaps_are_refused():
    label, slide = deal(4, 4)
    nothing = [None] * 16
    torn = ["train", "val"] * 8
    with pytest.raises(DataError, match="slide s0: is in both train and val"):
        assign(label, slide, nothing, torn, Split())
    by_slide = ["val" if s == "s3" else "train" for s in slide]
    with pytest.raises(DataError, match="patient p: is in both train and val"):
        assign(label, slide, ["p"] * 16, by_slide, Split())
    with pytest.raises(DataError, match="s3: has no split, while others have one"):
        assign(label, slide, nothing, [None if s == "s3" else "train" for s in slide], Split())
    with pytest.raises(DataError, match="its patient is not known"):
        assign(label, slide, nothing, nothing, Split(by="patient"))
    with pytest.raises(DataError, match="cannot be divided"):
        assign(label, ["one"] * 16, nothing, nothing, Split())
    with pytest.raises(DataError, match="leaves no patches for train"):
        assign(label, slide, nothing, ["val"] * 16, Split())


def test_leaks_name_the_slides():
    names = np.array(["train", "val"] * 8)
    slides = [f"s{i}" for i in range(16)]
    with pytest.raises(DataError, match=r"^patient p: is in both train and val ") as one:
        check_leaks(names, ["patient p"] * 16, slides)
    assert "s4 and 11 more); keep it" in str(one.value)
    keys = [f"slide s{i // 2}" for i in range(16)]
    with pytest.raises(DataError, match=r", as are 7 more \(slide s1, .*, slide s4 \.\.\.\)"):
        check_leaks(names, keys, [key.removeprefix("slide ") for key in keys])
    with pytest.raises(DataError, match=r"^a scan: is in both .* \(2 slides: s0, s1\); "):
        check_leaks(names[:2], ["0f", "0f"], slides[:2], "a scan")


def test_one_slide_cannot_belong_to_two_patients_in_two_splits():
    label, slide = np.array([0, 1]), ["s", "s"]
    with pytest.raises(DataError, match="slide s: is in both"):
        assign(label, slide, ["p", "q"], ["train", "val"], Split())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(0, 24), st.integers(1, 9), st.integers(0, 9))
def test_folds_keep_slides_whole_and_are_never_empty(folds, more, per_slide, seed):
    label, slide = deal(folds + more, per_slide, seed)
    fold = deal_folds(label, slide, folds, seed)
    assert all(len(s) == 1 for s in where(fold.astype(str), slide).values())
    assert set(fold) == set(range(folds))


def test_folds_share_classes_out_where_slides_have_one_each():
    label = np.repeat([0, 1, 2], [300, 150, 60])
    slide = [f"s{i // 10}" for i in range(len(label))]
    fold = deal_folds(label, slide, 3, 0)
    for c in range(3):
        assert np.bincount(fold[label == c], minlength=3).tolist() == [(label == c).sum() / 3] * 3
    nothing = [None] * len(label)
    parts = [assign(label, slide, nothing, nothing, Split(folds=3, fold=f)) for f in range(3)]
    assert (np.sum([part == "test" for part in parts], 0) == 1).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 90), st.integers(0, 9))
def test_balanced_order_counts(counts, drawn, seed):
    label = np.repeat(np.arange(len(counts)), counts)
    times = np.zeros(len(label), int)
    for epoch in range(4):
        order = epoch_order(label, drawn, seed=seed, epoch=epoch)
        times += np.bincount(order, minlength=len(label))
        per = np.bincount(label[order], minlength=len(counts))
        assert len(order) == drawn
        assert per.max() - per.min() <= 1
        for c in range(len(counts)):  # no patch again before every patch of its class was drawn
            assert np.ptp(times[label == c]) <= 1


@pytest.mark.parametrize("balance", [True, False])
def test_every_patch_is_reached_and_epochs_are_reproducible(balance):
    label = np.repeat([0, 1], [300, 20])
    seen = np.zeros(320, int)
    for epoch in range(7):
        options = {"seed": 0, "epoch": epoch, "balance": balance}
        order = epoch_order(label, 100, **options)
        assert (order == epoch_order(label, 100, **options)).all()
        np.add.at(seen, order, 1)
    assert (seen > 0).all() if balance else np.ptp(seen) <= 1
    other = epoch_order(label, 100, seed=1, epoch=6, balance=balance)
    assert (order != other).any()


@pytest.mark.parametrize("counts", [(10, 10, 10), (40, 20, 13), (300, 40, 7)])
def test_the_frozen_pool_is_that_of_the_released_code(counts):
    """Class by class: all once, or as often as fits into the largest, drawn with replacement."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pool = frozen_pool(labels, 3)
    assert np.array_equal(pool, frozen_pool(labels, 3))
    for c, n in enumerate(counts):
        own, times = pool[labels[pool] == c], round(max(counts) / n)
        assert len(own) == n * times
        if times == 1:
            assert sorted(own) == np.flatnonzero(labels == c).tolist()
        elif n >= 20:  # about exp(-times) of them are never drawn
            assert abs(len(set(own)) / n - (1 - np.exp(-times))) < 0.1
    drawn = [
        epoch_order(labels, len(labels), seed=3, epoch=e, balance="frozen_pool") for e in (0, 1)
    ]
    assert [len(d) for d in drawn] == [len(labels)] * 2
    assert not np.array_equal(*drawn)
    assert all(set(d) <= set(pool) for d in drawn)
    large = epoch_order(labels, 3 * len(pool), seed=3, epoch=0, balance="frozen_pool")
    assert sorted(large) == sorted(np.tile(pool, 3))


def slides(counts, per_slide=4):
    """So many slides of each class, each of one class."""
    label, group = [], []
    for c, count in enumerate(counts):
        for s in range(count):
            label += [c] * per_slide
            group += [f"c{c}s{s}"] * per_slide
    return np.array(label), group


def kept(names, group):
    return {g for g, n in zip(group, names, strict=True) if n == "train"}


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_stratified_nested_and_never_without_a_class(seed):
    label, group = slides((40, 12, 3))
    names = np.full(len(label), "train", "U5")
    before: set[str] = set()
    for share, expected in (
        (0.1, (4, 1, 1)),
        (0.25, (10, 3, 1)),
        (0.5, (20, 6, 2)),
        (1, (40, 12, 3)),
    ):
        found = kept(keep_share(names, label, group, share, seed), group)
        assert before <= found
        assert tuple(sum(g.startswith(f"c{c}s") for g in found) for c in range(3)) == expected
        before = found


def test_other_seeds_draw_other_slides_and_other_parts_are_left_alone():
    label, group = slides((20, 20))
    names = np.array(["val" if g.endswith("0") else "train" for g in group], "U5")
    draws = {frozenset(kept(keep_share(names, label, group, 0.25, s), group)) for s in range(6)}
    assert len(draws) > 3
    found = keep_share(names, label, group, 0.25, 0)
    assert set(found[names == "train"]) == {"train", LEFT_OUT}
    assert (found[names == "val"] == "val").all()
    assert (names != LEFT_OUT).all()  # the given array stays


def test_a_rare_class_within_slides_of_another_is_kept():
    label = np.array([0, 0, 0, 1] + [0] * 36)
    group = [f"s{i // 4}" for i in range(40)]
    names = np.full(40, "train", "U5")
    for seed in range(8):
        assert "s0" in kept(keep_share(names, label, group, 0.1, seed), group)
