"""The images that an OME-XML describes. Source: OME model 2016-06."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class OmeImage:
    """One Image: its name, the attributes of its Pixels, and where they lie.

    Attributes:
        ifd: the TIFF directory of its first plane.
        planes: directories that it takes up, SubIFDs apart.
        whole: whether none of its planes lies in another file.
        channels: the attributes of each Channel.
    """

    name: str
    pixels: Mapping[str, str]
    ifd: int = 0
    planes: int = 1
    whole: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[Mapping[str, str], ...] = ()


def is_ome_xml(text: str) -> bool:
    """Whether an image description is OME-XML."""
    return "<OME" in text[:2000]


def ome_images(xml: str, file: str) -> list[OmeImage] | str:
    """The images of an OME-XML in its order, or why there are none.

    Args:
        xml: the description of a TIFF's first directory.
        file: the TIFF's own name, with which planes in it may be marked.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        return f"its OME-XML cannot be read ({error})"
    images: list[OmeImage] = []
    for element in root.iter():
        pixels = next(_children(element, "Pixels"), None) if _tag(element) == "Image" else None
        if pixels is not None:
            images.append(_image(element, pixels, root.get("UUID"), file, len(images)))
    return images or "its OME-XML describes no image"


def number(text: str | None, default: int = 0) -> int:
    """A whole number of an attribute, ``default`` where it is none."""
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def _image(
    element: ElementTree.Element,
    pixels: ElementTree.Element,
    uuid: str | None,
    file: str,
    place: int,
) -> OmeImage:
    data = list(_children(pixels, "TiffData"))
    own = [one for one in data if _here(one, uuid, file)]
    ifd = min((number(one.get("IFD")) for one in own), default=place)
    channels = tuple(channel.attrib for channel in _children(pixels, "Channel"))
    samples = max(1, number(channels[0].get("SamplesPerPixel") if channels else None, 1))
    sizes = [max(1, number(pixels.get(f"Size{axis}"), 1)) for axis in "CZT"]
    planes = max(1, sizes[0] // samples) * sizes[1] * sizes[2]
    whole = len(own) == len(data)
    name = element.get("Name", "")
    return OmeImage(name, pixels.attrib, ifd, planes, whole, element.attrib, channels)


def _here(data: ElementTree.Element, uuid: str | None, file: str) -> bool:
    """Whether planes lie in this file, which may have been renamed since."""
    for mark in _children(data, "UUID"):
        same_name = (mark.get("FileName") or file).lower() == file.lower()
        if not same_name and (uuid is None or (mark.text or "").strip() != uuid):
            return False
    return True


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in element if _tag(child) == tag)


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]
