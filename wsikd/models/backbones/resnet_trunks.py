"""The ResNet-50 inside a detector's state dict, whichever library wrote it.

Recognised by what comes before ``layer1.0.conv1.weight``: torchvision's Faster R-CNN and
RetinaNet (``backbone.body.``), DETR and Deformable DETR (``backbone.0.body.``), their versions in
transformers (``model.backbone...model.``), mmdetection (``backbone.``), or nothing; and the names
of detectron2 (``backbone.bottom_up.res2.0.conv1.weight``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

TRUNK_FILE = "trunk.safetensors"
"""The ResNet-50 of a detector, in the folder of its run."""
_TORCHVISION = re.compile(r"(.*?)layer1\.0\.conv1\.weight")
_BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34"}
_BOTTLENECKS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152",
}  # fmt: skip
_DETECTRON = re.compile(r"(.*?)res2\.0\.conv1\.weight")


def resnet_weights(state: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Weights of the ResNet in a state dict, in torchvision's names and without its head.

    Counters of batch norms, which frozen ones lack, are filled in.

    Args:
        state: state of a detector or of a ResNet.
        source: named in errors.

    Raises:
        ConfigError: there is no ResNet in it, or more than one.
    """
    for pattern, rename in ((_TORCHVISION, _same), (_DETECTRON, _from_detectron)):
        prefixes = sorted({m[1] for key in state if (m := pattern.fullmatch(key))})
        if len(prefixes) > 1:
            raise ConfigError(
                source, f"holds several ResNets ({', '.join(p or 'bare' for p in prefixes)})",
                "save the one to use in a file of its own",
            )  # fmt: skip
        if prefixes:
            own = {k.removeprefix(prefixes[0]): v for k, v in state.items()
                   if k.startswith(prefixes[0])}  # fmt: skip
            return _counted({n: v for k, v in own.items() if (n := rename(k)) is not None})
    raise ConfigError(
        source, "holds no ResNet that is recognised (no layer1.0.conv1.weight)",
        "give a state dict of torchvision, DETR, transformers, mmdetection or detectron2",
    )  # fmt: skip


def arch_of(weights: Mapping[str, Tensor]) -> str:
    """Which ResNet the weights of :func:`resnet_weights` are: ``resnet50``, ``resnet18``, ..."""
    blocks = tuple(
        sum(re.fullmatch(rf"layer{k}\.\d+\.conv1\.weight", key) is not None for key in weights)
        for k in range(1, 5)
    )
    names = _BOTTLENECKS if "layer1.0.conv3.weight" in weights else _BASIC
    return names.get(blocks, f"a ResNet with {blocks} blocks")


def _same(key: str) -> str | None:
    return key if re.match(r"(conv1|bn1|layer[1-4])\.", key) else None


def _from_detectron(key: str) -> str | None:
    """``res2.0.conv1.norm.weight`` -> ``layer1.0.bn1.weight``, and so on."""
    if found := re.fullmatch(r"stem\.conv1\.(norm\.)?(\w+)", key):
        return f"{'bn1' if found[1] else 'conv1'}.{found[2]}"
    found = re.fullmatch(r"res([2-5])\.(\d+)\.(conv(\d)|shortcut)\.(norm\.)?(\w+)", key)
    if found is None:
        return None
    if found[3] == "shortcut":
        part = f"downsample.{1 if found[5] else 0}"
    else:
        part = f"{'bn' if found[5] else 'conv'}{found[4]}"
    return f"layer{int(found[1]) - 1}.{found[2]}.{part}.{found[6]}"


def _counted(own: dict[str, Tensor]) -> dict[str, Tensor]:
    for key in [k for k in own if k.endswith(".running_mean")]:
        counter = key.replace("running_mean", "num_batches_tracked")
        own.setdefault(counter, torch.tensor(0))
    return own
