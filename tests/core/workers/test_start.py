import os
import signal
import subprocess
import sys

import pytest

from tests.core.workers.test_process import alive, gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")

RUN = """
import contextlib, os, signal, sys, threading
from tests.core import tasks
from wsikd.core.workers.process import Task, WorkerPool
from wsikd.core.workers.start import own_process

def of(pool, function, *arguments):
    (outcome,) = pool.run([Task("t", function, arguments)])
    return outcome

with WorkerPool() as pool, own_process():
"""
FORKED = """
    assert of(pool, tasks.origin, "wsikd.core.workers.start").value[1]
    assert of(pool, tasks.parent).value == os.getpid()
    assert "multiprocessing.forkserver" not in sys.modules
    os.kill(pool.pids[0], signal.SIGKILL)
    assert of(pool, tasks.parent).value != os.getpid(), "the next one comes from a server"
"""
THREADS = """
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    assert of(pool, tasks.parent).value != os.getpid()
"""
FRAMEWORK = """
    sys.modules["torch"] = contextlib
    assert of(pool, tasks.parent).value != os.getpid()
"""
ORPHAN = """
    def told(task, values):
        print(*pool.pids, flush=True)
    list(pool.run([Task("t", tasks.stay)], told))
"""


def command(code):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {"args": [sys.executable, "-c", RUN + code], "env": environment, "text": True}


@pytest.mark.parametrize("code", [FORKED, THREADS, FRAMEWORK], ids=["alone", "threads", "torch"])
def test_the_command_forks_its_first_worker_while_it_has_no_threads(code):
    done = subprocess.run(**command(code), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_worker_does_not_outlive_its_killed_parent():
    with subprocess.Popen(**command(ORPHAN), stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)
