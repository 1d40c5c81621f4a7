import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import dask.array
import numpy as np
import openslide
import pytest
import shapely
import tifffile
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from tests.slides.pixels import GLASS, area_average, break_tile, level0, tissue_rgb
from wsikd.core.errors import (
    AnnotationError,
    OutputError,
    RegionReadError,
    StoreMismatchError,
)
from wsikd.core.output.lock import locked
from wsikd.slides.annotations.base import DrawnAnnotation, Region
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles import write as tiling
from wsikd.tiles.metadata import KEY_FILE, SlideNotes, project_key
from wsikd.tiles.new_store import StoreBuild
from wsikd.tiles.store import StoreSettings, TileStore
from wsikd.tiles.write import tile_slide


def settings_of(**changes):
    usual = {
        "mpps": (1.0, 4.0),
        "patch_px": 64,
        "stride_px": 64,
        "tissue": "otsu",
        "min_tissue": 0.1,
        "classes": (),
        "min_cover": 0.5,
    }
    return StoreSettings(**{**usual, **changes})


def tile_file(slide_file, path, settings=None, notes=None, *, slide_mpp=None, **more):
    with open_slide(slide_file, slide_mpp=slide_mpp) as slide:
        return tile_slide(slide, path, settings or settings_of(), notes, **more)


