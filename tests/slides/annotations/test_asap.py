import numpy as np
import pytest
import shapely

from tests.slides.pixels import MemorySlide
from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.asap import read_asap
from wsikd.slides.annotations.read import read_annotation
from wsikd.slides.annotations.survey import survey_annotation

SQUARE = [(0, 0), (100, 0), (100, 100), (0, 100)]
INNER = [(20, 20), (60, 20), (60, 60), (20, 60)]


def one(points, group="G3", kind="Polygon", name="Annotation 0"):
    listed = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points)
    )
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{listed}</Coordinates></Annotation>"
    )


def document(*annotations, groups=(), head=""):
    listed = "".join(
        f'<Group Name="{n}" PartOfGroup="{p}" Color="#64FE2E"><Attributes /></Group>'
        for n, p in groups
    )
    return (
        f'<?xml version="1.0"?>{head}<ASAP_Annotations><Annotations>{"".join(annotations)}'
        f"</Annotations><AnnotationGroups>{listed}</AnnotationGroups></ASAP_Annotations>"
    )


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, label_map=None):
        path = tmp_path / "a.xml"
        path.write_text(text, encoding="utf-8")
        return read_asap(path, label_map)

    return write_and_read


@pytest.mark.parametrize("kind", ["Polygon", "Rectangle", "Spline"])
def test_areas(read, kind):
    (region,) = read(document(one(SQUARE, kind=kind)))
    assert region.name == "G3"
    assert region.geometry.equals(shapely.Polygon(SQUARE))


def test_dots_and_point_sets_are_left_out(read):
    text = document(one(SQUARE[:1], kind="Dot"), one(SQUARE, kind="PointSet"), one(INNER, "G4"))
    assert [r.name for r in read(text)] == ["G4"]


def test_points_follow_their_order_not_their_place(read):
    points = "".join(
        f'<Coordinate Order="{i}" X="{SQUARE[i][0]}" Y="{SQUARE[i][1]}" />' for i in (2, 0, 3, 1)
    )
    text = one([]).replace("<Coordinates>", f"<Coordinates>{points}")
    assert read(document(text))[0].geometry.area == 10000


def test_a_crossing_outline_is_made_valid(read):
    (region,) = read(document(one([(0, 0), (100, 100), (100, 0), (0, 100)])))
    assert region.geometry.is_valid
    assert region.geometry.area == pytest.approx(5000)


NESTED = [("tumour", "None"), ("G3", "tumour"), ("cribriform", "G3")]


@pytest.mark.parametrize(
    ("group", "label_map", "expected"),
    [
        ("cribriform", {}, ["cribriform"]),
        ("cribriform", {"tumour": "T"}, ["T"]),
        ("cribriform", {"tumour": "T", "G3": "GP3"}, ["GP3"]),
        ("cribriform", {"tumour": "T", "cribriform": ""}, []),
        ("cribriform", {"Annotation 0": "odd", "cribriform": "c"}, ["odd"]),
        ("tumour", {"G3": "GP3"}, ["tumour"]),
        ("None", {}, []),
        ("None", {"None": "NC"}, ["NC"]),
        ("None", {"Annotation 0": "NC"}, ["NC"]),
        ("undeclared", {}, ["undeclared"]),
    ],
)
def test_groups(read, group, label_map, expected):
    text = document(one(SQUARE, group), groups=NESTED)
    assert [r.name for r in read(text, label_map)] == expected


def test_groups_in_a_ring_end(read):
    text = document(one(SQUARE, "a"), groups=[("a", "b"), ("b", "a")])
    assert [r.name for r in read(text, {"x": "y"})] == ["a"]


def test_names_in_any_script(read):
    assert [r.name for r in read(document(one(SQUARE, "腺体 Дру")))] == ["腺体 Дру"]


def test_it_counts_from_the_plane_not_from_the_bounds(tmp_path):
    (tmp_path / "a.xml").write_text(document(one(SQUARE)))
    slide = MemorySlide(np.zeros((400, 400, 3), np.uint8), bounds=(50, 50, 300, 300))
    label, cover = read_annotation(tmp_path / "a.xml", slide).label(
        np.array([[50.0, 50, 100, 50], [100, 100, 50, 50]]), ("G3",)
    )
    assert label.tolist() == [0, -1]
    assert cover.tolist() == [0.5, 0.0]


