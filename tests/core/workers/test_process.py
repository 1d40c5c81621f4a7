"""Work in processes that may die."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.core import tasks
from wsikd.core.errors import RegionReadError, SlideError, StoreNotFoundError, UnforeseenError
from wsikd.core.workers.process import Task, WorkerPool, run_here


def alive(pid):
    """Whether a process runs; one that ended and waits to be fetched does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1  # noqa: PTH208
    except OSError:
        return False


def gone(pid, within=10.0):
    end = time.monotonic() + within
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


@pytest.fixture(scope="module")
def shared():
    """A process that tests share as long as none of them kills it."""
    with WorkerPool() as pool:
        yield pool


def only(pool, function, *arguments, on_report=None):
    (outcome,) = pool.run([Task("s", function, arguments)], on_report)
    return outcome


def test_one_process_does_task_after_task(shared):
    reports = []
    work = [Task(f"t{n}", tasks.double, (n,)) for n in range(4)]
    found = list(shared.run(work, lambda task, values: reports.append((task.name, *values))))
    assert [(o.task.name, o.value[0], o.error) for o in found] == [
        (f"t{n}", 2 * n, None) for n in range(4)
    ]
    assert reports == [(f"t{n}", "doubling", n) for n in range(4)]
    (pid,) = {o.value[1] for o in found}
    assert [pid] == shared.pids
    assert pid != os.getpid()


def test_its_environment_is_the_commands(shared):
    assert only(shared, tasks.environment).value == {
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }


@pytest.mark.parametrize("where", ["process", "here"])
def test_errors_come_as_they_were_raised(shared, where, caplog):
    caplog.set_level(logging.DEBUG, "wsikd")
    work = [Task("s", f) for f in (tasks.refuse, tasks.refuse_store, tasks.bug)]
    with WorkerPool() as pool:  # a fresh one, which takes over the level of the log
        found = list(pool.run(work) if where == "process" else run_here(work))
    refused, missing, unforeseen = (o.error for o in found)
    assert type(refused) is RegionReadError
    assert str(refused) == "s.svs: is damaged; scan it again"
    assert type(missing) is StoreNotFoundError
    assert (missing.subject, missing.fault, missing.remedy) == ("s.zarr", "not here", "make it")
    assert (type(unforeseen), unforeseen.exit_code) == (UnforeseenError, 1)
    assert str(unforeseen) == (
        "s: unforeseen KeyError: 'key'; run it alone with --log-level debug and report the "
        "traceback"
    )
    (record,) = [r for r in caplog.records if r.exc_text or r.exc_info]
    assert record.levelno == logging.DEBUG
    assert "in bug" in caplog.text


def test_who_closed_our_output_ends_the_work():
    outcomes = run_here([Task("s", tasks.unheard), Task("t", tasks.double, (1,))])
    with pytest.raises(BrokenPipeError):
        next(outcomes)


def test_a_fault_of_who_hears_the_reports_is_no_death_of_the_worker():
    def deaf(task, values):
        raise BrokenPipeError

    with WorkerPool() as pool, pytest.raises(BrokenPipeError):
        only(pool, tasks.double, 1, on_report=deaf)


def test_what_cannot_be_sent_back_is_told(shared):
    error = only(shared, tasks.unpicklable).error
    assert "unforeseen" in error.fault
    assert only(shared, tasks.double, 4).value[0] == 8


def test_log_records_come_to_the_parent(caplog):
    caplog.set_level(logging.INFO, "wsikd")
    with WorkerPool() as pool:
        assert only(pool, tasks.log_lines).error is None
    lines = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert lines == [
        ("wsikd.test", "INFO", "read 3 of s.svs"),
        ("other", "WARNING", "beware"),
        ("wsikd.test", "WARNING", "caught"),
    ]
    assert "ZeroDivisionError: inner" in caplog.text


