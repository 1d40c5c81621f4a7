"""A bundle's guard: written, read as it was, refused where it is damaged."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save

from wsikd.core.errors import BundleError
from wsikd.grade.engines.carry import carry
from wsikd.models.feature_guard import FeatureGuard
from wsikd.models.files.bundle import CARD, InputSpec, load_bundle, peek_bundle, save_bundle
from wsikd.models.files.guard_file import GUARD
from wsikd.models.graders.pooled import build_grader
from wsikd.models.guard import Sample, fit_guard

SPEC = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3"))


def guard():
    rng = np.random.default_rng(0)
    sample = Sample(rng.normal(size=(60, 12)), [f"s{n % 20}" for n in range(60)])
    return fit_guard(sample, sample)


def older(folder):
    """A bundle of an early wsikd: the guard reads the network's features."""
    path = bundle(folder)
    rng = np.random.default_rng(1)
    arrays = {"mean": rng.normal(size=12), "scale": np.ones(12), "axes": rng.normal(size=(12, 3)),
              "rest": np.array([0.5])}  # fmt: skip
    data = save({k: v.astype(np.float32) for k, v in arrays.items()})
    (path / GUARD).write_bytes(data)
    card = json.loads((path / CARD).read_text())
    card["guard"] = {"version": 1, "sha256": hashlib.sha256(data).hexdigest(), "threshold": 1.5,
                     "train_slides": 5, "val_slides": 1, "weak": True}  # fmt: skip
    (path / CARD).write_text(json.dumps(card))
    return path


def bundle(folder, **more):
    grader = build_grader("vgg_small", 2, width=0.25)
    return save_bundle(folder / "b", grader, SPEC, arch="vgg_small", width=0.25, **more)


def test_a_guard_is_read_as_it_was_written(tmp_path):
    own = guard()
    found = load_bundle(bundle(tmp_path, guard=own)).guard
    np.testing.assert_array_equal(found.axes, own.axes)
    np.testing.assert_array_equal(found.mean, own.mean)
    assert (found.threshold, found.val_slides, found.weak) == (own.threshold, 20, False)
    numbers = np.random.default_rng(2).normal(size=(5, 12))
    assert found.distance(numbers) == pytest.approx(own.distance(numbers), rel=1e-4)


def test_a_student_whose_guard_needs_pytorch_is_not_carried_to_where_there_is_none(tmp_path):
    with pytest.raises(BundleError, match="with PyTorch; train the student again"):
        carry(load_bundle(older(tmp_path)), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_guard_of_an_early_wsikd_is_read(tmp_path):
    path = older(tmp_path)
    found = load_bundle(path).guard
    assert isinstance(found, FeatureGuard)
    assert (found.threshold, found.rest, found.weak) == (1.5, 0.5, True)
    entry(path, version=2)
    with pytest.raises(BundleError, match="holds no guard"):
        load_bundle(path)


def test_a_bundle_without_a_guard_is_read(tmp_path):
    found = load_bundle(bundle(tmp_path))
    assert found.guard is None
    assert not (found.path / GUARD).exists()
    assert "guard" not in found.card.record()


def swap(folder):
    other = folder.parent / "other"
    other.mkdir()
    (folder / GUARD).write_bytes((bundle(other, guard=guard()) / GUARD).read_bytes() + b" ")


def entry(folder, **changes):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {"guard": card["guard"] | changes}))


DAMAGE = {
    "missing": (lambda f: (f / GUARD).unlink(), "has no guard.safetensors"),
    "truncated": (
        lambda f: (f / GUARD).write_bytes((f / GUARD).read_bytes()[:-8]),
        "not the file that card.json describes",
    ),
    "of another": (swap, "not the file that card.json describes"),
    "of a newer version": (lambda f: entry(f, version=3), "guard.version"),
    "a negative threshold": (lambda f: entry(f, threshold=-1.0), "guard.threshold"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_guard_is_refused(tmp_path, kind):
    damage, fault = DAMAGE[kind]
    folder = bundle(tmp_path, guard=guard())
    damage(folder)
    with pytest.raises(BundleError, match=fault):
        load_bundle(folder)


def test_peeking_reads_no_guard(tmp_path):
    folder = bundle(tmp_path, guard=guard())
    (folder / GUARD).unlink()
    assert peek_bundle(folder).card.guard.val_slides == 20
