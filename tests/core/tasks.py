"""What worker processes are asked to do in tests; they import this file by its name."""

import logging
import os
import sys
import time
from pathlib import Path

from wsikd.core.errors import RegionReadError, StoreNotFoundError
from wsikd.core.workers.progress import progressing
from wsikd.core.workers.worker import Beside


def double(report, number):
    report("doubling", number)
    return 2 * number, os.getpid()


def environment(report):
    return {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")}


def origin(report, module):
    """Threads of the process that this one was forked from, and whether a module came along."""
    return len(list(Path(f"/proc/{os.getppid()}/task").iterdir())), module in sys.modules


def parent(report):
    return os.getppid()


def surroundings(report):
    return os.environ.get("WSIKD_OF_NOW"), os.environ.get("WSIKD_CACHE"), str(Path.cwd())


def log_lines(report):
    logging.getLogger("wsikd.test").info("read %d of %s", 3, "s.svs")
    logging.getLogger("wsikd.test").debug("not asked for")
    logging.getLogger("other").warning("beware")
    try:
        raise ZeroDivisionError("inner")
    except ZeroDivisionError:
        logging.getLogger("wsikd.test").warning("caught", exc_info=True)


def refuse(report):
    raise RegionReadError("s.svs", "is damaged", "scan it again")


def refuse_store(report):
    raise StoreNotFoundError("s.zarr", "not here", "make it")


def bug(report):
    return {}["key"]


def unheard(report):
    raise BrokenPipeError(32, "Broken pipe")


def unpicklable(report):
    return lambda: None


def die(report, number):
    report("about to die")
    os.kill(os.getpid(), number)
    time.sleep(30)


def leave(report, code):
    os._exit(code)


def hang(report):
    time.sleep(60)


def compute(report, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def progress(report, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        progressing()
        time.sleep(0.01)
    return "done"


def trickle(report, seconds, every):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        report("alive")
        time.sleep(every)
    return "done"


def unwind(report, file):
    try:
        report("ready")
        time.sleep(60)
    finally:
        file.write_text("unwound")


def stay(report):
    """Ignore the request to leave."""
    while True:
        try:
            report("ready")
            time.sleep(60)
        except SystemExit:
            continue


def mutter(report, noise, words):
    """Print as a library in C does, past Python."""
    os.write(2, f"{noise}\n{words}\n".encode())


def mutter_and_die(report, words):
    os.write(2, words.encode())
    os.abort()


def write_beside(report, file, seconds):
    """Leave the writing for the time of the next task."""

    def work():
        time.sleep(seconds)
        file.write_text("written")
        return time.monotonic()

    return Beside(work)


def refuse_beside(report):
    def work():
        raise RegionReadError("s.svs", "cannot be written", "free space")

    return Beside(work)


def die_beside(report, number):
    def work():
        time.sleep(0.3)
        os.kill(os.getpid(), number)
        time.sleep(30)

    return Beside(work)


def begin(report, seconds=0.0):
    now = time.monotonic()
    time.sleep(seconds)
    return now
