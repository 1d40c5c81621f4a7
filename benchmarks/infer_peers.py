"""What a 2.5x student is compared with: a DataLoader over OpenSlide, and TIAToolbox's predictor."""

from __future__ import annotations

import importlib
import shutil
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import torch
import zarr
from synthetic import MPP

from wsikd.tia import student_model

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PATCH_PX, STUDENT_MPP, BATCH = 128, 4.0, 32
LEVEL = 1
"""The level of 4 um/px of the slide that the peers read."""


class SlidePatches(torch.utils.data.Dataset[torch.Tensor]):
    """All fields of a slide as a plain script reads them: ``read_region`` of the stored level."""

    def __init__(self, path: Path, side: int) -> None:
        """Open the slide."""
        self.slide = openslide.OpenSlide(path)
        self.side = side

    def __len__(self) -> int:
        return self.side**2

    def __getitem__(self, index: int) -> torch.Tensor:
        y, x = divmod(index, self.side)
        step = round(PATCH_PX * STUDENT_MPP / MPP)
        region = self.slide.read_region((x * step, y * step), LEVEL, (PATCH_PX, PATCH_PX))
        return torch.from_numpy(np.array(region.convert("RGB"))).permute(2, 0, 1)


class LoaderPeer:
    """The plain way: a DataLoader in the main process, the cheapest in CPU time."""

    def __init__(self, path: Path, side: int, net: torch.nn.Module) -> None:
        """Keep what is required; the slide is opened at each run."""
        self.place, self.net = (path, side), net

    @torch.inference_mode()
    def predict(self) -> NDArray[np.float32]:
        """Probabilities of all fields, row by row: float32 (N, classes)."""
        patches = SlidePatches(*self.place)
        loader = torch.utils.data.DataLoader(patches, batch_size=BATCH)
        found = [torch.softmax(self.net(batch), 1).numpy() for batch in loader]
        patches.slide.close()
        return np.concatenate(found)


class PatchPredictorPeer:
    """TIAToolbox's ``PatchPredictor``; its import and the making of the engine are not timed."""

    def __init__(self, path: Path, bundle: Path, scratch: Path) -> None:
        """Import TIAToolbox; ``torch.compile``, which it would wrap the network in, is off."""
        self.path, self.out = path, scratch / "tiatoolbox"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            toolbox = importlib.import_module("tiatoolbox")
            toolbox.rcParam["torch_compile_mode"] = "disable"
            toolbox.logger.setLevel("ERROR")
            engine = importlib.import_module("tiatoolbox.models.engine.patch_predictor")
            model, self.ioconfig = student_model(bundle)
            self.engine = engine.PatchPredictor(
                model=model, batch_size=BATCH, num_workers=0, verbose=False
            )

    def predict(self) -> NDArray[np.float32]:
        """Probabilities of all fields, row by row: float32 (N, classes)."""
        shutil.rmtree(self.out, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = self.engine.run(
                images=[self.path], ioconfig=self.ioconfig, patch_mode=False, save_dir=self.out,
                output_type="zarr", return_probabilities=True, auto_get_mask=False, device="cpu",
            )  # fmt: skip
            found = zarr.open_group(next(iter(made.values())), mode="r")
        corners = np.asarray(found["coordinates"])[:, :2]
        order = np.lexsort((corners[:, 0], corners[:, 1]))
        return np.asarray(found["probabilities"], np.float32)[order]


def told_apart(net: Any, path: Path, side: int) -> Any:
    """The network with a head that spreads the slide's fields over all classes, as training does.

    The head's outputs over some fields are brought to mean 0 and deviation 2.
    """
    patches = SlidePatches(path, side)
    some = np.linspace(0, len(patches) - 1, min(len(patches), 48)).astype(int)
    with torch.inference_mode():
        x = torch.stack([patches[int(i)] for i in some])
        pooled = net.backbone(net.normalise(x)).mean((2, 3))
        logits = pooled @ net.head.weight.T
        scale = 2 / logits.std(0).clamp(min=1e-9) if len(some) > 1 else torch.ones(1)
        net.head.weight.data = net.head.weight.data * scale[..., None]
        net.head.bias.data = -(logits * scale).mean(0)
    patches.slide.close()
    return net
