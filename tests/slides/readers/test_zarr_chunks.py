"""Absent chunks of an OME-Zarr image are counted and placed, whatever the layout."""

import numpy as np
import pytest
from zarr import create_group

from wsikd.slides.readers.zarr_chunks import absent_chunks

SIDE = 32
LAYOUTS = [  # Zarr format, axes, chunks within a shard on a side, separator
    (2, "cyx", 1, "/"), (2, "cyx", 1, "."), (2, "yxc", 1, "/"), (2, "tczyx", 1, "/"),
    (3, "cyx", 1, "/"), (3, "cyx", 2, "/"), (3, "yxc", 2, "/"), (3, "cyx", 1, "."),
]  # fmt: skip


def write(path, pixels, missing, *, zarr=3, axes="cyx", per=1, separator="/", fill=0, levels=1):
    """An OME-Zarr of these pixels; ``missing`` are chunks (row, column) of the first level that
    are set to the fill value, which zarr-python then does not write."""
    group = create_group(path, zarr_format=zarr)
    sizes = {"c": 3, "y": SIDE, "x": SIDE}
    for n in range(levels):
        level = pixels[:: 2**n, :: 2**n].copy()
        for row, column in missing if n == 0 else ():
            level[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = fill
        data = level.transpose(["yxc".index(a) for a in axes if a in "yxc"])
        data = np.expand_dims(data, [axes.index(a) for a in axes if a not in "yxc"])
        chunks = tuple(sizes.get(a, 1) for a in axes)
        shards = tuple(sizes.get(a, 1) * (per if a in "yx" else 1) for a in axes)
        array = group.create_array(
            str(n), shape=data.shape, chunks=chunks, dtype="u1", fill_value=fill,
            chunk_key_encoding={"name": "v2" if zarr == 2 else "default", "separator": separator},
            shards=shards if per > 1 else None,
        )  # fmt: skip
        array[:] = data
    about = [
        {"name": a, "type": "channel" if a == "c" else "space"}
        | ({"unit": "micrometer"} if a in "yx" else {})
        for a in axes
    ]
    scales = [[0.5 * 2**n if a in "yx" else 1.0 for a in axes] for n in range(levels)]
    datasets = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": s}]}
        for n, s in enumerate(scales)
    ]
    image = {"multiscales": [{"version": "0.4", "axes": about, "datasets": datasets}]}
    group.attrs.update(image if zarr == 2 else {"ome": {"version": "0.5", **image}})


def pixels(height=100, width=150):
    return np.random.default_rng(0).integers(1, 255, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("zarr", "axes", "per", "separator"), LAYOUTS)
@pytest.mark.parametrize("fill", [0, 255])
def test_absent_chunks_are_counted_and_placed(tmp_path, zarr, axes, per, separator, fill):
    path = tmp_path / "a.zarr"
    layout = {"zarr": zarr, "axes": axes, "per": per, "separator": separator, "fill": fill}
    write(path, pixels(), [(1, 2), (3, 4)], **layout)
    found = absent_chunks(path)
    assert found
    assert str(found) == f"2 of 20 chunks are absent and read as {fill}"
    cells = found.on((0, 0), (SIDE, SIDE), (5, 4))
    assert np.argwhere(cells).tolist() == [[1, 2], [3, 4]]
    # Cells that only touch one count; those that end where it begins do not.
    cells = found.on((60.0, 20.0), (4.0, 12.0), (3, 2))
    assert cells.tolist() == [[False, False, False], [False, True, True]]


def test_a_whole_image_lacks_none(tmp_path):
    write(tmp_path / "a.zarr", pixels(), [], levels=2)
    found = absent_chunks(tmp_path / "a.zarr")
    assert not found
    assert not found.on((0, 0), (10, 10), (15, 10)).any()


def test_a_coarse_level_that_lacks_a_chunk_counts(tmp_path):
    write(tmp_path / "a.zarr", pixels(), [], levels=2)
    (tmp_path / "a.zarr" / "1" / "c" / "0" / "1" / "0").unlink()
    found = absent_chunks(tmp_path / "a.zarr")
    assert str(found) == "1 of 26 chunks are absent and read as 0"
    cells = found.on((0, 0), (SIDE, SIDE), (5, 4))
    assert np.argwhere(cells).tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
