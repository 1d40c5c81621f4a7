"""A known square goes through the predictor and every exporter, and readers of others find it.

The slides have odd resolutions, bounds that do not start at 0 and fields that overlap; expected
corners are computed here, from the definition of a grid.
"""

import csv
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from xml.etree import ElementTree

import highdicom
import numpy as np
import openslide
import pydicom
import pytest
import shapely
import tifffile
import torch
import zarr
from PIL import Image

from tests.grade.maps import SQUARE, FakeSlide, square_map
from wsikd.core.errors import SlideError
from wsikd.grade.exports import EXPORTERS, write_all
from wsikd.grade.exports.ome_tiff import pixel_px
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.reports.class_colours import class_colour
from wsikd.models.files.bundle import InputSpec
from wsikd.slides.base import Mpp, open_slide

PATCH, MODEL_MPP = 32, 4.0
FIRST, COUNT = (5, 3), (4, 3)  # of the square: column and row of its first cell, cells on x and y


@dataclass(frozen=True)
class Case:
    mpp: float
    size: tuple[int, int]
    bounds: tuple[int, int, int, int]
    stride: int

    @property
    def cell(self):
        return self.stride * MODEL_MPP / self.mpp

    @property
    def square(self):
        """Level-0 (left, top, right, bottom)."""
        inset = (PATCH - self.stride) / 2 * MODEL_MPP / self.mpp
        first = [self.bounds[i] + inset + FIRST[i] * self.cell for i in (0, 1)]
        return (*first, *(first[i] + COUNT[i] * self.cell for i in (0, 1)))


CASES = {
    "0.499": Case(0.499, (2903, 2307), (0, 0, 2903, 2307), PATCH),
    "0.499, bounds, overlap": Case(0.499, (1531, 1203), (211, 97, 1201, 987), 8),
    "0.2527, bounds": Case(0.2527, (5109, 4003), (173, 389, 4801, 3501), PATCH),
    "0.2527, overlap": Case(0.2527, (2801, 2207), (0, 0, 2801, 2207), 16),
}


