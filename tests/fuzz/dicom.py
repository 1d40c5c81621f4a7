"""A whole-slide image in DICOM, level by level."""

import numpy as np
import pydicom
import simplejpeg
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

TILE = 128
ROOT = "1.2.826.0.1.3680043.8.498.7"


def write_level(path, rgb, mpp, *, number):
    """Write a level as one instance of one series: tiles of 128 px, YCbCr JPEG."""
    height, width = rgb.shape[:2]
    frames = []
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tile = rgb[y : y + TILE, x : x + TILE]
            whole = np.full((TILE, TILE, 3), 255, np.uint8)
            whole[: tile.shape[0], : tile.shape[1]] = tile
            frames.append(simplejpeg.encode_jpeg(whole, quality=60, colorsubsampling="422"))
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.{number}"
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    made = pydicom.Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"{ROOT}.3.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    made.FrameOfReferenceUID = f"{ROOT}.4"
    made.Modality, made.PatientID, made.PatientName = "SM", "P7", "Doe^J"
    kind = "NONE" if number == 1 else "RESAMPLED"
    made.ImageType = ["ORIGINAL" if number == 1 else "DERIVED", "PRIMARY", "VOLUME", kind]
    made.InstanceNumber, made.SeriesNumber = number, 1
    made.NumberOfFrames, made.Rows, made.Columns = len(frames), TILE, TILE
    made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelRepresentation, made.PhotometricInterpretation = 0, "YBR_FULL_422"
    made.LossyImageCompression = "01"
    made.DimensionOrganizationType = "TILED_FULL"
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = width, height
    made.TotalPixelMatrixFocalPlanes = 1
    made.ImagedVolumeWidth, made.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = pydicom.Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20.0, 30.0
    made.TotalPixelMatrixOriginSequence = [origin]
    path_of_light = pydicom.Dataset()
    path_of_light.OpticalPathIdentifier, path_of_light.ObjectiveLensPower = "1", 20
    made.OpticalPathSequence = [path_of_light]
    measures = pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000] * 2, 0.004
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PixelData = encapsulate(frames)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.save_as(path, enforce_file_format=True)
