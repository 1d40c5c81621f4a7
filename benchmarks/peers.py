"""What the tiling benchmark compares with: the JPEG decoder alone, and other tools."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import simplejpeg
import tifffile
from imagecodecs import jpeg8_decode
from PIL import Image
from synthetic import MPP

from wsikd.slides.readers.tile_cache import tile_memory

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PATCH_PX = 512
WORKERS = 2


class JpegTiles:
    """The compressed tiles of a level of a slide: what decoding them alone costs."""

    def __init__(self, path: Path, level: int = 0) -> None:
        """Find the tiles."""
        with tifffile.TiffFile(path) as tiff:
            page = [page for page in tiff.pages if page.is_tiled][level]
            self.offsets, self.counts = page.dataoffsets, page.databytecounts
            self.side, self.across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
            self.tables = page.jpegtables
        self.path = path

    def covering(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], field_px: float = PATCH_PX / MPP
    ) -> list[int]:
        """Indices of the tiles under a block of fields, which whole tiles make up at 0.5 um/px."""
        per = round(field_px) // self.side
        y, x = (range(int(v.min()) * per, (int(v.max()) + 1) * per) for v in (rows, columns))
        return [i * self.across + j for i in y for j in x]

    def decode(self, block: list[int], *, imagecodecs: bool = False) -> float:
        """Decode tiles in threads, by the faster of two bindings to libjpeg-turbo; megapixels."""
        file = os.open(self.path, os.O_RDONLY)

        def work(part: list[int]) -> None:
            out = tile_memory((self.side, self.side, 3))
            for i in part:
                data = os.pread(file, self.counts[i], self.offsets[i])
                if imagecodecs:
                    jpeg8_decode(data, tables=self.tables, out=out)
                else:
                    simplejpeg.decode_jpeg(data, "RGB", buffer=out)

        try:
            with ThreadPoolExecutor(WORKERS) as pool:
                list(pool.map(work, [block[i::WORKERS] for i in range(WORKERS)]))
        finally:
            os.close(file)
        return len(block) * self.side**2 / 1e6

    def check(self, index: int) -> bool:
        """Whether a decoded tile has the pixels that OpenSlide shows."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            own = jpeg8_decode(file.read(self.counts[index]), tables=self.tables)
        y, x = divmod(index, self.across)
        with openslide.OpenSlide(self.path) as slide:
            region = slide.read_region((x * self.side, y * self.side), 0, (self.side, self.side))
        return bool((np.asarray(region.convert("RGB")) == own).all())


def read_field(slide: openslide.OpenSlide, x: int, y: int) -> Image.Image:
    """One 512 px patch at 1 um/px as a plain script reads it."""
    side = round(PATCH_PX / MPP)
    region = slide.read_region((x * side, y * side), 0, (side, side)).convert("RGB")
    return region.resize((PATCH_PX, PATCH_PX), Image.Resampling.BOX)


def read_region_loop(path: Path, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    """One read_region and one PIL resize a patch, in the manner of CLAM."""
    with openslide.OpenSlide(path) as slide:
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            np.asarray(read_field(slide, x, y))
    return megapixels(rows)


def tiatoolbox_extractor(path: Path) -> Any:
    """TIAToolbox's extractor on the grid of the slide; its import is not timed."""
    from tiatoolbox.tools.patchextraction import SlidingWindowPatchExtractor

    return SlidingWindowPatchExtractor(
        input_img=path,
        patch_size=(PATCH_PX, PATCH_PX),
        stride=(PATCH_PX, PATCH_PX),
        resolution=1.0,
        units="mpp",
        within_bound=True,
    )


def tiatoolbox_patches(
    extractor: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> float:
    """The same fields through ``SlidingWindowPatchExtractor``."""
    wanted = set(zip((columns * PATCH_PX).tolist(), (rows * PATCH_PX).tolist(), strict=True))
    corners = zip(extractor.locations_df["x"], extractor.locations_df["y"], strict=True)
    found = [i for i, (x, y) in enumerate(corners) if (int(x), int(y)) in wanted]
    assert len(found) == len(rows), "the extractor's grid is not the slide's"
    for index in found:
        assert extractor[index].shape == (PATCH_PX, PATCH_PX, 3)
    return megapixels(rows)


def cucim_patches(
    path: Path, rows: NDArray[np.int64], columns: NDArray[np.int64], stride_px: int
) -> float:
    """The same fields through cuCIM on the CPU and OpenCV's area resize."""
    import cv2
    from cucim import CuImage

    slide, side, step = CuImage(str(path)), round(PATCH_PX / MPP), round(stride_px / MPP)
    for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
        region = slide.read_region(location=(x * step, y * step), size=(side, side), level=0)
        cv2.resize(np.asarray(region), (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    return len(rows) * step**2 / 1e6


def naive_dask(
    path: Path, store: Path, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> float:
    """A dask.array of read_region blocks stored with zarr, 10x only, uncompressed."""
    import dask.array as da
    import zarr

    slide = openslide.OpenSlide(path)
    top, left = int(rows.min()), int(columns.min())
    shape = (int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)

    def block(block_id: tuple[int, int, int]) -> NDArray[np.uint8]:
        return np.asarray(read_field(slide, left + block_id[1], top + block_id[0]))

    chunks = ((PATCH_PX,) * shape[0], (PATCH_PX,) * shape[1], (3,))
    pixels = da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    target = zarr.create_array(
        store, shape=pixels.shape, chunks=(PATCH_PX, PATCH_PX, 3), dtype="uint8", compressors=None
    )
    da.store(pixels, target, lock=False, scheduler="threads", num_workers=WORKERS)
    slide.close()
    return megapixels(rows)


def megapixels(fields: NDArray[Any]) -> float:
    """Level-0 megapixels of so many fields at 0.5 um/px."""
    return len(fields) * (PATCH_PX / MPP) ** 2 / 1e6
