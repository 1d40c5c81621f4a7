"""Annotations, tables and settings: what people write or other programs export."""

import json
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from tests.fuzz.runner import Target

BOXES = np.array([[0, 0, 100, 100], [50, 80, 400, 300], [900, 0, 64, 64]], np.float64)
CLASSES = ("NC", "G3", "G4")
CONFIGS = Path(__file__).parents[2] / "configs"


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def build_geojson(folder):
    """As QuPath 0.5 exports: a hole, several parts, a collection, no class, an object without."""
    g3 = {"classification": {"name": "G3", "color": [200, 0, 0]}}
    shapes = [
        ({"type": "Polygon", "coordinates": [square(0, 0, 300), square(50, 50, 40)]}, g3),
        ({"type": "MultiPolygon", "coordinates": [[square(10, 10, 9)], [square(70, 0, 20.5)]]},
         {"classification": {"names": ["G4", "cribriform"]}, "measurements": {"Area": 1.5}}),
        ({"type": "GeometryCollection", "geometries": [
            {"type": "Polygon", "coordinates": [square(5, 5, 90)]},
            {"type": "Point", "coordinates": [1, 2]}]}, {"classification": "NC"}),
        ({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, {"isLocked": True}),
    ]  # fmt: skip
    features = [
        {"type": "Feature", "id": str(i), "geometry": shape, "properties": properties}
        for i, (shape, properties) in enumerate(shapes)
    ]
    content = {"type": "FeatureCollection", "features": features}
    (folder / "a.geojson").write_text(json.dumps(content))
    return ["a.geojson"]


def build_asap(folder):
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(square(5, 7, 80.5))
    )
    annotations = "".join(
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{points}</Coordinates></Annotation>"
        for name, kind, group in (
            ("a 0", "Polygon", "G3"), ("a 1", "Spline", "None"), ("a 2", "Rectangle", "inner"),
        )
    )  # fmt: skip
    groups = "".join(
        f'<Group Name="{name}" PartOfGroup="{parent}" Color="#00ff00"><Attributes /></Group>'
        for name, parent in (("G3", "None"), ("inner", "G3"))
    )
    (folder / "a.xml").write_text(
        f'<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>{annotations}</Annotations>\n'
        f"<AnnotationGroups>{groups}</AnnotationGroups>\n</ASAP_Annotations>\n"
    )
    return ["a.xml"]


def use_annotation(folder):
    from tests.slides.pixels import MemorySlide
    from wsikd.slides.annotations.read import read_annotation
    from wsikd.slides.annotations.survey import survey_annotation
    from wsikd.slides.tissue.find import find_tissue

    file = next(folder.iterdir())
    slide = MemorySlide(np.full((300, 400, 3), 200, np.uint8))
    names = survey_annotation(file, {"inner": "-"}).names
    found = read_annotation(file, slide, {"inner": "-"})
    found.label(BOXES, (*CLASSES, *names))
    if file.suffix != ".xml":
        find_tissue(slide, method="all", mask_file=file)


def build_label_map(folder):
    (folder / "map.yaml").write_text('1: NC\n2: G3\n"tumor, solid": G4\nink: "-"\nfat:\n')
    return ["map.yaml"]


def use_label_map(folder):
    from wsikd.slides.annotations.label_map import parse_label_map

    parse_label_map([str(folder / "map.yaml")])


def build_manifest(folder):
    for name in ("a.svs", "b.svs"):
        (folder / name).touch()
    rows = ["slide,mpp,label,patient,split,annotation,mask", "a.svs,0.25,G3,p1,train,a.xml,",
            "b.svs,,NC,p2,val,,b.png", "c/b.svs,0.5,,,,,"]  # fmt: skip
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    return ["slides.csv"]


def use_manifest(folder):
    from wsikd.slides.listing.manifest import find_slides

    for entry in find_slides([folder / "slides.csv"], slide_mpp=0.5, annotations=folder):
        assert entry.name
        assert len(entry.name.encode()) < 250
        assert "/" not in entry.name


