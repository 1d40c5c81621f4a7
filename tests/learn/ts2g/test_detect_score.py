"""Mean average precision of detections: cases counted by hand, and torchmetrics' own."""

import pytest
import torch

pytest.importorskip("pycocotools")
from wsikd.learn.ts2g.detect_score import mean_average_precision


def image(*boxes, labels=None, scores=None):
    made = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels if labels is not None else [0] * len(boxes)).long(),
    }
    return made if scores is None else made | {"scores": torch.tensor(scores).float()}


BOX = (10.0, 10.0, 30.0, 30.0)
SHIFTED = (10.0, 14.6, 30.0, 34.6)  # IoU 15.4 / 24.6 = 0.626


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (image(BOX, scores=[0.5]), (1.0, 1.0)),
        (image(SHIFTED, scores=[0.5]), (0.3, 1.0)),  # at 0.50, 0.55 and 0.60
        (image(BOX, labels=[1], scores=[0.5]), (0.0, 0.0)),
        (image((50.0, 50.0, 60.0, 60.0), BOX, scores=[0.9, 0.5]), (0.5, 0.5)),
        (image(scores=[]), (0.0, 0.0)),
    ],
    ids=["the box", "shifted", "another class", "second of two", "none"],
)
def test_one_box(found, expected, capsys):
    made = mean_average_precision([found], [image(BOX)])
    assert (made["map"], made["map_50"]) == pytest.approx(expected, abs=1e-6)
    assert not capsys.readouterr().out


def test_without_true_boxes_it_is_undefined():
    found = image(BOX, scores=[0.5])
    assert mean_average_precision([found], [image()]) == {"map": None, "map_50": None}
    assert mean_average_precision([], []) == {"map": None, "map_50": None}


@pytest.mark.slow  # imports torchmetrics, for 9 s
def test_it_is_that_of_torchmetrics_to_the_bit():
    from torchmetrics.detection import MeanAveragePrecision

    rng = torch.Generator().manual_seed(0)
    found, targets = [], []
    for n in range(30):
        corner = torch.rand(n % 7, 2, generator=rng) * 300
        boxes = torch.cat([corner, corner + 5 + 100 * torch.rand(n % 7, 2, generator=rng)], 1)
        labels = torch.randint(3, (n % 7,), generator=rng)
        targets.append({"boxes": boxes, "labels": labels})
        near = boxes + 6 * torch.randn(boxes.shape, generator=rng)
        more = torch.tensor([[0.0, 0.0, 40.0 + n, 50.0]])
        found.append({
            "boxes": torch.cat([near, more]),
            "labels": torch.cat([labels, torch.tensor([n % 4])]),
            "scores": torch.rand(len(near) + 1, generator=rng),
        })  # fmt: skip
    metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    metric.update(found, targets)
    theirs = {k: float(v) for k, v in metric.compute().items() if k in ("map", "map_50")}
    assert 0 < theirs["map"] < theirs["map_50"] < 1
    assert mean_average_precision(found, targets) == theirs
