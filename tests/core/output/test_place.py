"""Folders of wsikd are put in place whole, and nothing else is ever replaced or removed."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from wsikd.core.errors import OutputError
from wsikd.core.output import place as place_module
from wsikd.core.output.files import aside, check_names, drop_file, keep_newest, place_new
from wsikd.core.output.markers import (
    BENCH,
    BENCH_FILES,
    FAILURES,
    MARKER,
    RESULT,
    Kind,
    read_json,
)
from wsikd.core.output.place import Place

KIND = Kind(
    "a thing", lambda f: "thing" in read_json(f / "own.json"), re.compile(r"own\.json|[ab]")
)


class Killed(BaseException):
    """As by a signal."""


def snapshot(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if not p.is_symlink()
    }


def thing(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.json").write_text(json.dumps({"thing": text}))
    return folder


def value(folder):
    return read_json(folder / "own.json").get("thing")


def make(place, text, error=None):
    with place.made() as part:
        thing(part, text)
        if error:
            raise error


def replace(place, text):
    place.recover()
    make(place, text)


def test_a_folder_appears_whole_and_is_replaced(tmp_path):
    place = Place(tmp_path / "x", KIND, tmp_path)
    with place.made() as part:
        assert read_json(part / MARKER)["kind"] == "a thing"
        assert not place.path.exists()
        thing(part, "one")
    make(place, "two")
    assert snapshot(tmp_path) == {"x": None, "x/own.json": b'{"thing": "two"}'}


def test_a_failure_keeps_the_old_one(tmp_path):
    place = Place(tmp_path / "x", KIND, tmp_path)
    make(place, "one")
    full = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match=r"x: cannot be written \(No space"):
        make(place, "two", full)
    assert value(place.path) == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("step", range(6))
def test_a_kill_at_any_step_leaves_one_whole(tmp_path, monkeypatch, step):
    """Kill before the n-th removal or rename; afterwards, and after the next run, one is whole."""
    place, calls = Place(tmp_path / "x", KIND, tmp_path), []
    make(place, "one")

    def counted(own):
        def call(*args):
            if len(calls) >= step:
                raise Killed
            calls.append(own.__name__)
            return own(*args)

        return call

    with monkeypatch.context() as patch:
        for name in ("into_place", "remove_tree", "drop_temporary", "drop_empty"):
            patch.setattr(place_module, name, counted(getattr(place_module, name)))
        with suppress(Killed):
            make(place, "two")
    left = [value(place.path), value(place.replaced)]
    assert {"one", "two"} & set(left)
    place.recover()
    assert value(place.path) in ("one", "two")
    assert not place.replaced.exists()
    make(place, "three")
    assert snapshot(tmp_path) == {"x": None, "x/own.json": b'{"thing": "three"}'}


def test_a_removal_that_was_cut_short_is_completed_and_never_put_back(tmp_path):
    place = Place(tmp_path / "x", KIND, tmp_path)
    thing(place.replaced, "torn")
    (place.replaced / MARKER).write_text(json.dumps({"kind": "a thing", "state": "removed"}))
    (place.replaced / "own.json").unlink()
    place.recover()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".part", ".replaced"])
@pytest.mark.parametrize("what", ["file", "folder", "stranger", "link", "other kind"])
def test_what_wsikd_did_not_make_stays(tmp_path, suffix, what):
    out, elsewhere = tmp_path / "out", thing(tmp_path / "elsewhere", "mine")
    out.mkdir()
    place = Place(out / "x", KIND, out)
    if suffix == ".replaced":
        make(place, "one")
    spot = out / f"x{suffix}"
    if what == "file":
        spot.write_text("mine")
    elif what == "folder":
        (spot / "deep").mkdir(parents=True)
        (spot / "deep" / "mine.txt").write_text("mine")
    elif what == "stranger":
        (thing(spot, "ours") / "notes.txt").write_text("mine")
    elif what == "link":
        spot.symlink_to(elsewhere)
    else:
        spot.mkdir()
        (spot / MARKER).write_text(json.dumps({"kind": "a result"}))
        (spot / "a").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError) as caught:
        replace(place, "new")
    told = str(caught.value)
    assert "--overwrite" not in told
    assert "choose another -o" in told
    assert snapshot(tmp_path) == before
    assert value(elsewhere) == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "a/..", "a/../..", "a/../../y"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    out = thing(tmp_path / "out", "mine")
    thing(tmp_path / "y", "mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="is outside the output folder"):
        make(Place(out / name, KIND, out), "new")
    assert snapshot(tmp_path) == before


def test_a_link_in_the_way_is_not_followed(tmp_path):
    out, other = tmp_path / "out", thing(tmp_path / "other" / "x", "mine")
    out.mkdir()
    (out / "d").symlink_to(other.parent)
    with pytest.raises(OutputError, match="is outside"):
        make(Place(out / "d" / "x", KIND, out), "new")
    assert value(other) == "mine"


def test_the_output_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    out = tmp_path / "out"
    make(Place(out / "x", KIND, out), "one")
    assert value(tmp_path / "disk" / "x") == "one"


def test_an_input_is_never_replaced_whatever_it_looks_like(tmp_path):
    source = thing(tmp_path / "x", "input")
    for path, inputs, told in (
        (source, [source], "x: is the input"),
        (source, [source / "a" / "b"], "x: holds the input"),
        (source / "y", [source], "is inside the input"),
    ):
        (source / "a").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match=told):
            make(Place(path, KIND, path.parent, inputs), "new")
    link = tmp_path / "l"
    link.symlink_to(source)
    with pytest.raises(OutputError, match="is the input"):
        make(Place(source, KIND, tmp_path, [link]), "new")
    assert value(source) == "input"
    (source / "a").rmdir()
    make(Place(source, KIND, tmp_path, [tmp_path / "gone"]), "new")


def test_a_run_may_be_the_output_folder_itself(tmp_path, monkeypatch):
    place = Place(tmp_path / "run", KIND, tmp_path / "run", whole=True)
    make(place, "one")
    make(place, "two")
    assert value(tmp_path / "run") == "two"
    monkeypatch.chdir(tmp_path / "run")
    make(Place(Path(), KIND, Path(), whole=True), "three")
    assert value(tmp_path / "run") == "three"


def test_results_of_the_first_version_count(tmp_path):
    """Their markers are result.json; a folder that was being made is known by its content."""
    place = Place(tmp_path / "s", RESULT, tmp_path)
    place.path.mkdir()
    (place.path / "result.json").write_text('{"summary": {}, "made_with": {}}')
    assert place.taken()
    place.part.mkdir()
    (place.part / "tiles.csv").write_text("minx,miny,width,height,prob_NC\n")
    place.discard()
    assert not place.part.exists()
    place.part.mkdir()
    (place.part / "tiles.csv").write_text("my,own\n")
    with pytest.raises(
        OutputError, match=r"s\.part: was not written by wsikd as a result being made"
    ):
        place.discard()


def test_a_file_of_another_kind_is_neither_replaced_nor_removed(tmp_path):
    file = tmp_path / "failures.csv"
    drop_file(file, FAILURES)
    for text in ("my,own\n", "", "slide;error\n"):
        file.write_text(text)
        with pytest.raises(
            OutputError, match=r"failures\.csv: was not written by wsikd as a list of"
        ):
            drop_file(file, FAILURES)
        with pytest.raises(OutputError, match="or remove it"), aside(file, FAILURES):
            raise AssertionError
        assert file.read_text() == text
    file.write_text("slide,error,fault,remedy\n")
    with aside(file, FAILURES) as part:
        part.write_text("slide,error,fault,remedy\nx,y,z,w\n")
    assert "x,y" in file.read_text()
    drop_file(file, FAILURES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make_it", [Path.mkdir, lambda p: p.symlink_to(p.parent / "other")])
def test_a_file_replaces_no_folder_and_no_link(tmp_path, make_it):
    (tmp_path / "other").write_text("mine")
    make_it(tmp_path / "x")
    with (
        pytest.raises(OutputError, match=r"x: (was not written|is a symbolic link)"),
        aside(tmp_path / "x"),
    ):
        raise AssertionError
    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "x").is_symlink() or (tmp_path / "x").is_dir()


def test_a_place_aside_is_never_one_that_is_taken(tmp_path):
    mine = tmp_path / f"x.{os.getpid()}.part"
    mine.write_text("mine")
    with aside(tmp_path / "x") as part:
        part.write_text("new")
    assert mine.read_text() == "mine"
    place_new(tmp_path / "key", b"one")
    place_new(tmp_path / "key", b"two")
    assert (tmp_path / "key").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 3


def test_names_of_a_comparison_that_are_taken(tmp_path):
    (tmp_path / "bench.md").write_text("mine")
    with pytest.raises(OutputError, match=r"bench\.md: was not written by wsikd as a comparison"):
        check_names(tmp_path, BENCH_FILES, BENCH)
    (tmp_path / "bench.json").write_text('{"contenders": []}')
    check_names(tmp_path, BENCH_FILES, BENCH)
    (tmp_path / "bench.json").write_text("[]")
    with pytest.raises(OutputError, match=r"bench\.json: was not written"):
        check_names(tmp_path, BENCH_FILES, BENCH)


def test_a_cache_drops_only_its_own(tmp_path):
    for n, name in enumerate(("a1.onnx", "a2.onnx", "a3.onnx", "mine.onnx")):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (n, n))
    keep_newest(tmp_path, r"a\d\.onnx", 1)
    assert {p.name for p in tmp_path.iterdir()} == {"a3.onnx", "mine.onnx"}
