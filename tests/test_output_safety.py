"""What somebody else's files go through: every operation that writes, on random folders of them.

Every file that wsikd did not write is the same, byte by byte, whatever was asked.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from wsikd.cli.main import main

from tests.grade.graded import infer_slide
from tests.grade.runs.test_results import SPEC, Purple
from tests.killed_overwrite import tile_settings
from wsikd.bags.bag import BagInfo, open_bag, write_bag
from wsikd.core.errors import OutputError, WsikdError
from wsikd.core.output.files import aside, check_names, drop_file
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import (
    ATTENTION,
    BAG,
    BENCH,
    BENCH_FILES,
    BUNDLE,
    FAILURES,
    GRADES,
    GRID,
    PORTABLE,
    REPORT,
    RESULT,
    STORE,
    SUMMARY,
)
from wsikd.core.output.place import Place
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs.prefetch import open_now
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.runs.summary_file import Summary
from wsikd.slides.listing.manifest import SlideEntry, open_entry
from wsikd.tiles.metadata import SlideNotes
from wsikd.tiles.write import tile_slide

KINDS = (ATTENTION, BAG, BUNDLE, GRADES, GRID, PORTABLE, RESULT, STORE)
STEMS = ("a", "..svs", "...", "b c", "", "..", ".")
ENDS = ("", ".zarr", ".part", ".replaced", ".zarr.part", ".zarr.replaced", ".lock", ".zarr.lock")
NAMES = sorted({stem + end for stem in STEMS for end in ENDS} - {"", ".", ".."})
INNER = (*NAMES, "summary.csv", "failures.csv", "result.json", "zarr.json", "card.json", ".wsikd",
         "overlays", "runs", "0", "c", "IMG0.dcm", "own.svs", "tiles.csv")  # fmt: skip
CONTENT = (b"mine", b"{}", b"[]", b"slide,diagnosis\n1,2\n", b'{"wsikd": 1}', b'{"kind": "x"}',
           b'{"attributes": {"wsikd": {}, "ome": {"multiscales": []}}}')  # fmt: skip

files = st.dictionaries(
    st.lists(st.sampled_from(INNER), min_size=1, max_size=3).map(tuple),
    st.one_of(st.sampled_from(CONTENT), st.just("link to a folder"), st.just("link to a file")),
    min_size=1,
    max_size=8,
)


def plant(root, tree):
    """Write a tree of somebody else's files; what does not fit into it is left out."""
    root.mkdir(exist_ok=True)
    target = root.parent / "elsewhere"
    target.mkdir(exist_ok=True)
    (target / "kept").write_bytes(b"kept")
    for parts, content in tree.items():
        path = root.joinpath(*parts)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                if not os.path.lexists(path):
                    path.write_bytes(content)
            else:
                path.symlink_to(target / "kept" if "file" in content else target)


def seen(root):
    """Every file and link below a folder, and what it holds."""
    found = {}
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(place) / name
            if path.is_symlink():
                found[path] = os.readlink(path)  # noqa: PTH115
            elif path.is_file():
                found[path] = path.read_bytes()
    return found


