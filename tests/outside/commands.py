"""The real commands in a process that finds the package ``wsikd_outside`` installed.

``PYTHONPATH`` alone installs it: its folder holds the module and its ``.dist-info``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "package"
_ONE_AFTER_ANOTHER = """
import json, sys
from click.testing import CliRunner
from wsikd.cli.main import main

done = [CliRunner().invoke(main, arguments) for arguments in json.load(sys.stdin)]
print()
print(json.dumps([[one.exit_code, one.output] for one in done]))
"""


def wsikd(*arguments, code=0, site=PACKAGE):
    """Run a command and return its output; the package is found in ``site``."""
    done = _python(["-m", "wsikd", *map(str, arguments)], site)
    told = done.stdout + done.stderr
    assert done.returncode == code, told
    assert "Traceback" not in told, told
    return told


def one_after_another(*commands, site=PACKAGE):
    """Run several commands in one process, which starts once; returns what each printed."""
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    done = _python(["-c", _ONE_AFTER_ANOTHER], site, asked)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for command, (code, output) in zip(commands, found, strict=True):
        assert code == 0, (command, output, done.stderr)
    return [output for _, output in found]


def _python(arguments, site, given=None):
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        input=given, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
