"""wsikd where Python lacks what only POSIX has: all modules import, a slide is tiled and graded."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.slides.pixels import copy_slide
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader

ROOT = Path(__file__).parents[1]
CHILD = """
import os, pkgutil, signal, sys
import dask.array, distributed, lightning, matplotlib.pyplot, numba, openvino, psutil, scipy, torch
import multiprocessing.popen_fork, multiprocessing.util, openslide, timm, torchvision, zarr

FUNCTIONS = ("fork", "forkpty", "pread", "preadv", "pwrite", "pwritev", "sched_getaffinity",
             "sched_setaffinity", "getuid", "geteuid", "getgid", "chown", "getloadavg", "killpg",
             "setsid", "statvfs", "mkfifo", "nice", "wait4", "posix_fadvise", "O_CLOEXEC",
             "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK")
for name in FUNCTIONS:
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGSTOP", "SIGCHLD"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
assert not any(name.partition(".")[0] == "wsikd" for name in sys.modules)

import wsikd
import wsikd.cli
import wsikd.configs

count = 0
for found in pkgutil.walk_packages(wsikd.__path__, "wsikd."):
    if found.name not in ("wsikd.__main__", "wsikd.tia"):
        __import__(found.name)
        count += 1
for found in pkgutil.iter_modules(wsikd.cli.__path__, "wsikd.cli."):
    __import__(found.name)
    count += 1
print("imported", count)

from wsikd.cli.main import main
for line in sys.argv.pop(1).split(";"):
    try:
        main(line.split(","))
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def test_without_functions_of_posix_modules_import_and_a_slide_is_graded(slide_file, tmp_path):
    torch.manual_seed(1)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    network = build_grader("vgg_small", 4, width=0.25)
    student = save_bundle(
        tmp_path / "student", network, spec, arch="vgg_small", width=0.25, temperature=1.0
    )
    slide = copy_slide(slide_file, tmp_path / "a.svs")
    lines = [
        f"info,{slide}",
        f"tile,-i,{slide},-o,{tmp_path / 'stores'},--mag,10,--patch-size,128,--jobs,0",
        f"infer,-i,{slide},-m,{student},-o,{tmp_path / 'out'},--jobs,0",
        f"report,{tmp_path / 'out'}",
    ]
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, ";".join(lines)],
        check=False, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    everything = child.stdout + child.stderr
    assert re.findall(r"^exit (\w+)", child.stdout, re.MULTILINE) == ["0"] * 4, everything
    assert int(re.search(r"imported (\d+)", child.stdout)[1]) > 300
    assert "Traceback" not in everything
    assert (tmp_path / "out/a/overlay.jpg").is_file()
    assert (tmp_path / "stores/a.zarr").is_dir()
