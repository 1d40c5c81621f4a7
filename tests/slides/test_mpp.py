import logging

import pytest

from wsikd.core.errors import MissingMppError
from wsikd.slides.base import Mpp
from wsikd.slides.mpp import (
    Evidence,
    jp2_claim,
    magnification_of_mpp,
    mpp_of_magnification,
    ngff_claim,
    ome_claim,
    openslide_evidence,
    resolve_mpp,
    tag_claim,
)
from wsikd.slides.mpp_text import description_mpp, description_power

APERIO = {
    "openslide.vendor": "aperio",
    "aperio.MPP": "0.25",
    "openslide.mpp-x": "0.25",
    "openslide.mpp-y": "0.25",
    "openslide.objective-power": "40",
}
REMEDY = (
    "; pass --slide-mpp 0.25 (with this scanner's um/px for 0.25), or -i with a CSV manifest of "
    "the lines 'slide,mpp' and 's.svs,0.25'"
)
GENERIC = {"openslide.vendor": "generic-tiff"}
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels SizeX="90" SizeY="90" PhysicalSizeX="9" PhysicalSizeY="9"/>'
    '</Image><Image ID="Image:1"><Pixels SizeX="900" SizeY="800" {}/></Image></OME>'
)


@pytest.mark.parametrize(
    ("properties", "given", "source", "expected"),
    [
        (APERIO, None, "--slide-mpp", (0.25, 0.25, "aperio.MPP")),
        (APERIO, 0.3, "slide_mpp", (0.3, 0.3, "slide_mpp")),
        (APERIO, 0.3, "--slide-mpp", (0.25, 0.25, "aperio.MPP")),
        (
            {"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"},
            0.5,
            "--slide-mpp",
            (0.5, 0.5, "--slide-mpp"),
        ),
        (APERIO, 0.3, "column mpp of x.csv", (0.3, 0.3, "column mpp of x.csv")),
        ({}, 0.5, "--slide-mpp", (0.5, 0.5, "--slide-mpp")),
        ({"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"}, 0.5, "s", (0.5, 0.5, "s")),
        (
            {"openslide.vendor": "generic-tiff", "openslide.mpp-x": "0.5", "openslide.mpp-y": "1"},
            None,
            "",
            (0.5, 1.0, "TIFF resolution tags"),
        ),
        (
            {"openslide.vendor": "hamamatsu", "openslide.mpp-x": "0.46", "openslide.mpp-y": "0.46"},
            None,
            "",
            (0.46, 0.46, "hamamatsu metadata"),
        ),
    ],
)
def test_what_is_given_wins_over_the_file_but_the_option_fills_gaps_only(
    properties, given, source, expected
):
    mpp = resolve_mpp("s.svs", openslide_evidence(properties), given=given, given_source=source)
    assert (mpp.x, mpp.y, mpp.source) == expected


@pytest.mark.parametrize(
    ("properties", "given", "fault"),
    [
        ({}, None, "no resolution in its metadata (openslide.mpp-x absent)"),
        ({"openslide.mpp-x": "0.5"}, None, "no resolution in its metadata"),
        ({"openslide.mpp-x": "x", "openslide.mpp-y": "x"}, None, "no resolution in its metadata"),
        (APERIO, 0.0, "a resolution of 0 um/px (--slide-mpp) is implausible (not 0.05 to 20)"),
        (APERIO, -0.5, "a resolution of -0.5 um/px"),
        (APERIO, float("nan"), "a resolution of nan um/px"),
        (APERIO, 50.0, "a resolution of 50 um/px"),
        (
            {"openslide.mpp-x": "0.00499", "openslide.mpp-y": "0.00499"},
            None,
            "a resolution of 0.00499 um/px (file metadata) is implausible",
        ),
        ({"openslide.mpp-x": "0.5", "openslide.mpp-y": "352.8"}, None, "a resolution of 352.8"),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "nan"}, None, "a resolution of nan"),
    ],
)
def test_nothing_credible_is_an_error_never_a_guess(properties, given, fault):
    with pytest.raises(MissingMppError) as caught:
        resolve_mpp(
            "s.svs", openslide_evidence(properties), given=given, given_source="--slide-mpp"
        )
    assert str(caught.value).startswith(f"s.svs: {fault}")
    assert str(caught.value).endswith(REMEDY)


