"""Grade maps as DICOM segmentations, for slides that are DICOM themselves.

DICOM PS3.3, A.51 (Segmentation) and C.8.12.4 (whole-slide image): the map has its own pixel matrix
in the slide's frame of reference, so that a viewer can place it on every level of the pyramid.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.classes import pattern_of
from wsikd.core.errors import SlideError, WsikdError
from wsikd.grade.exports import Exporter, aside
from wsikd.grade.reports.class_colours import class_colour

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

log = logging.getLogger(__name__)
VENDOR = "dicom"
_TILE_PX = 512
_SCHEME = "99WSIKD"
# Type 2 attributes: the source may lack them, an instance derived from it must have them.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime"),
)


def check(slide: Slide) -> None:
    """Refuse a slide that cannot have a DICOM segmentation.

    Raises:
        SlideError: it is not DICOM.
        WsikdError: highdicom is not installed.
    """
    if slide.info.vendor != VENDOR:
        raise SlideError(
            slide.info.file,
            "is not a DICOM slide, so it can have no DICOM segmentation",
            "remove dicom-seg from --format, or give --format all, which skips it",
        )
    if find_spec("highdicom") is None:
        raise WsikdError(
            "--format dicom-seg", "highdicom is not installed", "pip install 'wsikd[dicom]'"
        )


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write a binary segmentation with one segment per class and one pixel per cell.

    Patient, study and specimen are copied from the slide, since archives need them: unlike other
    results, this file may name a patient. Cell (0, 0) is placed in the frame of reference by the
    origin, orientation and pixel spacing of the slide's finest level. The origin is taken as the
    centre of its first pixel.

    Args:
        grade_map: the map to write.
        path: the file.
        slide: the open slide, which must be DICOM.

    Raises:
        SlideError: the slide is not DICOM, or lacks an attribute that a segmentation needs.
        WsikdError: highdicom is not installed.
        OutputError: the file cannot be written.
        ValueError: no slide was given.
    """
    if slide is None:
        raise ValueError("a DICOM segmentation refers to its slide: pass it")
    check(slide)
    import highdicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on invalid values in the source files
        source = _source(slide)
        measures, orientation, position = _place(grade_map, source)
        grade = (grade_map.grade_hw + 1).astype(np.uint16)
        segmentation = highdicom.seg.Segmentation(
            source_images=[source],
            pixel_array=grade,
            segmentation_type="BINARY",
            segment_descriptions=_segments(grade_map.classes),
            series_instance_uid=_uid(grade_map, "series"),
            series_number=1,
            sop_instance_uid=_uid(grade_map, "instance"),
            instance_number=1,
            manufacturer="wsikd",
            manufacturer_model_name="wsikd",
            software_versions=__version__,
            device_serial_number="0",
            content_label="GRADES",
            content_description=RESEARCH_USE,
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=[position],
            tile_pixel_array=True,
            tile_size=[min(_TILE_PX, side) for side in grade.shape],
            omit_empty_frames=False,
        )
        with aside(path) as part:
            segmentation.save_as(part)


def _source(slide: Slide) -> Any:
    """Header of the instance that holds the finest level, with missing type 2 attributes empty."""
    import pydicom

    folder = slide.path if slide.path.is_dir() else slide.path.parent
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".dcm")
    first = files[0] if slide.path.is_dir() else slide.path
    series = pydicom.dcmread(first, stop_before_pixels=True, force=True).get("SeriesInstanceUID")
    for file in files:
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        size = (header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows"))
        own = header.get("SeriesInstanceUID") == series  # a folder may hold other patients' slides
        if own and size == slide.info.dimensions and "VOLUME" in header.get("ImageType", ()):
            break
    else:
        raise _lacking(slide, "a level of its full size")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "ImageOrientationSlide"):
        if name not in header:
            raise _lacking(slide, name)
    for name in _MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if "TotalPixelMatrixOriginSequence" not in header:
        log.warning(
            "%s: no TotalPixelMatrixOrigin in its header; 0, 0 mm is assumed", slide.info.file
        )
        origin = pydicom.Dataset()
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
        header.TotalPixelMatrixOriginSequence = [origin]
    return header


def _lacking(slide: Slide, name: str) -> SlideError:
    return SlideError(
        slide.info.file,
        f"its DICOM header lacks {name}, to which a segmentation must refer",
        "remove dicom-seg from --format",
    )


def _place(grade_map: GradeMap, source: Any) -> tuple[Any, Any, Any]:
    """Spacing, orientation and position of the map's pixel matrix in the frame of reference."""
    import highdicom

    orientation = [float(v) for v in source.ImageOrientationSlide]
    shared = source.SharedFunctionalGroupsSequence[0]
    rows_mm, columns_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    spacing = (grade_map.cell_px[1] * rows_mm, grade_map.cell_px[0] * columns_mm)
    origin = source.TotalPixelMatrixOriginSequence[0]
    along = [
        (grade_map.origin_xy[axis] + grade_map.cell_px[axis] / 2 - 0.5) * mm
        for axis, mm in enumerate((columns_mm, rows_mm))
    ]
    start = (
        float(origin.XOffsetInSlideCoordinateSystem),
        float(origin.YOffsetInSlideCoordinateSystem),
        float(origin.get("ZOffsetInSlideCoordinateSystem") or 0),
    )
    x, y, z = (
        start[i] + along[0] * orientation[i] + along[1] * orientation[i + 3] for i in range(3)
    )
    thickness = float(shared.PixelMeasuresSequence[0].get("SliceThickness") or 0.001)
    return (
        highdicom.PixelMeasuresSequence(pixel_spacing=spacing, slice_thickness=thickness),
        highdicom.PlaneOrientationSequence("SLIDE", orientation),
        highdicom.PlanePositionSequence("SLIDE", (x, y, z), (1, 1)),
    )


def _segments(classes: tuple[str, ...]) -> list[Any]:
    import highdicom
    from pydicom.sr.codedict import codes

    network = highdicom.AlgorithmIdentificationSequence(
        name="wsikd", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segments = []
    for index, name in enumerate(classes):
        found = codes.SCT.MorphologicallyAbnormalStructure if pattern_of(name) else codes.SCT.Tissue
        segments.append(
            highdicom.seg.SegmentDescription(
                segment_number=index + 1,
                segment_label=name[:64],
                segmented_property_category=found,
                segmented_property_type=highdicom.sr.CodedConcept(
                    f"CLASS{index + 1}", _SCHEME, name[:64]
                ),
                algorithm_type="AUTOMATIC",
                algorithm_identification=network,
                display_color=highdicom.color.CIELabColor.from_rgb(*class_colour(name, index)),
            )
        )
    return segments


def _uid(grade_map: GradeMap, kind: str) -> str:
    """A UID that is the same each time for the same map of the same slide."""
    from pydicom.uid import generate_uid

    content = hashlib.sha256(grade_map.probability_khw.tobytes()).hexdigest()
    place = f"{grade_map.origin_xy} {grade_map.cell_px} {grade_map.classes}"
    return str(generate_uid(entropy_srcs=[grade_map.slide.fingerprint, content, place, kind]))


DICOM_SEG = Exporter("grades.dcm", write, check)