@pytest.mark.parametrize(
    ("function", "argument", "told"),
    [
        (tasks.die, signal.SIGSEGV, ("reading it killed the worker process (signal 11, SIGSEGV); "
         "the file is damaged or breaks its reader: try another --reader, or leave it out")),
        (tasks.die, signal.SIGKILL, ("reading it killed the worker process (signal 9, SIGKILL); "
         "if out of memory, give fewer --jobs or --threads; else leave the slide out")),
        (tasks.leave, 7, ("its worker process exited (code 7); "
         "run it alone with --log-level debug and report the traceback")),
    ],
)  # fmt: skip
def test_a_process_that_dies_is_told_and_replaced(function, argument, told):
    work = [Task("a", tasks.double, (1,)), Task("b", function, (argument,))]
    work.append(Task("c", tasks.double, (3,)))
    with WorkerPool() as pool:
        first, dead, last = pool.run(work)
        assert str(dead.error) == f"b: {told}"
        assert type(dead.error) is SlideError
        assert last.value[0] == 6
        assert last.value[1] != first.value[1]
        assert pool.pids == [last.value[1]]


def test_a_process_that_died_idle_is_replaced():
    with WorkerPool() as pool:
        pid = only(pool, tasks.double, 1).value[1]
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        value, fresh = only(pool, tasks.double, 2).value
        assert value == 4
        assert fresh != pid


def test_a_process_is_replaced_after_so_many_tasks():
    with WorkerPool(recycle=2, recycle_s=0) as pool:
        found = list(pool.run(Task(str(n), tasks.double, (n,)) for n in range(5)))
    first, second, third = dict.fromkeys(o.value[1] for o in found)
    assert [o.value[1] for o in found] == [first, first, second, second, third]
    assert gone(first)


@pytest.mark.parametrize(
    "noise",
    [
        "[ WARN:0@1.250] global grfmt_tiff.cpp:122 TIFF_Warning Unknown field",
        "CRITICAL [Sun Nov 29 22:56:14 2026] - DcmError set twice",
        "libpng error: IDAT: CRC error",
        "Corrupt JPEG data: 591 extraneous bytes before marker 0xd9",
    ],
)
def test_what_libraries_print_is_logged_and_other_words_come_through(noise, capfd, caplog):
    words = "Exception in thread Thread-1:"
    with caplog.at_level(logging.DEBUG, logger="wsikd"), WorkerPool() as pool:
        [outcome] = pool.run([Task("t", tasks.mutter, (noise, words))])
    assert outcome.error is None
    assert capfd.readouterr().err == f"{words}\n"
    assert noise in caplog.text


def test_the_last_words_of_a_process_are_heard(capfd):
    with WorkerPool() as pool:
        [outcome] = pool.run([Task("t", tasks.mutter_and_die, ("terminate called\n",))])
    assert outcome.died
    assert "terminate called" in capfd.readouterr().err


def test_several_are_done_beside_each_other():
    work = [Task("slow", tasks.hang), *(Task(str(n), tasks.double, (n,)) for n in range(3))]
    with WorkerPool(2) as pool:
        found = pool.run(work)
        quick = [next(found) for _ in range(3)]
        assert sorted(o.task.name for o in quick) == ["0", "1", "2"]
        pids = pool.pids
        assert len(pids) == 2
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert all(gone(pid) for pid in pids)


def test_a_process_that_hangs_is_stopped():
    with WorkerPool(stall_s=6.0) as pool:
        start = time.monotonic()
        stuck, after = pool.run([Task("s", tasks.hang), Task("t", tasks.double, (1,))])
        assert time.monotonic() - start < 40
    assert str(stuck.error) == (
        "s: no progress in 0.1 minutes, so its worker process was stopped; check its disk or "
        "network, or wait longer with --stall MINUTES"
    )
    assert after.value[0] == 2


def test_one_that_reports_or_makes_progress_is_let_be():
    with WorkerPool(2, stall_s=6.0) as pool:
        work = [Task("a", tasks.progress, (7.0,)), Task("b", tasks.trickle, (7.0, 0.1))]
        assert [o.value for o in pool.run(work)] == ["done", "done"]


def test_one_that_computes_without_progress_is_stopped():
    with WorkerPool(stall_s=1.0) as pool:
        error = only(pool, tasks.compute, 30.0).error
    assert "no progress in 0.0167 minutes" in str(error)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_unwinds_what_is_at_work(tmp_path, error):
    def interrupt(task, values):
        raise error

    with pytest.raises(error), WorkerPool() as pool:
        only(pool, tasks.unwind, tmp_path / "told", on_report=interrupt)
    assert (tmp_path / "told").read_text() == "unwound"