def content(folder, *, times=False):
    """Every file of a store: its bytes less the time of making, or when it was written."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if times:
        return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in files}
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    root = json.loads(found["zarr.json"])
    root["attributes"]["wsikd"].pop("created", None)
    return {**found, "zarr.json": json.dumps(root, sort_keys=True).encode()}


@pytest.fixture(scope="module")
def made(slide_file, tmp_path_factory):
    """A store of the shared slide: glass around a block of tissue, read only."""
    store, new = tile_file(slide_file, tmp_path_factory.mktemp("stores") / "odd.zarr")
    assert new
    return store


def needed(store, mpp):
    """Pixels of the array at ``mpp`` that lie in some patch: bool (height, width)."""
    mask = np.zeros(store.array(mpp).shape[1:], bool)
    side = store.patch_px(mpp)
    for row, column in zip(store.patches.row, store.patches.column, strict=True):
        mask[row * side : (row + 1) * side, column * side : (column + 1) * side] = True
    return mask


@pytest.mark.parametrize("mpp", [1.0, 4.0])
def test_levels_are_the_average_of_openslides_pixels(made, slide_file, mpp):
    got = np.asarray(made.array(mpp)[:]).transpose(1, 2, 0)
    scale = mpp / 0.499
    size = (got.shape[1], got.shape[0])
    exact = area_average(level0(slide_file), (0, 0), (scale, scale), size, beyond=255)
    mask = needed(made, mpp)
    assert 0.2 < mask.mean() < 0.9
    assert np.abs(got - exact)[mask].max() <= 1


def test_a_patch_is_one_field_at_both_magnifications(made):
    assert len(made.patches) > 20
    for index in range(len(made.patches)):
        high, low = made.read_patch(index, 1.0), made.read_patch(index, 4.0)
        assert (high.shape, low.shape) == ((64, 64, 3), (16, 16, 3))
        mean = high.reshape(16, 4, 16, 4, 3).mean((1, 3))
        assert np.abs(low - mean).max() <= 0.51


def test_the_table_tells_where_the_patches_lie(made, slide_file):
    table = made.patches
    field = 64 / 0.499
    np.testing.assert_allclose(table.xy[:, 0], table.column * field)
    np.testing.assert_allclose(table.xy[:, 1], table.row * field)
    assert (np.diff(table.row * 1000 + table.column) > 0).all()
    assert (table.label == -1).all()
    assert ((table.tissue >= 0.1) & (table.tissue <= 1)).all()
    # The tissue is drawn at x 300 to 1000, y 200 to 700.
    left, top = table.xy.T
    share = np.clip(np.minimum(left + field, 1000) - np.maximum(left, 300), 0, None)
    share *= np.clip(np.minimum(top + field, 700) - np.maximum(top, 200), 0, None)
    np.testing.assert_allclose(table.tissue, share / field**2, atol=0.25)
    inside = (left >= 320) & (left + field <= 980) & (top >= 220) & (top + field <= 680)
    assert inside.sum() >= 4
    assert (table.tissue[inside] == 1).all()
    index = int(np.flatnonzero(inside)[0])
    own = level0(slide_file)
    exact = area_average(own, table.xy[index], (1 / 0.499, 1 / 0.499), (64, 64))
    assert np.abs(made.read_patch(index, 1.0) - exact).max() <= 1


def test_glass_takes_no_space(tmp_path):
    """One corner of a slide of four shards is tissue."""
    path = tmp_path / "corner.svs"
    write_pyramid(path, tissue_rgb(2600, 2500, (0, 0, 240, 240)), mpp=1.0, power=10)
    store, _ = tile_file(path, tmp_path / "corner.zarr")
    array = store.array(1.0)
    assert array.shape == (3, 2560, 2624)
    assert (array.chunks, array.shards) == ((3, 256, 256), (3, 2048, 2048))
    for level in ("0", "1"):
        written = [p for p in (store.path / level / "c").rglob("*") if p.is_file()]
        assert written == [store.path / level / "c" / "0" / "0" / "0"]
    assert (store.path / "0" / "c" / "0" / "0" / "0").stat().st_size < 3 * 256 * 256 + 4096
    assert (store.path / "1" / "c" / "0" / "0" / "0").stat().st_size < 3 * 64 * 64 + 4096
    assert (np.asarray(array[:, 300:, :]) == 255).all()


def test_it_opens_in_ome_zarrs_reader(made):
    nodes = list(Reader(parse_url(str(made.path)))())
    image, *labels = nodes
    assert [level.shape for level in image.data] == [made.array(m).shape for m in (1.0, 4.0)]
    assert [a["name"] for a in image.metadata["axes"]] == ["c", "y", "x"]
    own = np.asarray(made.array(4.0)[:])
    np.testing.assert_array_equal(np.asarray(image.data[1]), own)
    tissue = next(n for n in labels if n.data and n.data[0].shape == (57, 82))
    assert set(np.unique(np.asarray(tissue.data[0]))) == {0, 1}


def test_pixel_centres_place_the_levels_on_one_corner(made):
    attributes = json.loads((made.path / "zarr.json").read_text())["attributes"]["ome"]
    assert attributes["version"] == "0.5"
    (multiscale,) = attributes["multiscales"]
    for dataset, mpp in zip(multiscale["datasets"], (1.0, 4.0), strict=True):
        scale, shift = dataset["coordinateTransformations"]
        assert scale["scale"] == [1.0, mpp, mpp]
        corner = np.array(shift["translation"][1:]) - np.array(scale["scale"][1:]) / 2
        np.testing.assert_allclose(corner, 0)


def test_it_opens_in_zarr_and_dask(made):
    group = zarr.open_group(made.path, mode="r")
    lazy = made.dask(1.0)
    assert isinstance(lazy, dask.array.Array)
    assert lazy.chunksize == tuple(
        min(a, b) for a, b in zip(lazy.shape, made.array(1.0).shards, strict=True)
    )
    np.testing.assert_array_equal(
        lazy[:, 200:300, 300:400].compute(), group["0"][:, 200:300, 300:400]
    )
    np.testing.assert_array_equal(group["labels/tissue/0"][:].any(), True)
    assert group["patches"].attrs["patch_size_level0"] == pytest.approx([64 / 0.499] * 2)


def test_a_second_run_changes_nothing(made, slide_file):
    before = content(made.path, times=True)
    store, new = tile_file(slide_file, made.path)
    assert not new
    assert store.digest == made.digest
    assert content(made.path, times=True) == before
    assert [p.name for p in made.path.parent.iterdir()] == ["odd.zarr"]


SQUARE = DrawnAnnotation.of([Region("G3", shapely.box(0, 0, 500, 500))])


@pytest.mark.parametrize(
    ("settings", "notes", "slide_mpp", "told"),
    [
        ({"patch_px": 128, "stride_px": 128}, {}, None, "patch_px 64 there, 128 asked"),
        ({"stride_px": 32}, {}, None, "stride_px 64 there, 32 asked"),
        ({"mpps": (1.0, 2.0)}, {}, None, "mpps [1.0, 4.0] there, [1.0, 2.0] asked"),
        ({"tissue": "all"}, {}, None, "tissue otsu there, all asked"),
        ({"min_tissue": 0.5}, {}, None, "min_tissue 0.1 there, 0.5 asked"),
        ({"classes": ("G3",)}, {}, None, "classes [] there, ['G3'] asked"),
        ({}, {"annotation": SQUARE}, None, "slide annotation None there,"),
        ({}, {"split": "test"}, None, "slide split None there, test asked"),
        ({}, {"patient": "P1", "key": b"key"}, None, "slide patient None there,"),
        ({}, {}, 0.5, "slide mpp [0.499, 0.499] there, [0.5, 0.5] asked"),
    ],
)
def test_other_settings_are_refused_by_name(made, slide_file, settings, notes, slide_mpp, told):
    before = content(made.path, times=True)
    with pytest.raises(StoreMismatchError) as caught:
        tile_file(
            slide_file,
            made.path,
            settings_of(**settings),
            SlideNotes(**notes),
            slide_mpp=slide_mpp,
        )
    assert f"made with other settings ({told}" in str(caught.value)
    assert "P1" not in str(caught.value)
    assert content(made.path, times=True) == before


def test_overwrite_replaces(slide_file, tmp_path):
    path = tmp_path / "odd.zarr"
    tile_file(slide_file, path, settings_of(min_tissue=0.9))
    store, new = tile_file(slide_file, path, overwrite=True)
    assert new
    assert store.settings["min_tissue"] == 0.1
    assert [p.name for p in tmp_path.iterdir()] == ["odd.zarr"]


def test_a_folder_that_is_no_store_is_left_alone(slide_file, tmp_path):
    (tmp_path / "odd.zarr").mkdir()
    (tmp_path / "odd.zarr" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="was not written by wsikd as a tile store"):
            tile_file(slide_file, tmp_path / "odd.zarr", overwrite=overwrite)
    assert (tmp_path / "odd.zarr" / "thesis.txt").read_text() == "mine"


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """A slide of six shards at 1 um/px."""
    path = tmp_path_factory.mktemp("large") / "large.svs"
    rgb = np.tile(tissue_rgb(1000, 1000), (3, 5, 1))
    write_pyramid(path, rgb, mpp=1.0, power=10, downsamples=(1, 4))
    return path


ALL_TISSUE = settings_of(tissue="all", min_tissue_um2=0.0, max_hole_um2=0.0)
COMMAND = ["--mpp", "1", "--mpp", "4", "--patch-size", "64", "--tissue", "all", "--threads", "1"]


def test_a_killed_run_goes_on_where_it_stopped(large_file, tmp_path):
    whole, _ = tile_file(large_file, tmp_path / "whole" / "large.zarr", ALL_TISSUE)
    assert len([p for p in (whole.path / "0" / "c").rglob("*") if p.is_file()]) == 6
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "wsikd", "tile", "-i", str(large_file), "-o", str(out)]
    # without a worker process, which would hold the lock a moment longer than the one killed here
    command += ["--jobs", "0", *COMMAND]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part, first = out / "large.zarr.part", None
    limit = time.monotonic() + 60
    while first is None and process.poll() is None and time.monotonic() < limit:
        first = next((p for p in part.glob("0/c/0/*/*") if p.suffix != ".partial"), None)
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert first is not None
    # The lock of the killed process is stale: the next run takes it over.
    left = {p.name for p in out.iterdir()} - {"overlays"}
    assert left == {"large.zarr.lock", "large.zarr.part"}
    kept = first.stat().st_mtime_ns
    shards = []
    store, new = tile_file(
        large_file, out / "large.zarr", ALL_TISSUE, on_progress=lambda *at: shards.append(at)
    )
    assert new
    assert 1 <= shards[-1][1] < len(whole.patches)  # the chunks that were missing
    assert (store.path / first.relative_to(part)).stat().st_mtime_ns == kept
    assert content(store.path) == content(whole.path)
    assert {p.name for p in out.iterdir()} == {"large.zarr", "overlays"}


@pytest.mark.parametrize("when", ["_create", "_select", "finish"])
def test_a_run_that_stops_between_shards_goes_on(slide_file, made, tmp_path, monkeypatch, when):
    own = getattr(StoreBuild, when)

    def interrupted(self, *args):
        own(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreBuild, when, interrupted)
        with pytest.raises(KeyboardInterrupt):
            tile_file(slide_file, tmp_path / "odd.zarr")
    assert not (tmp_path / "odd.zarr").exists()
    store, _ = tile_file(slide_file, tmp_path / "odd.zarr")
    assert content(store.path) == content(made.path)


def test_leftovers_of_other_settings_are_begun_anew(slide_file, made, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreBuild, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tile_file(slide_file, tmp_path / "odd.zarr", settings_of(min_tissue=0.9))
    assert (tmp_path / "odd.zarr.part").exists()
    store, _ = tile_file(slide_file, tmp_path / "odd.zarr")
    assert content(store.path) == content(made.path)


def test_damage_in_mid_slide_leaves_nothing(large_file, tmp_path):
    path = tmp_path / "large.svs"
    shutil.copy(large_file, path)
    break_tile(path, 7 * 20 + 11)  # the 8th row of tiles, 12th column
    with pytest.raises(RegionReadError, match=r"^large\.svs: level 0 cannot be read"):
        tile_file(path, tmp_path / "out" / "large.zarr", ALL_TISSUE)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("error", [RegionReadError("s", "f", "r"), KeyboardInterrupt()])
def test_no_thread_outlives_a_fault(large_file, tmp_path, monkeypatch, error):
    """Else it would read from a closed slide and write into a folder being removed."""
    own, busy = tiling.fill_block, []

    def fill(slide, plan, job):
        corner = job[0]
        if corner == (0, 0):
            time.sleep(0.05)  # let the others begin
            raise error
        busy.append(corner)
        time.sleep(0.2)
        seconds = own(slide, plan, job)
        busy.remove(corner)
        return seconds

    monkeypatch.setattr(tiling, "fill_block", fill)
    with pytest.raises(type(error)):
        tile_file(large_file, tmp_path / "large.zarr", ALL_TISSUE, workers=3)
    assert busy == []
    left = ["large.zarr.part"] if isinstance(error, KeyboardInterrupt) else []
    assert [p.name for p in tmp_path.iterdir()] == left


def test_a_full_disk_is_one_line(slide_file, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiling, "fill_block", full)
    with pytest.raises(OutputError, match=r"\(No space left on device\); free space"):
        tile_file(slide_file, tmp_path / "odd.zarr")
    assert not (tmp_path / "odd.zarr").exists()


def test_a_store_that_another_process_makes_is_left_to_it(slide_file, tmp_path):
    path = tmp_path / "odd.zarr"
    with locked(path), pytest.raises(OutputError, match=r"another process \(pid \d+ on "):
        tile_file(slide_file, path)
    assert list(tmp_path.iterdir()) == []
    assert tile_file(slide_file, path)[1]
    with locked(path):  # what is whole can be read all the time
        assert not tile_file(slide_file, path)[1]


def test_a_store_that_came_while_we_waited_is_not_made_again(slide_file, tmp_path, monkeypatch):
    path, own = tmp_path / "odd.zarr", tiling.locked

    def late(at):
        monkeypatch.setattr(tiling, "locked", own)
        tile_file(slide_file, path)
        return own(at)

    monkeypatch.setattr(tiling, "locked", late)
    assert not tile_file(slide_file, path)[1]


def test_a_patient_is_hidden_by_the_key_of_the_folder(slide_file, tmp_path):
    def patient(folder, **notes):
        stores = tmp_path / folder
        return tile_file(slide_file, stores / "odd.zarr", notes=SlideNotes(**notes))[0].patient

    first = patient("a", patient="4711")
    key = tmp_path / "a" / KEY_FILE
    assert (key.stat().st_size, key.stat().st_mode & 0o777) == (16, 0o600)
    assert first == patient("a", patient="4711")  # the second run finds the store
    assert first == patient("b", patient="4711", key=project_key(tmp_path / "a"))
    assert first != patient("c", patient="4711")
    assert first != hashlib.sha256(b"4711").hexdigest()[: len(first)]
    assert not (tmp_path / "b" / KEY_FILE).exists()
    kept = b"".join(p.read_bytes() for p in (tmp_path / "a" / "odd.zarr").rglob("*") if p.is_file())
    assert key.read_bytes() not in kept
    assert key.read_bytes().hex().encode() not in kept
    key.write_bytes(b"short")
    with pytest.raises(OutputError, match=r"\.wsikd-key: holds no key of 16 bytes; restore it"):
        patient("a", patient="4711")


def test_a_mask_that_is_missing_is_one_line(slide_file, tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.png: cannot be read"):
        tile_file(
            slide_file, tmp_path / "odd.zarr", notes=SlideNotes(mask_file=tmp_path / "none.png")
        )
    assert list(tmp_path.iterdir()) == []


def test_a_slide_without_tissue_is_a_valid_empty_store(tmp_path, caplog):
    path = tmp_path / "glass.svs"
    write_pyramid(path, np.full((700, 900, 3), GLASS, np.uint8), mpp=0.5, power=20)
    store, _ = tile_file(path, tmp_path / "glass.zarr", settings_of(classes=("G3",)))
    assert "glass: no tissue found; the store is empty" in caplog.text
    assert len(store.patches) == 0
    assert store.patches.xy.shape == (0, 2)
    assert not (store.path / "0" / "c").exists()
    assert (np.asarray(store.array(4.0)[:]) == 255).all()
    assert len(list(Reader(parse_url(str(store.path)))())) >= 1
    assert not tile_file(path, tmp_path / "glass.zarr", settings_of(classes=("G3",)))[1]


@pytest.mark.parametrize("stride", [16, 40, 96])
def test_a_stride_of_its_own(slide_file, tmp_path, stride):
    store, _ = tile_file(slide_file, tmp_path / "odd.zarr", settings_of(stride_px=stride))
    scale = 1 / 0.499
    np.testing.assert_allclose(store.patches.xy[:, 0], store.patches.column * stride * scale)
    own = level0(slide_file)
    for index in (0, len(store.patches) // 2, len(store.patches) - 1):
        exact = area_average(own, store.patches.xy[index], (scale, scale), (64, 64), beyond=255)
        high, low = store.read_patch(index, 1.0), store.read_patch(index, 4.0)
        assert np.abs(high - exact).max() <= 1
        assert np.abs(low - exact.reshape(16, 4, 16, 4, 3).mean((1, 3))).max() <= 1


def test_labels_come_from_regions_or_from_the_slide(slide_file, tmp_path):
    drawn = SlideNotes(annotation=SQUARE, label="NC")
    settings = settings_of(classes=("NC", "G3"), min_cover=0.5)
    table = tile_file(slide_file, tmp_path / "a.zarr", settings, drawn)[0].patches
    field = 64 / 0.499
    share = np.prod(np.clip(500 - table.xy, 0, field) / field, axis=1)
    np.testing.assert_allclose(table.cover, share, atol=1e-6)
    np.testing.assert_array_equal(table.label, np.where(share >= 0.5, 1, -1))
    weak = SlideNotes(label="G3", split="val", patient="P1")
    store, _ = tile_file(slide_file, tmp_path / "b.zarr", settings, weak)
    assert (store.patches.label == 1).all()
    assert (store.patches.cover == 1).all()
    assert store.split == "val"


SECRETS = {
    "ScanScope ID": "SS77QUARTZ",
    "User": "usr-5f3e-smith",
    "Date": "09/29/71",
    "Time": "13:59:07",
    "Filename": "JONES_ANNA_19710929",
    "Title": "PatientBetaTitle",
}
LABEL, MACRO = (1, 254, 3), (7, 77, 177)


def test_nothing_personal_reaches_a_store(tmp_path, monkeypatch):
    path = tmp_path / "s7.svs"
    extra = "".join(f"|{key} = {value}" for key, value in SECRETS.items())
    rgb = tissue_rgb(700, 600, (100, 100, 400, 400))
    write_pyramid(path, rgb, mpp=0.5, power=20, description_extra=extra)
    with tifffile.TiffWriter(path, append=True) as tiff:
        for name, colour, kind in (("label", LABEL, 1), ("macro", MACRO, 9)):
            tiff.write(
                np.full((60, 80, 3), colour, np.uint8),
                description=f"Aperio Image Library\r\n{name} 80x60",
                subfiletype=kind,
                photometric="rgb",
                metadata=None,
                rowsperstrip=60,
                compression="lzw",
            )
    with openslide.OpenSlide(path) as handle:
        assert {"label", "macro"} <= set(handle.associated_images)
        assert handle.properties["aperio.Filename"] == SECRETS["Filename"]

    def refuse(_):
        raise AssertionError("associated images were asked for")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    notes = SlideNotes(patient="PAT-0815", split="test")
    store, _ = tile_file(path, tmp_path / "s7.zarr", notes=notes)
    assert store.patient
    for file in (p for p in store.path.rglob("*") if p.is_file()):
        data = file.read_bytes()
        for secret in (*SECRETS.values(), "PAT-0815", str(tmp_path)):
            assert secret.encode() not in data, (file, secret)
        for colour in (LABEL, MACRO):
            assert bytes(colour) * 3 not in data, file


def test_a_real_slide(real_slides, tmp_path):
    path = real_slides / "CMU-1-Small-Region.svs"
    compared = 0
    store, _ = tile_file(path, tmp_path / "cmu.zarr", settings_of(patch_px=256, stride_px=256))
    scale = 1 / 0.499
    with openslide.OpenSlide(path) as handle:
        for index in range(0, len(store.patches), 5):
            x, y = store.patches.xy[index]
            rgba = np.asarray(handle.read_region((int(x), int(y)), 0, (515, 515)))
            if rgba[..., 3].min() < 255:
                continue  # reaches beyond the slide
            exact = area_average(rgba[..., :3], (x % 1, y % 1), (scale, scale), (256, 256))
            assert np.abs(store.read_patch(index, 1.0) - exact).max() <= 1
            low = exact.reshape(64, 4, 64, 4, 3).mean((1, 3))
            assert np.abs(store.read_patch(index, 4.0) - low).max() <= 1
            compared += 1
    assert compared >= 2
    assert isinstance(TileStore.open(store.path), TileStore)
