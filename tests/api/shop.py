"""One folder of generated slides, stores and trained networks for the examples of the API."""

import json
from dataclasses import replace

import numpy as np

import wsikd
from wsikd.bags.bag import write_bag
from wsikd.synthetic.cohort import write_pyramid

SIZE = (2048, 1536)  # px at 0.5 um: 4 x 3 fields of 256 um
CLASSES = ("NC", "G3", "G4", "G5")
SMALL = {"arch": "vgg_small", "width": 0.25}
OPTIM = {"epochs": 1, "batch_size": 12, "warmup_epochs": 0, "threads": 1}


def write_slide(path, seed):
    """Pink tissue with stripes, a column of fields for each class, on a margin of glass."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    rgb = np.full((height, width, 3), 244, np.uint8)
    inside = rgb[32 : height - 32, 32 : width - 32]
    tissue = np.array([196, 140, 178]) + rng.integers(-12, 13, (*inside.shape[:2], 1))
    for index in range(len(CLASSES)):
        x0, x1 = index * 512 - 32, index * 512 + 480
        period = 4 * 2**index
        stripes = (np.arange(inside.shape[0]) // period % 2) * 50
        tissue[:, max(x0, 0) : x1] -= stripes[:, None, None]
    inside[...] = np.clip(tissue, 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, rgb, mpp=0.5, power=20)


def write_annotation(path):
    features = []
    for index, name in enumerate(CLASSES):
        x0, x1, y1 = index * 512, (index + 1) * 512, SIZE[1]
        ring = [[x0, 0], [x1, 0], [x1, y1], [x0, y1], [x0, 0]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_config(path, **settings):
    path.write_text(json.dumps({"network": SMALL, "optim": OPTIM, **settings}))  # JSON is YAML


def make_shop(folder):
    """``s.svs``, ``slides/a.svs`` and ``b.svs``, ``stores``, ``slide-bags``, ``runs``."""
    write_slide(folder / "s.svs", 0)
    for seed, name in enumerate(("a", "b"), start=1):
        write_slide(folder / f"slides/{name}.svs", seed)
        write_annotation(folder / f"slides/{name}.geojson")
    rows = ["slide,split,annotation", "slides/a.svs,train,slides/a.geojson"]
    (folder / "slides.csv").write_text("\n".join([*rows, "slides/b.svs,val,slides/b.geojson"]))
    stores = wsikd.tile(
        [folder / "slides.csv"], folder / "stores", patch_px=256, classes=CLASSES, threads=1
    )
    assert not stores.failures
    write_config(folder / "1_teacher.yaml", method="supervised", data={"mpp": 1.0})
    write_config(folder / "2_student.yaml", method="at_plus", data={"mpp": 1.0, "student_mpp": 4.0})
    runs = folder / "runs"
    more = {"data": folder / "stores", "device": "cpu"}
    wsikd.distill(folder / "1_teacher.yaml", out=runs / "teacher", **more)
    student = {"out": runs / "student", "teacher": runs / "teacher"}
    wsikd.distill(folder / "2_student.yaml", **student, **more)
    make_classifier(folder)


def make_classifier(folder):
    """``slide-bags`` of both slides, each under a second name too, and ``runs/mil`` on them."""
    bags = wsikd.embed(folder / "stores", folder / "slide-bags", encoder=folder / "runs/student")
    assert not bags.failures
    labels = ["slide,label,split"]
    for name, other, label in (("a", "c", "benign"), ("b", "d", "cancer")):
        bag = bags[name]
        info = replace(bag.info, slide=other)
        write_bag(folder / f"slide-bags/{other}.zarr", info, bag.features(), bag.coords())
        labels += [f"{name},{label},train", f"{other},{label},val"]
    (folder / "labels.csv").write_text("\n".join(labels))
    own = {"method": "mil", "data": {"labels": str(folder / "labels.csv")}}
    (folder / "mil.yaml").write_text(json.dumps({**own, "optim": {"epochs": 2}}))
    wsikd.distill(
        folder / "mil.yaml", data=folder / "slide-bags", out=folder / "runs/mil", device="cpu"
    )
