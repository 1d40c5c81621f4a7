"""A generated set of patches: stripes whose width is the class, on a random stain."""

import csv
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

CLASSES = ("NC", "G3", "G4")


@pytest.fixture(scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(label, rng, side=32):
    """Stripes of period 16, 8 or 4 px along a random axis: visible after averaging by 2."""
    period = (16, 8, 4)[label]
    place = np.arange(side) + rng.integers(period)
    wave = ((place // (period // 2)) % 2).astype(float)
    image = np.broadcast_to(wave, (side, side))
    image = image if rng.random() < 0.5 else image.T
    low, high = rng.uniform(60, 110, 3), rng.uniform(150, 220, 3)
    pixels = low + image[..., None] * (high - low) + rng.normal(0, 8, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_set(root, *, slides=8, per_slide=9, split=None, patient=None, side=32, seed=0):
    """A labels CSV with patches; ``split`` and ``patient`` map a slide's number to its entry."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows = []
    for s in range(slides):
        for i in range(per_slide):
            label = i % 3
            name = f"s{s}_{i:03d}.png"
            cv2.imwrite(str(root / "images" / name), draw(label, rng, side)[..., ::-1])
            row = {"image": name, "label": label, "class": CLASSES[label], "slide": f"s{s}"}
            if split:
                row["split"] = split(s)
            if patient:
                row["patient"] = patient(s)
            rows.append(row)
    write_rows(root / "labels.csv", rows)
    return root / "labels.csv"


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def stripes(tmp_path_factory):
    """Eight slides of 9 patches of 32 px, split 6 to 2."""
    root = tmp_path_factory.mktemp("stripes")
    return write_set(root / "set", split=lambda s: "val" if s >= 6 else "train")


@pytest.fixture(scope="session")
def patches_on_disk():
    """The functions above, for tests that need another set."""
    return SimpleNamespace(write=write_set, draw=draw, rows=read_rows, write_rows=write_rows)
