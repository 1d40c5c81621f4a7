"""A generated SICAPv2 in miniature, in the layout in which it is distributed."""

import cv2
import numpy as np
from openpyxl import Workbook

COLUMNS = ("image_name", "NC", "G3", "G4", "G5", "G4C")
FOLDS = ("Val1", "Val2", "Val3", "Val4")


def draw(label, rng, side):
    """Stripes of period 16, 8, 4 or 2 px along a random axis, on a random stain."""
    period = (16, 8, 4, 2)[label]
    wave = (((np.arange(side) + rng.integers(period)) // (period // 2)) % 2).astype(float)
    image = np.broadcast_to(wave, (side, side))
    image = image if rng.random() < 0.5 else image.T
    low, high = rng.uniform(60, 110, 3), rng.uniform(150, 220, 3)
    pixels = low + image[..., None] * (high - low) + rng.normal(0, 8, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def write_sicap(root, *, slides=10, per_slide=8, side=32, seed=0):
    """Slides 0 and 1 are the test part; fold Val<k> validates on slides 2k and 2k + 1.

    Patient p<n> has slides 2n and 2n + 1.
    """
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows = {s: [] for s in range(slides)}
    for s in range(slides):
        for i in range(per_slide):
            label = i % 4
            name = f"16B{s:07d}_Block_Region_{i}_0_0_xini_{64 * i}_yini_7.jpg"
            image = draw(label, rng, side)[..., ::-1]
            cv2.imwrite(str(root / "images" / name), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
            flags = [int(label == c) for c in range(4)]
            rows[s].append([name, *flags, int(label == 2 and i > 4)])
    kept = range(2, slides)
    for number, fold in enumerate(FOLDS, start=1):
        val = [s for s in kept if s // 2 == number]
        train = [s for s in kept if s not in val]
        for name, chosen in (("Train", train), ("Test", val)):
            table = [row for s in chosen for row in rows[s]]
            write_table(root / f"partition/Validation/{fold}/{name}.xlsx", [COLUMNS, *table])
    write_table(root / "partition/Test/Train.xlsx", [COLUMNS, *(r for s in kept for r in rows[s])])
    write_table(root / "partition/Test/Test.xlsx", [COLUMNS, *rows[0], *rows[1]])
    labels = [[f"16B{s:07d}", f"p{s // 2}", 3, 4] for s in range(slides)]
    head = ["slide_id", "patient_id", "Gleason_primary", "Gleason_secondary"]
    write_table(root / "wsi_labels.xlsx", [head, *labels])
    return root
