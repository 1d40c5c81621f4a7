import json

import numpy as np
import pytest

from tests.slides.annotations.test_geojson import HOLE, SQUARE, feature
from tests.slides.pixels import MemorySlide
from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.read import read_annotation
from wsikd.slides.annotations.survey import survey_annotation


def drawn_file(folder, name="a.geojson"):
    far = [[x + 500, y] for x, y in SQUARE]
    features = [feature([SQUARE], "G3"), feature([far], "腺体"), feature([HOLE], "Artefact")]
    (folder / name).write_text(json.dumps(features), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("label_map", "areas"),
    [
        ((), {"G3": 10000, "腺体": 10000, "Artefact": 1600}),
        ([("腺体", "NC"), ("Artefact", "")], {"G3": 10000, "NC": 10000}),
        ({"Artefact": "-"}, {"G3": 8400, "腺体": 10000}),
        ({"G3": "-"}, {"腺体": 10000}),
        ({"G3": "T", "腺体": "T", "Artefact": "T"}, {"T": 20000}),
    ],
)
def test_a_map_renames_leaves_out_and_cuts_out(tmp_path, label_map, areas):
    path = drawn_file(tmp_path)
    slide = MemorySlide(np.zeros((700, 700, 3), np.uint8), bounds=(40, 30, 600, 600))
    found = read_annotation(path, slide, label_map)
    assert found.names == survey_annotation(path, label_map).names == tuple(areas)
    (shares,) = found.shares(np.array([[40.0, 30.0, 600.0, 600.0]]), found.names)
    np.testing.assert_allclose(shares * 360000, list(areas.values()))
    assert found.regions[0].geometry.bounds[1] == 30


def test_the_digest_follows_content_and_map(tmp_path):
    path = drawn_file(tmp_path)
    slide = MemorySlide(np.zeros((700, 700, 3), np.uint8))
    first = read_annotation(path, slide)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert read_annotation(path, slide).digest == first.digest
    assert read_annotation(path, slide, {"G3": "G4"}).digest != first.digest
    path.write_text(path.read_text().replace("600", "601"))
    assert read_annotation(path, slide).digest != first.digest


def test_a_file_of_another_kind(tmp_path):
    with pytest.raises(AnnotationError, match=r"a\.csv: not a known annotation format; give"):
        read_annotation(tmp_path / "a.csv", MemorySlide(np.zeros((8, 8, 3), np.uint8)))