@contextmanager
def nothing_lost(tree):
    """A folder with somebody else's files, all of which must be there at the end."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "out"
        plant(root, tree)
        before = seen(Path(folder))
        yield root
        after = seen(Path(folder))
        assert {k: after.get(k) for k in before} == before


def attempt(function, *arguments, **more):
    """Call; what wsikd refuses, it refuses in one line that names no way to force it."""
    try:
        function(*arguments, **more)
    except WsikdError as error:
        told = str(error) if isinstance(error, OutputError) else ""
    else:
        told = ""
    assert "\n" not in told
    assert "--overwrite" not in told


def replace_folder(place):
    place.recover()
    with place.made() as part:
        (part / "0").write_bytes(b"new")


def write_file(path, kind):
    with aside(path, kind) as part:
        part.write_bytes(b"new")


def lock(path):
    with locked(path):
        pass


@settings(max_examples=100)
@given(
    files,
    st.lists(
        st.tuples(
            st.sampled_from(("replace", "recover", "discard", "aside", "drop", "lock", "names")),
            st.sampled_from((*STEMS, *NAMES)),
            st.sampled_from(KINDS),
            st.sampled_from((FAILURES, SUMMARY, REPORT)),
        ),
        max_size=6,
    ),
)
def test_no_operation_touches_what_wsikd_did_not_write(tree, operations):
    with nothing_lost(tree) as out:
        for what, name, kind, file_kind in operations:
            place = Place(out / name, kind, out)
            if what == "replace":
                attempt(replace_folder, place)
            elif what == "recover":
                attempt(place.recover)
            elif what == "discard":
                attempt(place.begin)
                attempt(place.discard)
            elif name in ("", ".", ".."):
                continue
            elif what == "aside":
                attempt(write_file, out / name, file_kind)
            elif what == "drop":
                attempt(drop_file, out / name, file_kind)
            elif what == "lock":
                attempt(lock, out / name.removesuffix(".lock"))
            else:
                attempt(check_names, out, BENCH_FILES, BENCH)


@settings(max_examples=8)
@given(files, st.sampled_from((*STEMS, "a.part")), st.booleans())
def test_grading_touches_no_other_file(slide_file, tree, name, overwrite):
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=1))
    entry, wanted = SlideEntry(slide_file, name), ResultSettings(formats=("csv",))
    with nothing_lost(tree) as out:
        attempt(infer_slide, predictor, entry, out, wanted, student="abc", overwrite=overwrite)
        attempt(Summary(out).write)


@settings(max_examples=8)
@given(files, st.sampled_from((*STEMS, "a.part")), st.booleans())
def test_tiling_touches_no_other_file(slide_file, tree, name, overwrite):
    with nothing_lost(tree) as out, open_entry(SlideEntry(slide_file, "s")) as slide:
        notes = SlideNotes(overlay=out / "overlays" / "a.png")
        path = out / f"{name}.zarr"
        attempt(tile_slide, slide, path, tile_settings(), notes, workers=1, overwrite=overwrite)


@settings(max_examples=8)
@given(files, st.sampled_from((*STEMS, "a.part")))
def test_embedding_touches_no_other_file(tree, name):
    with nothing_lost(tree) as out:
        features = np.ones((3, 2), np.float32)
        attempt(write_bag, out / f"{name}.zarr", BagInfo("s"), features, np.zeros((3, 2)))


@pytest.fixture
def predictor():
    return SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=1))


def test_results_are_not_written_over_an_input(predictor, slide_file, tmp_path):
    """A folder of a slide, or of its mask, that has the name of the slide."""
    own = tmp_path / "odd"
    own.mkdir()
    shutil.copy(slide_file, own / "s.svs")
    before = seen(tmp_path)
    wanted = ResultSettings(formats=("csv",))
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="odd: holds the input"):
            infer_slide(predictor, SlideEntry(own / "s.svs", "odd"), tmp_path, wanted,
                        student="abc", overwrite=overwrite)  # fmt: skip
    entry = SlideEntry(slide_file, "odd")
    with pytest.raises(OutputError, match="odd: is the input"):
        infer_slide(predictor, entry, tmp_path, wanted, student="abc", inputs=[own])
    assert seen(tmp_path) == before


def test_the_data_folder_of_an_mrxs_slide_is_an_input(predictor, slide_file, tmp_path):
    slide, data = tmp_path / "m.mrxs", tmp_path / "m"
    shutil.copy(slide_file, slide)
    data.mkdir()
    (data / "Data0000.dat").write_bytes(b"pixels")
    wanted, opened = ResultSettings(formats=("csv",)), open_now(SlideEntry(slide_file, "m"))
    with pytest.raises(OutputError, match="m: is the input"):
        infer_slide(predictor, SlideEntry(slide, "m"), tmp_path, wanted, student="abc",
                    overwrite=True, opened=opened)  # fmt: skip
    assert (data / "Data0000.dat").read_bytes() == b"pixels"


def test_what_a_user_put_into_a_result_keeps_it(predictor, slide_file, tmp_path):
    entry, wanted = SlideEntry(slide_file, "odd"), ResultSettings(formats=("csv",))
    infer_slide(predictor, entry, tmp_path, wanted, student="abc")
    (tmp_path / "odd" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"odd/notes\.txt: is in a result, but was not written"):
        infer_slide(predictor, entry, tmp_path, wanted, student="abd", overwrite=True)
    assert (tmp_path / "odd" / "notes.txt").read_text() == "mine"
    (tmp_path / "odd" / "notes.txt").unlink()
    infer_slide(predictor, entry, tmp_path, wanted, student="abd", overwrite=True)


def test_a_store_is_not_replaced_by_its_own_embeddings(slide_file, tmp_path):
    """wsikd embed -i STORES -o STORES --overwrite, and bags of another kind."""
    with open_entry(SlideEntry(slide_file, "s")) as slide:
        store, _ = tile_slide(slide, tmp_path / "s.zarr", tile_settings(), workers=1)
    before = seen(tmp_path)
    features, xy = np.ones((2, 3), np.float32), np.zeros((2, 2))
    with pytest.raises(OutputError, match=r"s\.zarr: is the input"):
        write_bag(store.path, BagInfo("s"), features, xy, inputs=[store.path])
    with pytest.raises(
        OutputError, match=r"s\.zarr: was not written by wsikd as a bag of embeddings"
    ):
        write_bag(store.path, BagInfo("s"), features, xy)
    assert seen(tmp_path) == before
    write_bag(tmp_path / "b.zarr", BagInfo("s"), features, xy)
    grids = np.ones((2, 3, 2, 2), np.float32)
    with pytest.raises(OutputError, match=r"b\.zarr: was not written by wsikd as a region grid"):
        write_bag(tmp_path / "b.zarr", BagInfo("s"), grids, xy)
    told = pytest.raises(OutputError, match="was not written by wsikd as a tile store")
    with open_entry(SlideEntry(slide_file, "s")) as slide, told:
        tile_slide(slide, tmp_path / "b.zarr", tile_settings(), workers=1, overwrite=True)
    assert open_bag(tmp_path / "b.zarr").shape == (2, 3)


@pytest.mark.parametrize("kind", ["infer", "tile"])
def test_a_killed_overwrite_loses_nothing(kind, slide_file, tmp_path):
    """kill -9 before every renaming and removal of a replacement: the old or the new one is whole.

    A run that comes after it leaves one whole and nothing beside it.
    """
    command = [sys.executable, "-m", "tests.killed_overwrite", kind, slide_file, tmp_path, "7"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # threads do not outlive a fork
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr
    *steps, last = map(json.loads, done.stdout.splitlines())
    assert steps[0] == {"killed": True, "there": 0.1, "replaced": None}
    assert sum(one["killed"] for one in steps) >= 3
    assert not steps[-1]["killed"]
    known = {round(0.1 + 0.01 * n, 2) for n in range(8)}
    for one in steps:
        whole = [round(v, 2) for v in (one["there"], one["replaced"]) if v is not None]
        assert whole
        assert set(whole) <= known
    assert last["there"] == 0.5
    assert last["left"] == ["s" if kind == "infer" else "s.zarr"]


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "mine"),
    [
        (("demo", "--small", "-o", "OUT"), "notes.txt"),
        (("init", "demo", "-o", "OUT"), "1_teacher.yaml"),
        (("report", "OUT"), "report.html"),
    ],
)
def test_commands_leave_a_folder_of_others_alone(tmp_path, arguments, mine):
    out = tmp_path / "out"
    out.mkdir()
    (out / mine).write_text("mine")
    done = run(*(out if a == "OUT" else a for a in arguments))
    assert done.exit_code != 0
    assert "--overwrite" not in done.stderr
    assert seen(out) == {out / mine: b"mine"}


def test_init_goes_on_where_it_was_interrupted(tmp_path):
    assert run("init", "demo", "-o", tmp_path).exit_code == 0
    whole = seen(tmp_path)
    (tmp_path / "2_student.yaml").unlink()
    assert run("init", "demo", "-o", tmp_path).exit_code == 0
    assert seen(tmp_path) == whole
    assert run("init", "demo", "-o", tmp_path).exit_code != 0
    (tmp_path / "1_teacher.yaml").write_text("mine")
    (tmp_path / "2_student.yaml").unlink()
    assert run("init", "demo", "-o", tmp_path).exit_code != 0
    assert (tmp_path / "1_teacher.yaml").read_text() == "mine"
    assert not (tmp_path / "2_student.yaml").exists()
