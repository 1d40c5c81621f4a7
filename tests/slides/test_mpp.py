import logging

import pytest

from wsikd.core.errors import MissingMppError
from wsikd.slides.mpp import magnification_of_mpp, mpp_of_magnification, resolve_mpp

APERIO = {
    "openslide.vendor": "aperio",
    "aperio.MPP": "0.25",
    "openslide.mpp-x": "0.25",
    "openslide.mpp-y": "0.25",
    "openslide.objective-power": "40",
}
REMEDY = "; pass --slide-mpp UM_PER_PX, or give it in the column mpp of a manifest"


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
    mpp = resolve_mpp("s.svs", properties, given=given, given_source=source)
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
        resolve_mpp("s.svs", properties, given=given, given_source="--slide-mpp")
    assert str(caught.value).startswith(f"s.svs: {fault}")
    assert str(caught.value).endswith(REMEDY)


@pytest.mark.parametrize(
    ("power", "warned"), [("40", False), ("20", False), ("100", True), ("5", True)]
)
def test_a_power_that_does_not_fit_is_told(caplog, power, warned):
    with caplog.at_level(logging.WARNING, logger="wsikd"):
        resolve_mpp(
            "s.svs", {**APERIO, "openslide.objective-power": power}, given=None, given_source=""
        )
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
        resolve_mpp("s.svs", APERIO, given=given, given_source=source)
    assert (told or "") in caplog.text
    assert len(caplog.records) == (told is not None)


def test_magnification_and_resolution():
    assert [mpp_of_magnification(m) for m in (40, 20, 10, 2.5)] == [0.25, 0.5, 1.0, 4.0]
    assert [magnification_of_mpp(m) for m in (0.25, 1.0, 4.0)] == [40.0, 10.0, 2.5]
