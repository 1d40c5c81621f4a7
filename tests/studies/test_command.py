"""What the studies' commands share: usage, one line for a fault, exit codes, how they start."""

import logging
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main as wsikd

from benchmarks.studies.command import OUTPUT, study
from benchmarks.studies.hdkd.run import main as hdkd
from benchmarks.studies.slpd.run import main as slpd
from benchmarks.studies.ts2g.run import main as ts2g
from tests.studies.scripts import STUDIES
from wsikd.core.errors import DataError

ROOT = STUDIES.parents[1]
COMMANDS = {"hdkd": hdkd, "slpd": slpd, "ts2g": ts2g}


def end_of(fault):
    """How a study ends that raises a fault."""

    @study(OUTPUT)
    def command(output):
        raise fault

    return CliRunner().invoke(command, ["-o", "out"])


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [(DataError("a", "is gone", "put it back"), 2, "DataError: a: is gone; put it back"),
     (ValueError("odd"), 1, "odd"), (KeyboardInterrupt(), 130, "interrupted"),
     (FileNotFoundError(2, "No such file", "a.csv"), 2, "a.csv")],
)  # fmt: skip
def test_a_fault_is_one_line_and_an_exit_code(fault, code, line):
    found = end_of(fault)
    assert (found.exit_code, found.stderr.count("\n")) == (code, 1), found.stderr
    assert line in found.stderr
    assert not found.stdout


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "the study: was started as 2 processes" in end_of(None).stderr


@pytest.mark.parametrize(
    ("name", "option"),
    [("ts2g", "--data x"), ("ts2g", "--folds 3"), ("ts2g", "--seeds 1"), ("slpd", "--recommended"),
     ("slpd", "--rows a"), ("slpd", "--repeats 2"), ("hdkd", "--recommended")],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(name, option, tmp_path):
    found = CliRunner().invoke(COMMANDS[name], ["-o", str(tmp_path / "o"), *option.split()])
    assert found.exit_code == 2
    assert "No such option" in found.stderr
    assert option.split()[0] in found.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_given_once(name, tmp_path):
    twice = ["-o", str(tmp_path / "a"), "-o", str(tmp_path / "b")]
    found = CliRunner().invoke(COMMANDS[name], twice)
    assert found.exit_code == 2
    assert "give --output once, not 2 times" in found.stderr


def test_progress_is_logged_as_asked():
    @study()
    def command():
        click.echo(logging.getLogger("benchmarks.studies.x").getEffectiveLevel())

    before = logging.getLogger("wsikd").level
    try:
        for level in ("error", "info"):
            done = CliRunner().invoke(command, ["--log-level", level])
            assert int(done.stdout) == logging.getLevelName(level.upper())
    finally:
        logging.getLogger("wsikd").setLevel(before)
        logging.getLogger("benchmarks").setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", COMMANDS)
def test_wsikd_names_the_script(name, tmp_path):
    found = CliRunner().invoke(wsikd, ["reproduce", name, "-o", str(tmp_path / "out")])
    assert found.exit_code == 2
    assert f"run python benchmarks/studies/{name}/run.py in a checkout" in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_setting_is_told_before_heavy_imports():
    """As a file from the root of the checkout, and as a module."""
    code = """
import runpy, sys
sys.argv = [sys.argv[1], "-o", "out", "--set", "gone=1"]
sys.path[0] = "benchmarks/studies/ts2g"
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print(end.code, *(n for n in ("torch", "lightning", "tiatoolbox", "timm") if n in sys.modules))
"""
    script = "benchmarks/studies/ts2g/run.py"
    done = subprocess.run(
        [sys.executable, "-c", code, script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "2\n"
    assert done.stderr.startswith("ConfigError: --set gone: unknown key")
    assert done.stderr.count("\n") == 1
    module = [sys.executable, "-m", "benchmarks.studies.ts2g.run", "-o", "out", "--set", "gone=1"]
    again = subprocess.run(module, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (again.returncode, again.stderr) == (2, done.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name):
    found = CliRunner().invoke(COMMANDS[name], ["-h"])
    assert found.exit_code == 0
    options = {p.opts[-1] for p in COMMANDS[name].params}
    assert all(f" {option}" in found.stdout for option in options)
