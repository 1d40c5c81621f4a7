"""PyTorch in double precision on the CPU: slow, and a reference for the others."""

import numpy as np
import torch


class DoubleEngine:
    """A network ready to run; see ``wsikd.grade.engines.Engine``."""

    name = "outside"
    precision = "fp32"  # what results are recorded as, fp32 or bf16
    cpu_only = True

    def __init__(self, network, place):
        """Make it ready.

        Args:
            network: ``network.build()`` makes the module, ``network.patch_px`` is its patch.
            place: device, threads and precision.
        """
        torch.set_num_threads(place.threads)
        self.module = network.build().eval().double()

    @torch.inference_mode()
    def __call__(self, patches):
        """uint8 (B, patch_px, patch_px, 3) -> float32 logits (B, classes)."""
        batch = torch.from_numpy(patches).permute(0, 3, 1, 2)
        return self.module(batch).numpy().astype(np.float32)
