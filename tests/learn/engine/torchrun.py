"""Two processes of a program, as ``torchrun`` starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FORKED = """
import os, sys
import sklearn.linear_model, torch._dynamo, torch.distributed
import wsikd.learn.patch.export, wsikd.learn.patch.train
from wsikd.cli.main import main

children = []
for rank in "01":
    child = os.fork()
    if not child:
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        main(sys.argv[1:])
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def torchrun(*asked, timeout=300, program=("-m", "wsikd")):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return _run(*start, *program, *asked, timeout=timeout)


def forked(*asked):
    """``torchrun`` of ``wsikd``, but what both import is imported once: a third of the time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}
    env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return _run(sys.executable, "-c", FORKED, *asked, **env)


def _run(*command, timeout=300, **env):
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"}
    return subprocess.run(
        list(map(str, command)),
        env=os.environ | env, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
