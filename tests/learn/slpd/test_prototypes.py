"""Prototypes of slides: matched as enumeration matches them, masked, kept in a file."""

import itertools
from dataclasses import fields

import numpy as np
import pytest

from wsikd.core.errors import DataError
from wsikd.learn.slpd.prototypes import NOBODY, PrototypeTable
from wsikd.learn.slpd.slide_similarity import find_neighbours, match


def unit(rng, *shape):
    found = rng.normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def enumerated(own, other):
    """Best sum over all K! permutations, and the permutation."""
    sums = {
        pi: sum(float(own[k] @ other[p]) for k, p in enumerate(pi))
        for pi in itertools.permutations(range(len(own)))
    }
    best = max(sums, key=sums.get)
    return sums[best], list(best)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_matching_is_that_of_enumeration(k):
    rng = np.random.default_rng(k)
    for _ in range(50):
        own, other = unit(rng, k, 5), unit(rng, k, 5)
        total, columns = match(own @ other.T)
        expected, best = enumerated(own, other)
        assert total == pytest.approx(expected, abs=1e-5)
        assert columns.tolist() == best


def test_neighbours_are_those_of_enumeration_over_all_pairs():
    rng = np.random.default_rng(1)
    prototypes = unit(rng, 12, 4, 6)
    valid = rng.random(12) < 0.8
    patients = [None, None, *(f"p{i // 2}" for i in range(10))]
    found = find_neighbours(prototypes, valid, patients, count=2, shortlist=11)
    for n in range(12):
        others = [
            m for m in range(12)
            if valid[n] and valid[m] and m != n
            and (patients[m] is None or patients[m] != patients[n])
        ]  # fmt: skip
        scored = sorted(((enumerated(prototypes[n], prototypes[m]), m) for m in others),
                        key=lambda s: -s[0][0])[:2]  # fmt: skip
        for place, ((total, best), m) in enumerate(scored):
            assert found.index[n, place] == m
            assert found.matched[n, place].tolist() == best
            assert found.similarity[n, place] == pytest.approx(total / 4, abs=1e-5)
        if not valid[n]:
            assert (found.index[n] == NOBODY).all()
            assert np.isnan(found.similarity[n]).all()


def test_a_copy_is_no_neighbour_of_the_same_patient():
    """Ties with itself never leave a slide its own neighbour (spec: a duplicated slide)."""
    rng = np.random.default_rng(2)
    one = unit(rng, 1, 3, 8)
    prototypes = np.concatenate([one, one, unit(rng, 1, 3, 8)])
    every = np.ones(3, bool)
    assert find_neighbours(prototypes, every, [None] * 3).index[:2, 0].tolist() == [1, 0]
    held = find_neighbours(prototypes, every, ["a", "a", "b"])
    assert held.index[:, 0].tolist() == [2, 2, held.index[2, 0]]
    freed = find_neighbours(prototypes, every, ["a", "a", "b"], same_patient=True)
    assert freed.index[:2, 0].tolist() == [1, 0]


def test_greedy_may_take_a_prototype_twice():
    own = np.eye(3, dtype=np.float32)[None, :2]
    other = np.array([[[0.8, 0.6, 0], [0.6, 0, 0.8]]], np.float32)
    both, every = np.concatenate([own, other]), np.ones(2, bool)
    greedy = find_neighbours(both, every, [None] * 2, correspondence="greedy")
    matched = find_neighbours(both, every, [None] * 2)
    assert greedy.matched[0, 0].tolist() == [0, 0]
    assert matched.matched[0, 0].tolist() == [1, 0]
    assert greedy.similarity[0, 0] == pytest.approx(matched.similarity[0, 0])


def test_a_slide_alone_has_no_neighbour():
    found = find_neighbours(np.ones((2, 1, 1), np.float32), np.array([True, False]), [None] * 2)
    assert (found.index == NOBODY).all()
    assert (found.matched == NOBODY).all()


def table(n=4, k=2, each=3):
    rng = np.random.default_rng(3)
    prototypes = unit(rng, n, k, 8)
    valid = np.array([True] * (n - 1) + [False])
    prototypes[~valid] = 0
    patients = (None, "p1", "p1", "p2")[:n]
    near = find_neighbours(prototypes, valid, patients)
    slide = np.repeat(np.arange(n), each)
    assignment = np.where(valid[slide], np.tile(np.arange(each) % k, n), NOBODY)
    return PrototypeTable(
        slides=tuple(f"s{i}" for i in range(n)), patients=patients, valid=valid,
        prototypes=prototypes, neighbours=near.index, similarity=near.similarity,
        matched=near.matched, slide_index=slide, region_index=np.tile(np.arange(each), n),
        assignment=assignment, closeness=rng.random(n * each).astype(np.float32),
        coords=rng.random((n * each, 2)), field_px=np.full((n, 2), np.nan), about={"epoch": 3},
    )  # fmt: skip


def test_a_table_comes_back_from_its_file(tmp_path):
    made = table()
    made.save(tmp_path / "prototypes.npz")
    for place in (tmp_path, tmp_path / "prototypes.npz"):
        found = PrototypeTable.load(place)
        for name in (f.name for f in fields(made)):
            own, read = getattr(made, name), getattr(found, name)
            if isinstance(own, np.ndarray):
                assert read.dtype == own.dtype, name
                np.testing.assert_array_equal(read, own, err_msg=name)
            else:
                assert read == own, name


def test_a_file_that_is_none_is_told_in_a_line(tmp_path):
    with pytest.raises(DataError, match=r"holds no prototypes\.npz; give a run of method slpd"):
        PrototypeTable.load(tmp_path)
    file = tmp_path / "prototypes.npz"
    for content in (b"", b"PK\x03\x04 torn", b"\x80\x04."):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as prototypes"):
            PrototypeTable.load(file)
    table().save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as prototypes"):
        PrototypeTable.load(file)


def test_similar_slides_are_other_patients_and_sorted():
    made = table()
    assert [s.slide for s in made.similar(1, 5)] == [0]
    both = made.similar(1, 5, same_patient=True)
    assert sorted(s.slide for s in both) == [0, 2]
    assert both[0].similarity >= both[1].similarity
    for one in both:
        total, best = enumerated(made.prototypes[1], made.prototypes[one.slide])
        assert one.similarity == pytest.approx(total / 2, abs=1e-6)
        assert one.matched.tolist() == best
    assert made.similar(3, 5) == []
    with pytest.raises(DataError, match="too few regions"):
        made.index("s3")
    with pytest.raises(DataError, match=r"slide 'x': has no prototypes here; give one of s0, s1"):
        made.index("x")


def test_the_regions_nearest_to_a_prototype():
    made = table()
    found = made.nearest(1, 0, 5)
    own = [r for r in range(12) if made.slide_index[r] == 1 and made.assignment[r] == 0]
    assert sorted(found.tolist()) == own
    assert (np.diff(made.closeness[found]) <= 0).all()
