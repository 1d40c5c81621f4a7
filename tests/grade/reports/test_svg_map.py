"""The map in print: every cell in its place, classes without colour, names as text."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely

from tests.grade.maps import BOUNDS, CLASSES, map_of, square_map
from wsikd.grade.reports.svg_map import SIDE, hatches, svg_map, swatch

SVG = {"s": "http://www.w3.org/2000/svg"}


def drawn(grade_map, **options):
    text = svg_map(grade_map, "m", **options).replace("<svg ", f'<svg xmlns="{SVG["s"]}" ', 1)
    return ElementTree.fromstring(text)


def shapes(tree):
    """Class index -> its area on the picture."""
    found = {}
    for path in tree.findall(".//s:path", SVG):
        rings = [
            shapely.Polygon(np.array(ring.replace("L", " ").split(), float).reshape(-1, 2))
            for ring in re.findall(r"M([^Z]+)Z", path.get("d"))
        ]
        found[int(path.get("id").split("-")[1])] = shapely.union_all(rings) if rings else None
        holes = [r for r in rings if any(r is not o and o.contains(r) for o in rings)]
        for hole in holes:
            found[int(path.get("id").split("-")[1])] -= hole
    return found


def test_every_cell_lies_in_the_shape_of_its_class():
    grade_map = square_map()
    scale = SIDE / max(BOUNDS[2:])
    found = shapes(drawn(grade_map))
    for (row, column), grade in np.ndenumerate(grade_map.grade_hw):
        x = (grade_map.origin_xy[0] + (column + 0.5) * grade_map.cell_px[0] - BOUNDS[0]) * scale
        y = (grade_map.origin_xy[1] + (row + 0.5) * grade_map.cell_px[1] - BOUNDS[1]) * scale
        inside = [index for index, shape in found.items() if shape.contains(shapely.Point(x, y))]
        assert inside == ([grade] if grade >= 0 else [])


def test_classes_differ_without_colour_and_carry_their_names():
    tree = drawn(square_map())
    assert {text.text for text in tree.findall(".//s:text", SVG)} >= {"NC", "G4"}
    patterns = re.findall(r'<pattern id="hatch-(\d)".*?d="([^"]*)"', hatches(CLASSES))
    assert [int(number) for number, _ in patterns] == [0, 1, 2, 3]
    assert len({d for _, d in patterns}) == 4
    assert "url(#hatch-2)" in swatch("G4", 2)


def test_the_scale_bar_has_its_length():
    grade_map = square_map()
    bar = drawn(grade_map).find("s:rect", SVG)
    text = next(t.text for t in drawn(grade_map).findall("s:text", SVG) if t.text.endswith(" mm"))
    level0 = float(bar.get("width")) / (SIDE / max(BOUNDS[2:]))
    assert level0 * grade_map.slide.mpp.x / 1000 == pytest.approx(float(text[:-3]), rel=0.01)


def test_names_are_text():
    names = ("</text><script>alert(1)</script>", "b&c", 'q"', "<i>")
    info = replace(square_map().slide, name='"><img src=x>')
    tree = drawn(map_of(square_map().grade_hw, classes=names, info=info))
    assert {names[0], 'q"'} <= {text.text for text in tree.findall(".//s:text", SVG)}
    assert not tree.findall(".//{*}script")
    assert 'src=x>"' not in svg_map(map_of([[0]], info=info), "m").split("aria-label")[0]


def test_a_map_with_too_many_corners_is_left_out():
    checks = np.indices((160, 160)).sum(0) % 2
    assert svg_map(map_of(checks), "m") is None
