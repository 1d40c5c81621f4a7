"""Names of networks and the modules that make them. Imports no torch."""

from __future__ import annotations

BACKBONES: dict[str, str] = {
    "vgg_small": "wsikd.models.backbones.torchvision:vgg_small",
    "strided_small": "wsikd.models.backbones.torchvision:strided_small",
    "vgg16": "wsikd.models.backbones.torchvision:vgg16",
    "resnet18": "wsikd.models.backbones.torchvision:resnet18",
    "resnet50": "wsikd.models.backbones.torchvision:resnet50",
    "mobilenet_v3_large": "wsikd.models.backbones.torchvision:mobilenet_v3_large",
    "efficientnet_b0": "wsikd.models.backbones.torchvision:efficientnet_b0",
}
"""Networks with named taps."""

GRADERS: dict[str, str] = {
    "hdkd_teacher": "wsikd.models.graders.hdkd:hdkd_teacher",
    "hdkd_student": "wsikd.models.graders.hdkd:hdkd_student",
}
"""Networks that are not a backbone with a linear layer behind it."""

AGGREGATORS: dict[str, str] = {
    "mean": "wsikd.models.slide_level.mil:MeanMil",
    "max": "wsikd.models.slide_level.mil:MaxMil",
    "abmil": "wsikd.models.slide_level.mil:AttentionMil",
    "gated": "wsikd.models.slide_level.mil:GatedMil",
    "clam_sb": "wsikd.models.slide_level.mil:ClamSb",
    "dsmil": "wsikd.models.slide_level.mil:DsMil",
    "transmil": "wsikd.models.slide_level.transmil:TransMil",
    "hipt": "wsikd.models.slide_level.transmil:HiptHead",
}
"""Networks over bags."""

ENCODERS: dict[str, str] = {
    "timm": "wsikd.models.encoders.open:open_timm",
    "hipt": "wsikd.models.encoders.dino_vit:open_hipt",
    "dino": "wsikd.models.encoders.dino_vit:open_dino",
}
"""Prefix of ``PREFIX:ARGUMENT`` -> ``(argument, *, weights, licence) -> Encoder``."""

FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "wsinfer": "torchscript_model.pt"}
"""Export format -> file of weights. WSInfer and QuPath require the last name."""
