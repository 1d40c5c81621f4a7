"""The real commands in a process that finds the package ``wsikd_outside`` installed.

``PYTHONPATH`` alone installs it: its folder holds the module and its ``.dist-info``.
"""

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "package"


def wsikd(*arguments, code=0, site=PACKAGE):
    """Run a command and return its output; ``site`` None leaves the package out."""
    paths = [str(site)] if site else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "wsikd", *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert "Traceback" not in told, told
    return told
