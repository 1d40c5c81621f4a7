import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsikd.core.errors import IncompleteStoreError, StoreError, StoreNotFoundError
from wsikd.slides.base import open_slide
from wsikd.tiles.arrays import StoreMeta
from wsikd.tiles.store import StoreSettings, TileStore, differences, read_meta, settings_digest
from wsikd.tiles.write import tile_slide

EXAMPLES = Path(__file__).parents[1] / "examples" / "0_1_0"
SETTINGS = StoreSettings((1.0, 4.0), 64, 64, "otsu", 0.1, ("NC", "G3"), 0.5)


@pytest.fixture(scope="module")
def original(slide_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "odd.zarr"
    with open_slide(slide_file) as slide:
        tile_slide(slide, path, SETTINGS)
    return path


@pytest.fixture
def copy(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy.zarr")
    return tmp_path / "copy.zarr"


def test_what_a_store_tells(original):
    store = TileStore.open(str(original))
    assert store.path == original
    assert (store.mpps, store.classes, store.slide) == ((1.0, 4.0), ("NC", "G3"), "odd")
    assert (store.patient, store.split) == (None, None)
    assert [store.patch_px(m) for m in store.mpps] == [64, 16]
    assert store.settings["tissue"] == "otsu"
    assert store.provenance["slide"]["mpp_source"] == "aperio.MPP"
    assert store.provenance["patches"] == len(store.patches) > 0
    assert read_meta(original) == store.provenance
    for name in ("row", "column", "tissue", "label", "cover"):
        assert len(getattr(store.patches, name)) == len(store.patches)


def test_a_resolution_it_does_not_hold(original):
    store = TileStore.open(original)
    with pytest.raises(StoreError, match="holds 1, 4 um/px, not 2; tile again with --mpp 2"):
        store.array(2.0)


def test_a_read_patch_is_its_place_in_the_array(original):
    store = TileStore.open(original)
    index = len(store.patches) // 2
    row, column = store.patches.row[index], store.patches.column[index]
    block = store.array(4.0)[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
    patch = store.read_patch(index, 4.0)
    np.testing.assert_array_equal(patch, np.moveaxis(np.asarray(block), 0, 2))
    assert patch.flags.c_contiguous


def test_none_there(tmp_path):
    for path in (tmp_path, tmp_path / "none.zarr"):
        with pytest.raises(
            StoreNotFoundError, match="no tile store here; make one with wsikd tile"
        ):
            TileStore.open(path)
    assert read_meta(tmp_path) is None


def test_another_kind_of_zarr(tmp_path):
    zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(StoreError, match="a Zarr group, but no tile store"):
        TileStore.open(tmp_path / "g.zarr")
    zarr.create_array(tmp_path / "a.zarr", shape=(2,), dtype="uint8")
    with pytest.raises(StoreError):
        TileStore.open(tmp_path / "a.zarr")


def _edit(path, change):
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    change(root["attributes"]["wsikd"])
    file.write_text(json.dumps(root))


def test_the_model_knows_every_entry(original):
    meta = StoreMeta.of(read_meta(original))
    for part in (meta, meta.settings, meta.slide):
        assert part.model_extra == {}
        assert {*type(part).model_fields} == part.model_fields_set
    assert meta.complete
    assert meta.patches == len(TileStore.open(original))


def metas_of_0_1_0():
    """The attributes of each store among the examples, by path."""
    for kind in ("stores", "variants"):
        with tarfile.open(EXAMPLES / f"{kind}.tar.xz", "r|xz") as archive:
            for one in archive:
                name = Path(one.name)
                if name.parent.suffix == ".zarr" and name.name in ("zarr.json", ".zattrs"):
                    read = json.load(archive.extractfile(one))
                    yield one.name, read.get("attributes", read)["wsikd"]


def test_stores_of_any_version_fit_the_schema(original):
    jsonschema = pytest.importorskip("jsonschema")
    schema = StoreMeta.model_json_schema()
    old = dict(metas_of_0_1_0())
    assert len(old) >= 4
    for meta in (read_meta(original), *old.values()):
        assert StoreMeta.of(meta).model_extra == {}
        jsonschema.validate(meta, schema)
        for wrong in ({"complete": "yes"}, {"settings": {}}, {"slide": {"name": ""}}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(meta | wrong, schema)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda meta: meta.pop("split"), "split: Field required"),
        (lambda meta: meta["settings"].update(mpps=[]), r"settings\.mpps: "),
        (lambda meta: meta["settings"].update(mpps=[1.0, 2.0**30]), "mpps are out of range"),
        (lambda meta: meta["settings"].update(patch_px=True), r"settings\.patch_px: "),
        (lambda meta: meta["slide"].update(dimensions=[5]), r"slide\.dimensions: "),
        (lambda meta: meta.update(identity=3), "identity: "),
    ],
)
def test_a_record_that_cannot_be_used(copy, change, fault):
    _edit(copy, change)
    with pytest.raises(StoreError, match=fault) as caught:
        TileStore.open(copy)
    assert "\n" not in str(caught.value)


def test_left_unfinished(copy):
    _edit(copy, lambda meta: meta.update(complete=False))
    with pytest.raises(IncompleteStoreError, match="left unfinished; run wsikd tile again"):
        TileStore.open(copy)


@pytest.mark.parametrize("victim", ["1/zarr.json", "patches/zarr.json", "patches/row", "0"])
def test_damaged(copy, victim):
    target = copy / victim
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(StoreError, match=r"damaged \(.*; copy it again, or run wsikd tile"):
        TileStore.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attributes": 7}'])
def test_unreadable_metadata(copy, text):
    (copy / "zarr.json").write_text(text)
    assert read_meta(copy) is None
    with pytest.raises(StoreError) as caught:
        TileStore.open(copy)
    assert "\n" not in str(caught.value)


def test_the_digest_follows_settings_and_slide():
    slide = {"fingerprint": "a"}
    digest = settings_digest(SETTINGS, slide)
    assert digest == settings_digest(SETTINGS, dict(slide))
    other = replace(SETTINGS, classes=("G3", "NC"))
    assert settings_digest(other, slide) != digest
    assert settings_digest(SETTINGS, {"fingerprint": "b"}) != digest


def test_differences_are_named():
    assert differences({"a": (1, 2), "b": 3}, {"a": [1, 2], "b": 4, "c": None}) == (
        "b 3 there, 4 asked"
    )
