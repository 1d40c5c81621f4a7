"""What killed runs, other readers and older versions left behind, and what is made of it."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from tests.slides.pixels import MemorySlide, tissue_rgb
from wsikd.core.errors import OutputError, StoreMismatchError
from wsikd.core.output import place
from wsikd.core.output.lock import locked
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.tiles.cluster import STOP_FILE, stop_all
from wsikd.tiles.estimate import estimate
from wsikd.tiles.jobs import TileJob, estimate_job, tile_job
from wsikd.tiles.metadata import SlideNotes, describe
from wsikd.tiles.new_store import StoreBuild
from wsikd.tiles.store import StoreSettings
from wsikd.tiles.write import tile_slide

SETTINGS = StoreSettings((1.0, 2.0), 64, 64, "all", 0.1, (), 0.5)
RGB = tissue_rgb(400, 300)


class Killed(BaseException):
    """As by a signal: nothing is tidied but by ``finally``."""


def slide(reader="memory", rgb=RGB):
    own = MemorySlide(rgb)
    own.info = replace(own.info, reader=reader)
    return own


def tile(path, own=None, settings=SETTINGS, notes=None, **more):
    return tile_slide(own or slide(), path, settings, notes, workers=1, **more)


def killed(*_):
    raise Killed


def unfinished(monkeypatch, *arguments, **more):
    """Leave a ``.part`` with all its pixels."""
    with monkeypatch.context() as patch:
        patch.setattr(StoreBuild, "finish", lambda self: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            tile(*arguments, **more)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("again", [{}, {"overwrite": True}])
def test_a_killed_overwrite_is_tidied_by_the_next_run(tmp_path, monkeypatch, again, version):
    path = tmp_path / "a.zarr"
    own = {"settings": replace(SETTINGS, ome_version=version)}
    tile(path, **own)
    unfinished(monkeypatch, path, overwrite=True, **own)
    assert names(tmp_path) == ["a.zarr", "a.zarr.part"]
    assert tile(path, **again, **own)[1] is bool(again)
    assert names(tmp_path) == ["a.zarr"]
    with monkeypatch.context() as patch:
        patch.setattr(place, "remove_tree", killed)  # the new one is in place
        with pytest.raises(Killed):
            tile(path, overwrite=True, **own)
    assert names(tmp_path) == ["a.zarr", "a.zarr.replaced"]
    assert tile(path, **again, **own)[1] is bool(again)
    assert names(tmp_path) == ["a.zarr"]


def test_one_killed_between_two_stores_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    tile(path)
    unfinished(monkeypatch, path, overwrite=True)
    path.rename(tmp_path / "a.zarr.replaced")
    store, made = tile(path)
    assert not made
    assert len(store.patches)
    assert names(tmp_path) == ["a.zarr"]


def test_leftovers_are_left_to_who_is_at_work_and_backups_to_their_owner(tmp_path, monkeypatch):
    path, backup = tmp_path / "a.zarr", tmp_path / "a.zarr.old"
    tile(path)
    unfinished(monkeypatch, path, overwrite=True)
    backup.mkdir()
    with locked(path):
        assert not tile(path)[1]
        assert names(tmp_path) == ["a.zarr", "a.zarr.lock", "a.zarr.old", "a.zarr.part"]
    (tmp_path / "a.zarr.lock").write_text("")  # as of a process that was killed
    assert not tile(path)[1]
    assert names(tmp_path) == ["a.zarr", "a.zarr.old"]


def test_a_word_to_stop_reaches_no_store(tmp_path, monkeypatch):
    unfinished(monkeypatch, tmp_path / "a.zarr")
    stop_all(tmp_path / "a.zarr.part")
    store, _ = tile(tmp_path / "a.zarr")
    assert not (store.path / STOP_FILE).exists()


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr.part"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_is_never_overwritten(tmp_path, name, overwrite):
    (tmp_path / name).write_text("mine")
    told = rf"{name}: was not written by wsikd as a tile store.*; choose another -o, or remove it"
    with pytest.raises(OutputError, match=told):
        tile(tmp_path / "a.zarr", overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"
    assert names(tmp_path) == [name]


def test_two_readers_share_no_store(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    unfinished(monkeypatch, path, slide("openslide", np.ascontiguousarray(RGB[::-1])))
    meta = describe(slide(), SETTINGS, SlideNotes(), tmp_path)
    told = estimate(slide(), path, SETTINGS, SlideNotes(), meta)
    assert told.left == told.chunks > 0
    store, _ = tile(path)
    alone, _ = tile(tmp_path / "b.zarr")
    assert np.array_equal(store.array(1.0)[:], alone.array(1.0)[:])
    assert not np.array_equal(RGB, RGB[::-1])
    assert store.provenance["slide"]["reader"] == "memory"
    # One that is whole stays good, unless its reader is asked for by name.
    assert not tile(path, slide("openslide"))[1]
    assert not tile(path, notes=SlideNotes(reader="memory"))[1]
    with pytest.raises(StoreMismatchError) as caught:
        tile(path, slide("openslide"), notes=SlideNotes(reader="openslide"))
    assert str(caught.value) == (
        f"{path}: made by another reader (memory there, openslide asked); choose another -o, or "
        "replace it with --overwrite"
    )


def test_a_reader_is_insisted_on_where_it_is_asked_for(slide_file, tmp_path):
    def job(reader):
        return TileJob(SlideEntry(slide_file, "s", reader=reader), tmp_path, SETTINGS)

    made = tile_job(lambda *_: None, job("auto"))
    assert made.reader == "direct"
    for call in (tile_job, estimate_job):
        call(lambda *_: None, job("auto"))
        call(lambda *_: None, job("direct"))
        with pytest.raises(StoreMismatchError, match="direct there, openslide asked"):
            call(lambda *_: None, job("openslide"))


OLDER = {
    "tiler 1 there, 2 asked": lambda meta: meta["settings"].update(tiler=1),
    "codec None there, none asked": lambda meta: meta["settings"].pop("codec"),
    "slide fingerprint None there, 0": lambda meta: meta.pop("identity"),
    "its record is of an older layout)": lambda meta: None,
}


@pytest.mark.parametrize("told", OLDER)
@pytest.mark.parametrize("digest", [None, "0" * 16])
def test_a_store_of_an_older_layout_is_refused_in_one_line(tmp_path, told, digest):
    path = tmp_path / "a.zarr"
    tile(path)
    root = json.loads((path / "zarr.json").read_text())
    meta = root["attributes"]["wsikd"]
    OLDER[told](meta)
    del meta["slide"], meta["digest"]
    if digest:
        meta["digest"] = digest
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreMismatchError) as caught:
        tile(path)
    assert "a.zarr: made with other settings (" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    os.rename(path, tmp_path / "b.zarr.part")  # noqa: PTH104
    assert tile(tmp_path / "b.zarr")[1]
