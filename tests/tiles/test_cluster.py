"""Stores filled by a real Dask scheduler and worker processes, some of which die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from distributed import KilledWorker

from tests.slides.pixels import break_tile, tissue_rgb
from wsikd.core.errors import OutputError, RegionReadError, SlideError
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles import cluster as remote
from wsikd.tiles.store import StoreSettings
from wsikd.tiles.write import Cluster, tile_slide

SETTINGS = StoreSettings(
    mpps=(1.0, 4.0),
    patch_px=64,
    stride_px=64,
    tissue="all",
    min_tissue=0.1,
    classes=(),
    min_cover=0.5,
)


FORKED = """
import json, os, sys
from distributed.cli import dask_scheduler, dask_worker
import wsikd.slides.readers.direct_tiff, wsikd.slides.readers.openslide, wsikd.tiles.cluster

while line := sys.stdin.readline():
    command, arguments, log = json.loads(line)
    if command == "wait":
        told = os.waitstatus_to_exitcode(os.waitpid(*arguments)[1])
    elif not (told := os.fork()):
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
        {"scheduler": dask_scheduler, "worker": dask_worker}[command].main(arguments)
    print(told, flush=True)
"""


class Dask:
    """Starts Dask's processes as forks of one, which has imported what they need."""

    def __init__(self, folder):
        self.folder, self.pids = folder, []
        path = os.pathsep.join(filter(None, sys.path))
        self.parent = subprocess.Popen(
            [sys.executable, "-c", FORKED],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _ask(self, command, *arguments):
        line = [command, arguments, str(self.folder / f"{command}.log")]
        self.parent.stdin.write(json.dumps(line) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def start(self, command, *arguments):
        self.pids.append(self._ask(command, *arguments))

    def worker(self, address):
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        self.start("worker", address, *options)

    def wait(self, pid):
        """The exit code of a process, negative that of a signal."""
        self.pids.remove(pid)
        return self._ask("wait", pid, 0)

    def close(self):
        for pid in list(self.pids):
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)
        self.parent.communicate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of a scheduler, and the processes: its own and two workers'."""
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file]
    processes = Dask(folder)
    try:
        processes.start("scheduler", *map(str, options))
        limit = time.monotonic() + 60
        address = None
        while address is None and time.monotonic() < limit:
            try:
                address = json.loads(file.read_text())["address"]
            except (OSError, ValueError, KeyError):
                time.sleep(0.02)
        assert address
        for _ in range(2):
            processes.worker(address)
        yield address, processes
    finally:
        processes.close()


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide of nine shards at 1 um/px."""
    path = tmp_path_factory.mktemp("cluster") / "large.svs"
    rgb = np.tile(tissue_rgb(1050, 1050), (4, 4, 1))
    write_pyramid(path, rgb, mpp=1.0, power=10, downsamples=(1, 4))
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A slide of three shards beside each other, soon done."""
    path = tmp_path_factory.mktemp("flat") / "large.svs"
    rgb = np.tile(tissue_rgb(1050, 400), (1, 4, 1))
    write_pyramid(path, rgb, mpp=1.0, power=10, downsamples=(1, 4))
    return path


def tile(path, store, address=None, **more):
    reopen = partial(open_slide, path, reader="openslide")
    where = Cluster(address, reopen) if address else None
    with reopen() as own:
        return tile_slide(own, store, SETTINGS, cluster=where, **more)[0]


def content(folder):
    """Every file of a store, its bytes less the time of making."""
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {
        name: data if b'"created"' not in data else json.dumps(_timeless(json.loads(data)))
        for name, data in found.items()
    }


def _timeless(root):
    root["attributes"]["wsikd"].pop("created")
    return root


@pytest.fixture(scope="module")
def undisturbed(slide, tmp_path_factory):
    return content(tile(slide, tmp_path_factory.mktemp("threads") / "large.zarr").path)


@pytest.fixture(scope="module")
def undisturbed_flat(flat, tmp_path_factory):
    return content(tile(flat, tmp_path_factory.mktemp("threads") / "large.zarr").path)


def test_a_killed_worker_costs_nothing(cluster, slide, undisturbed, tmp_path):
    address, processes = cluster
    victim, steps = processes.pids[1], []

    def kill_one(done, total):
        if not steps:
            os.kill(victim, signal.SIGKILL)
            processes.worker(address)  # for the tests after this
        steps.append((done, total))

    store = tile(slide, tmp_path / "large.zarr", address, on_progress=kill_one)
    assert processes.wait(victim) == -signal.SIGKILL
    assert len(steps) == 9
    assert steps[-1][0] == steps[-1][1]
    assert steps[0][0] < steps[0][1]
    assert content(store.path) == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["large.zarr"]


def test_damage_is_the_line_that_threads_tell(cluster, flat, undisturbed_flat, tmp_path):
    path = tmp_path / "large.svs"
    shutil.copy(flat, path)
    break_tile(path, 17 + 11)  # the 2nd row of tiles, 12th column
    told = []
    for address in (None, cluster[0]):
        with pytest.raises(RegionReadError) as caught:
            tile(path, tmp_path / "out" / "large.zarr", address)
        told.append(str(caught.value))
        assert list((tmp_path / "out").iterdir()) == []
    assert told[0].startswith("large.svs: level 0 cannot be read at level-0 x=")
    assert told[0].endswith("; the file is damaged there; copy or scan it again")
    assert told[0].partition("(")[0].partition(" at ")[0] == told[1].partition(" at ")[0]
    # The scheduler is as good as before, and the mended file is not mistaken for the damaged one.
    shutil.copy(flat, path)
    assert content(tile(flat, tmp_path / "again.zarr", cluster[0]).path) == undisturbed_flat