@pytest.mark.parametrize(
    ("power", "warned"), [("40", False), ("20", False), ("100", True), ("5", True)]
)
def test_a_power_that_does_not_fit_is_told(caplog, power, warned):
    with caplog.at_level(logging.WARNING, logger="wsikd"):
        file = openslide_evidence({**APERIO, "openslide.objective-power": power})
        resolve_mpp("s.svs", file, given=None, given_source="")
    assert bool(caplog.records) is warned
    assert not warned or f"objective power {power} and 0.25 um/px" in caplog.text


@pytest.mark.parametrize(
    ("given", "source", "told"),
    [
        (0.3, "--slide-mpp", "s.svs: 0.25 um/px (aperio.MPP) is used, not 0.3 (--slide-mpp)"),
        (0.3, "column mpp of m.csv", "0.3 um/px (column mpp of m.csv) is used, not 0.25"),
        (0.254, "--slide-mpp", None),
        (0.254, "column mpp of m.csv", None),
    ],
)
def test_two_that_differ_by_more_than_2_percent_are_told(caplog, given, source, told):
    with caplog.at_level(logging.WARNING, logger="wsikd"):
        resolve_mpp("s.svs", openslide_evidence(APERIO), given=given, given_source=source)
    assert (told or "") in caplog.text
    assert len(caplog.records) == (told is not None)


def test_magnification_and_resolution():
    assert [mpp_of_magnification(m) for m in (40, 20, 10, 2.5)] == [0.25, 0.5, 1.0, 4.0]
    assert [magnification_of_mpp(m) for m in (0.25, 1.0, 4.0)] == [40.0, 10.0, 2.5]


def test_a_slide_of_3dhistech_at_20x_is_warned_of_and_used(caplog):
    """Their 20x objective samples at 0.234 um/px: unusual, and right."""
    with caplog.at_level(logging.WARNING, logger="wsikd"):
        mpp = resolve_mpp(
            "s.mrxs", Evidence((Mpp(0.234, 0.234, "mirax"),), (), 20), given=None, given_source=""
        )
    assert mpp.x == 0.234
    assert "objective power 20 and 0.234 um/px contradict" in caplog.text


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (  # the sizes of an OME-TIFF before its tags
            {
                "openslide.comment": OME.format('PhysicalSizeX="0.5" PhysicalSizeY="0.25"'),
                "openslide.mpp-x": "1",
                "openslide.mpp-y": "1",
            },
            (0.5, 0.25, "PhysicalSizeX of its OME-XML"),
        ),
        (  # and its tags where it has none
            {
                "openslide.comment": OME.format(""),
                "openslide.mpp-x": "1",
                "openslide.mpp-y": "2",
            },
            (1.0, 2.0, "TIFF resolution tags"),
        ),
        (  # a vendor's file that names its resolution in the tags alone
            {
                "openslide.vendor": "aperio",
                "tiff.XResolution": "40000",
                "tiff.YResolution": "20000",
                "tiff.ResolutionUnit": "centimeter",
            },
            (0.25, 0.5, "TIFF resolution tags"),
        ),
        (  # one claim implausible, the next not
            {
                "openslide.vendor": "aperio",
                "openslide.mpp-x": "0.004",
                "openslide.mpp-y": "0.004",
                "tiff.XResolution": "50800",
                "tiff.YResolution": "50800",
                "tiff.ResolutionUnit": "inch",
            },
            (0.5, 0.5, "TIFF resolution tags"),
        ),
    ],
    ids=["ome", "tags", "vendor", "second"],
)
def test_places_are_asked_in_order(properties, expected):
    file = openslide_evidence({**GENERIC, **properties})
    mpp = resolve_mpp("s.tif", file, given=None, given_source="")
    assert (mpp.x, mpp.y, mpp.source) == expected


def test_a_claim_that_is_passed_over_is_told(caplog):
    file = Evidence((Mpp(352.8, 352.8, "first"), Mpp(0.5, 0.5, "second")))
    with caplog.at_level(logging.WARNING, logger="wsikd"):
        resolve_mpp("s.tif", file, given=None, given_source="")
    assert "352.8 um/px (first) is implausible (not 0.05 to 20); 0.5 um/px (second)" in caplog.text


