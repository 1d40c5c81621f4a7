import io
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from PIL import Image
from zarr.codecs import TransposeCodec

from tests.tiles.stores import picture
from wsikd.core.errors import ConfigError
from wsikd.tiles.codecs import JpegCodec, check_codec, encoder, jpeg_bytes

CHUNK = picture(3, (48, 48))


def pillow(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


def jpeg_array(path, *, shards=None, **configuration):
    return zarr.create_array(
        path, shape=(3, 96, 144), chunks=(3, 48, 48), shards=shards, dtype="uint8", fill_value=255,
        filters=[TransposeCodec(order=(1, 2, 0))], serializer=JpegCodec(**configuration),
        compressors=None,
    )  # fmt: skip


def test_lossless_bytes_mean_the_pixels():
    planar = np.ascontiguousarray(CHUNK.transpose(2, 0, 1)).tobytes()
    assert bytes(encoder("none")(CHUNK)) == CHUNK.tobytes()
    assert bytes(encoder("none", "0.4")(CHUNK)) == planar
    zstd, blosc = encoder("zstd")(CHUNK), encoder("zstd", "0.4")(CHUNK)
    assert numcodecs.Zstd().decode(zstd) == CHUNK.tobytes()
    assert numcodecs.Blosc().decode(blosc) == planar
    assert max(len(zstd), len(blosc)) < len(planar)


def test_jpeg_bytes_are_a_jpeg_near_the_pixels():
    encoded = encoder("jpeg")(CHUNK)
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))
        assert image.layer[1][1:3] == (1, 1)  # chroma at full size
    error = pillow(encoded).astype(float) - CHUNK
    assert np.sqrt((error**2).mean()) < 4
    assert len(encoded) < CHUNK.nbytes / 3


def test_quality_and_subsampling_are_obeyed():
    def rms(**how):
        encoded = jpeg_bytes(CHUNK, **how)
        return np.sqrt(((pillow(encoded).astype(float) - CHUNK) ** 2).mean()), len(encoded)

    fine, usual, coarse = rms(quality=98), rms(), rms(quality=40)
    assert fine[0] < usual[0] < coarse[0]
    assert fine[1] > usual[1] > coarse[1]
    assert rms(subsampling="4:2:0")[1] < usual[1]


@pytest.mark.parametrize("codec", ["none", "zstd", "jpeg"])
@pytest.mark.parametrize("strided", [False, True])
def test_a_cut_out_of_a_larger_block_is_encoded_as_itself(codec, strided):
    block = picture(4, (100, 130))
    view = block[20:68, 30:78] if strided else np.ascontiguousarray(block[20:68, 30:78])
    assert bytes(encoder(codec)(view)) == bytes(encoder(codec)(view.copy()))


@pytest.mark.parametrize(("codec", "version"), [("zstd", "0.5"), ("zstd", "0.4"), ("jpeg", "0.5")])
def test_threads_share_an_encoder(codec, version):
    encode = encoder(codec, version)
    chunks = [picture(seed, (48, 48)) for seed in range(12)]
    alone = [bytes(encode(chunk)) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda chunk: bytes(encode(chunk)), chunks * 5))
    assert together == alone * 5


@pytest.mark.parametrize("shards", [None, (3, 96, 96)])
def test_zarr_writes_and_reads_jpeg(tmp_path, shards):
    array = jpeg_array(tmp_path / "a.zarr", shards=shards)
    pixels = picture(5, (96, 144))
    array[:] = pixels.transpose(2, 0, 1)
    got = zarr.open_array(tmp_path / "a.zarr", mode="r")[:].transpose(1, 2, 0)
    for y in (0, 48):
        for x in (0, 48, 96):
            place = np.s_[y : y + 48, x : x + 48]
            np.testing.assert_array_equal(got[place], pillow(encoder("jpeg")(pixels[place])))


def test_the_codec_is_known_by_its_configuration(tmp_path):
    jpeg_array(tmp_path / "a.zarr", quality=75, subsampling="4:2:0")
    codec = zarr.open_array(tmp_path / "a.zarr", mode="r").metadata.codecs[1]
    assert codec == JpegCodec(75, "4:2:0")
    assert codec.to_dict() == {
        "name": "wsikd.jpeg",
        "configuration": {"quality": 75, "subsampling": "4:2:0"},
    }


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"name": "jpeg"}, "expected the codec wsikd.jpeg"),
        ({"name": "wsikd.jpeg", "configuration": {"quality": 0}}, "outside 1 to 100"),
        ({"name": "wsikd.jpeg", "configuration": {"quality": "90"}}, "not a whole number"),
        ({"name": "wsikd.jpeg", "configuration": {"subsampling": "4:1"}}, "'4:1' is unknown"),
        ({"name": "wsikd.jpeg", "configuration": {"level": 3}}, "level"),
    ],
)
def test_a_foreign_configuration(data, fault):
    with pytest.raises(ValueError, match=fault):
        JpegCodec.from_dict(data)


def test_what_is_no_rgb_image(tmp_path):
    with pytest.raises(ValueError, match="takes uint8, not uint16"):
        zarr.create_array(
            tmp_path / "a.zarr", shape=(48, 48, 3), chunks=(48, 48, 3), dtype="uint16",
            serializer=JpegCodec(), compressors=None,
        )  # fmt: skip
    grey = zarr.create_array(
        tmp_path / "b.zarr", shape=(48, 48), chunks=(48, 48), dtype="uint8",
        serializer=JpegCodec(), compressors=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"takes \(height, width, 3\)"):
        grey[:] = 7


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"no JPEG", "a chunk is not a JPEG"), (jpeg_bytes(CHUNK[:16]), "a chunk of shape")],
)
def test_a_broken_chunk_is_no_pixels(tmp_path, content, fault):
    array = jpeg_array(tmp_path / "a.zarr")
    array[:] = 7
    (tmp_path / "a.zarr" / "c" / "0" / "1" / "2").write_bytes(content)
    assert (np.abs(array[:, :48, :48].astype(int) - 7) <= 1).all()
    with pytest.raises(ValueError, match=fault):
        array[:]


def test_plain_zarr_finds_the_codec_by_its_entry_point(tmp_path):
    """As installed: a process that only imports zarr reads the array."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]["zarr.codecs"]
    installed = tmp_path / "site" / "as_installed-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: as-installed\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[zarr.codecs]", *lines]))
    pixels = picture(6, (96, 144)).transpose(2, 0, 1)
    jpeg_array(tmp_path / "a.zarr")[:] = pixels
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, zarr
assert not any(name.startswith("wsikd") for name in sys.modules)
np.save(sys.argv[3], zarr.open_array(sys.argv[2], mode="r")[:])
"""
    paths = [tmp_path / "site", tmp_path / "a.zarr", tmp_path / "got.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    own = zarr.open_array(tmp_path / "a.zarr", mode="r")[:]
    np.testing.assert_array_equal(np.load(tmp_path / "got.npy"), own)
    assert np.abs(own.astype(float) - pixels).mean() < 3


@pytest.mark.parametrize("codec", ["none", "zstd", "jpeg"])
def test_what_goes_together_is_let_be(codec):
    check_codec(codec, "0.5")


def test_jpeg_and_04_do_not_go_together():
    with pytest.raises(ConfigError) as told:
        encoder("jpeg", "0.4")
    assert str(told.value) == (
        "--codec jpeg: OME-Zarr 0.4 has no JPEG that its readers decode; "
        "give --codec none or zstd, or --ome-version 0.5"
    )
