"""A toy set in the form of the two real ones, and predictions without networks."""

import csv
import json

import numpy as np
from PIL import Image

from benchmarks.studies.real.arms import TEACHER
from benchmarks.studies.real.figures import COLOUR
from benchmarks.studies.real.listing import GROUP, write_labels
from benchmarks.studies.real.plan import ABOUT, TEST, VAL

CHANGES = {
    "network.arch": "vgg_small", "network.width": 0.1, "network.init": "random",
    "network.weights": None, "network.freeze": 0, "network.input_norm": "none",
    "optim.epochs": 1, "optim.epoch_patches": 16, "optim.batch_size": 8, "split.val": 0.34,
}  # fmt: skip


def write_toy(root, name, *, groups=12, px=64):
    """Folder of a toy set with four images a patient and one without a grade; its labels CSV."""
    rng, rows = np.random.default_rng(0), []
    source = root / f"{name}_set"
    (source / "images").mkdir(parents=True)
    classes = 4 if name == "colon" else 3
    for g in range(groups):
        for k in range(4):
            label = (g + k // 2) % classes
            pixels = rng.integers(0, 60, (px, px, 3)) + 40 * label
            image = f"images/p{g:02d}_{k}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(source / image)
            listed = image if name == "colon" else image.removeprefix("images/")
            rows.append({"image": listed, "label": label, GROUP[name]: f"p{g:02d}"})
    rows.append({"image": "images/ungraded.png", "label": "", GROUP[name]: "p99"})
    with (source / "labels.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return write_labels(source, name, root / "labels")


def predict_block(plan, block, sharp, *, patients=60):
    """Made predictions of a block: ``sharp`` is how far each row's logits point to the truth."""
    folds, rng = plan.study.folds, np.random.default_rng(1)
    truth = np.tile([0, 1, 2, 3], patients)
    group = np.repeat([f"p{i:02d}" for i in range(patients)], 4)
    noise = rng.normal(size=(len(truth), 4))
    for number, job in enumerate(plan.compared(block)):
        own = np.random.default_rng(10 + number).normal(size=noise.shape)
        logits = sharp[job.arm] * np.eye(4)[truth] + noise + 0.3 * own
        _keep(plan.kept(job), logits, truth, group, job.fold, folds)
    for fold in range(folds):
        file = plan.out / "predictions" / block / COLOUR / f"fold{fold}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        _save(file, noise, truth, group, np.arange(len(truth)) // 4 % folds == fold)


def _keep(folder, logits, truth, group, fold, folds):
    own = np.arange(len(truth)) // 4 % folds == fold
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / TEST, logits, truth, group, own)
    _save(folder / VAL, logits, truth, group, ~own)
    macs = 16.0 if TEACHER in folder.parts else 1.0
    about = {"validation": {"auc_macro": 0.5}, "temperature": 1.5, "macs": macs}
    (folder / ABOUT).write_text(json.dumps(about))


def _save(file, logits, truth, group, own):
    index = np.flatnonzero(own)
    np.savez(
        file, logits=logits[own], truth=truth[own], index=index, group=group[own],
        slide=group[own], benign=np.array([0]),
    )  # fmt: skip
