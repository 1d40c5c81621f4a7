"""COCO files: boxes in px, images found, faults told."""

import json

import cv2
import numpy as np
import pytest

from wsikd.core.errors import DataError
from wsikd.learn.ts2g.detect_data import load_boxes


def coco(folder, name, count, *, size=(40, 30), start=0):
    """Images with one box each of category 7 or 3, and one crowd box."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(start)
    images, boxes = [], []
    for k in range(count):
        file = f"{name}{k}.png"
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / file), pixels[..., ::-1])
        images.append({"id": k, "file_name": file, "width": size[0], "height": size[1]})
        boxes.append({"id": k, "image_id": k, "category_id": (7, 3)[k % 2],
                      "bbox": [2.5, 3, 10, 4.25], "iscrowd": 0})  # fmt: skip
    boxes.append({"id": 99, "image_id": 0, "category_id": 7, "bbox": [0, 0, 5, 5], "iscrowd": 1})
    categories = [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_boxes_and_classes(tmp_path):
    found = load_boxes(coco(tmp_path, "train", 3), coco(tmp_path, "val", 2, start=1))
    assert found.classes == ("early", "late")
    assert found.split.tolist() == ["train"] * 3 + ["val"] * 2
    assert [x.tolist() for x in found.labels[:3]] == [[1], [0], [1]]
    np.testing.assert_allclose(found.boxes[0], [[2.5, 3, 12.5, 7.25]])


def test_pixels_are_the_files(tmp_path):
    found = load_boxes(coco(tmp_path, "train", 3), coco(tmp_path, "val", 2, size=(20, 50)))
    expected = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(found.read(0), expected)
    batch = found.padded([0, 3])
    assert batch.shape == (2, 3, 50, 40)
    np.testing.assert_array_equal(batch[0, :, :30].permute(1, 2, 0), expected)
    assert not batch[0, :, 30:].any()


def outside(content):
    content["annotations"][0]["bbox"] = [35, 3, 10, 4]


def empty(content):
    content["annotations"][0]["bbox"] = [5, 3, 0, 4]


def unknown(content):
    content["annotations"][0]["category_id"] = 8


def renamed(content):
    content["categories"][0]["name"] = "other"


def lost(content):
    content["images"][0]["file_name"] = "gone.png"


def shared(content):
    content["images"][0]["file_name"] = "train0.png"


@pytest.mark.parametrize(
    ("change", "told"),
    [(outside, "lies outside"), (empty, "is empty"), (unknown, "is not an annotation file"),
     (renamed, "other categories"), (lost, "'gone.png' does not exist"),
     (shared, r"shares image train0.png with")],
)  # fmt: skip
def test_faults(tmp_path, change, told):
    train, val = coco(tmp_path, "train", 2), changed(coco(tmp_path, "val", 2), change)
    with pytest.raises(DataError, match=told):
        load_boxes(train, val)


def test_an_image_of_another_size(tmp_path):
    found = load_boxes(coco(tmp_path, "train", 1), coco(tmp_path, "val", 1))
    cv2.imwrite(str(found.files[0]), np.zeros((31, 40, 3), np.uint8))
    with pytest.raises(DataError, match="is 40 x 31 px, its entry says 40 x 30"):
        found.read(0)
    found.files[0].write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded as an image"):
        found.read(0)


def test_what_is_no_json(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="not an annotation file of COCO's format"):
        load_boxes(tmp_path / "a.json", coco(tmp_path, "val", 1))


def test_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: does not exist; give the annotation file"):
        load_boxes(coco(tmp_path, "train", 1), tmp_path / "gone.json")
