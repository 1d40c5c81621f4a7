import json

import pytest
import shapely

from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.geojson import read_geojson

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[20, 20], [20, 60], [60, 60], [60, 20], [20, 20]]
BOW_TIE = [[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]


def feature(coordinates, classification, kind="Polygon"):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation", "classification": classification},
    }


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, **more):
        path = tmp_path / "a.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_geojson(path, **more)

    return write_and_read


@pytest.mark.parametrize(
    "wrap",
    [lambda f: {"type": "FeatureCollection", "features": [f]}, lambda f: [f], lambda f: f],
    ids=["collection", "list", "single"],
)
def test_collection_list_and_single(read, wrap):
    (region,) = read(wrap(feature([SQUARE, HOLE], {"name": "G3"})))
    assert region.name == "G3"
    assert region.geometry.equals(shapely.Polygon(SQUARE, [HOLE]))
    assert region.geometry.area == 100 * 100 - 40 * 40


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "G4", "color": [1, 2, 3]}, "G4"),
        ({"names": ["Tumor", "G4"], "color": [1, 2, 3]}, "Tumor: G4"),
        ({"name": "G4", "colorRGB": -1}, "G4"),
        ("G4", "G4"),
    ],
)
def test_forms_of_a_class(read, classification, name):
    assert [r.name for r in read([feature([SQUARE], classification)])] == [name]


@pytest.mark.parametrize("classification", [None, {}, {"name": ""}, "", {"names": []}, 7])
def test_without_a_class_it_is_left_out(read, classification):
    assert read([feature([SQUARE], classification)]) == []


def test_points_lines_and_nothing_are_left_out(read):
    regions = read(
        [
            feature([5, 5], "G3", "Point"),
            feature([[0, 0], [9, 9]], "G3", "LineString"),
            {"type": "Feature", "geometry": None, "properties": {"classification": "G3"}},
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}},
            feature([SQUARE], "G5"),
        ]
    )
    assert [r.name for r in regions] == ["G5"]


def test_multipolygons(read):
    far = [[x + 500, y] for x, y in SQUARE]
    (region,) = read([feature([[SQUARE, HOLE], [far]], "G3", "MultiPolygon")])
    assert region.geometry.area == 8400 + 10000
    assert len(shapely.get_parts(region.geometry)) == 2


def test_a_bow_tie_is_made_valid(read):
    (region,) = read([feature([BOW_TIE], "G3")])
    assert region.geometry.is_valid
    assert region.geometry.area == pytest.approx(5000)


def test_a_spike_loses_its_line_and_keeps_its_area(read):
    spiked = [[0, 0], [100, 0], [100, 50], [300, 50], [100, 50], [100, 100], [0, 100], [0, 0]]
    (region,) = read([feature([spiked], "G3")])
    assert region.geometry.bounds == (0, 0, 100, 100)
    assert region.geometry.area == 10000


def test_qupath_counts_from_the_bounds(read):
    (region,) = read([feature([SQUARE, HOLE], "G3")], offset_xy=(1000, 2000))
    assert region.geometry.bounds == (1000, 2000, 1100, 2100)
    assert region.geometry.area == 8400


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"type": "FeatureCollection", "features": [', "is not JSON"),
        ("", "is not JSON"),
        ("7", "holds no GeoJSON features"),
        ("[1, 2]", "holds no GeoJSON features"),
        ('{"type": "FeatureCollection"}', "holds no GeoJSON features"),
        (json.dumps([feature([[[0, 0], [1, 1]]], "G3")]), "feature 0 has no usable geometry"),
        ("[" * 100_000, "nests too deep for JSON"),
        (
            json.dumps([feature([[[0, 0], [float("nan"), 1], [2, 2], [0, 0]]], "G3")]),
            "feature 0 has no usable geometry (a coordinate is not finite)",
        ),
        (json.dumps([feature("abc", "G3")]), "feature 0 has no usable geometry"),
        (json.dumps([feature([SQUARE], "G3", "Blob")]), "feature 0 has no usable geometry"),
        (
            '[{"geometry": {"type": "Polygon"}, "properties": {"classification": "G3"}}]',
            "feature 0 has no usable geometry",
        ),
        (
            '[{"type": "Feature", "geometry": [1], "properties": {"classification": "G3"}}]',
            "feature 0 has no usable geometry",
        ),
    ],
)
def test_broken_files_are_one_line(read, tmp_path, content, fault):
    with pytest.raises(AnnotationError) as caught:
        read(content)
    assert str(caught.value).startswith(f"{tmp_path / 'a.geojson'}: {fault}")
    assert "\n" not in str(caught.value)


def test_properties_of_another_kind_are_no_class(read):
    assert read('[{"type": "Feature", "geometry": {}, "properties": [1]}]') == []


def test_a_missing_or_binary_file(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_geojson(tmp_path / "none.geojson")
    (tmp_path / "b.geojson").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match="is not JSON"):
        read_geojson(tmp_path / "b.geojson")


def test_files_that_qupath_wrote(real_slides):
    folder = real_slides.parent / "annotations"
    for file in ("dlup_qupath05.geojson", "histoqc_holed.geojson"):
        raw = json.loads((folder / file).read_text())
        features = raw["features"] if isinstance(raw, dict) and "features" in raw else raw
        features = features if isinstance(features, list) else [features]
        classed = [f for f in features if f["properties"].get("classification")]
        areal = [f for f in classed if "Polygon" in f["geometry"]["type"]]
        regions = read_geojson(folder / file)
        assert len(regions) == len(areal)
        for region, source in zip(regions, areal, strict=True):
            own = shapely.make_valid(shapely.from_geojson(json.dumps(source["geometry"])))
            assert region.geometry.area == pytest.approx(own.area)


def test_features_without_a_class_are_kept_when_asked_for(read):
    drawn = [feature([SQUARE], None), feature([SQUARE], {"name": "G4"})]
    assert [r.name for r in read(drawn)] == ["G4"]
    assert [r.name for r in read(drawn, unclassified=True)] == ["", "G4"]


def test_accents_are_spelt_one_way(read):
    drawn = [feature([SQUARE], {"name": "Dru\u0308se "}), feature([SQUARE], "Dr\u00fcse")]
    assert {r.name for r in read(drawn)} == {"Dr\u00fcse"}


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.geojson").write_text("\ufeff" + json.dumps(feature([SQUARE], "G3")))
    assert [r.name for r in read_geojson(tmp_path / "a.geojson")] == ["G3"]