KILLED = KilledWorker("block", SimpleNamespace(address="tcp://there"), 4)


@pytest.mark.parametrize(
    ("error", "told", "fault"),
    [
        (KeyboardInterrupt("Ctrl-C"), KeyboardInterrupt, "Ctrl-C"),
        (SystemExit(143), SystemExit, "143"),
        (KILLED, SlideError, "its pixels killed the Dask workers that read them"),
        (CancelledError(), SlideError, "the Dask scheduler stopped or dropped the work"),
        (OSError(28, "No space left on device"), OutputError, "No space left on device"),
    ],
    ids=str,
)
def test_an_end_of_any_kind_stops_what_waits(
    cluster, flat, undisturbed_flat, tmp_path, error, told, fault
):
    def stop(done, total):
        if done == total:  # so that no worker writes any more
            raise error

    with pytest.raises(told, match=fault):
        tile(flat, tmp_path / "large.zarr", cluster[0], on_progress=stop)
    assert (tmp_path / "large.zarr.part" / remote.STOP_FILE).exists()
    assert content(tile(flat, tmp_path / "large.zarr").path) == undisturbed_flat


def missing_there(path):
    raise SlideError(path, "no such file", "check the path")


def test_a_worker_without_the_file_tells_of_shared_disks(cluster, flat, tmp_path):
    where = Cluster(cluster[0], partial(missing_there, "large.svs"))
    with open_slide(flat) as own, pytest.raises(SlideError) as caught:
        tile_slide(own, tmp_path / "large.zarr", SETTINGS, cluster=where)
    told = str(caught.value)
    assert told.startswith("large.svs: the Dask worker on ")
    assert told.endswith(
        " cannot open it (no such file); keep slides and stores on a file system that all "
        "workers mount at the same path"
    )


def test_an_address_where_nobody_answers_is_one_line(flat, tmp_path, monkeypatch):
    monkeypatch.setattr("wsikd.tiles.write._CONNECT_S", 0.5)
    with pytest.raises(SlideError) as caught:
        tile(flat, tmp_path / "large.zarr", "tcp://127.0.0.1:9")
    assert str(caught.value).startswith(
        "tcp://127.0.0.1:9: no Dask scheduler answers there (Timed out"
    )
    with pytest.raises(SlideError, match="no Dask scheduler answers"):
        tile(flat, tmp_path / "large.zarr", "nonsense://")


class Recorded:
    """A slide that tells when it is closed."""

    def __init__(self, name, closed):
        self.info = type("Info", (), {"fingerprint": name})
        self.path, self.closed = name, closed

    def close(self):
        self.closed.append(self.path)


closed = []


def recorded(name):
    return Recorded(name, closed)


def test_a_worker_keeps_few_slides_open():
    closed.clear()
    kept = remote._OpenSlides()
    with kept.lease(partial(recorded, "a"), "a") as first:
        for name in ("b", "c", "d"):
            with kept.lease(partial(recorded, name), name):
                pass
        with kept.lease(partial(recorded, "a"), "a") as again:
            assert again is first
        assert "a" not in closed  # it is in use
    assert closed == ["b", "c"]
    with kept.lease(partial(recorded, "e"), "e"), kept.lease(partial(recorded, "f"), "f"):
        pass
    assert sorted(closed) == ["a", "b", "c", "d"]


def test_a_block_is_refused_where_store_or_slide_are_others(slide, tmp_path):
    from wsikd.tiles.blocks import BlockPlan
    from wsikd.tiles.grid import TileGrid

    reopen = partial(open_slide, slide)
    with reopen() as own:
        grid = TileGrid.plan(own, 1.0, 64, 64)
        mark = own.info.fingerprint
    job = ((0, 0), np.ones((8, 8), bool))
    plan = BlockPlan.of(tmp_path / "none.zarr.part", SETTINGS, grid)
    with pytest.raises(OutputError, match=r"none\.zarr\.part: the Dask worker .* cannot find it"):
        remote.fill_there(reopen, mark, plan, job)
    plan = BlockPlan.of(tmp_path, SETTINGS, grid)
    with pytest.raises(OutputError, match="cannot find it"):  # what a late block made anew
        remote.fill_there(reopen, mark, plan, job)
    zarr.create_group(tmp_path)
    with pytest.raises(SlideError, match="sees another file under this path"):
        remote.fill_there(reopen, "0" * 16, plan, job)
    remote.stop_all(tmp_path)
    assert remote.fill_there(reopen, mark, plan, job) == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == [remote.STOP_FILE, "zarr.json"]
    remote.allow_all(tmp_path)
    assert remote.fill_there(reopen, mark, plan, job).keys() >= {"read", "write"}
    assert remote.fill_there(reopen, mark, plan, job) == {}  # as where its first worker has died
    shard = tmp_path / "0" / "c" / "0" / "0" / "0"
    shard.with_name("1.77-1.partial").write_bytes(b"torn")
    remote.clear_leftovers(tmp_path)
    assert list(shard.parent.iterdir()) == [shard]
