"""``wsikd tile`` as it runs: processes, kills, a full disk, dry runs, clusters, the record."""

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main
from wsikd.cli.tile_progress import Tally, span

from tests.interrupts import hear_interrupts
from tests.slides.pixels import break_tile, copy_slide, tissue_rgb
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.jobs import Pace
from wsikd.tiles.store import TileStore

OPTIONS = ["--mpp", "1", "--mpp", "4", "--patch-size", "64", "--tissue", "all", "--threads", "1"]


def command(*arguments):
    return [sys.executable, "-m", "wsikd", "tile", *map(str, arguments), *OPTIONS]


def run(*arguments, **more):
    """Run ``wsikd tile`` in a process of its own: code, lines of stdout, lines of stderr."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=120, **more
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def here(*arguments):
    """Run ``wsikd tile`` in this process: code, lines of stdout, lines of stderr."""
    arguments = [str(a) for a in (*arguments, "--jobs", 0)]
    result = CliRunner().invoke(main, ["tile", *arguments, *OPTIONS])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout.splitlines(), result.stderr.splitlines()


def start(*arguments):
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(*arguments), preexec_fn=hear_interrupts, **silent)


def children(pid):
    """Processes below a process, nearest first."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as stream:  # noqa: PTH123
            own = [int(word) for word in stream.read().split()]
    except OSError:
        return []
    return own + [below for child in own for below in children(child)]


def wait_for(found, within=60.0):
    """What ``found`` returns once it is true."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.002)
    raise AssertionError("waited in vain")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def content(folder):
    """Every file of a store: its bytes less the time of making."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name, data in found.items():
        if b'"created"' in data:
            root = json.loads(data)
            root["attributes"]["wsikd"].pop("created")
            found[name] = json.dumps(root)
    return found


def record(out):
    (file,) = (out / "runs").iterdir()
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A slide of nine shards."""
    path = tmp_path_factory.mktemp("large") / "large.svs"
    rgb = np.tile(tissue_rgb(1000, 1000), (5, 5, 1))
    write_pyramid(path, rgb, mpp=1.0, power=10, downsamples=(1, 4))
    return path


@pytest.fixture(scope="module")
def whole(large, tmp_path_factory):
    """Its store, made without a worker process: the content, and the folder it lies in."""
    out = tmp_path_factory.mktemp("whole")
    code, lines, _ = here("-i", large, "-o", out)
    assert (code, lines[-1]) == (0, "1 made, 0 already there")
    return content(out / "large.zarr"), out


@pytest.fixture
def several(tmp_path):
    """A folder of three slides, the first of which is damaged."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in "abc":
        write_pyramid(
            folder / f"{name}.svs", tissue_rgb(700, 600, seed=ord(name)), mpp=1.0, power=10
        )
    break_tile(folder / "a.svs", 4)
    return folder


def test_slides_beside_each_other(several, tmp_path):
    out = tmp_path / "out"
    code, lines, errors = run("-i", several, "-o", out, "--jobs", 2)
    assert code == 3
    assert lines[-1] == "2 made, 0 already there, 1 failed"
    assert sorted(line.partition(":")[0] for line in lines[:-1]) == ["b", "c"]
    assert errors[-1].startswith("RegionReadError: a.svs: level 0 cannot be read at level-0 x=")
    assert sum(" of 3 slides, " in line for line in errors) == 3
    with (out / "failures.csv").open(newline="") as stream:
        assert [row["slide"] for row in csv.DictReader(stream)] == ["a"]
    about = record(out)
    assert about["status"] == "finished"
    assert about["argv"][1:3] == ["tile", "-i"]
    assert about["settings"]["mpps"] == [1.0, 4.0]
    assert about["running"]["jobs"] == 2
    failed, *made = about["slides"]
    assert (failed["slide"], failed["status"], failed["error"]) == (
        "a",
        "failed",
        "RegionReadError",
    )
    for slide in made:
        store = TileStore.open(out / f"{slide['slide']}.zarr")
        assert (slide["status"], slide["patches"]) == ("made", len(store.patches))
        assert slide["reader"] == "direct"
        assert slide["reader_note"]
        stages = slide["seconds"]
        assert {"open", "tissue", "read", "encode", "write", "total"} <= set(stages)
        assert 0 < stages["open"] < stages["total"] < about["seconds"]
    assert str(tmp_path) not in json.dumps(about)


