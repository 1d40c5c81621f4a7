"""A grade map as vector graphics, whose classes differ by hatching and letters, not only colour."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import shapely

from wsikd.grade.exports.overlay import nice_length
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.vectorise import regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.vectorise import Region

SIDE = 1000
"""Longest side of every map in its own units, in which the hatching is given."""
_MOST_CORNERS = 20_000
_SMALLEST_SHARE = 0.004
"""A region with at least this share of the picture shows the name of its class."""
_HATCHES = (
    "",
    "M-5 5L5 -5M0 20L20 0M15 25L25 15",
    "M-5 15L5 25M0 0L20 20M15 -5L25 5",
    "M0 0L20 20M20 0L0 20",
    "M0 10H20",
    "M10 0V20",
    "M10 6V14M6 10H14",
)


def hatches(classes: Sequence[str]) -> str:
    """The patterns of the classes, once on a page: an SVG element of no size."""
    found = "".join(
        f'<pattern id="hatch-{n}" width="20" height="20" patternUnits="userSpaceOnUse">'
        f'<path d="{_HATCHES[n % len(_HATCHES)]}" stroke="#111" stroke-width="1.6" fill="none"/>'
        "</pattern>"
        for n in range(len(classes))
    )
    return (
        f'<svg class="hatches" width="0" height="0" aria-hidden="true"><defs>{found}</defs></svg>'
    )


def swatch(name: str, index: int) -> str:
    """A small square in the colour and hatching of a class."""
    colour = _hex(name, index)
    return (
        '<svg class="swatch" viewBox="0 0 40 40" aria-hidden="true">'
        f'<rect width="40" height="40" fill="{colour}" fill-opacity=".45"/>'
        f'<rect width="40" height="40" fill="url(#hatch-{index})" stroke="#111"/></svg>'
    )


def svg_map(grade_map: GradeMap, key: str, plain: str | None = None) -> str | None:
    """Draw a map over the slide's bounds.

    Args:
        grade_map: the grades.
        key: prefix of ids, unique on the page.
        plain: data URI of a picture of the bounds, shown under the map.

    Returns:
        An ``svg`` element with a scale bar; None if the map has too many corners for a page.
    """
    found, detail = _regions(grade_map)
    if not detail:
        return None
    left, top, width, height = grade_map.slide.bounds
    scale = SIDE / max(width, height)
    x = (grade_map.origin_xy[0] - left) * scale, grade_map.cell_px[0] * scale / detail
    y = (grade_map.origin_xy[1] - top) * scale, grade_map.cell_px[1] * scale / detail
    size = round(width * scale, 1), round(height * scale, 1)
    parts = [f'<image href="{plain}" width="{size[0]:g}" height="{size[1]:g}"/>'] if plain else []
    for index, name in enumerate(grade_map.classes):
        own = [region for region in found if region.grade == index]
        if own:
            parts.append(_class(name, index, own, f"{key}-{index}", x, y))
    parts.append(_scale_bar(grade_map, scale, size))
    label = escape(f"Grade map of {grade_map.slide.name}", quote=True)
    return (
        f'<svg class="map" viewBox="0 0 {size[0]:g} {size[1] + 50:g}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def _regions(grade_map: GradeMap) -> tuple[list[Region], int]:
    """The regions that are shown and the parts of a cell that they count in; 0 if too many."""
    for shown, detail in (grade_map.shown_hw(), (grade_map.grade_hw, 1)):
        found, _ = regions(shown)
        if sum(len(ring) for region in found for ring in region.rings) <= _MOST_CORNERS:
            return found, detail
    return [], 0


def _class(
    name: str,
    index: int,
    own: Sequence[Region],
    key: str,
    x: tuple[float, float],
    y: tuple[float, float],
) -> str:
    """The regions of a class, and its name in those that are large enough."""
    colour = _hex(name, index)
    shapes = "".join(_path(ring, x, y) for region in own for ring in region.rings)
    names = "".join(_name(name, region, x, y) for region in own)
    tint = f'fill="{colour}" fill-opacity=".35" stroke="{colour}" stroke-width="4"'
    return (
        f'<defs><path id="{key}" fill-rule="evenodd" d="{shapes}"/></defs>'
        f'<use href="#{key}" {tint}/>'
        f'<use href="#{key}" fill="url(#hatch-{index})" stroke="#111" stroke-width="1"/>{names}'
    )


def _path(ring: NDArray[np.int64], x: tuple[float, float], y: tuple[float, float]) -> str:
    points = [f"{x[0] + c * x[1]:.1f} {y[0] + r * y[1]:.1f}" for c, r in ring[:-1].tolist()]
    return f"M{'L'.join(points)}Z"


def _name(name: str, region: Region, x: tuple[float, float], y: tuple[float, float]) -> str:
    """The name at a point inside a region; empty for a small region."""
    shape = shapely.Polygon(region.rings[0], region.rings[1:])
    if shape.area * x[1] * y[1] < _SMALLEST_SHARE * SIDE**2:
        return ""
    inside = shapely.point_on_surface(shape)
    at = x[0] + inside.x * x[1], y[0] + inside.y * y[1]
    return f'<text class="name" x="{at[0]:.1f}" y="{at[1]:.1f}">{escape(name)}</text>'


def _scale_bar(grade_map: GradeMap, scale: float, size: tuple[float, float]) -> str:
    per_mm = scale * 1000 * grade_map.cell_px[0] / grade_map.mpp
    length = nice_length(0.3 * size[0] / per_mm)
    width, top = length * per_mm, size[1] + 22
    return (
        f'<rect x="10" y="{top:g}" width="{width:.1f}" height="5"/>'
        f'<text class="scale" x="{22 + width:.1f}" y="{top + 12:g}">{length:g} mm</text>'
    )


def _hex(name: str, index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(name, index))
