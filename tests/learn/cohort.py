"""Region grids of slides that are mixtures of known kinds of tissue, for tests of ``slpd``."""

import numpy as np

from wsikd.bags.bag import BagInfo, write_bag

ENCODER = {"id": "made", "licence": "none", "sha256": "ab" * 32, "input_px": 8,
           "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip


def write_cohort(folder, *, slides=5, each=12, kinds=2, dim=6, grid=5, seed=0, few=(), **info):
    """Write one grid a slide, each region of one kind; returns the kinds, int (R,).

    Slides in ``few`` have two regions. ``patients`` names the patient of each slide.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(kinds, dim, 1, 1)) * 2
    patients = info.pop("patients", [f"p{i}" for i in range(slides)])
    found = []
    for i in range(slides):
        count = 2 if i in few else each
        kind = rng.permutation(np.arange(count) % kinds)
        features = centres[kind] + rng.normal(size=(count, dim, grid, grid))
        about = BagInfo(
            slide=f"s{i}", encoder=ENCODER, mpp=0.5, patch_px=grid * 8, patient=patients[i],
            source=f"d{i}", field_px=(grid * 8.0,) * 2, **info,
        )  # fmt: skip
        xy = np.stack([np.arange(count), np.zeros(count)], 1) * grid * 8.0
        write_bag(folder / f"s{i}.zarr", about, features.astype(np.float32), xy)
        found.append(kind)
    return np.concatenate(found)


TINY = """
method: slpd
variant: intra_inter
network: {width: 8, depth: 2, heads: 2, hidden: 12, bottleneck: 6, outputs: 20, drop_path: 0.1}
crops: {global_grid: 4, local_grid: 2, local_views: 2, vflip: true, transpose: true}
prototypes: {start_epoch: 1, clusters: 2, least_regions: 4, restarts: 2, iterations: 3}
optim: {epochs: 3, batch_size: 8, warmup_epochs: 1, lr: 0.02, threads: 1, keep_every: 2}
"""
