"""The cohort of mixtures is what it says: what decides the label, and what does not."""

import numpy as np
import openslide
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from benchmarks.studies.slpd.mixtures import (
    KINDS,
    LABELS,
    PLAIN,
    TYPES,
    draw_slide,
    draw_vectors,
    plan_mixtures,
    write_mixture,
)
from wsikd.core.errors import ConfigError

pytestmark = pytest.mark.studies


@pytest.fixture(scope="module")
def planned():
    return plan_mixtures(seed=0, slides=96, regions=(16, 24), grid=8)


def shares(one):
    return np.bincount(one.types, minlength=len(TYPES)) / len(one.types)


def test_the_prevailing_types_decide_the_label(planned):
    for one in planned:
        counts = np.bincount(one.types, minlength=len(TYPES))
        assert one.label == LABELS[int(counts[2:4].sum() > counts[:2].sum())]
    label = np.array([LABELS.index(one.label) for one in planned])
    assert abs(label.mean() - 0.5) < 0.05
    table = np.stack([shares(one) for one in planned])
    assert (table > 0).all(), "all types lie in every slide"
    said = cross_val_predict(LogisticRegression(), table, label, cv=4, method="decision_function")
    assert roc_auc_score(label, said) == 1, "whoever tells types can tell slides"


def test_kinds_of_tile_are_those_of_the_type(planned):
    """Halves are exact, so that all regions have one mean."""
    wanted = {q: {2 * q: 32, 2 * q + 1: 32} for q in range(4)} | {PLAIN: {8: 64}}
    for one in planned[:10]:
        for kind, layout in zip(one.types, one.kinds, strict=True):
            counts = np.bincount(layout.ravel(), minlength=KINDS)
            assert {k: n for k, n in enumerate(counts.tolist()) if n} == wanted[int(kind)]


def test_means_over_tiles_are_the_same_for_all_regions(planned):
    means = draw_vectors(planned[0], dim=16, noise=0.0, patient_shift=0.0).mean((2, 3))
    assert np.abs(means).max() < 1e-5
    spread = draw_vectors(planned[0], dim=16, noise=0.0, patient_shift=0.0).std((2, 3)).max(1)
    assert (spread > 1).tolist() == (planned[0].types != PLAIN).tolist(), "tiles differ"


def test_slides_of_a_patient_share_label_and_stain_only(planned):
    patients = {one.patient for one in planned}
    twice = [[o for o in planned if o.patient == p] for p in patients]
    twice = [pair for pair in twice if len(pair) == 2]
    assert len(twice) > len(patients) / 4
    for a, b in twice:
        assert a.label == b.label
        assert a.patient_seed == b.patient_seed
        assert a.seed != b.seed
        assert a.types.tolist() != b.types.tolist()


def test_a_slide_depends_on_its_own_number_only(planned):
    fewer = plan_mixtures(seed=0, slides=10, regions=(16, 24), grid=8)
    for one, other in zip(fewer, planned, strict=False):
        np.testing.assert_array_equal(one.kinds, other.kinds)
        assert one.label == other.label
    another = plan_mixtures(seed=1, slides=10, regions=(16, 24), grid=8)
    assert any(o.types.tolist() != p.types.tolist() for o, p in zip(another, fewer, strict=True))


def test_vectors_are_directions_of_kinds_a_shift_and_noise(planned):
    one, other = planned[0], planned[1]
    plain = draw_vectors(one, dim=16, noise=0.0, patient_shift=0.0)
    assert plain.shape == (len(one.types), 16, 8, 8)
    assert plain.dtype == np.float32
    kind = {}
    for vector, k in zip(np.moveaxis(plain, 1, -1).reshape(-1, 16), one.kinds.ravel(), strict=True):
        np.testing.assert_array_equal(kind.setdefault(int(k), vector), vector)
    ends = np.array([kind[k] for k in range(8)])
    np.testing.assert_allclose(ends[::2], -ends[1::2], atol=1e-5)
    np.testing.assert_allclose(ends[::2] @ ends[::2].T, 64 * np.eye(4), atol=1e-4)
    assert not kind[8].any()
    shifts = [
        (draw_vectors(o, dim=16, noise=0.0, patient_shift=0.5)
         - draw_vectors(o, dim=16, noise=0.0, patient_shift=0.0))
        for o in (one, other)
    ]  # fmt: skip
    for shift in shifts:
        assert np.linalg.norm(shift[0, :, 0, 0]) == pytest.approx(0.5, rel=1e-5)
        assert np.ptp(shift, axis=(0, 2, 3)).max() < 1e-6
    assert np.linalg.norm(shifts[0][0, :, 0, 0] - shifts[1][0, :, 0, 0]) > 0.1
    noisy = draw_vectors(one, dim=16, noise=0.3, patient_shift=0.0)
    assert (noisy - plain).std() == pytest.approx(0.3, rel=0.05)


def test_a_slide_through_openslide(tmp_path):
    """Regions lie where the plan says, within glass; plain tissue is pale."""
    one = plan_mixtures(seed=0, slides=1, regions=(8, 8), grid=4)[0]
    path = write_mixture(tmp_path, one, tile_px=32, mpp=0.5)
    _, corners = draw_slide(one, 32)
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        grey = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("L"), float)
    inside = np.zeros(grey.shape, bool)
    means = []
    for x, y in corners:
        assert x % 128 == y % 128 == 0
        inside[y : y + 128, x : x + 128] = True
        means.append(grey[y : y + 128, x : x + 128].mean())
    assert grey[~inside].min() > 200 > np.max(means)
    pale = np.array(means)[one.types == PLAIN]
    assert pale.min() > np.array(means)[one.types != PLAIN].max() - 30
    before = path.stat().st_mtime_ns
    write_mixture(tmp_path, one, tile_px=32, mpp=0.5)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "told"), [({"regions": (4, 9)}, "regions"), ({"grid": 5}, "grid: 5 is odd")]
)
def test_numbers_that_make_no_cohort(change, told):
    with pytest.raises(ConfigError, match=told):
        plan_mixtures(**{"seed": 0, "slides": 8, "regions": (8, 9), "grid": 8, **change})