def test_one_that_does_not_leave_is_killed():
    class Stop(Exception):
        pass

    pids = []

    def stop(task, values):
        pids.extend(pool.pids)
        raise Stop

    pool = WorkerPool()
    with pytest.raises(Stop):
        only(pool, tasks.stay, on_report=stop)
    pool.close(grace_s=0.3)
    assert gone(pids[0])


PARENT = """
from tests.core import tasks
from wsikd.core.workers.process import Task, WorkerPool
if __name__ == "__main__":
    with WorkerPool(2) as pool:
        work = [Task(str(n), tasks.stay) for n in range(2)]
        seen = []
        def told(task, values):
            seen.append(task.name)
            if len(seen) == 2:
                print(*pool.pids, flush=True)
        list(pool.run(work, told))
"""


def test_no_process_outlives_a_killed_parent():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert all(gone(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks on Linux alone")
def test_processes_are_forked_from_one_that_has_no_threads_and_all_imports():
    """A lock that a thread holds while its process forks stays locked in the child."""
    with WorkerPool(2) as pool:
        found = list(pool.run(Task(str(n), tasks.origin, ("wsikd.tiles.jobs",)) for n in range(4)))
    assert {o.value for o in found} == {(1, True)}


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks on Linux alone")
def test_a_process_has_the_environment_and_folder_of_now(shared, tmp_path, monkeypatch):
    only(shared, tasks.double, 1)  # the server runs
    monkeypatch.setenv("WSIKD_OF_NOW", "yes")
    monkeypatch.delenv("WSIKD_CACHE")
    monkeypatch.chdir(tmp_path)
    with WorkerPool() as pool:
        assert only(pool, tasks.surroundings).value == ("yes", None, str(tmp_path))


SPAWNED = """
from wsikd.core.workers.start import context
print(context("no.such.module").get_start_method())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks on Linux alone")
@pytest.mark.parametrize(("folder", "how"), [("short", "forkserver"), ("long" * 40, "spawn")])
def test_where_its_socket_has_no_place_processes_are_spawned(folder, how):
    with tempfile.TemporaryDirectory(dir="/tmp") as base:  # tmp_path is long itself
        _starts(Path(base) / folder, how)


def _starts(folder, how):
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", SPAWNED], capture_output=True, text=True, env=environment, check=True
    )
    assert (done.stdout, done.stderr) == (f"{how}\n", "")
    assert not list(folder.iterdir())


THREADED = """
import os
from tests.core import tasks
from wsikd.core.workers.process import Task, WorkerPool
if __name__ == "__main__":
    with WorkerPool(imports=["threaded"]) as pool:
        print(*(o.value for o in pool.run([Task("s", tasks.origin, ("threaded",))])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a server forks on Linux alone")
def test_a_server_whose_imports_start_a_thread_goes_without_them(tmp_path):
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", THREADED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "(1, False)\n"


IMPORTED = {
    "wsikd.grade.reports.folder_report": "torch scipy zarr h5py PIL",
    "wsikd.grade.viewer.server wsikd.grade.viewer.session": "torch scipy zarr h5py shapely",
    "wsikd.api.slide_scores wsikd.api.scores wsikd.bags.run": "numpy torch scipy zarr cv2 pydantic",
    "wsikd.bags.embed wsikd.grade.bench.run wsikd.grade.bench.compare wsikd.learn.patch.train "
    "wsikd.learn.mil.train wsikd.learn.slpd.train": "scipy sklearn pandas h5py dask torchvision",
}
"""Modules that a command imports first, and what they must not bring."""


@pytest.mark.parametrize("modules", IMPORTED)
def test_commands_start_without_what_is_slow_to_import(modules):
    names = modules.split()
    code = (
        f"import sys, {', '.join(names)}\n"
        f"print(*(name for name in {IMPORTED[modules].split()} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_tile_and_infer_hand_out_slides_without_what_is_slow_to_import():
    slow = ("scipy", "torch", "openvino", "dask", "numba")
    code = (
        "import sys, wsikd.tiles.runs.foresee, wsikd.tiles.runs.plan, wsikd.grade.runs.folder\n"
        f"print(*(name for name in {slow} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
