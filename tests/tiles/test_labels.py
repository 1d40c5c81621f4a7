import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsikd.slides.annotations.base import DrawnAnnotation, Region
from wsikd.tiles.labels import UNLABELLED, label_fields, label_patches
from wsikd.tiles.metadata import SlideNotes
from wsikd.tiles.store import StoreSettings

CLASSES = ("NC", "G3", "G4")


def boxes_of(size, columns, rows, origin=(0.0, 0.0)):
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * size
    return np.column_stack([x + origin[0], y + origin[1], *[np.full(len(x), float(size))] * 2])


@given(seed=st.integers(0, 2**32 - 1), min_cover=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_labels_follow_pixels(seed, min_cover):
    """Regions of whole pixels, painted class by class and counted."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((4, 64, 64), bool)
    regions = []
    for _ in range(8):
        name = int(rng.integers(4))
        x0, y0 = rng.integers(0, 56, 2)
        x1, y1 = x0 + rng.integers(6, 40), y0 + rng.integers(6, 40)
        hole = (x0 + 2, y0 + 2, x0 + 2 + rng.integers(1, 4), y0 + 2 + rng.integers(1, 4))
        painted = np.zeros((64, 64), bool)
        painted[y0:y1, x0:x1] = True
        painted[hole[1] : hole[3], hole[0] : hole[2]] = False
        planes[name] |= painted
        geometry = shapely.box(x0, y0, x1, y1) - shapely.box(*hole)
        regions.append(Region((*CLASSES, "Artefact")[name], geometry))
    boxes = boxes_of(16, 4, 4)
    label, cover = label_fields(boxes, regions, CLASSES, min_cover=min_cover)
    for n, (x, y, w, h) in enumerate(boxes.astype(int)):
        shares = planes[:3, y : y + h, x : x + w].mean((1, 2))
        assert cover[n] == pytest.approx(shares.max(), abs=1e-6)
        if shares.max() > 0 and shares.max() >= min_cover:
            assert shares[label[n]] == shares.max()
        else:
            assert label[n] == UNLABELLED
    assert (label.dtype, cover.dtype) == (np.int16, np.float32)


def test_slanted_outlines_between_pixels():
    rng = np.random.default_rng(4)
    blob = shapely.Polygon(
        [(50.3 + r * np.cos(a), 48.7 + r * np.sin(a))
         for a, r in zip(np.linspace(0, 6.2, 40), rng.uniform(20, 45, 40), strict=True)]
    ).buffer(0)  # fmt: skip
    boxes = boxes_of(12.53, 8, 8, origin=(0.7, 0.2))
    _, cover = label_fields(boxes, [Region("G3", blob)], CLASSES)
    fine = (np.arange(24) + 0.5) / 24
    for share, (x, y, w, h) in zip(cover, boxes, strict=True):
        px, py = np.meshgrid(x + fine * w, y + fine * h)
        assert share == pytest.approx(shapely.contains_xy(blob, px, py).mean(), abs=0.03)


def test_overlapping_regions_of_a_class_count_once():
    regions = [Region("G3", shapely.box(0, 0, 6, 10)), Region("G3", shapely.box(0, 0, 6, 10))]
    label, cover = label_fields(boxes_of(10, 1, 1), regions, CLASSES, min_cover=0.7)
    assert cover.tolist() == [np.float32(0.6)]
    assert label.tolist() == [UNLABELLED]


def test_parts_of_a_class_add_up():
    parts = shapely.MultiPolygon([shapely.box(0, 0, 3, 10), shapely.box(7, 0, 10, 10)])
    label, cover = label_fields(boxes_of(10, 1, 1), [Region("G4", parts)], CLASSES)
    assert (label.tolist(), cover.tolist()) == ([2], [np.float32(0.6)])


def test_just_the_threshold_counts():
    region = [Region("NC", shapely.box(0, 0, 5, 10))]
    assert label_fields(boxes_of(10, 1, 1), region, CLASSES, min_cover=0.5)[0].tolist() == [0]
    assert label_fields(boxes_of(10, 1, 1), region, CLASSES, min_cover=0.51)[0].tolist() == [-1]


@pytest.mark.parametrize(
    ("boxes", "regions", "classes"),
    [
        (boxes_of(10, 2, 1), [], CLASSES),
        (boxes_of(10, 2, 1), [Region("Artefact", shapely.box(0, 0, 99, 99))], CLASSES),
        (boxes_of(10, 2, 1), [Region("G3", shapely.box(0, 0, 99, 99))], ()),
        (boxes_of(10, 2, 1), [Region("G3", shapely.box(500, 500, 900, 900))], CLASSES),
        (np.zeros((0, 4)), [Region("G3", shapely.box(0, 0, 99, 99))], CLASSES),
        (np.zeros((0, 4)), [], ()),
    ],
    ids=["no region", "another class", "no class", "elsewhere", "no field", "nothing"],
)
def test_nothing_to_label(boxes, regions, classes):
    label, cover = label_fields(boxes, regions, classes, min_cover=0.0)
    assert label.tolist() == [UNLABELLED] * len(boxes)
    assert cover.tolist() == [0.0] * len(boxes)


@pytest.mark.parametrize(
    ("min_purity", "expected"), [(0.0, 1), (0.74, 1), (0.75, 1), (0.76, UNLABELLED)]
)
def test_purity_counts_within_what_is_drawn(min_purity, expected):
    regions = [
        Region("G3", shapely.box(0, 0, 6, 10)),
        Region("G4", shapely.box(6, 0, 8, 10)),
        Region("Artefact", shapely.box(8, 0, 10, 10)),
    ]
    label, cover = label_fields(boxes_of(10, 1, 1), regions, CLASSES, min_purity=min_purity)
    assert (label.tolist(), cover.tolist()) == ([expected], [np.float32(0.6)])


def test_fields_wholly_within_a_large_outline_are_full():
    ring = shapely.Point(500, 500).buffer(400) - shapely.Point(500, 500).buffer(100)
    boxes = boxes_of(10, 100, 100)
    _, cover = label_fields(boxes, [Region("G3", ring)], CLASSES)
    exact = [shapely.box(x, y, x + w, y + h).intersection(ring).area / 100 for x, y, w, h in boxes]
    np.testing.assert_allclose(cover, exact, atol=1e-6)


def settings_of(**more):
    base = {"tissue": "otsu", "min_tissue": 0.1, "classes": CLASSES, "min_cover": 0.5}
    return StoreSettings(mpps=(1.0,), patch_px=64, stride_px=64, **{**base, **more})


@pytest.mark.parametrize(
    ("notes", "settings", "label", "cover"),
    [
        ({}, {}, [-1, -1], [0, 0]),
        ({"label": "G3"}, {}, [1, 1], [1, 1]),
        ({"label": "unknown"}, {}, [-1, -1], [0, 0]),
        ({"annotation": [("G4", 0, 7)]}, {}, [2, -1], [0.7, 0]),
        ({"annotation": [("G4", 0, 7)], "label": "NC"}, {}, [2, -1], [0.7, 0]),
        ({"annotation": [], "label": "NC"}, {}, [0, 0], [1, 1]),
        ({"annotation": [("G4", 0, 7)]}, {"min_cover": 0.8}, [-1, -1], [0.7, 0]),
        ({"annotation": [("G4", 0, 7), ("NC", 7, 9)]}, {"min_purity": 0.8}, [-1, -1], [0.7, 0]),
    ],
)
def test_labels_of_patches(notes, settings, label, cover):
    if "annotation" in notes:
        drawn = [Region(n, shapely.box(a, 0, b, 10)) for n, a, b in notes["annotation"]]
        notes = {**notes, "annotation": DrawnAnnotation.of(drawn)}
    got = label_patches(boxes_of(10, 2, 1), settings_of(**settings), SlideNotes(**notes))
    assert got[0].tolist() == label
    np.testing.assert_allclose(got[1], cover, atol=1e-6)
    assert (got[0].dtype, got[1].dtype) == (np.int16, np.float32)