def test_a_killed_worker_process_is_told_and_the_others_go_on(several, large, tmp_path):
    copy_slide(large, several / "a.svs")
    out = tmp_path / "out"
    process = subprocess.Popen(
        command("-i", several, "-o", out),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    with process:
        wait_for(lambda: list(out.glob("a.zarr.part/0/c/0/*/*")))
        lock = (out / "a.zarr.lock").read_text().split()
        os.kill(int(lock[0]), signal.SIGKILL)
        told = process.stderr.read().splitlines()
    assert process.returncode == 3
    assert told[-1].startswith(
        "SlideError: a: reading it killed the worker process (signal 9, SIGKILL); if out of memory"
    )
    assert {p.name for p in out.glob("*.zarr")} == {"b.zarr", "c.zarr"}


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_it_goes_on(large, whole, tmp_path, seed):
    rng = np.random.default_rng(seed)
    out = tmp_path / "out"
    process = start("-i", large, "-o", out)
    wait_for((out / "large.zarr.part").exists)
    time.sleep(float(rng.uniform(0, 0.25)))
    below = children(process.pid)
    victim = process.pid if seed % 2 else below[-1]
    os.kill(victim, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in below))
    kept = {p: p.stat().st_mtime_ns for p in out.glob("large.zarr.part/0/c/0/*/*[0-9]")}
    code, lines, _ = here("-i", large, "-o", out)
    assert code == 0, lines
    assert content(out / "large.zarr") == whole[0]
    for path, when in kept.items():
        now = out / "large.zarr" / path.relative_to(out / "large.zarr.part")
        assert now.stat().st_mtime_ns == when
    names = {p.name for p in out.iterdir()}
    assert {"large.zarr", "runs"} <= names <= {"large.zarr", "runs", "overlays"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_lock_and_no_process(large, tmp_path, number):
    for attempt in range(5):
        out = tmp_path / f"out{attempt}"
        process = start("-i", large, "-o", out)
        wait_for(lambda out=out: list(out.glob("large.zarr*/0/c/0/*/*")))
        below = children(process.pid)
        process.send_signal(number)
        if (code := process.wait(60)) != 0:
            break  # else it was done before the signal came
    assert code == 128 + number
    assert below
    wait_for(lambda: not any(alive(pid) for pid in below))
    assert not (out / "large.zarr").exists()
    assert not list(out.glob("*.lock"))
    about = record(out)
    assert about["status"] == "interrupted"
    assert about["slides"] == [{"slide": "large", "status": "unfinished"}]


def limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def test_a_full_disk_is_told_for_each_slide(several, tmp_path):
    out = tmp_path / "out"
    code, lines, errors = run("-i", several, "-o", out, preexec_fn=limit_files)
    assert code == 3
    assert lines[-1] == "0 made, 0 already there, 3 failed"
    assert not list(out.glob("*.zarr"))
    full = [line for line in errors if line.startswith("OutputError: ")]
    assert len(full) >= 2  # the damaged one may fail of its damage first
    for line in full:
        assert line.endswith("cannot be written (File too large); free space, or choose another -o")
    assert here("-i", several / "b.svs", "-o", out)[0] == 0


def test_a_dry_run_tells_the_bytes_and_writes_nothing(several, tmp_path):
    out = tmp_path / "out"
    code, lines, _ = here("-i", several / "[bc].svs", "-o", out, "--dry-run")
    assert code == 0
    assert not out.exists()
    assert here("-i", several / "b.svs", "-o", out)[0] == 0
    files = [p for n in "01" for p in (out / "b.zarr" / n / "c").rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    count = len(TileStore.open(out / "b.zarr").patches)
    assert lines[0].startswith(f"b: {count} patches, {size / 1e6:.1f} MB, about ")
    assert lines[2].startswith(f"in all {2 * count} patches, {2 * size / 1e6:.1f} MB, about ")
    assert " free" in lines[2]
    before = sorted(out.rglob("*"))
    code, lines, _errors = here("-i", several / "[bc].svs", "-o", out, "--dry-run")
    told = f"b: {count} patches, already in {out / 'b.zarr'}"
    assert (code, lines[0].partition(" (")[0]) == (0, told)
    assert lines[2].startswith(f"in all {count} patches, ")
    refused = here("-i", several / "b.svs", "-o", out, "--dry-run", "--stride", 32)
    assert refused[0] == 3
    assert refused[2][-1].startswith(
        f"StoreMismatchError: {out / 'b.zarr'}: made with other settings"
    )
    assert sorted(out.rglob("*")) == before


def test_what_a_killed_run_left_counts_in_a_dry_run(large, whole, tmp_path):
    shutil.copytree(whole[1] / "large.zarr", tmp_path / "large.zarr.part")
    (tmp_path / "large.zarr.part" / "0" / "c" / "0" / "0" / "0").unlink()
    code, lines, _ = here("-i", large, "-o", tmp_path, "--dry-run")
    assert code == 0
    assert ", 64 of 400 chunks left (" in lines[0]


def test_slides_of_one_stem_keep_their_stores_and_copies_are_listed(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_pyramid(folder / "X.svs", tissue_rgb(300, 300), mpp=1.0, power=10)
    assert here("-i", folder, "-o", out)[0] == 0
    copy_slide(folder / "X.svs", folder / "X.tif")
    shutil.copy(folder / "X.svs", folder / "A.svs")
    shutil.copy(folder / "X.svs", folder / "X_mask.tif")
    for count in (1, 0):
        code, lines, _ = here("-i", folder, "-o", out)
        assert (code, lines[-1]) == (0, f"{count} made, {2 - count} already there")
    stores = sorted(p.name for p in out.glob("*.zarr"))
    assert (len(stores), stores[1]) == (2, "X.zarr")
    about = json.loads(max((out / "runs").iterdir()).read_text())
    assert about["left_out"] == [
        {"file": "X_mask.tif", "reason": "mask of X.svs"},
        {"file": "X.svs", "reason": "a copy of A.svs"},
    ]


@pytest.mark.parametrize("place", ["in", "out"])
@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "x" * 250, "..", "CON"])
def test_names_of_any_kind_stop_nobody(tmp_path, name, place):
    if place == "out" and name == "..":
        pytest.skip("is the folder above")
    own = tmp_path / (f"{name}.svs" if place == "in" else "own.svs")
    write_pyramid(tmp_path / "s.svs", tissue_rgb(300, 300), mpp=1.0, power=10)
    (tmp_path / "s.svs").rename(own)
    out = tmp_path / (name if place == "out" else "out")
    code, lines, errors = here("-i", own, "-o", out)
    assert (code, lines[-1]) == (0, "1 made, 0 already there"), errors
    assert (out / "overlays").is_dir()


def test_a_dry_run_draws_no_key_for_patients(several, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("slide,patient\nslides/b.svs,P1\n")
    out = tmp_path / "out"
    out.mkdir()
    code, _, _ = here("-i", manifest, "-o", out, "--dry-run")
    assert code == 0
    assert list(out.iterdir()) == []
    assert here("-i", manifest, "-o", out)[0] == 0
    again = here("-i", manifest, "-o", out, "--dry-run")
    assert f" patches, already in {out / 'b.zarr'}" in again[1][0]


def test_a_local_cluster_makes_the_same_store(large, whole, tmp_path):
    shutil.copy(large, tmp_path / "large.svs")
    code, lines, errors = run("-i", "large.svs", "-o", "out", "--workers", 1, cwd=tmp_path)
    assert code == 0, errors
    assert lines[-1] == "1 made, 0 already there"
    assert [line for line in errors if "tissue on" not in line] == []
    assert content(tmp_path / "out" / "large.zarr") == whole[0]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--scheduler", "127.0.0.1:9"], 2, ("WsikdError: tcp://127.0.0.1:9: no Dask scheduler "
         "answers there (Connection refused); start one with dask scheduler, or correct the "
         "address")),
        (["--scheduler", "what"], 2, ("ConfigError: --scheduler: 'what' is not an address; "
         "give it as tcp://host:port")),
        (["--scheduler", "h:1", "--workers", "2"], 2, ("Error: give --scheduler or --workers, "
         "not both")),
    ],
)  # fmt: skip
def test_a_cluster_that_is_not_there_is_one_line(large, tmp_path, options, code, told):
    arguments = ["tile", "-i", large, "-o", tmp_path / "out", *options, *OPTIONS]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (code, told)


def test_the_tally_weighs_slides_by_their_bytes():
    clock = SimpleNamespace(now=100.0)
    tally = Tally({"big": 300.0, "small": 100.0, "done": 600.0}, lambda: clock.now)
    assert (tally.share, tally.left_s) == (0.0, None)
    tally.end("done", worked=False)
    clock.now = 110.0
    pace = Pace(patches=4.0, level0_mp=0.5)
    tally.report("big", 10, 30, pace)
    assert tally.share == pytest.approx(0.25)
    assert tally.left_s == pytest.approx(30.0)
    assert tally.text() == "1 of 3 slides, 4 patches/s, 0 MP/s, 30 s left"
    tally.report("big", 30, 30, pace)
    tally.end("big", worked=True)
    tally.report("small", 5, 10, pace)
    clock.now = 120.0
    assert (tally.patches, tally.level0_mp) == (140.0, 17.5)
    assert tally.share == pytest.approx(0.875)
    assert tally.text() == "2 of 3 slides, 7 patches/s, 1 MP/s, 3 s left"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "unknown time"), (1.2, "1 s"), (600, "10 min"), (36000, "10.0 h")],
)
def test_spans(seconds, told):
    assert span(seconds) == told
