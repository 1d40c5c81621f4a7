"""Runs the scripts of the studies."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


def run(script, *arguments, fails=False):
    """Run a script as Python runs a file, in this process: its imports take seconds in each."""
    told, code = io.StringIO(), None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.syspath_prepend((STUDIES / script).parent)
        try:
            runpy.run_path(str(STUDIES / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
    assert bool(code) == fails, (code, told.getvalue())
    return told.getvalue() + (code if isinstance(code, str) else "")