def build_patches(folder):
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(b"x")
    rows = ["image,label,class,slide,patient,split", "a.png,0,NC,s1,p1,train",
            "b.png,1,G3,s2,p2,val", "c.png,1,G3,s3,p3,test"]  # fmt: skip
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["labels.csv"]


def use_patches(folder):
    from wsikd.learn.data.source_base import read_csv

    read_csv(folder / "labels.csv", CLASSES)


def build_bag_labels(folder):
    rows = ["slide,label,patient,split", "s1,NC,p1,train", "s2,G3,p2,val", '"s,3",G3,,']
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["labels.csv"]


def use_bag_labels(folder):
    from wsikd.learn.mil.data import read_labels

    read_labels(folder / "labels.csv")


def build_grades(folder):
    rows = ["slide,grade_group,gleason,patient", "s1.svs,3,4+3=7,p1", "s2,0,benign,", "s3,,3+4,p"]
    (folder / "grades.csv").write_text("\n".join(rows) + "\n")
    return ["grades.csv"]


def use_grades(folder):
    from wsikd.grade.runs.compare_labels import read_labels

    read_labels(folder / "grades.csv")


def build_config(folder):
    """Every configuration that comes with wsikd; rows are apart."""
    names = []
    for file in sorted(f for f in CONFIGS.rglob("*.yaml") if f.name != "rows.yaml"):
        names.append("-".join(file.relative_to(CONFIGS).parts))
        (folder / names[-1]).write_bytes(file.read_bytes())
    return names


def use_config(folder):
    from wsikd.core.errors import WsikdError
    from wsikd.learn.engine.configurations import load_settings
    from wsikd.learn.engine.runs import load_run

    for file in _changed(folder):
        load_settings(file)
        with suppress(WsikdError):  # it lists no data
            load_run(file, [])


def build_rows(folder):
    names = ["base.yaml", "rows.yaml"]
    for name in names:
        (folder / name).write_bytes((CONFIGS / "at_plus/sicapv2/recommended" / name).read_bytes())
    return names


def use_rows(folder):
    from wsikd.learn.reproduce.plan import read_rows

    read_rows(folder)


def _changed(folder):
    """The file written last: only that is damaged."""
    files = list(folder.iterdir())
    newest = max(f.stat().st_mtime_ns for f in files)
    return [f for f in files if f.stat().st_mtime_ns == newest]


def build_boxes(folder):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(name.encode())
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30.5, 20],
                         "iscrowd": 0, "area": 610}],
        "categories": [{"id": 1, "name": "gland"}, {"id": 2, "name": "mitosis"}],
    }  # fmt: skip
    for name, image in (("train.json", "a.png"), ("val.json", "b.png")):
        content["images"][0]["file_name"] = image
        (folder / name).write_text(json.dumps(content))
    return ["train.json", "val.json"]


def use_boxes(folder):
    from wsikd.learn.ts2g.detect_data import load_boxes

    load_boxes(folder / "train.json", folder / "val.json")


def build_images(folder):
    """Patches as people keep them, in three formats."""
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.tif"):
        pixels = cv2.blur(rng.integers(0, 256, (48, 40, 3), np.uint8), (5, 5))
        cv2.imwrite(str(folder / name), pixels)
    rows = ["image,class,slide", "a.jpg,NC,s1", "b.png,G3,s2", "c.tif,G3,s3"]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["a.jpg", "b.png", "c.tif"]


def use_images(folder):
    from wsikd.learn.data.source_base import read_csv

    found = read_csv(folder / "labels.csv", CLASSES)
    for row in range(3):
        assert found.read(row).dtype == np.uint8


TEXTS = (
    Target("geojson", build_geojson, use_annotation),
    Target("asap", build_asap, use_annotation),
    Target("label_map", build_label_map, use_label_map),
    Target("manifest", build_manifest, use_manifest),
    Target("patch_labels", build_patches, use_patches),
    Target("patch_images", build_images, use_images),
    Target("bag_labels", build_bag_labels, use_bag_labels),
    Target("grades", build_grades, use_grades),
    Target("config", build_config, use_config),
    Target("rows", build_rows, use_rows),
    Target("boxes", build_boxes, use_boxes),
)
