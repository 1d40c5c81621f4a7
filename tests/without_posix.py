"""A plugin for tests where Python lacks what Windows lacks: ``pytest -p tests.without_posix``.

The names are removed while a test function runs, not for pytest's own fixtures. A test that uses
one of them itself is skipped; one that fails because wsikd or a library uses one fails. What needs
processes of POSIX in Python's own library cannot be tried in this way.
"""

import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path

import pytest

for library in (
    "dask.array", "distributed", "matplotlib.pyplot", "multiprocessing.util", "numba", "openslide",
    "openvino", "psutil", "scipy", "sklearn", "timm", "torchvision", "zarr",
):  # fmt: skip
    import_module(library)  # as built for Linux, they look for these names when they are imported

SYSTEM = (
    "fork", "forkpty", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity",
    "sched_setaffinity", "getuid", "geteuid", "getgid", "chown", "getloadavg", "killpg", "setsid",
    "statvfs", "mkfifo", "nice", "posix_fadvise", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW",
    "O_NONBLOCK", "uname", "register_at_fork", "sysconf", "getpgid", "setpgid", "fchown", "lchown",
)  # fmt: skip
SIGNALS = (
    "SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGSTOP", "SIGCHLD",
    "SIGALRM", "setitimer", "alarm",
)  # fmt: skip
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")
OWN = tuple(str(Path(__file__).parents[1] / folder) + os.sep for folder in ("wsikd", "cli"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run one test without the names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SYSTEM:
            patch.delattr(os, name, raising=False)
        for name in SIGNALS:
            patch.delattr(signal, name, raising=False)
        for name in MODULES:
            patch.setitem(sys.modules, name, None)
        try:
            return (yield)
        except (AttributeError, ImportError) as error:
            if not _is_of_the_test(error):
                raise
            reason = f"the test itself needs POSIX: {error}"
    pytest.skip(reason)


def _is_of_the_test(error):
    """Whether a removed name was missed, and not by wsikd or by what it called."""
    names = (*SYSTEM, *SIGNALS, *MODULES)
    frames = traceback.extract_tb(error.__traceback__)
    missed = getattr(error, "name", None) in names or str(error) in names
    return missed and not any(frame.filename.startswith(OWN) for frame in frames)
