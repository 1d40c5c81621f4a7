"""What files state of the light that a slide was scanned under."""

import numpy as np
import pytest
import tifffile

from wsikd.slides.checks.stated import doubt_of_planes, doubt_of_properties, doubt_of_tiff
from wsikd.slides.tiff.contents import survey

FLUORESCENT = [
    ("mirax.GENERAL.SLIDE_TYPE", "SLIDE_TYPE_FLUORESCENCE"),
    ("leica.illumination-source", "fluorescence"),
    ("dicom.OpticalPathSequence[0].IlluminationTypeCodeSequence[0].CodeValue", "111743"),
    (
        "dicom.OpticalPathSequence[1].IlluminationTypeCodeSequence[0].CodeMeaning",
        "Epifluorescence illumination",
    ),
    ("dicom.OpticalPathSequence[0].OpticalPathDescription", "Fluorescence DAPI"),
    ("zeiss.Information.Image.Channel.ContrastMethod", "Fluorescence"),
    ("dicom.SamplesPerPixel", "1"),
]
BRIGHT = [
    ("mirax.GENERAL.SLIDE_TYPE", "SLIDE_TYPE_BRIGHTFIELD"),
    ("leica.illumination-source", "brightfield"),
    ("dicom.OpticalPathSequence[0].IlluminationTypeCodeSequence[0].CodeValue", "111744"),
    ("dicom.SamplesPerPixel", "3"),
    ("dicom.InstitutionName", "Institute of Fluorescence"),
    ("aperio.User", "fluor"),
    ("openslide.comment", "no fluorescence " * 20),
]


@pytest.mark.parametrize(("key", "value"), FLUORESCENT)
def test_a_vendor_that_states_other_light_is_believed(key, value):
    found = doubt_of_properties({"openslide.vendor": "x", key: value})
    assert found is not None
    assert not found.final
    assert value in found.reason or "1 channel(s)" in found.reason


@pytest.mark.parametrize(("key", "value"), BRIGHT)
def test_brightfield_and_chance_words_are_no_doubt(key, value):
    assert doubt_of_properties({"openslide.vendor": "x", key: value}) is None


def doubt(path, description):
    """What is doubted of 64 x 48 px of RGB with this description."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", description=description, metadata=None)
    found = survey(path)
    return doubt_of_tiff(found, found.choose())


def ome(channels, count=3):
    pixels = f'<Pixels SizeX="64" SizeY="48" SizeC="{count}">{channels}</Pixels>'
    return f'<?xml version="1.0"?><OME xmlns="x"><Image ID="1">{pixels}</Image></OME>'


@pytest.mark.parametrize(
    ("channels", "light"),
    [
        ('<Channel Name="scan" SamplesPerPixel="3"/>', ""),
        ('<Channel SamplesPerPixel="3" ContrastMethod="Brightfield" Name="DAPI"/>', ""),
        ('<Channel SamplesPerPixel="3" ContrastMethod="Fluorescence"/>', "Fluorescence"),
        ('<Channel SamplesPerPixel="3" IlluminationType="Epifluorescence"/>', "Epifluorescence"),
        ('<Channel SamplesPerPixel="3" Fluor="Cy5"/>', "Fluor Cy5"),
        ("<Channel SamplesPerPixel='3' Name='DAPI'/>", "channel DAPI"),
        ('<Channel SamplesPerPixel="3" EmissionWavelength="461"/>', "EmissionWavelength 461"),
    ],
)
def test_ome_channels_say_their_light(channels, light, tmp_path):
    found = doubt(tmp_path / "a.tif", ome(channels))
    assert (found.reason if found else "") == (light and f"its OME-XML says {light}")


@pytest.mark.parametrize("count", ["x", "-1", "1e9", ""])
def test_nonsense_says_nothing(count, tmp_path):
    assert doubt(tmp_path / "a.tif", ome("<Channel Name='x'/>", count)) is None


def test_a_qptiff_with_filters_is_fluorescent(tmp_path):
    text = "<PerkinElmer-QPI-ImageDescription><ImageType>FullResolution</ImageType>{}</P>"
    assert doubt(tmp_path / "a.tif", text.format("")) is None
    assert "QPTIFF" in doubt(tmp_path / "a.tif", text.format("<Biomarker>CD8</Biomarker>")).reason


@pytest.mark.parametrize("names", [[], ["", "", ""], ["R", "G", "B"], ["Channel 0", "1", "ch:2"]])
def test_planes_of_no_name_may_be_colours(names):
    assert doubt_of_planes("uint8", names) is None


def test_planes_of_other_names_are_not():
    assert doubt_of_planes("uint8", ["DAPI", "CD8", "CK"]).final