class Middle(torch.nn.Module):
    """Logits (B, 2): is the middle of a patch, as large as a cell, more blue than red?"""

    def __init__(self, stride):
        super().__init__()
        self.inner = slice((PATCH - stride) // 2, (PATCH + stride) // 2)

    def forward(self, x):
        x = x[..., self.inner, self.inner].float()
        blue = ((x[:, 2] - x[:, 0]) > 60).float().mean((1, 2)) > 0.5
        return torch.stack([torch.zeros(len(x)), blue * 0.6 - 0.3], 1)


@pytest.fixture(scope="module", params=list(CASES), ids=list(CASES))
def written(request, tmp_path_factory):
    """A case, its slide, its map and every file made of it."""
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("square")
    rgb = np.full((case.size[1], case.size[0], 3), 225, np.uint8)
    left, top, right, bottom = (round(v) for v in case.square)
    rgb[top:bottom, left:right] = (40, 40, 220)
    slide = FakeSlide(rgb, bounds=case.bounds)
    slide.info = replace(
        slide.info, mpp=Mpp(case.mpp, case.mpp, "test"), vendor="dicom", file="level0.dcm"
    )
    slide.path = folder / "level0.dcm"
    dicom_header(case).save_as(slide.path, enforce_file_format=True)
    spec = InputSpec(MODEL_MPP, PATCH, (0.0,) * 3, (1.0,) * 3, ("NC", "G5"))
    settings = PredictSettings(stride_px=case.stride, tissue="all", workers=1)
    predictor = SlidePredictor(Middle(case.stride), spec, device="cpu", settings=settings)
    grade_map = predictor.predict(slide)
    files = write_all(grade_map, folder / "out", list(EXPORTERS), slide=slide)
    return SimpleNamespace(case=case, map=grade_map, files=files, source=slide.path)


def dicom_header(case):
    """What a segmentation needs of a whole-slide image, without pixels."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made = pydicom.Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID,
    )  # fmt: skip
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(made, name, pydicom.uid.generate_uid())
    made.Modality, made.ImageType = "SM", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.PatientID, made.PatientName = "P7", "Doe^J"
    made.NumberOfFrames, made.Rows, made.Columns = 1, 256, 256
    made.SamplesPerPixel, made.BitsAllocated, made.LossyImageCompression = 3, 8, "00"
    made.DimensionOrganizationType = "TILED_FULL"
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = case.size
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin = pydicom.Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 21.5, 37.25
    made.TotalPixelMatrixOriginSequence = [origin]
    measures = pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [case.mpp / 1000] * 2, 0.004
    shared = pydicom.Dataset()
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    return made


def extent(found, pixel, origin=(0.0, 0.0)):
    """Box around the true pixels of a raster: (left, top, right, bottom)."""
    rows, columns = np.nonzero(found)
    assert found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return edges * np.tile(pixel, 2) + np.tile(origin, 2)


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_extent(rows):
    box = np.array([[float(r[k]) for k in ("minx", "miny", "width", "height")] for r in rows])
    assert len(box) == COUNT[0] * COUNT[1]
    return [*box[:, :2].min(0), *(box[:, :2] + box[:, 2:]).max(0)]


def test_csv(written):
    rows = read_table(written.files["csv"])
    assert len(rows) == written.map.valid_hw.sum()
    found = [row for row in rows if float(row["prob_G5"]) > 0.5]
    assert table_extent(found) == pytest.approx(written.case.square, abs=2e-3)


def test_uncertain(written):
    rows = [row for row in read_table(written.files["uncertain"]) if row["first"] == "G5"]
    assert {row["second"] for row in rows} == {"NC"}
    assert table_extent(rows) == pytest.approx(written.case.square, abs=2e-3)


@pytest.mark.parametrize(("name", "kind", "count"), [("geojson", "annotation", 1),
                                                     ("geojson-tiles", "tile", 12)])  # fmt: skip
def test_geojson(written, name, kind, count):
    features = json.loads(written.files[name].read_text("utf-8"))["features"]
    found = [f for f in features if f["properties"]["classification"]["name"] == "G5"]
    assert {f["properties"]["objectType"] for f in features} == {kind}
    shapes = [shapely.from_geojson(json.dumps(f["geometry"])) for f in found]
    assert shapely.is_valid(shapes).all()
    assert len(shapes) == count
    corner = np.tile(written.case.bounds[:2], 2)  # QuPath shows the slide from there on
    around = shapely.union_all(shapes, grid_size=1e-3)
    assert np.add(around.bounds, corner) == pytest.approx(written.case.square, abs=2e-3)
    assert around.area == pytest.approx(shapely.box(*around.bounds).area, rel=1e-6)


@pytest.mark.parametrize("path", ["0", "labels/grade/0"])
def test_ome_zarr(written, path):
    group = zarr.open_group(written.files["zarr"], mode="r")
    ome = group["labels/grade"].attrs["ome"] if "labels" in path else group.attrs["ome"]
    found = group[path][:] == 2 if "labels" in path else group[path][:].argmax(0) == 1
    scale, shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    pixel = np.array(scale["scale"][-2:])[::-1]
    origin = np.array(shift["translation"][-2:])[::-1] - pixel / 2
    um = extent(found, pixel, origin)
    assert um / written.case.mpp == pytest.approx(written.case.square, abs=1e-6)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_ome_tiff(written, image):
    with tifffile.TiffFile(written.files["ome-tiff"]) as file:
        assert file.is_ome
        series = file.series[image]
        pixels = ElementTree.fromstring(file.ome_metadata).findall(".//{*}Pixels")[image]
        levels = [level.asarray() for level in series.levels]
        assert all(level.keyframe.is_tiled for level in series.levels)
    um = [float(pixels.get(f"PhysicalSize{axis}")) for axis in "XY"]
    names = [c.get("Name") for c in pixels.findall("{*}Channel")]
    assert names == [["colours"], ["grade"], ["NC", "G5"]][image]
    if image == 0:
        levels = [2 * (array == class_colour("G5", 1)).all(-1) for array in levels]
    assert max(levels[-1].shape[-2:]) <= 256
    for level, array in enumerate(levels):
        found = array[1] > 127 if image == 2 else array == 2
        pixel = np.array(um) / written.case.mpp * 2**level
        assert pixel[0] * array.shape[-1] >= written.case.size[0]
        error = np.abs(extent(found, pixel) - written.case.square)
        assert error.max() <= pixel.max() / 2 + 1e-6


@pytest.mark.parametrize(
    ("cell", "longest", "step"),
    [(128.3, 1237, 8), (1026.1, 90_000, 64), (64.0, 90_000, 16), (64.0, 30_000, 4), (9.0, 1000, 1),
     (3.0, 90_000, 1)],
)  # fmt: skip
def test_pixels_of_the_ome_tiff(cell, longest, step):
    made = square_map(cell_px=(cell, cell))
    made = replace(made, slide=replace(made.slide, dimensions=(longest, longest // 2)))
    assert pixel_px(made) == step
    assert step == 1 or step <= cell / 4


def test_ome_tiff_in_openslide(written):
    with openslide.OpenSlide(written.files["ome-tiff"]) as slide:
        mpp = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
        picture = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    pixel = written.case.size[0] / picture.shape[1]
    found = (picture == class_colour("G5", 1)).all(-1)
    step = 2 ** round(np.log2(pixel))
    assert mpp == pytest.approx([step * written.case.mpp] * 2, rel=1e-6)
    assert np.abs(extent(found, (step, step)) - written.case.square).max() <= step / 2


def test_ome_tiff_in_tiatoolbox(written):
    with open_slide(written.files["ome-tiff"], reader="tiatoolbox") as slide:
        width, height = slide.info.dimensions
        picture = slide.read_level(0, (0, 0), (width, height))
        step = round(slide.mpp.x / written.case.mpp)
    found = (picture == class_colour("G5", 1)).all(-1)
    assert np.abs(extent(found, (step, step)) - written.case.square).max() <= step / 2


def test_png(written):
    case = written.case
    with Image.open(written.files["png"]) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    scale = min(1, 1200 / max(case.bounds[2:]))
    picture = pixels[: int(case.bounds[3] * scale)]
    rows, columns = np.nonzero((picture == class_colour("G5", 1)).all(-1))  # the solid edge
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / scale
    found = box + np.tile(case.bounds[:2], 2)
    assert found == pytest.approx(case.square, abs=1.5 / scale)


@pytest.mark.filterwarnings("ignore")
def test_dicom_seg(written):
    source = pydicom.dcmread(written.source)
    found = highdicom.seg.segread(written.files["dicom-seg"])
    assert found.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert found.StudyInstanceUID == source.StudyInstanceUID
    assert (str(found.PatientName), found.PatientID) == ("Doe^J", "P7")
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["NC", "G5"]
    matrix = found.get_total_pixel_matrix(combine_segments=True)
    np.testing.assert_array_equal(matrix, written.map.grade_hw + 1)

    assert on_level0(matrix == 2, found, source) == pytest.approx(written.case.square, abs=0.01)


@pytest.mark.filterwarnings("ignore")
def test_dicom_seg_refers_to_its_own_series(tmp_path):
    case = CASES["0.499, bounds, overlap"]
    full, other, low = dicom_header(case), dicom_header(case), dicom_header(case)
    other.PatientID = "SOMEONE ELSE"
    low.SeriesInstanceUID = full.SeriesInstanceUID
    low.TotalPixelMatrixColumns, low.TotalPixelMatrixRows = 100, 80
    for name, header in (("a", other), ("b", low), ("c", full)):
        header.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    slide = FakeSlide(np.full((case.size[1], case.size[0], 3), 255, np.uint8))
    slide.info = replace(slide.info, vendor="dicom")
    slide.path = tmp_path / "b.dcm"
    file = write_all(square_map(info=slide.info), tmp_path / "o", ["dicom-seg"], slide=slide)
    found = pydicom.dcmread(file["dicom-seg"])
    assert found.PatientID == "P7"
    instance = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == full.SOPInstanceUID
    (tmp_path / "c.dcm").unlink()
    with pytest.raises(SlideError, match="lacks a level of its full size"):
        write_all(square_map(info=slide.info), tmp_path / "p", ["dicom-seg"], slide=slide)


def on_level0(cells, found, source):
    """Level-0 box of cells of a segmentation, through the frame of reference, by highdicom."""
    corners = extent(cells, (1, 1)).reshape(2, 2)
    mm = highdicom.spatial.ImageToReferenceTransformer(**placed(found))(corners)
    level0 = highdicom.spatial.ReferenceToImageTransformer(**placed(source))(mm)
    return level0[:, :2].ravel()


def placed(image):
    """Where an image lies in its frame of reference; an origin that is not told is 0, 0."""
    origin = (image.get("TotalPixelMatrixOriginSequence") or [pydicom.Dataset()])[0]
    measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    offsets = [float(origin.get(f"{a}OffsetInSlideCoordinateSystem") or 0) for a in "XYZ"]
    orientation = [float(v) for v in image.ImageOrientationSlide]
    spacing = [float(v) for v in measures.PixelSpacing]
    return {
        "image_position": offsets, "image_orientation": orientation, "pixel_spacing": spacing,
    }  # fmt: skip


@pytest.mark.slides
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("instance", ["", "level-3-frames-0-1.dcm"])
def test_dicom_seg_of_a_real_slide(real_slides, instance, tmp_path, caplog):
    path = real_slides / "CMU-1-Small-Region-dicom" / instance
    with open_slide(path) as slide:
        made = square_map(info=slide.info)
        file = write_all(made, tmp_path, ["dicom-seg"], slide=slide)["dicom-seg"]
    assert "no TotalPixelMatrixOrigin" in caplog.text
    found = highdicom.seg.segread(file)
    level0 = real_slides / "CMU-1-Small-Region-dicom" / "level-0-frames-0-30.dcm"
    source = pydicom.dcmread(level0, stop_before_pixels=True)
    referenced = found.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    instances = [i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence]
    assert instances == [source.SOPInstanceUID]
    matrix = found.get_total_pixel_matrix(combine_segments=True)
    assert on_level0(matrix == 3, found, source) == pytest.approx(SQUARE, abs=0.01)