def test_a_power_alone_is_never_turned_into_a_resolution():
    file = openslide_evidence({**GENERIC, "openslide.objective-power": "40"})
    assert file.power == 40
    with pytest.raises(MissingMppError):
        resolve_mpp("s.tif", file, given=None, given_source="")


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        (20000, 40000, 3, (0.5, 0.25)),
        (25400, 50800, 2, (1.0, 0.5)),
        (72, 72, 2, (352.778, 352.778)),
        (96, 96, 2, (264.583, 264.583)),
    ],
)
def test_tags_with_a_unit(x, y, unit, expected):
    claim = tag_claim(x, y, unit)
    assert (claim.x, claim.y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unit", [1, 4, None])
def test_tags_without_a_unit_are_no_claim(unit):
    assert "ResolutionUnit 1" in tag_claim(20000, 20000, unit)


def test_no_tags_at_all():
    assert tag_claim(None, None, 2) is tag_claim(0, 0, 3) is None


@pytest.mark.parametrize(
    ("unit", "um"),
    [("\N{MICRO SIGN}m", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("m", 1e6), ("inch", 25400)],
)
def test_ome_units(unit, um):
    sizes = " ".join(f'PhysicalSize{a}="{0.5 / um!r}" PhysicalSize{a}Unit="{unit}"' for a in "XY")
    claim = ome_claim(OME.format(sizes))
    assert (claim.x, claim.y) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (OME.format(""), "no PhysicalSizeX"),
        (OME.format('PhysicalSizeX="0.5"'), "no PhysicalSizeY"),
        (OME.format('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"'), "is in 'pixel'"),
        ("<OME></OME>", "describes no image"),
        ("<OME><Image>", "cannot be read"),
    ],
)
def test_ome_xml_without_sizes_says_why(xml, why):
    assert why in ome_claim(xml)


def test_what_is_no_ome_xml():
    assert ome_claim("") is ome_claim("Aperio Image Library |MPP = 0.5") is None


def ngff(scale=(1, 0.25, 0.5), unit="micrometer", overall=None, axes="cyx"):
    described = [{"name": a} | ({"unit": unit} if a in "yx" and unit else {}) for a in axes]
    step = [{"type": "scale", "scale": list(scale)}, {"type": "translation", "translation": [0]}]
    multiscale = {"axes": described, "datasets": [{"coordinateTransformations": step}]}
    if overall:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": overall}]
    return multiscale


@pytest.mark.parametrize(
    ("multiscale", "x", "y"),
    [
        (ngff(), 0.5, 0.25),
        (ngff(unit="nanometer", scale=(1, 250, 500)), 0.5, 0.25),
        (ngff(overall=[1, 2, 4]), 2.0, 0.5),
        (ngff(axes="yxc", scale=(0.25, 0.5, 1)), 0.5, 0.25),
    ],
    ids=["um", "nm", "overall", "yxc"],
)
def test_ome_zarr_scales(multiscale, x, y):
    claim = ngff_claim(multiscale)
    assert (claim.x, claim.y) == (pytest.approx(x), pytest.approx(y))


@pytest.mark.parametrize(
    ("multiscale", "why"),
    [
        (ngff(unit=None), "its axes are in 'None'"),
        (ngff(unit="pixel"), "its axes are in 'pixel'"),
        (ngff(scale=(1, 2)), "cannot be understood"),
        ({}, "cannot be understood"),
        (ngff(axes="zcq"), "cannot be understood"),
    ],
    ids=["none", "pixel", "short", "empty", "axes"],
)
def test_ome_zarr_without_scale_says_why(multiscale, why):
    assert why in ngff_claim(multiscale)


def test_descriptions_in_the_manner_of_aperio():
    text = "Aperio Image Library v10 |AppMag = 20|MPP = 0.4990|Left = 25"
    assert (description_mpp(text).x, description_power(text)) == (0.499, 20)
    assert description_mpp("COMPANY = 3") is description_power("") is None


def test_capture_resolution_of_jp2():
    claim = jp2_claim(2e6, 4e6)
    assert (claim.x, claim.y) == (0.5, 0.25)
    assert "no capture resolution" in jp2_claim(0, None)
