"""Names of networks and the modules that make them. Imports no torch."""

from __future__ import annotations

BACKBONES: dict[str, str] = {
    "vgg_small": "wsikd.models.families:vgg_small",
    "strided_small": "wsikd.models.families:strided_small",
    "vgg16": "wsikd.models.families:vgg16",
    "resnet18": "wsikd.models.families:resnet18",
    "resnet50": "wsikd.models.families:resnet50",
    "mobilenet_v3_large": "wsikd.models.families:mobilenet_v3_large",
    "efficientnet_b0": "wsikd.models.families:efficientnet_b0",
}
"""Networks with named taps."""

GRADERS: dict[str, str] = {
    "hdkd_teacher": "wsikd.models.hybrid:hdkd_teacher",
    "hdkd_student": "wsikd.models.hybrid:hdkd_student",
}
"""Networks that are no backbone with a linear layer behind it."""

AGGREGATORS: dict[str, str] = {
    "mean": "wsikd.models.mil:MeanMil",
    "max": "wsikd.models.mil:MaxMil",
    "abmil": "wsikd.models.mil:AttentionMil",
    "gated": "wsikd.models.mil:GatedMil",
    "clam_sb": "wsikd.models.mil:ClamSb",
    "dsmil": "wsikd.models.mil:DsMil",
    "transmil": "wsikd.models.transmil:TransMil",
    "hipt": "wsikd.models.transmil:HiptHead",
}
"""Networks over bags."""

FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "wsinfer": "torchscript_model.pt"}
"""What a student is written as for other programs: kind -> file of weights; the last is the name
that WSInfer and QuPath look for."""
