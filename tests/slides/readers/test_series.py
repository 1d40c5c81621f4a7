"""The image that is read and the metadata that describe it come from the same series."""

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.ome_xml import ome_images
from wsikd.slides.readers.series import list_series
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.runs.info import describe, to_text

SCAN = tissue_rgb(1024, 768, seed=1)
OVERVIEW = np.ascontiguousarray(SCAN[::4, ::4])
IMAGES = {"overview": (OVERVIEW, 2.0), "scan": (SCAN, 0.5)}


def write(path, order, *, ome=False, bigtiff=False, **options):
    options = {"tile": (64, 64), "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, ome=ome, bigtiff=bigtiff) as out:
        for name in order:
            rgb, mpp = IMAGES[name]
            about = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "Name": name}
            how = (
                {"metadata": about}
                if ome
                else {
                    "metadata": None,
                    "resolution": (10000 / mpp, 10000 / mpp),
                    "resolutionunit": "CENTIMETER",
                    "extratags": [(285, "s", 0, name, True)],
                }
            )
            out.write(rgb, **how, **options)


def same(slide, name):
    rgb, mpp = IMAGES[name]
    height, width = rgb.shape[:2]
    assert slide.info.dimensions == (width, height)
    assert (slide.mpp.x, slide.mpp.y) == (mpp, mpp)
    np.testing.assert_array_equal(slide.read_level(0, (0, 0), (width, height)), rgb)


@pytest.mark.parametrize("order", [("overview", "scan"), ("scan", "overview")])
@pytest.mark.parametrize("kind", ["ome", "plain", "big", "strips"])
def test_the_largest_scan_with_its_own_resolution_or_the_one_asked_for(kind, order, tmp_path):
    path = tmp_path / "two.ome.tif"
    how = {"ome": {"ome": True}, "big": {"bigtiff": True}, "strips": {"tile": None}}.get(kind, {})
    write(path, order, **how)
    with open_slide(path) as slide:
        same(slide, "scan")
        default = slide.info.fingerprint
        listed = list_series(slide)
    assert [(one.name, one.role, one.mpp[0], one.read) for one in listed] == [
        (name, "scan", IMAGES[name][1], name == "scan") for name in order
    ]
    for number, name in enumerate(order):
        with open_slide(path, series=number) as slide:
            same(slide, name)
            assert slide.info.series == number
            assert (slide.info.fingerprint == default) is (name == "scan")
    with pytest.raises(SlideError, match=r"no series 2: it has series 0 to 1; give --series the"):
        open_slide(path, series=2)


def test_a_named_reader_refuses_what_it_cannot_show(tmp_path):
    write(tmp_path / "two.tif", ("overview", "scan"))
    for reader in ("openslide", "direct"):
        with pytest.raises(SlideError, match=r"OpenSlide shows another image .*256 x 192 px"):
            open_slide(tmp_path / "two.tif", reader=reader)
    with open_slide(tmp_path / "two.tif", reader="openslide", series=0) as slide:
        same(slide, "overview")


def test_two_scans_of_one_size_do_not_lend_each_other_levels(tmp_path):
    """OpenSlide would take the reduced copies of the second for levels of the first."""
    path, other = tmp_path / "twins.tif", tissue_rgb(1024, 768, seed=9)
    how = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as out:
        for rgb in (SCAN, other):
            out.write(rgb, resolution=(20000, 20000), resolutionunit="CENTIMETER", **how)
            out.write(rgb[::2, ::2], subfiletype=1, **how)
    for number, rgb in enumerate((SCAN, other)):
        with open_slide(path, series=number) as slide:
            assert slide.info.level_dimensions == ((1024, 768), (512, 384))
            for level in (0, 1):
                size = slide.info.level_dimensions[level]
                got = slide.read_level(level, (0, 0), size)
                np.testing.assert_array_equal(got, rgb[:: level + 1, :: level + 1])


