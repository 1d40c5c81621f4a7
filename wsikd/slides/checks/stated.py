"""Checks of a file's metadata: number and bits of samples, kind of light.

Every reader asks here, so that one file gets one answer whatever opens it. Pixels are judged in
:mod:`wsikd.slides.checks.brightfield`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsikd.slides.checks.doubt import Doubt
from wsikd.slides.ome_xml import number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import tifffile

    from wsikd.slides.ome_xml import OmeImage
    from wsikd.slides.tiff.contents import TiffSeries, TiffSurvey

_MINISBLACK, _RGB, _YCBCR = 1, 2, 6
_PHOTOMETRIC = {
    0: "grey (WhiteIsZero)", 1: "grey (BlackIsZero)", 3: "a colour palette", 4: "a mask",
    5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a colour filter array",
}  # fmt: skip
_KINDS = {1: "uint", 2: "int", 3: "float"}
# Where vendors write which light a slide was scanned under: 3DHISTECH SLIDE_TYPE, Leica
# illumination-source, Zeiss and OME ContrastMethod, DICOM IlluminationTypeCodeSequence.
_LIGHT_KEY = re.compile(
    r"slide_?type|illumination|contrast_?method|light_?source|scan_?(mode|type)|modality"
    r"|image_?type|acquisition_?mode|OpticalPathDescription|ChannelDescription",
    re.IGNORECASE,
)
_OTHER_LIGHT = re.compile(r"fluor|dark.?field|phase.?contrast|confocal", re.IGNORECASE)
# CID 8123 of DICOM PS3.16: epifluorescence, darkfield, phase contrast, DIC, TIRF.
_OTHER_LIGHT_CODES = {"111743", "111745", "111747", "111748", "111749"}
_FLUOR = re.compile(
    r"\b(dapi|hoechst|fitc|tritc|cy-?[2357](\.5)?|alexa|af ?\d{3}|e?gfp|yfp|rfp|cfp|mcherry"
    r"|texas ?red|opal|spectrum ?(green|orange|aqua|red|gold)|autofluorescence|sytox|draq5"
    r"|cd\d+[a-z]?|pan-?ck|ck|foxp3|pd-?l?1|ki-?67)\b",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"|r|g|b|red|green|blue|(channel|ch|c)?[ _:-]*\d+|.*bright.?field.*|rgb|h&?e", re.IGNORECASE
)
_FILTERS = re.compile(r"<(Biomarker|ExcitationFilter|EmissionFilter)>")
_MOST_TEXT = 1 << 20


def doubt_of_properties(properties: Mapping[str, str]) -> Doubt | None:
    """A property of OpenSlide that contradicts brightfield; else None."""
    for key, value in properties.items():
        name = key.rsplit(".", 1)[-1]
        if key.startswith("dicom.") and name == "CodeValue" and value in _OTHER_LIGHT_CODES:
            return _other_light(key, value)
        if len(value) <= 100 and _LIGHT_KEY.search(key) and _OTHER_LIGHT.search(value):
            return _other_light(key, value)
    return _doubt_of_dicom(properties)


def doubt_of_tiff(found: TiffSurvey, series: TiffSeries) -> Doubt | None:
    """Metadata of a TIFF that contradict 8-bit brightfield RGB; else None.

    Args:
        found: all images of the file.
        series: the one that is read.
    """
    if doubt := _doubt_of_samples(found, series):
        return doubt
    for channel in series.ome.channels if series.ome else ():
        if light := _light(channel):
            return Doubt(f"its OME-XML says {light}")
    text = series.description[:_MOST_TEXT]
    if "PerkinElmer-QPI" in text[:1000] and _FILTERS.search(text):
        return Doubt("its QPTIFF description says fluorescence")
    return None


def doubt_of_planes(dtype: str, names: Sequence[str]) -> Doubt | None:
    """Names of separate channels that contradict red, green and blue."""
    if all(_PLAIN.fullmatch(name.strip()) for name in names):
        return None
    return planes(dtype, len(names), names)


def planes(dtype: str, count: int, names: Iterable[str] = ()) -> Doubt:
    """The doubt about an image whose channels are planes of their own."""
    shown = [name for name in names if name.strip()][:6]
    return Doubt(
        f"its pixels are {dtype} of {count} channel(s) in separate planes"
        + (f" ({', '.join(shown)})" if shown else ""),
        final=True,
    )


def samples_doubt(dtype: str, count: int) -> Doubt | None:
    """The doubt about pixels of this type and number of channels; None for 8-bit RGB and RGBA."""
    if dtype == "uint8" and count in (3, 4):
        return None
    grey = (dtype, count) == ("uint8", 1)
    return Doubt(f"its pixels are {dtype} of {count} channel(s)", final=not grey)


def _light(channel: Mapping[str, str]) -> str:
    """Metadata of an OME channel that contradict brightfield."""
    stated = [channel.get(name, "") for name in ("ContrastMethod", "IlluminationType")]
    for value in stated:
        if _OTHER_LIGHT.search(value):
            return value
    if any(re.search(r"bright|transmitted", value, re.IGNORECASE) for value in stated):
        return ""
    for name in ("Fluor", "EmissionWavelength"):
        if channel.get(name):
            return f"{name} {channel[name]}"
    found = _FLUOR.search(channel.get("Name", ""))
    return f"channel {channel['Name']}" if found else ""


def _doubt_of_samples(found: TiffSurvey, series: TiffSeries) -> Doubt | None:
    page, samples = series.head, series.head.samplesperpixel
    dtype = _dtype(page)
    if series.ome and samples < (count := _channels(series.ome)):
        return planes(dtype, count, [one.get("Name", "") for one in series.ome.channels])
    alike = [one for one in found.series if one.size == series.size]
    if samples == 1 and len(alike) > 1:
        return planes(dtype, len(alike))
    if doubt := samples_doubt(dtype, samples):
        known = doubt.final or page.photometric == _MINISBLACK
        return doubt if known else Doubt(_says(page), final=True)
    return None if page.photometric in (_RGB, _YCBCR) else Doubt(_says(page), final=True)


def _channels(image: OmeImage) -> int:
    return number(image.pixels.get("SizeC"), 1)


def _dtype(page: tifffile.TiffPage) -> str:
    """The type of a sample, of as many bits as are kept."""
    kind = _KINDS.get(int(page.sampleformat), "uint")
    return f"{kind}{page.bitspersample}"


def _says(page: tifffile.TiffPage) -> str:
    name = _PHOTOMETRIC.get(int(page.photometric), f"of kind {int(page.photometric)}")
    return f"its photometric interpretation is {name}, not RGB"


def _other_light(key: str, value: str) -> Doubt:
    return Doubt(f"its metadata say {key} = {value}")


def _doubt_of_dicom(properties: Mapping[str, str]) -> Doubt | None:
    samples = properties.get("dicom.SamplesPerPixel")
    bits = properties.get("dicom.BitsAllocated", "8")
    if samples is None or not (samples.isdecimal() and bits.isdecimal()):
        return None
    return samples_doubt(f"uint{bits}", int(samples))
