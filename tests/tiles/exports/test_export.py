import csv
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import zarr
from click.testing import CliRunner
from PIL import Image
from wsikd.cli.main import main

from tests.slides.pixels import tissue_rgb
from tests.tiles.stores import SLIDE_MPP, picture, settings_of, shrunk, write_store
from wsikd.core.errors import ConfigError, OutputError, StoreError
from wsikd.core.registry import resolve
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.exports import EXPORTS, Export, Options, find_export
from wsikd.tiles.exports import images as images_module
from wsikd.tiles.store import TileStore

FIELD = 64 / SLIDE_MPP  # level-0 px


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "s.zarr", split="train", patient="ab")


def wsikd(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def table(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export(name, store, tmp_path):
    """What every entry must hold."""
    export = resolve(EXPORTS, name, kind="store_exporters")
    assert isinstance(export, Export)
    line = export.write(store, tmp_path / "new" / "out", Options())
    export.finish(tmp_path / "new" / "out")
    assert line.startswith("7 ")
    made = files(tmp_path / "new")
    assert made
    assert not any("part" in name.rpartition(".")[2] for name in made)
    with pytest.raises(OutputError, match="exists; choose another -o, or replace it"):
        export.write(store, tmp_path / "new" / "out", Options())
    export.write(store, tmp_path / "new" / "out", Options(overwrite=True))
    assert files(tmp_path / "new") == made
    with pytest.raises(StoreError, match="holds 1, 4 um/px, not 2"):
        export.write(store, tmp_path / "other", Options(mpp=2.0))
    assert not (tmp_path / "other").exists()


def read_as_clam(file, slide):
    """The attributes that CLAM's bag of a slide takes, and the pixels it cuts with them."""
    with h5py.File(file, "r") as h5:
        coords = h5["coords"]
        level, side = coords.attrs["patch_level"], coords.attrs["patch_size"]
        for corner in coords[:]:
            yield corner, slide.read_region(corner, level, (side, side)).convert("RGB")


def read_as_trident(file, slide_mpp):
    """Side in level-0 px that TRIDENT's patcher reads for a patch, and side it scales that to."""
    with h5py.File(file, "r") as h5:
        known, coords = dict(h5["coords"].attrs), h5["coords"][:]
    wanted = ("patch_size", "level0_magnification", "target_magnification")
    patch, own, target = (known[key] for key in wanted)
    downsample = (10 / target) / (10 / own)
    assert known["patch_size_level0"] == round(patch * downsample)
    return coords, round(patch * downsample), patch


@pytest.mark.parametrize(
    ("levels", "magnification", "level", "side"),
    [
        ([[1.0, 1.0], [4.006, 4.01]], 10, 0, 128.26),
        ([[1.0, 1.0], [4.006, 4.01]], 2.5, 1, 32.00),
        ([[1.0, 1.0], [2.02, 2.02], [16.0, 16.0]], 10, 1, 63.49),
        ([[1.0, 1.0], [2.1, 2.1]], 10, 0, 128.26),
    ],
)
def test_clams_level_and_size(store, tmp_path, levels, magnification, level, side):
    slide = {**store.provenance["slide"], "level_downsamples": levels}
    own = TileStore(store.path, store._group, {**store.provenance, "slide": slide})
    options = Options(mpp=10 / magnification)
    line = find_export("clam-h5").write(own, tmp_path, options)
    with h5py.File(tmp_path / "patches" / "s.h5") as h5:
        known = dict(h5["coords"].attrs)
    assert (known["patch_level"], known["patch_size"]) == (level, round(side))
    assert known["downsample"].tolist() == levels[level]
    assert known["level_dim"].tolist() == [
        round(641 / levels[level][0]),
        round(385 / levels[level][1]),
    ]
    np.testing.assert_allclose(known["wsikd_field_px"], FIELD)
    assert f"(exactly {side:.2f}) on level {level}" in line


def test_clam_cuts_the_fields_out_of_the_slide(tmp_path):
    """A block at a patch's place is what CLAM reads there."""
    write_pyramid(
        tmp_path / "s.svs", tissue_rgb(641, 385, (257, 128, 128, 128)), mpp=SLIDE_MPP, power=20
    )
    write_store(tmp_path / "s.zarr")
    done = wsikd(tmp_path / "s.zarr", "--to", "clam-h5", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    listed = table(tmp_path / "out" / "process_list_autogen.csv")
    assert listed == [{"slide_id": "s.svs"}]
    bag = listed[0]["slide_id"].split(".svs")[0] + ".h5"
    with openslide.OpenSlide(tmp_path / "s.svs") as slide:
        patches = list(read_as_clam(tmp_path / "out" / "patches" / bag, slide))
    store = TileStore.open(tmp_path / "s.zarr")
    np.testing.assert_array_equal([xy for xy, _ in patches], np.rint(store.patches.xy))
    assert {image.size for _, image in patches} == {(128, 128)}
    means = [np.asarray(image).mean() for _, image in patches]
    dark = int(np.argmin(means))
    assert (store.patches.row[dark], store.patches.column[dark]) == (1, 2)
    assert min(mean for index, mean in enumerate(means) if index != dark) > means[dark] + 50


def test_trident_reaches_the_field(store, tmp_path):
    for magnification, patch in ((10, 64), (2.5, 16)):
        folder = tmp_path / str(magnification)
        done = wsikd(store.path, "--to", "trident-h5", "-o", folder, "--mag", magnification)
        assert done.exit_code == 0, done.output
        file = folder / "patches" / "s_patches.h5"
        coords, source, side = read_as_trident(file, SLIDE_MPP)
        assert (source, side) == (round(FIELD), patch)
        np.testing.assert_array_equal(coords, np.rint(store.patches.xy))
        assert coords.dtype == np.int64
        with h5py.File(file) as h5:
            known = dict(h5["coords"].attrs)
        assert (known["overlap"], known["name"]) == (0, "s")
        assert (known["level0_width"], known["level0_height"]) == (641, 385)
        assert str(tmp_path) not in str(known)


def test_trident_is_told_the_overlap_and_whole_magnifications(tmp_path):
    settings = settings_of(stride_px=32)
    store = write_store(tmp_path / "s.zarr", settings, mpp=(0.25, 0.25))
    find_export("trident-h5").write(store, tmp_path / "out", Options(mpp=4.0))
    with h5py.File(tmp_path / "out" / "patches" / "s_patches.h5") as h5:
        known = dict(h5["coords"].attrs)
    assert known["overlap"] == 8
    assert (known["level0_magnification"], known["target_magnification"]) == (40, 2.5)
    assert np.issubdtype(known["level0_magnification"].dtype, np.integer)


def test_pixels_that_are_not_square_are_told(tmp_path, caplog):
    store = write_store(tmp_path / "s.zarr", mpp=(0.5, 0.4))
    find_export("clam-h5").write(store, tmp_path / "out", Options())
    assert "a field is 128.0 x 160.0 px, and is given as a square" in caplog.text


def test_a_store_without_patches(tmp_path):
    store = write_store(tmp_path / "s.zarr")
    for column in ("coords", "row", "column", "tissue", "label", "cover"):
        shape = (0, 2) if column == "coords" else (0,)
        array = store._group["patches"][column]
        shutil.rmtree(store.path / "patches" / column)
        group = zarr.open_group(store.path / "patches", mode="r+")
        group.create_array(column, data=np.zeros(shape, array.dtype))
    empty = TileStore.open(store.path)
    for name in EXPORTS:
        find_export(name).write(empty, tmp_path / name, Options())
        find_export(name).finish(tmp_path / name)
    with h5py.File(tmp_path / "clam-h5" / "patches" / "s.h5") as h5:
        assert h5["coords"].shape == (0, 2)
    assert table(tmp_path / "images" / "labels.csv") == []


@pytest.mark.parametrize(("image_format", "magnification"), [("png", None), ("jpg", 2.5)])
def test_images_are_the_patches(store, tmp_path, image_format, magnification):
    more = [] if magnification is None else ["--mag", magnification]
    done = wsikd(store.path, "--to", "images", "-o", tmp_path, "--format", image_format, *more)
    assert done.exit_code == 0, done.output
    rows = table(tmp_path / "labels.csv")
    assert rows == table(tmp_path / "labels-s.csv")
    assert len(rows) == len(store.patches) == 7
    whole = shrunk(picture()) if magnification else picture()
    side = 16 if magnification else 64
    for index, row in enumerate(rows):
        x, y = store.patches.xy[index]
        name = {-1: "", 0: "NC", 1: "G3"}[int(store.patches.label[index])]
        assert row["image"] == f"{name or 'unlabelled'}/s_{round(x)}_{round(y)}.{image_format}"
        assert (float(row["x"]), float(row["y"])) == (x, y)
        assert row["class"] == name
        assert row["label"] == ("" if not name else str(store.patches.label[index]))
        assert (row["slide"], row["split"], row["patient"]) == ("s", "train", "ab")
        top, left = store.patches.row[index] * side, store.patches.column[index] * side
        got = np.asarray(Image.open(tmp_path / row["image"])).astype(float)
        error = np.abs(got - whole[top : top + side, left : left + side])
        assert error.max() == 0 if image_format == "png" else 0 < error.mean() < 4
    assert len(files(tmp_path)) == 7 + 2


def test_images_of_a_store_without_classes(tmp_path):
    write_store(tmp_path / "s.zarr", settings_of(classes=()), labels=[-1] * 7)
    assert wsikd(tmp_path / "s.zarr", "--to", "images", "-o", tmp_path / "out").exit_code == 0
    rows = table(tmp_path / "out" / "labels.csv")
    assert {Path(row["image"]).parent.as_posix() for row in rows} == {"."}


def test_distill_reads_the_images(tmp_path):
    from wsikd.learn.data.source_base import read_csv

    store = write_store(tmp_path / "s.zarr", labels=[0, 1, 0, 1, 0, 1, 1], split="train")
    find_export("images").write(store, tmp_path / "out", Options())
    find_export("images").finish(tmp_path / "out")
    source = read_csv(tmp_path / "out" / "labels.csv")
    assert source.listing.label == ["NC", "G3", "NC", "G3", "NC", "G3", "G3"]
    assert set(source.listing.split) == {"train"}


def test_classes_in_any_script_become_folders():
    names = ("G3", "癌", "癌/G4:a", "癌:G4/a", "../..", "con", "g3", "Unlabelled", "G4 ")
    folders = images_module._folders(names)
    assert folders[""] == "unlabelled"
    assert (folders["G3"], folders["癌"]) == ("G3", "癌")
    assert folders["癌/G4:a"].startswith("癌_G4_a-")
    assert folders["../.."].startswith("_")
    assert len({folder.casefold() for folder in folders.values()}) == len(names) + 1


@pytest.mark.parametrize("moment", ["encoding", "moving"])
def test_a_failure_leaves_nothing_that_looks_whole(store, tmp_path, monkeypatch, moment):
    """The disk fills up while images are written, or while the table is."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images_module, "_image" if moment == "encoding" else "_write_table", full)
    with pytest.raises(OutputError, match="No space left on device"):
        find_export("images").write(store, tmp_path, Options())
    assert files(tmp_path) == []
    monkeypatch.undo()
    find_export("images").write(store, tmp_path, Options())
    assert len(files(tmp_path)) == 8


class Killed(BaseException):
    """As by a signal."""


@pytest.mark.parametrize("earlier", [True, False])
@pytest.mark.parametrize("step", [0, 1, 4, 8, 9, 12, 17])
def test_what_a_killed_run_left_is_put_back(store, tmp_path, monkeypatch, step, earlier):
    """Kill before the n-th image is moved: the next run finds the old ones, or none."""
    images, calls = find_export("images"), []
    if earlier:
        images.write(store, tmp_path, Options(mpp=4.0))
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    own = images_module.into_place

    def move(*places):
        if len(calls) == step:
            raise Killed
        calls.append(places)
        own(*places)

    with monkeypatch.context() as patch:
        patch.setattr(images_module, "into_place", move)
        patch.setattr(images_module, "_roll_back", lambda *_: None)  # nothing runs after a kill
        with suppress(Killed):
            images.write(store, tmp_path, Options(image_format="jpg", overwrite=True))
    killed = len(calls) == step and step < (16 if earlier else 8)
    mine = tmp_path / "G3" / "s_7_8.jpg"
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    with suppress(OutputError):  # the first run of the two puts back what there was
        images.write(store, tmp_path, Options(mpp=4.0))
    found = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert found.pop("G3/s_7_8.jpg") == b"mine"
    if earlier and killed:
        assert found == before
    assert not list(tmp_path.glob(".s.*"))
    assert len(found) == 8


def test_an_image_of_somebody_else_is_not_overwritten(store, tmp_path):
    images = find_export("images")
    images.write(store, tmp_path / "o", Options())
    first = next(n for n in files(tmp_path / "o") if n.endswith(".png"))
    mine = tmp_path / "p" / first
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="was not written by wsikd as an exported image"):
            images.write(store, tmp_path / "p", Options(overwrite=overwrite))
    assert files(tmp_path / "p") == [first]
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["labels.csv", ".s.part", ".s.replaced"])
def test_what_lies_where_an_export_works_is_left_alone(store, tmp_path, name):
    images = find_export("images")
    (tmp_path / name).write_text("mine")

    def export():
        images.write(store, tmp_path, Options())
        images.finish(tmp_path)

    with pytest.raises(OutputError, match=r"was not written by wsikd as .*exported images"):
        export()
    assert (tmp_path / name).read_text() == "mine"


def test_overwriting_replaces_only_that_slide(store, tmp_path):
    images = find_export("images")
    other = write_store(tmp_path / "t.zarr", name="t")
    for own in (store, other):
        images.write(own, tmp_path / "out", Options())
    images.write(store, tmp_path / "out", Options(image_format="jpg", overwrite=True))
    images.finish(tmp_path / "out")
    suffixes = {(row["slide"], row["image"][-3:]) for row in table(tmp_path / "out" / "labels.csv")}
    assert suffixes == {("s", "jpg"), ("t", "png")}
    assert len(files(tmp_path / "out")) == 14 + 3


def test_a_table_that_is_not_ours_deletes_nothing(store, tmp_path):
    precious = tmp_path / "precious_1_2.png"
    precious.write_bytes(b"")
    out = tmp_path / "out"
    out.mkdir()
    for image in ("../precious_1_2.png", str(precious), "G3/../../precious_1_2.png"):
        (out / "labels-s.csv").write_text(f"{','.join(images_module.COLUMNS)}\n{image}{',' * 8}\n")
        with pytest.raises(OutputError, match="not a table of exported images"):
            find_export("images").write(store, out, Options(overwrite=True))
    assert precious.exists()


def test_one_store_fails_and_the_others_go_on(store, tmp_path):
    stores = tmp_path / "stores"
    for name in ("a", "b", "c"):
        write_store(stores / f"{name}.zarr", name=name, file=f"{name}.SVS")
    (stores / "b.zarr" / "zarr.json").write_text("{")
    done = wsikd(stores, store.path, tmp_path / "no.zarr", "--to", "clam-h5", "-o", tmp_path / "o")
    assert done.exit_code == 3
    assert "3 exported, 2 failed" in done.stdout
    assert [row["slide"] for row in table(tmp_path / "o" / "failures.csv")] == ["b", "no"]
    listed = table(tmp_path / "o" / "process_list_autogen.csv")
    assert [row["slide_id"] for row in listed] == ["a.SVS", "c.SVS", "s.svs"]
    again = wsikd(stores / "a.zarr", "--to", "clam-h5", "-o", tmp_path / "o")
    assert again.exit_code == 3
    assert "a.h5: exists; choose another -o, or replace it with --overwrite" in again.stderr
    done = wsikd(stores / "a.zarr", "--to", "clam-h5", "-o", tmp_path / "o", "--overwrite")
    assert done.exit_code == 0
    # Of the slides that took no part in this run, "b" and "no" are still missing.
    assert [row["slide"] for row in table(tmp_path / "o" / "failures.csv")] == ["b", "no"]


def test_two_stores_of_one_slide_are_told(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "copy.zarr")
    done = wsikd(
        store.path, tmp_path / "copy.zarr", "--to", "images", "-o", tmp_path / "o", "--overwrite"
    )
    assert done.exit_code == 3
    assert "copy.zarr: is of slide 's', and so is " in done.stderr


def test_a_slide_name_that_is_a_path_is_refused(tmp_path):
    store = write_store(tmp_path / "s.zarr", name="../s")
    for name in EXPORTS:
        with pytest.raises(StoreError, match="calls its slide"):
            find_export(name).write(store, tmp_path / "out", Options())
    assert not (tmp_path / "s.h5").exists()


def test_usage(store, tmp_path):
    with pytest.raises(ConfigError, match="choose one of clam-h5, trident-h5, images"):
        find_export("hovernet")
    done = wsikd(store.path, "--to", "hovernet", "-o", tmp_path / "o")
    assert (done.exit_code, (tmp_path / "o").exists()) == (2, False)
    (tmp_path / "none").mkdir()
    done = wsikd(tmp_path / "none", "--to", "images", "-o", tmp_path / "o")
    assert done.exit_code == 4
    assert "holds no tile stores; make them with wsikd tile" in done.stderr


@pytest.mark.parametrize("name", EXPORTS)
def test_a_folder_that_is_a_file(store, tmp_path, name):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        find_export(name).write(store, tmp_path / "out", Options())


@pytest.mark.parametrize("codec", ["none", "zstd", "jpeg"])
def test_a_damaged_store_gives_no_images(tmp_path, codec):
    store = write_store(tmp_path / "s.zarr", settings_of(codec=codec))
    shard = store.path / "0" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(StoreError, match="run wsikd tile --overwrite"):
        find_export("images").write(store, tmp_path / "out", Options())
    assert files(tmp_path / "out") == []
