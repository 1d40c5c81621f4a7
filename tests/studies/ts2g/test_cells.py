"""Slides of rare cells: boxes lie on what is drawn, and they alone decide the label."""

import csv

import numpy as np
import openslide
import pytest
from scipy import ndimage

from benchmarks.studies.ts2g.cells import SHAPES, draw_cells, draw_shapes, write_cells
from wsikd.core.errors import ConfigError

pytestmark = pytest.mark.studies


def cells_seen(rgb):
    """Middles (x, y) of what is dark in the middle and clear all around, found in the pixels."""
    grey = rgb.astype(float).min(2)
    dark, count = ndimage.label(grey < 60)
    found = []
    for n in range(1, count + 1):
        rows, columns = np.nonzero(dark == n)
        if len(rows) < 100:
            continue
        y, x = rows.mean(), columns.mean()
        if min(x, y) < 11 or max(x, y) > len(grey) - 12:
            continue
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        across, down = np.rint(x + 10 * np.cos(angle)), np.rint(y + 10 * np.sin(angle))
        if np.quantile(grey[down.astype(int), across.astype(int)], 0.1) > 195:
            found.append((x, y))
    return np.array(found).reshape(-1, 2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cells(tmp_path_factory.mktemp("cells"), seed=3, slides=20, size_px=400)


def test_boxes_lie_on_the_cells_that_an_observer_sees(cohort):
    for slide in cohort:
        with openslide.OpenSlide(slide.path) as opened:
            rgb = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
        seen = cells_seen(rgb)
        assert (slide.label == "positive") == (len(seen) > 0), slide.path.name
        assert len(seen) == len(slide.boxes), slide.path.name
        middle = (slide.boxes[:, :2] + slide.boxes[:, 2:] - 1) / 2
        for x, y in seen:
            assert np.abs(middle - (x, y)).max(1).min() < 2
        assert (slide.boxes[:, :2] >= 0).all()
        assert (slide.boxes[:, 2:] <= 400).all()


def test_everything_but_the_rare_cells_is_the_same():
    without, none = draw_cells((0, 1), 400, rare=0)
    image, boxes = draw_cells((0, 1), 400, rare=3)
    for kind in ("debris", "vacuole"):
        np.testing.assert_array_equal(none[kind], boxes[kind])
        assert len(boxes[kind])
    outside = np.ones(image.shape[:2], bool)
    for left, top, right, bottom in boxes["rare"]:
        outside[top - 4 : bottom + 4, left - 4 : right + 4] = False
    assert (image[outside] == without[outside]).all()
    assert (image[~outside] != without[~outside]).any()


def test_parts_hold_as_many_of_either_label(cohort):
    with (cohort[0].path.parent / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["slide"], r["label"], r["split"]) for r in rows] == [
        (s.path.stem, s.label, s.split) for s in cohort
    ]
    for split, count in {"train": 10, "val": 4, "test": 6}.items():
        own = [s.label for s in cohort if s.split == split]
        assert own.count("positive") == own.count("negative") == count // 2


def test_shapes_lie_where_they_are_said_and_none_is_a_rare_cell():
    image, placed = draw_shapes((0, 1), 500, 2)
    assert {name for name, *_ in placed} == set(SHAPES)
    grey = image.astype(float).min(2)
    for name, x, y in placed:
        disc, nucleus = SHAPES[name]
        assert (grey[y, x] < 60) == (nucleus > 0), name
        if disc and nucleus + 3 < disc:
            ring = [grey[y, x - disc + 2], grey[y, x + disc - 2], grey[y - disc + 2, x]]
            assert np.median(ring) > 180, name
    from_rare = [np.hypot(d - 13, n - 7) for d, n in SHAPES.values()]
    assert min(from_rare) >= 4
    assert draw_shapes((0, 1), 300, 0)[1] == []


@pytest.mark.parametrize(("slides", "size_px", "told"), [(9, 400, "8, 10"), (6, 400, "8, 10"),
                                                         (8, 100, "256 or more")])  # fmt: skip
def test_cohorts_that_cannot_be(tmp_path, slides, size_px, told):
    with pytest.raises(ConfigError, match=told):
        write_cells(tmp_path, seed=0, slides=slides, size_px=size_px)
