"""Shares of the training slides."""

import numpy as np
import pytest

from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.subsets import LEFT_OUT, keep_share
from wsikd.learn.patch.settings import Data, Split


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


def test_a_run_uses_its_share(stripes):
    data, split = Data(paths=[str(stripes)]), Split(share=0.34, share_seed=3)
    whole, part = load_patches(data, Split()), load_patches(data, split)
    assert {whole.slide[i] for i in whole.indices("train")} == {f"s{i}" for i in range(6)}
    assert len({part.slide[i] for i in part.indices("train")}) == 2
    assert part.indices("val").tolist() == whole.indices("val").tolist()
    assert part.digests == whole.digests


def test_the_same_image_twice_within_training_is_no_leak(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    image = csv.parent / "images"
    (image / "s1_000.png").write_bytes((image / "s0_000.png").read_bytes())
    for seed in range(4):
        assert load_patches(Data(paths=[str(csv)]), Split(share=0.2, share_seed=seed))
