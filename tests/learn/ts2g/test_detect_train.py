"""Detectors: they train, their trunk is handed on, they resume."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18, resnet50

from tests.learn.ts2g.test_detect_data import coco
from wsikd.core.config import parse_config
from wsikd.core.errors import ConfigError
from wsikd.learn.engine.train import train
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.ts2g.adapter_train import open_trunk
from wsikd.learn.ts2g.detect_data import load_boxes
from wsikd.learn.ts2g.detect_method import Detect, DetectConfig, mirrored
from wsikd.learn.ts2g.detect_train import DetectTask, load_detector
from wsikd.learn.ts2g.detectors import DETECTORS, build_detector
from wsikd.learn.ts2g.method import Trunk
from wsikd.models.backbones.resnet_trunks import resnet_weights

SMALL = {
    "encoder_layers": 1, "decoder_layers": 2, "num_queries": 10, "d_model": 32,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}  # fmt: skip


def options(arch):
    return SMALL if arch == "deformable_detr" else {}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """A ResNet-50 whose features neither vanish nor grow while its norms are frozen."""
    torch.manual_seed(0)
    state = resnet50(zero_init_residual=False).state_dict()
    for key, value in state.items():
        if key.endswith("bn3.weight"):
            value.fill_(0.2)
    file = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def small_trunk(tmp_path_factory):
    """A ResNet-18 of the same kind: its checkpoints are half as large."""
    torch.manual_seed(0)
    state = resnet18(zero_init_residual=False).state_dict()
    for key, value in state.items():
        if key.endswith("bn2.weight"):
            value.fill_(0.2)
    file = tmp_path_factory.mktemp("trunk") / "small.safetensors"
    save_file(state, file)
    return file


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    return coco(root, "train", 3, size=(64, 48)), coco(root, "val", 2, size=(64, 48), start=9)


def config(boxes, trunk, **optim):
    arch = "deformable_detr"
    content = {
        "method": "detector", "data": {"train": str(boxes[0]), "val": str(boxes[1])},
        "network": {"arch": arch, "backbone": "resnet18", "image_px": 48,
                    "options": options(arch), "trunk": str(trunk)},
        "optim": {"epochs": 2, "batch_size": 2, **optim},
    }  # fmt: skip
    return parse_config(DetectConfig, content, name="test")


@pytest.mark.parametrize(
    ("given", "told"),
    [({"decoder_layers": 1}, "options.decoder_layers is 1; give a whole number from 2"),
     ({"num_queries": "many"}, "options.num_queries is 'many'; give a whole number from 1")],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_the_settings(given, told):
    content = {"method": "detector", "network": {"arch": "deformable_detr", "options": given}}
    with pytest.raises(ConfigError) as caught:
        parse_config(DetectConfig, content, name="test")
    assert told in str(caught.value)


def test_options_that_the_library_refuses_are_one_line():
    with pytest.raises(ConfigError, match=r"network\.options: .* d_model .*divisible.*; change"):
        build_detector("deformable_detr", 1, image_px=48, d_model=30)


@pytest.mark.parametrize("arch", DETECTORS)
def test_losses_and_detections(arch, trunk):
    torch.manual_seed(0)
    detector = build_detector(arch, 3, image_px=48, **options(arch)).train()
    detector.load_trunk(resnet_weights(load_file(trunk), "trunk"))
    images = [torch.rand(3, 48, 64), torch.rand(3, 64, 48)]
    targets = [
        {"boxes": torch.tensor([[5.0, 6.0, 20.0, 30.0]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = detector.losses(images, targets)
    total = sum(v.sum() for v in losses.values())
    total.backward()
    first = [p for n, p in detector.named_parameters() if "layer1.0.conv1.weight" in n]
    assert first[0].grad.abs().max() > 0
    with torch.no_grad():
        found = detector.eval().detect(images)
    for image, one in zip(images, found, strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert ((one["labels"] >= 0) & (one["labels"] < 3)).all()
        assert (one["boxes"].abs() <= 4 * max(image.shape)).all()
    assert "layer4.2.conv3.weight" in detector.trunk()


@pytest.mark.parametrize(("arch", "maps"), [("fasterrcnn", 4), ("retinanet", 5)])
def test_a_smaller_trunk_with_boxes_of_its_own(arch, maps, tmp_path):
    """Anchors of the given sides lie on the maps that are looked at, of strides 8, 16, 32, ..."""
    torch.manual_seed(0)
    sides = [12.0, 24.0, 48.0, 60.0, 64.0][:maps]
    small = build_detector(arch, 1, image_px=64, backbone="resnet18", layers=[2, 3, 4],
                           anchors_px=sides).train()  # fmt: skip
    targets = [{"boxes": torch.tensor([[5.0, 6.0, 17.0, 18.0]]), "labels": torch.tensor([0])}]
    sum(v.sum() for v in small.losses([torch.rand(3, 64, 64)] * 2, targets * 2).values()).backward()
    net = small.net
    made = net.anchor_generator if arch == "retinanet" else net.rpn.anchor_generator
    areas = [(a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]) for a in made.cell_anchors]
    assert [float(a.mean().sqrt()) for a in areas] == pytest.approx(sides, rel=0.05)
    with torch.no_grad():
        shapes = [m.shape[2:] for m in net.backbone(torch.zeros(1, 3, 64, 64)).values()]
    assert [int(s[0]) for s in shapes[:3]] == [8, 4, 2]
    save_file(small.state_dict(), tmp_path / "small.safetensors")
    handed, _ = open_trunk(Trunk(arch="resnet18", weights=str(tmp_path / "small.safetensors")))
    own = small.trunk()["layer3.1.conv2.weight"]
    assert torch.equal(handed.stages["F3"][1].conv2.weight, own)
    with pytest.raises(ConfigError, match=r"holds resnet18, not resnet50; set trunk\.arch"):
        open_trunk(Trunk(weights=str(tmp_path / "small.safetensors")))


def test_maps_and_anchors_that_will_not_do():
    with pytest.raises(ConfigError, match="names 2 sides, the pyramid has 4 maps"):
        build_detector("fasterrcnn", 1, image_px=64, layers=[2, 3, 4], anchors_px=[8, 9])
    with pytest.raises(ConfigError, match=r"network\.layers: is nothing for deformable_detr"):
        build_detector("deformable_detr", 1, image_px=64, layers=[2, 3, 4])


def test_its_trunk_becomes_the_embedders(boxes, small_trunk, tmp_path):
    result = train(DetectTask, config(boxes, small_trunk, epochs=1), tmp_path, device="cpu")
    assert set(result.metrics) == {"map", "map_50"}
    handed, _ = open_trunk(Trunk(arch="resnet18", weights=str(tmp_path)))
    state = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["student"]
    own = resnet_weights(state, "run")
    assert torch.equal(handed.stages["F1"][0].conv1.weight, own["layer1.0.conv1.weight"])
    again = load_detector(tmp_path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in state.items())
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    assert (card["kind"], card["classes"]) == ("detector", ["early", "late"])


def test_resume_is_bit_for_bit(boxes, small_trunk, tmp_path, monkeypatch):
    whole = config(boxes, small_trunk, epochs=2)
    train(DetectTask, whole, tmp_path / "whole", device="cpu")
    fit = Trainer._train_epoch

    def dies(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return fit(self)

    monkeypatch.setattr(Trainer, "_train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train(DetectTask, whole, tmp_path / "killed", device="cpu")
    monkeypatch.setattr(Trainer, "_train_epoch", fit)
    train(DetectTask, whole, tmp_path / "killed", device="cpu", resume=True)
    own, other = (
        torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True)["student"]
        for n in ("killed", "whole")
    )
    assert all(torch.equal(own[k], other[k]) for k in own)


def test_mirrored_boxes_stay_on_their_lesion():
    image = torch.zeros(3, 10, 20)
    image[:, 2:5, 3:9] = 1
    target = {"boxes": torch.tensor([[3.0, 2.0, 9.0, 5.0]]), "labels": torch.tensor([0])}
    flipped, moved = mirrored(image, target)
    left, top, right, bottom = moved["boxes"][0].int().tolist()
    assert (flipped[:, top:bottom, left:right] == 1).all()
    assert flipped.sum() == image.sum()
    assert target["boxes"][0, 0] == 3


def method_target(images, index):
    boxes, labels = images.boxes[index], images.labels[index]
    return {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}


def test_perfect_detections_have_map_one(boxes, small_trunk, tmp_path, monkeypatch):
    """What is measured is that of the validation images."""
    images = load_boxes(*boxes)

    def oracle(self, batch):
        return [
            {**method_target(images, i), "scores": torch.ones(len(images.labels[i]))}
            for i in batch.box.tolist()
        ]

    monkeypatch.setattr(Detect, "detect", oracle)
    monkeypatch.setattr(Trainer, "_train_epoch",
                        lambda self: {"lr": 0.0, "loss": 0.0, "waiting": 0.0})  # fmt: skip
    result = train(DetectTask, config(boxes, small_trunk, epochs=1), tmp_path, device="cpu")
    assert result.metrics == {"map": pytest.approx(1.0), "map_50": pytest.approx(1.0)}


def test_what_is_not_set(boxes, tmp_path):
    bare = parse_config(DetectConfig, {"method": "detector"}, name="test")
    with pytest.raises(ConfigError, match=r"data\.train: names no annotation file"):
        train(DetectTask, bare, tmp_path)
    files = {"train": str(boxes[0]), "val": str(boxes[1])}
    content = {"method": "detector", "data": files, "network": {"arch": "deformable_detr"}}
    with pytest.raises(ConfigError, match="needs a trained trunk"):
        train(DetectTask, parse_config(DetectConfig, content, name="test"), tmp_path / "b")


def test_a_trunk_to_start_from(boxes):
    torch.manual_seed(0)
    donor = build_detector("retinanet", 2, image_px=48)
    taker = build_detector("deformable_detr", 2, image_px=48, **SMALL)
    taker.load_trunk(donor.trunk())
    given, taken = donor.trunk(), taker.trunk()
    assert all(torch.equal(given[k], taken[k]) for k in taken if "num_batches" not in k)
    with pytest.raises(ConfigError, match="lacks"):
        taker.load_trunk({"conv1.weight": given["conv1.weight"]})