def test_label_macro_and_thumbnail_are_no_scans(tmp_path):
    path = tmp_path / "a.tif"
    how = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as out:
        out.write(tissue_rgb(2048, 1024), description="Label 2048 x 1024", **how)
        out.write(SCAN, description="MPP = 0.5", **how)
        out.write(SCAN[:, :400], subfiletype=1, **how)
    with open_slide(path) as slide:
        same(slide, "scan")
        roles = [one.role for one in list_series(slide)]
    assert roles == ["label", "scan", "thumbnail"]
    with pytest.raises(SlideError, match="series 0 is its label, not a scan; give --series"):
        open_slide(path, series=0)


def test_info_lists_the_series_and_marks_the_one_read(tmp_path):
    path = tmp_path / "two.tif"
    write(path, ("overview", "scan"))
    with open_slide(path) as slide:
        text = to_text(describe(slide))
    assert "series 0    scan, 256 x 192 px, 2 um/px, 'overview'\n" in text
    assert text.endswith("series 1    scan, 1024 x 768 px, 0.5 um/px, 'scan', read here")
    done = CliRunner().invoke(main, ["info", str(path), "--series", "0", "--json", "--mag", "2.5"])
    (record,) = json.loads(done.stdout)
    assert [one["read"] for one in record["series"]] == [True, False]
    assert record["dimensions"] == [256, 192]


def test_a_slide_of_one_image_has_series_0_alone(tmp_path):
    write_pyramid(tmp_path / "a.svs", SCAN, mpp=0.5, power=20, downsamples=(1, 2))
    with open_slide(tmp_path / "a.svs", series=0) as slide:
        assert next(one.role for one in list_series(slide)) == "scan"
    with pytest.raises(SlideError, match="no series 7"):
        open_slide(tmp_path / "a.svs", series=7)


@pytest.mark.parametrize("orientation", [0, 2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 64}])
@pytest.mark.parametrize("reader", ["auto", "openslide", "tiatoolbox"])
def test_a_turned_image_is_refused_in_tiles_and_strips(orientation, layout, reader, tmp_path):
    path = tmp_path / "turned.tif"
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(path, OVERVIEW, photometric="rgb", metadata=None, extratags=tags, **layout)
    fault = f"turned or mirrored \\(TIFF Orientation {orientation}"
    if reader == "openslide" and "rowsperstrip" in layout:
        fault = "not a slide format that OpenSlide supports"
    with pytest.raises(SlideError, match=fault):
        open_slide(path, slide_mpp=0.5, reader=reader)


XML = (
    '<OME UUID="u"><Image Name="a"><Pixels {0}><TiffData {1}>{2}</TiffData></Pixels></Image></OME>'
)


@pytest.mark.parametrize(
    "attributes",
    [
        ('SizeX="x" SizeY="" SizeC="1e400" SizeZ="-3"', 'IFD="nan"', ""),
        ('PhysicalSizeX="nan" PhysicalSizeY="inf"', 'IFD="-1"', ""),
        ('SizeC="99999999999999999999" SizeZ="99999999999"', 'PlaneCount="1e9"', ""),
        ('PhysicalSizeX="-0.5" PhysicalSizeY="0"', "", '<UUID FileName="elsewhere.tif">v</UUID>'),
    ],
)
def test_an_ome_xml_of_nonsense_numbers_is_one_line_or_no_resolution(attributes, tmp_path):
    xml = XML.format(*attributes)
    assert not isinstance(ome_images(xml, "a.tif"), str)
    how = {"photometric": "rgb", "metadata": None, "description": xml}
    for name, tile in (("tiles.ome.tif", (64, 64)), ("strips.ome.tif", None)):
        tifffile.imwrite(tmp_path / name, OVERVIEW, tile=tile, **how)
        assert _mpp_or_fault(tmp_path / name) in (None, "one line")


def _mpp_or_fault(path):
    try:
        with open_slide(path) as slide:
            return slide.info.mpp
    except SlideError as error:
        return str(error) if "\n" in str(error) else "one line"
