"""Patches of a tile store as one NumPy archive a slide."""

import numpy as np

from wsikd.core.output.files import aside
from wsikd.tiles.exports import Export, refuse, resolution, slide_name


def write(store, folder, options):
    """Write one store and return the line to print.

    Args:
        store: see ``wsikd.tiles.store.TileStore``.
        folder: shared with the other slides.
        options: see ``wsikd.tiles.exports.Options``.
    """
    mpp = resolution(store, options)
    path = folder / f"{slide_name(store)}.npz"
    if path.exists() and not options.overwrite:
        raise refuse(path)
    count = len(store.patches.xy)
    patches = np.stack([store.read_patch(index, mpp) for index in range(count)])
    with aside(path) as part, part.open("wb") as file:
        np.savez(file, patches=patches, xy=store.patches.xy, mpp=mpp)
    return f"{count} patches at {mpp:g} um/px, in {path}"


def finish(folder):
    """Sum up the folder after the last store; here there is nothing to sum up."""


EXPORT = Export(write, finish)
