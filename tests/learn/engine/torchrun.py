"""Two processes of a program, as ``torchrun`` starts them."""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
OWN = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}
FORKED = """
import json, os, sys
import sklearn.linear_model, torch._dynamo, torch.distributed
import wsikd.learn.patch.export, wsikd.learn.patch.train
from wsikd.cli.main import main

while line := sys.stdin.readline():
    asked, environment, files = json.loads(line)
    children = []
    for rank in "01":
        child = os.fork()
        if not child:
            for number, file in enumerate(files, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
            os.environ.clear()
            os.environ |= environment | {"RANK": rank, "LOCAL_RANK": rank}
            main(asked)
        children.append(child)
    print(max(os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children), flush=True)
"""


def torchrun(*asked, timeout=300, program=("-m", "wsikd")):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*start, *map(str, program), *map(str, asked)],
        env=os.environ | OWN, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


def forked(*asked, timeout=300):
    """``torchrun`` of ``wsikd``, but what all such runs import is imported once a session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        parent = _parent()
        line = [list(map(str, asked)), os.environ | OWN | env, [out.name, err.name]]
        parent.stdin.write(json.dumps(line).encode() + b"\n")
        parent.stdin.flush()
        if not select.select([parent.stdout], [], [], timeout)[0]:
            parent.kill()
            raise TimeoutError(err.read().decode())
        code = int(parent.stdout.readline())
        return subprocess.CompletedProcess(asked, code, out.read().decode(), err.read().decode())


@cache
def _parent():
    """The process that has imported, and forks; it ends when its standard input does."""
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKED],
        env=os.environ | OWN, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    atexit.register(parent.communicate)
    return parent
