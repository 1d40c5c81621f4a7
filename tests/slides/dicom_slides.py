"""DICOM slides of JPEG frames that say of themselves what a test likes."""

import numpy as np
import pydicom
import simplejpeg
from pydicom.encaps import encapsulate

FRAME = 256


def ycbcr(rgb, subsampling="420"):
    """A JPEG stream as most encoders make it."""
    return simplejpeg.encode_jpeg(rgb, 95, "RGB", subsampling)


def frames_of(rgb, encode=ycbcr):
    """Encoded frames of uint8 (height, width, 3), row by row."""
    height, width = (-(-side // FRAME) * FRAME for side in rgb.shape[:2])
    padded = np.full((height, width, 3), 255, np.uint8)
    padded[: rgb.shape[0], : rgb.shape[1]] = rgb
    return [
        encode(np.ascontiguousarray(padded[y : y + FRAME, x : x + FRAME]))
        for y in range(0, height, FRAME)
        for x in range(0, width, FRAME)
    ]


def write_level(
    file, frames, size, *, claim="YBR_FULL_422", places=None, series=None, mm=0.0005, **elements
):
    """One file of a DICOM slide: a level of ``size`` (width, height) in px.

    ``places`` are the (column, row) of each frame, for TILED_SPARSE; ``elements`` are set last,
    those that are None deleted. Returns the UID of the series.
    """
    uid = pydicom.uid.generate_uid
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = uid()
    meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    made = pydicom.Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, uid()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = uid(), uid(), uid()
    made.SeriesInstanceUID = series or made.SeriesInstanceUID
    made.Modality, made.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, claim, 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.Rows = made.Columns = FRAME
    made.NumberOfFrames = len(frames)
    made.DimensionOrganizationType = "TILED_FULL" if places is None else "TILED_SPARSE"
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = size
    measures = pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mm, mm], 1
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    if places is not None:
        made.PerFrameFunctionalGroupsSequence = [_place(*place) for place in places]
    made.PixelData = encapsulate(frames)
    made["PixelData"].is_undefined_length = True
    for name, value in elements.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file, enforce_file_format=True)
    return made.SeriesInstanceUID


def _place(column, row):
    at, group = pydicom.Dataset(), pydicom.Dataset()
    at.ColumnPositionInTotalImagePixelMatrix = column * FRAME + 1
    at.RowPositionInTotalImagePixelMatrix = row * FRAME + 1
    group.PlanePositionSlideSequence = [at]
    return group
