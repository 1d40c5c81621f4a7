"""Images with boxes in COCO's format: one JSON file a split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import MALFORMED, DataError
from wsikd.core.reading import read_json
from wsikd.learn.data.prefetch import read_ahead
from wsikd.learn.data.splits import listed
from wsikd.slides.checks.image_check import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


_MOST_SIDE_PX = 1 << 20


@dataclass
class BoxSet:
    """Images and their lesions.

    Attributes:
        files: image files, N of them.
        size: int64 (N, 2), (width, height) in px.
        boxes: boxes of each image float32 (n, 4), left, top, right, bottom in px.
        labels: labels of each image int64 (n,), index into ``classes``.
        split: str (N,), "train" or "val".
        classes: names in the order of COCO's category ids.
        digests: identity of the annotation files.
    """

    files: list[Path]
    size: NDArray[np.int64]
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    digests: list[str]
    label: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Images are not balanced by class: all are of one."""
        self.label = np.zeros(len(self.files), np.int64)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of a split, int64."""
        return np.flatnonzero(self.split == split)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels: uint8 (height, width, 3). Raises DataError."""
        file = self.files[index]
        image = read_image(file)
        width, height = self.size[index].tolist()
        if image.shape[:2] != (height, width):
            own = f"{image.shape[1]} x {image.shape[0]}"
            fault = f"is {own} px, its entry says {width} x {height}"
            raise DataError(file, fault, "correct the annotation file")
        return np.ascontiguousarray(image[..., ::-1])

    def padded(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Images filled up with zeros to the largest: uint8 (B, 3, H, W)."""
        chosen = [int(i) for i in indices]
        width, height = self.size[chosen].max(0).tolist()
        batch = torch.zeros(len(chosen), 3, height, width, dtype=torch.uint8)
        for place, index in enumerate(chosen):
            pixels = self.read(index)
            batch[place, :, : pixels.shape[0], : pixels.shape[1]] = torch.from_numpy(
                pixels.transpose(2, 0, 1).copy()
            )
        return batch

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        read: Callable[[NDArray[np.int64]], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Images in this order, read some batches before their use; see :meth:`padded`."""
        yield from read_ahead(order, size, threads, read or self.padded)


def load_boxes(train: Path, val: Path, images: Path | None = None) -> BoxSet:
    """Read two annotation files of COCO's format.

    Crowd annotations are left out.

    Args:
        train: JSON file.
        val: JSON file.
        images: folder of the images; None: that of each JSON file, or ``images/`` in it.

    Raises:
        DataError: a file is not such JSON, an image does not exist or is in both, a box is empty or
            lies outside its image, or the files disagree on the categories.
    """
    parts = [_read(path, images) for path in (train, val)]
    (names, *_), (other, *_) = parts
    if names != other:
        raise DataError(val, "has other categories than the training file", "make them agree")
    if not names:
        raise DataError(train, "names no categories", "export it as COCO boxes")
    both = set(parts[0][1]) & set(parts[1][1])
    if both:
        shared = sorted(path.name for path in both)
        fault = f"shares {listed('image', shared)} with the training file"
        raise DataError(val, fault, "divide the images")
    for path, part in zip((train, val), parts, strict=True):
        if not part[1]:
            raise DataError(path, "names no images", "export it as COCO boxes")
    files = parts[0][1] + parts[1][1]
    split = np.repeat(["train", "val"], [len(p[1]) for p in parts])
    return BoxSet(
        files,
        np.array(parts[0][2] + parts[1][2], np.int64).reshape(-1, 2),
        parts[0][3] + parts[1][3],
        parts[0][4] + parts[1][4],
        split,
        tuple(names.values()),
        sorted(hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in (train, val)),
    )


_Part = tuple[
    dict[int, str], list[Path], list[tuple[int, int]], list["NDArray[np.float32]"],
    list["NDArray[np.int64]"],
]  # fmt: skip


def _read(path: Path, images: Path | None) -> _Part:
    if not path.is_file():
        raise DataError(path, "does not exist", "give the annotation file, in COCO's format")
    try:
        content = read_json(path)
        names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        names = dict(sorted(names.items()))
        entries = {int(e["id"]): e for e in content["images"]}
        found: dict[int, list[Mapping[str, Any]]] = {key: [] for key in entries}
        for box in content["annotations"]:
            if not box.get("iscrowd"):
                found[int(box["image_id"])].append(box)
        number = {key: place for place, key in enumerate(names)}
        files, sizes, boxes, labels = [], [], [], []
        for key, entry in entries.items():
            size = int(entry["width"]), int(entry["height"])
            if not 0 < min(size) <= max(size) < _MOST_SIDE_PX:
                raise ValueError(f"an image of {size[0]} x {size[1]} px")
            files.append(_image(path, images, str(entry["file_name"])))
            sizes.append(size)
            boxes.append(_corners(path, entry, found[key], size))
            labels.append(np.array([number[int(b["category_id"])] for b in found[key]], np.int64))
    except (OSError, *MALFORMED) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            path, f"is not an annotation file of COCO's format ({type(error).__name__}: {error})",
            "give a JSON file with images, annotations and categories",
        ) from error  # fmt: skip
    return names, files, sizes, boxes, labels


def _image(path: Path, images: Path | None, name: str) -> Path:
    folders = [images] if images else [path.parent, path.parent / "images"]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise DataError(path, f"image '{name}' does not exist", "set data.images to their folder")


def _corners(
    path: Path, entry: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]], size: tuple[int, int]
) -> NDArray[np.float32]:
    given = np.array([b["bbox"] for b in boxes], np.float64).reshape(-1, 4)
    corners = np.hstack([given[:, :2], given[:, :2] + given[:, 2:]])
    bad = (
        (given[:, 2:] <= 0).any(1) | (corners < -1).any(1) | (corners > np.tile(size, 2) + 1).any(1)
    )
    if bad.any():
        fault = f"box {given[bad][0].tolist()} of {entry['file_name']} is empty or lies outside it"
        raise DataError(path, fault, "give left, top, width, height in px")
    return np.clip(corners, 0, np.tile(size, 2)).astype(np.float32)
