"""Synthetic slides: the files are sound, the truth fits the pixels, colour gives nothing away."""

import json
from itertools import pairwise

import cv2
import numpy as np
import openslide
import pytest
import shapely
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.slides.pixels import area_average, level0, tissue_rgb
from wsikd.core.errors import ConfigError, OutputError
from wsikd.synthetic import tissue
from wsikd.synthetic.cohort import (
    class_weights,
    write_cohort,
    write_geometry_slide,
    write_pyramid,
)
from wsikd.synthetic.tissue import GRADES, _enlarge_shift, plan_tissue

FIELD_PX = 512  # 256 um at 0.5 um/px
SIDE_PX = 2304


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Four slides, each a seventh of the demo's."""
    folder = tmp_path_factory.mktemp("cohort")
    return write_cohort(folder, seed=5, slides=4, size_px=(SIDE_PX, SIDE_PX))


@pytest.fixture(scope="module")
def shown(cohort):
    """Level 0 of each slide, and its truth."""
    return [(level0(slide.path), truth(slide)) for slide in cohort]


def truth(slide, scale=8):
    """Class index of each block of ``scale`` level-0 pixels, -1 on glass, from the GeoJSON."""
    width, height = slide.size_px
    label = np.full((height // scale, width // scale), -1, np.int8)
    for feature in json.loads(slide.annotation.read_text())["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        index = GRADES.index(feature["properties"]["classification"]["name"])
        for polygon in getattr(shape, "geoms", [shape]):
            rings = [polygon.exterior, *polygon.interiors]
            mask = np.zeros(label.shape, np.uint8)
            points = [np.round(np.asarray(ring.coords) / scale - 0.5) for ring in rings]
            cv2.fillPoly(mask, [p.astype(np.int32) for p in points], 1)
            label[mask > 0] = index
    return label


@pytest.mark.parametrize("mpp", [0.5, 0.499, 0.2527])
@pytest.mark.parametrize("size", [(1301, 907), (256, 256), (33, 700)])
def test_openslide_opens_it_as_aperio(tmp_path, mpp, size):
    path = tmp_path / "a.svs"
    write_pyramid(path, tissue_rgb(*size), mpp=mpp, power=20, description_extra="|Left = 1.5")
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == mpp
        assert slide.properties["aperio.MPP"] == repr(mpp)
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.properties["aperio.Left"] == "1.5"
        assert slide.level_dimensions == tuple((size[0] // d, size[1] // d) for d in (1, 4, 16))
        assert not {"label", "macro"} & set(slide.associated_images)
    assert [p.name for p in tmp_path.iterdir()] == ["a.svs"]


def test_mpp_can_be_left_out(tmp_path):
    write_pyramid(tmp_path / "a.svs", tissue_rgb(300, 300), mpp=0.5, power=20, omit_mpp=True)
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert "openslide.mpp-x" not in slide.properties


@pytest.mark.parametrize("size", [(1301, 907), (300, 512), (513, 1024)])
def test_levels_are_area_averages(tmp_path, size):
    rgb = tissue_rgb(*size, coarse=24)
    write_pyramid(tmp_path / "a.svs", rgb, mpp=0.5, power=20, quality=100, subsampling="444")
    with openslide.OpenSlide(tmp_path / "a.svs") as slide:
        for level, factor in enumerate((1, 4, 16)):
            level_px = slide.level_dimensions[level]
            got = np.asarray(slide.read_region((0, 0), level, level_px))[..., :3]
            wanted = area_average(rgb, (0, 0), (factor, factor), level_px)
            error = got - wanted
            assert 10 * np.log10(255**2 / np.mean(error**2)) > 38, level
            assert abs(error.mean()) < 0.3


def test_strips_of_any_height_give_the_same_bytes(tmp_path):
    rgb = tissue_rgb(601, 1103)
    write_pyramid(tmp_path / "whole.svs", rgb, mpp=0.5, power=20)
    cuts = [0, 1, 90, 345, 346, 900, 1103]
    strips = (rgb[a:b] for a, b in pairwise(cuts))
    write_pyramid(tmp_path / "strips.svs", strips, mpp=0.5, power=20, size_px=(601, 1103))
    assert (tmp_path / "whole.svs").read_bytes() == (tmp_path / "strips.svs").read_bytes()


def test_a_failure_leaves_nothing_and_spares_what_was_there(tmp_path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"earlier")

    def strips():
        yield tissue_rgb(600, 512)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_pyramid(path, strips(), mpp=0.5, power=20, size_px=(600, 1024))
    assert [p.name for p in tmp_path.iterdir()] == ["a.svs"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("strips", "change", "fault"),
    [
        ([tissue_rgb(64, 40)], {"size_px": (64, 64)}, "40 rows, not 64"),
        ([tissue_rgb(64, 400)], {"size_px": (64, 256)}, "400 rows, not 256"),
        ([tissue_rgb(60, 64)], {"size_px": (64, 64)}, r"not uint8 \(rows, 64, 3\)"),
        ([tissue_rgb(64, 64)], {}, "without a size"),
        (tissue_rgb(64, 64), {"downsamples": (1, 128)}, "leave nothing at downsample 128"),
        (tissue_rgb(64, 64), {"downsamples": (1, 4, 4)}, "make no pyramid"),
        (tissue_rgb(64, 64), {"tile_px": 100}, "make no pyramid"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(tmp_path, strips, change, fault):
    with pytest.raises(OutputError, match=fault):
        write_pyramid(tmp_path / "a.svs", strips, mpp=0.5, power=20, **change)
    assert not list(tmp_path.iterdir())


def test_the_geometry_square_is_exact(tmp_path):
    path = tmp_path / "g.svs"
    x, y, side = 707, 533, 301
    write_geometry_slide(path, seed=1, size_px=(2221, 1913), mpp=0.2527, square_px=(x, y, side))
    rgb = level0(path)
    rows, columns = np.nonzero(rgb[..., 0] < 100)
    assert (columns.min(), columns.max() + 1) == (x, x + side)
    assert (rows.min(), rows.max() + 1) == (y, y + side)
    assert len(rows) == side**2
    assert (rgb[0] > 235).all()
    with pytest.raises(OutputError, match="leaves"):
        write_geometry_slide(path, seed=1, size_px=(300, 300), mpp=0.5, square_px=(200, 0, 101))


def test_the_same_seed_writes_the_same_bytes(tmp_path, monkeypatch):
    """Alone as among others, and whether the first drawing is kept or not."""

    def files(name, seed):
        made = write_cohort(tmp_path / name, seed=seed, slides=2, size_px=(701, 602), mpp=0.499)
        return [p.read_bytes() for s in made for p in (s.path, s.annotation)]

    first = files("a", 3)
    assert files("b", 3) == first
    assert all(a != b for a, b in zip(files("c", 4), first, strict=True))
    monkeypatch.setattr(tissue, "KEPT_PX", 0)
    alone = write_cohort(tmp_path / "d", seed=3, slides=1, size_px=(701, 602), mpp=0.499)
    assert alone[0].path.read_bytes() == first[0]


def test_regions_are_valid_qupath_geojson_inside_the_slide(cohort):
    ids = set()
    for slide in cohort:
        content = json.loads(slide.annotation.read_text())
        assert content["type"] == "FeatureCollection"
        area = dict.fromkeys(GRADES, 0.0)
        for feature in content["features"]:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert feature["geometry"]["type"] in {"Polygon", "MultiPolygon"}
            assert shape.is_valid
            assert shapely.box(0, 0, *slide.size_px).covers(shape)
            assert feature["properties"]["objectType"] == "annotation"
            assert len(feature["properties"]["classification"]["color"]) == 3
            area[feature["properties"]["classification"]["name"]] += shape.area * 0.0005**2
            ids.add(feature["id"])
        assert area == pytest.approx(slide.area_mm2, rel=0.01, abs=1e-3)
    assert len(ids) == sum(len(json.loads(s.annotation.read_text())["features"]) for s in cohort)


def test_regions_are_where_the_tissue_is(shown):
    for rgb, label in shown:
        small = cv2.resize(rgb, label.shape[::-1], interpolation=cv2.INTER_AREA)
        tissue = cv2.GaussianBlur(small.min(-1), (0, 0), 6) < 215
        assert np.mean(tissue == (label >= 0)) > 0.93
        assert 0.35 < np.mean(label >= 0) < 0.65


def test_any_two_of_eight_slides_hold_every_class():
    present = [{k for k, w in enumerate(class_weights(i, 4)) if w} for i in range(8)]
    assert all(a | b == {0, 1, 2, 3} for k, a in enumerate(present) for b in present[:k])
    shares = np.sum([np.divide(w, np.sum(w)) for w in (class_weights(i, 4) for i in range(8))], 0)
    assert shares == pytest.approx([2] * 4, rel=0.15)


def test_unknown_classes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="G6"):
        write_cohort(tmp_path, seed=0, slides=1, size_px=(512, 512), classes=("NC", "G6"))


def test_nucleoli_show_at_1_um_per_px_and_not_at_4():
    """Dots denser than any benign nucleus: in every cancer at 10x, next to none at 2.5x."""

    nuclei_of = {}
    for name in GRADES:
        weights = [float(grade == name) for grade in GRADES]
        nuclei_of[name] = plan_tissue((8,), (1536, 1536), 0.5, GRADES, weights).nuclei

    def densest(name, shrink):
        nuclei = nuclei_of[name]
        small = area_average(nuclei, (0, 0), (shrink, shrink), (1536 // shrink, 1536 // shrink))
        return np.mean(small > 150)

    for name in ("G3", "G4", "G5"):
        assert densest(name, 2) > 5e-4
        assert densest(name, 8) < 0.1 * densest(name, 2)
    assert densest("NC", 2) == 0


def histograms(rgb):
    """Square root of the share of pixels in 32 bins of each channel."""
    counts = [np.bincount(rgb[..., k].ravel() // 8, minlength=32) for k in range(3)]
    return np.sqrt(np.concatenate(counts) / rgb[..., 0].size)


@pytest.mark.parametrize("shrink", [2, 8])
def test_colour_histograms_do_not_depend_on_the_grade(shown, shrink):
    """At the resolutions of teacher and student, each slide predicted from the others."""
    colour, grade, owner = [], [], []
    for number, (rgb, label) in enumerate(shown):
        for y in range(0, SIDE_PX - FIELD_PX + 1, FIELD_PX // 4):
            for x in range(0, SIDE_PX - FIELD_PX + 1, FIELD_PX // 4):
                part = label[y // 8 : (y + FIELD_PX) // 8, x // 8 : (x + FIELD_PX) // 8]
                share = [np.mean(part == k) for k in range(len(GRADES))]
                if max(share) >= 0.6:
                    field = rgb[y : y + FIELD_PX, x : x + FIELD_PX]
                    small = cv2.resize(
                        field, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA
                    )
                    colour.append(np.concatenate([histograms(small), small.mean((0, 1)) / 255]))
                    grade.append(int(np.argmax(share)))
                    owner.append(number)
    colour, grade, owner = np.array(colour), np.array(grade), np.array(owner)
    assert (np.bincount(grade, minlength=4) > 20).all()
    guess = np.empty_like(grade)
    for number in range(len(shown)):
        held = owner == number
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
        )
        guess[held] = model.fit(colour[~held], grade[~held]).predict(colour[held])
    assert cohen_kappa_score(grade, guess, weights="quadratic") < 0.3
    assert cohen_kappa_score(grade, guess) < 0.3


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_shift_of_colour_keeps_its_mean_in_every_block(factor):
    """Else averages of level 0 would not have the histograms that were made at 1 um/px."""
    shift = np.random.default_rng(0).integers(-90, 90, (24, 16, 3)).astype(np.int8)
    wide = _enlarge_shift(shift, 4, 20, factor)
    blocks = wide.reshape(16, factor, 16, factor, 3).mean((1, 3))
    np.testing.assert_allclose(blocks, shift[4:20], atol=1e-3)
