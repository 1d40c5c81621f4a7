"""How the pixels of a chunk become bytes: raw, zstd, or JPEG.

zstd is lossless and any Zarr reader knows it. JPEG is lossy; ``JpegCodec`` makes it a codec of
Zarr v3, named by an entry point of group ``zarr.codecs``, so that plain zarr-python reads such a
store wherever wsikd is installed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import imagecodecs
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import TransposeCodec, ZstdCodec
from zarr.registry import register_codec

from wsikd.core.errors import ConfigError
from wsikd.core.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

    Chunk = NDArray[np.uint8]
    Bytes = bytes | bytearray | memoryview
    Encoder = Callable[[Chunk], Bytes]

CODECS = ("none", "zstd", "jpeg")
OME_VERSIONS = ("0.5", "0.4")
JPEG_NAME = "wsikd.jpeg"
JPEG_QUALITY = 90
JPEG_SUBSAMPLING = "4:4:4"
ZSTD_LEVEL = 1
_SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")


def check_codec(codec: str, ome_version: str) -> None:
    """Refuse a codec that does not exist, or that the OME-Zarr version has no place for.

    Args:
        codec: one of ``CODECS``, as --codec takes it.
        ome_version: one of ``OME_VERSIONS``, as --ome-version takes it.

    Raises:
        ConfigError: either is unknown, or JPEG is asked of OME-Zarr 0.4, whose readers cannot
            decode it.
    """
    for option, value, known in (
        ("--codec", codec, CODECS),
        ("--ome-version", ome_version, OME_VERSIONS),
    ):
        if value not in known:
            raise ConfigError(f"{option} {value}", "unknown", nearest(value, known))
    if codec == "jpeg" and ome_version == "0.4":
        fault = "OME-Zarr 0.4 has no JPEG that its readers decode"
        raise ConfigError("--codec jpeg", fault, "give --codec none or zstd, or --ome-version 0.5")


def jpeg_bytes(
    pixels: Chunk, *, quality: int = JPEG_QUALITY, subsampling: str = JPEG_SUBSAMPLING
) -> bytes:
    """A JPEG file of uint8 (height, width, 3) RGB pixels; libjpeg-turbo, without the GIL."""
    return bytes(
        imagecodecs.jpeg8_encode(pixels, level=quality, subsampling=subsampling.replace(":", ""))
    )


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Zarr v3 codec ``wsikd.jpeg``: one baseline JPEG a chunk.

    The chunk it is given must be uint8 (height, width, 3), RGB: an array with axes c, y, x has
    the ``transpose`` codec before it. Lossy.
    """

    is_fixed_size = False

    quality: int = JPEG_QUALITY
    subsampling: str = JPEG_SUBSAMPLING

    def __post_init__(self) -> None:
        """Refuse what libjpeg does not know; raises ValueError, as Zarr's own codecs do."""
        if isinstance(self.quality, bool) or not isinstance(self.quality, int):
            raise ValueError(f"{JPEG_NAME}: quality {self.quality!r} is not a whole number")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"{JPEG_NAME}: quality {self.quality} lies outside 1 to 100")
        if self.subsampling not in _SUBSAMPLINGS:
            raise ValueError(f"{JPEG_NAME}: subsampling {self.subsampling!r} is unknown")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read the codec from the metadata of an array; raises ValueError."""
        if data.get("name") != JPEG_NAME:
            raise ValueError(f"expected the codec {JPEG_NAME}, got {data.get('name')!r}")
        try:
            return cls(**data.get("configuration", {}))
        except TypeError as error:
            raise ValueError(f"{JPEG_NAME}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The codec as the metadata of an array holds it."""
        configuration = {"quality": self.quality, "subsampling": self.subsampling}
        return {"name": JPEG_NAME, "configuration": configuration}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse other numbers than uint8; raises ValueError. Zarr gives no chunk shape here."""
        if dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"{JPEG_NAME} takes uint8, not {dtype.to_native_dtype()}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown beforehand; raises NotImplementedError."""
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        encoded: Any = chunk_bytes.as_numpy_array()
        try:
            pixels = imagecodecs.jpeg8_decode(encoded)
        except imagecodecs.Jpeg8Error as error:
            raise ValueError(f"a chunk is not a JPEG ({error})") from error
        if pixels.shape != chunk_spec.shape:
            raise ValueError(f"a chunk of shape {pixels.shape}, where {chunk_spec.shape} belongs")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        pixels = np.ascontiguousarray(chunk_array.as_numpy_array())
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"{JPEG_NAME} takes (height, width, 3), not {pixels.shape}")
        encoded = jpeg_bytes(pixels, quality=self.quality, subsampling=self.subsampling)
        return chunk_spec.prototype.buffer.from_bytes(encoded)


register_codec(JPEG_NAME, JpegCodec)  # the same class as the entry point's, if that is installed


def encoder(codec: str, ome_version: str = "0.5") -> Encoder:
    """What turns one chunk into the bytes that a store of this codec holds for it.

    The function it returns takes uint8 (size, size, 3) and may be called from many threads at
    once; the compressors run without the GIL. In OME-Zarr 0.5 the bytes are interleaved (y, x, c)
    for the ``transpose`` codec; in 0.4 they are planar (c, y, x). A raw interleaved chunk is a view
    of the pixels, not a copy.

    Raises:
        ConfigError: as ``check_codec``.
    """
    check_codec(codec, ome_version)
    if codec == "jpeg":
        return lambda pixels: jpeg_bytes(np.ascontiguousarray(pixels))
    compress: Callable[[Chunk], Bytes] = {
        ("none", "0.5"): _raw,
        ("none", "0.4"): _raw,
        ("zstd", "0.5"): _zstd,
        ("zstd", "0.4"): _blosc,
    }[codec, ome_version]
    if ome_version == "0.5":
        return lambda pixels: compress(np.ascontiguousarray(pixels))
    return lambda pixels: compress(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def v3_pipeline(codec: str) -> dict[str, Any]:
    """Arguments of ``zarr.create_array`` for a chunk of an OME-Zarr 0.5 array, axes c, y, x."""
    pipeline: dict[str, Any] = {"filters": [TransposeCodec(order=(1, 2, 0))], "compressors": None}
    if codec == "zstd":
        pipeline["compressors"] = [ZstdCodec(level=ZSTD_LEVEL)]
    elif codec == "jpeg":
        pipeline["serializer"] = JpegCodec()
    return pipeline


def v2_pipeline(codec: str) -> dict[str, Any]:
    """Arguments of ``zarr.create_array`` for a chunk of an OME-Zarr 0.4 array, axes c, y, x.

    zstd comes in Blosc's frame: the Java readers behind QuPath and Fiji know that, zstd alone not.
    """
    if codec != "zstd":
        return {"compressors": None}
    from numcodecs import Blosc

    return {"compressors": [Blosc(cname="zstd", clevel=ZSTD_LEVEL, shuffle=Blosc.NOSHUFFLE)]}


def _raw(chunk: Chunk) -> Bytes:
    return chunk.reshape(-1).data


def _zstd(chunk: Any) -> Bytes:
    return imagecodecs.zstd_encode(chunk, ZSTD_LEVEL)


def _blosc(chunk: Any) -> Bytes:
    return imagecodecs.blosc_encode(
        chunk, level=ZSTD_LEVEL, compressor="zstd", shuffle=0, typesize=1, numthreads=1
    )