def test_exclusion_cuts_every_class(tmp_path):
    path = tmp_path / "a.xml"
    far = [(x + 500, y) for x, y in SQUARE]
    path.write_text(document(one(SQUARE), one(far, "G4"), one(INNER, "negative")))
    slide = MemorySlide(np.zeros((1000, 1000, 3), np.uint8))
    plain = read_annotation(path, slide)
    cut = read_annotation(path, slide, [("negative", "-")])
    assert plain.names == ("G3", "G4", "negative")
    assert cut.names == survey_annotation(path, {"negative": "-"}).names == ("G3", "G4")
    assert [r.geometry.area for r in cut.regions] == [8400, 10000]
    assert plain.digest != cut.digest
    assert read_annotation(path, slide).digest == plain.digest


BOMB = '<!DOCTYPE z [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE z [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (document(one(SQUARE, "&b;"), head=BOMB), "declares a document type or entities"),
        (document(one(SQUARE, "&a;"), head=OUTSIDE), "declares a document type or entities"),
        (document(head="<!DOCTYPE html>"), "declares a document type or entities"),
        (document(one(SQUARE))[:-30], "is not XML"),
        ("", "is not XML"),
        ("<html></html>", "is not an ASAP file: it begins with <html>"),
        (document(one(SQUARE).replace('X="100"', 'X="abc"', 1)), "line 1 has no usable coord"),
        (document(one(SQUARE).replace('X="100"', "", 1)), "line 1 has no usable coordinates"),
        (document(one(SQUARE).replace('X="100"', 'X="nan"', 1)), "line 1 has no usable coord"),
        (document(one(SQUARE[:2])), "'Annotation 0' in line 1 has 2 points"),
    ],
)
def test_broken_files_are_one_line(read, tmp_path, text, fault):
    with pytest.raises(AnnotationError) as caught:
        read(text)
    assert str(caught.value).startswith(f"{tmp_path / 'a.xml'}: {fault}")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_asap(tmp_path / "gone.xml")


def test_files_that_asap_wrote(real_slides):
    """Against a slow count of grid points by the even-odd rule, without shapely."""
    folder = real_slides.parent / "annotations"
    slide = MemorySlide(np.zeros((8, 8, 3), np.uint8))
    for path in sorted(folder.glob("*.xml")):
        text = path.read_text()
        drawn = []
        for part in text.split("<Annotation ")[1:]:
            group = part.split('PartOfGroup="')[1].split('"')[0]
            xs = [float(p.split('"')[0]) for p in part.split(' X="')[1:]]
            ys = [float(p.split('"')[0]) for p in part.split(' Y="')[1:]]
            drawn.append((group, np.array(xs), np.array(ys)))
        found = read_annotation(path, slide, {"tissue": "T", "negative": "-"})
        assert found.names == ("T",)
        box = np.array([drawn[0][1].min(), drawn[0][2].min(), 0, 0])
        box[2:] = drawn[0][1].max() - box[0], drawn[0][2].max() - box[1]
        _, cover = found.label(box[None], ("T",))
        x, y = (box[i] + (np.arange(150) + 0.5) / 150 * box[i + 2] for i in (0, 1))
        inside = {"tissue": np.zeros((150, 150), bool), "negative": np.zeros((150, 150), bool)}
        for group, xs, ys in drawn:
            inside[group] |= even_odd(xs, ys, *np.meshgrid(x, y))
        exact = (inside["tissue"] & ~inside["negative"]).mean()
        assert 0.05 < exact < 0.95
        assert cover[0] == pytest.approx(exact, abs=0.01)


def even_odd(xs, ys, px, py):
    inside = np.zeros(px.shape, bool)
    for x0, y0, x1, y1 in zip(xs, ys, np.roll(xs, -1), np.roll(ys, -1), strict=True):
        if y0 != y1:
            crosses = ((y0 > py) != (y1 > py)) & (px < (x1 - x0) * (py - y0) / (y1 - y0) + x0)
            inside ^= crosses
    return inside
