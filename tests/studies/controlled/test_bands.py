"""Generated patches: the cue lies where it is said to lie, and colour says nothing."""

import csv

import cv2
import numpy as np
import pytest

from benchmarks.studies.controlled.bands import (
    NUISANCE,
    STRENGTH,
    Cue,
    band_amplitudes,
    draw_stains,
    draw_texture,
    paint,
    write_bands,
)

pytestmark = pytest.mark.studies

EVEN, FINEST = Cue((0.25,) * 4), Cue((1.0, 0.0, 0.0, 0.0))


def textures(cue, count=120, side=128):
    rng = np.random.default_rng(0)
    grade = np.arange(count) % 3
    return grade, [draw_texture(int(g), cue, rng, side) for g in grade]


def averaged(x, factor):
    side = x.shape[0] // factor
    return x.reshape(side, factor, side, factor).mean((1, 3))


@pytest.mark.parametrize(
    ("mpp", "even", "finest"), [(1.0, 1, 1), (2.0, 0.75, 0), (4.0, 0.5, 0), (8.0, 0.25, 0)]
)
def test_share_that_survives(mpp, even, finest):
    assert EVEN.surviving(mpp) == pytest.approx(even)
    assert FINEST.surviving(mpp) == finest


def test_measured_amplitudes_follow_the_grade_as_set():
    cue = Cue((0.5, 0.25, 0.15, 0.1))
    grade, drawn = textures(cue, 300)
    found = np.stack([band_amplitudes(x, 1.0) for x in drawn])
    slope = (found[grade == 2].mean(0) - found[grade == 0].mean(0)) / 2
    expected = NUISANCE * STRENGTH * np.sqrt([0.5, 0.25, 0.15, 0.1])
    np.testing.assert_allclose(slope, expected, atol=0.12)
    spread = np.mean([found[grade == g].std(0) for g in range(3)], 0)
    np.testing.assert_allclose(spread, NUISANCE, atol=0.12)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_fine_cue_is_gone_after_averaging(factor):
    grade, drawn = textures(FINEST)
    found = np.stack([band_amplitudes(averaged(x, factor), float(factor)) for x in drawn])
    for band in found.T:
        assert abs(np.corrcoef(band, grade)[0, 1]) < 0.25  # 120 draws
    fine = np.stack([band_amplitudes(x, 1.0) for x in drawn])[:, 0]
    assert np.corrcoef(fine, grade)[0, 1] > 0.8


def test_a_coarse_cue_survives_averaging_unchanged():
    grade, drawn = textures(Cue((0.0, 0.0, 0.0, 1.0)), 60)
    before = np.stack([band_amplitudes(x, 1.0) for x in drawn])[:, 3]
    after = np.stack([band_amplitudes(averaged(x, 8), 8.0) for x in drawn])[:, 0]
    assert np.corrcoef(before, after)[0, 1] > 0.97
    assert np.corrcoef(after, grade)[0, 1] > 0.8


def test_contrast_and_colour_say_nothing_of_the_grade():
    rng = np.random.default_rng(1)
    grade, drawn = textures(EVEN)
    for texture in drawn:
        assert (texture.mean(), texture.std()) == pytest.approx((0, 1))
    images = np.stack([paint(x, draw_stains(rng)) for x in drawn])
    for figure in (images.mean((1, 2)), images.std((1, 2))):
        for channel in figure.T:
            assert abs(np.corrcoef(channel, grade)[0, 1]) < 0.3


def test_files(tmp_path):
    patches = {"train": 90, "val": 30, "test": 30}
    for name in ("one", "two"):
        write_bands(tmp_path / name, EVEN, patches, wrong=0.3, side=64, seed=5)
    with (tmp_path / "one" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [sum(r["split"] == s for r in rows) for s in patches] == [90, 30, 30]
    for row in rows:
        one, two = ((tmp_path / n / "images" / row["image"]).read_bytes() for n in ("one", "two"))
        assert one == two
    assert cv2.imread(str(tmp_path / "one" / "images" / rows[0]["image"])).shape == (64, 64, 3)
    true = {s: np.arange(n) % 3 for s, n in patches.items()}
    told = {s: np.array([int(r["label"]) for r in rows if r["split"] == s]) for s in patches}
    assert (told["test"] == true["test"]).all()
    assert 0.15 < (told["train"] != true["train"]).mean() < 0.45
    stains = {r["slide"]: r["split"] for r in rows}
    assert len(stains) == 8 + 3 + 3
