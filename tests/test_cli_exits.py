"""How commands end: a command line, its exit code, one line on standard error."""

import os
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner
from wsikd.cli.exits import CODES, one_line_errors
from wsikd.cli.main import main

from tests.interrupts import hear_interrupts
from wsikd.core.errors import (
    ConfigError,
    NoSlidesError,
    OutputError,
    SlideError,
    StoreError,
    UnforeseenError,
)
from wsikd.core.faults import explain
from wsikd.grade.runs.folder import formats_of


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The current folder, with one of each kind of wrong input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.svs").write_text("these are not pixels")
    (tmp_path / "bad.yaml").write_text("method: at_plus\noptim: {epochz: 1}\n")
    (tmp_path / "good.yaml").write_text("method: supervised\n")
    (tmp_path / "bad.csv").write_text("slide,colour\na.svs,red\n")
    (tmp_path / "file").write_text("")
    return tmp_path


TABLE = [
    ("--version", 0),
    ("init", 0),
    ("config good.yaml", 0),
    ("tlie", 2),
    ("tile", 2),
    ("tile -i text.svs -o out --mag ten", 2),
    ("tile -i bad.csv -o out", 2),
    ("tile -i gone.csv -o out", 2),
    ("tile -i text.svs -o file", 2),
    ("tile -i text.svs -o out --jobs 0", 3),
    ("tile -i empty -o out", 4),
    ("info text.svs", 3),
    ("info gone.svs", 3),
    ("info empty", 4),
    ("export empty --to images -o out", 4),
    ("config bad.yaml", 2),
    ("config gone.yaml", 2),
    ("init nothing", 2),
    ("distill -c gone.yaml -o run", 2),
    ("distill -c bad.yaml -o run", 2),
    ("distill -c good.yaml -o run", 2),
    ("distill -c good.yaml -o run --data gone", 2),
    ("infer -i text.svs -m gone -o out --jobs 0", 2),
    ("evaluate gone", 2),
    ("evaluate --slides empty --labels gone.csv", 2),
    ("export-model gone --to onnx -o out", 2),
    ("report gone", 2),
    ("report empty", 4),
    ("view gone", 2),
    ("slides similar empty a", 2),
]


@pytest.mark.parametrize(("line", "code"), TABLE, ids=lambda value: str(value))
def test_exit_codes(places, line, code):
    done = run(*line.split())
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert "unforeseen" not in done.output
    if code and "Usage: " not in done.stderr:
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.count("; ") >= 1


def test_the_codes_are_in_the_help():
    assert CODES in " ".join(run("--help").output.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("x"), 1, "UnforeseenError: wsikd: unforeseen ValueError: x; "),
        (RuntimeError(), 1, "UnforeseenError: wsikd: unforeseen RuntimeError; "),
        (OutputError("out", "is full", "free space"), 2, "OutputError: out: is full; free space"),
        (StoreError("s", "is torn", "copy it"), 2, "StoreError: s: is torn; copy it"),
        (PermissionError(13, "Permission denied", "x"), 2, "OutputError: x: Permission denied; "),
        (MemoryError(), 2, "WsikdError: wsikd: out of memory; lower --jobs"),
        (SlideError("s", "is torn", "copy it"), 3, "SlideError: s: is torn; copy it"),
        (NoSlidesError("s", "is empty", "give one"), 4, "NoSlidesError: s: is empty; give one"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_each_error_has_its_code(capsys, error, code, line):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == code
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(line)


def test_a_fault_of_ours_is_one_line_with_its_traceback_at_level_debug(monkeypatch):
    @click.command()
    def broken():
        raise ZeroDivisionError("what")

    monkeypatch.setitem(main.commands, "broken", broken)
    told = "UnforeseenError: wsikd broken: unforeseen ZeroDivisionError: what; run it again with "
    done = CliRunner().invoke(main, ["broken"], prog_name="wsikd")
    assert done.exit_code == 1
    assert done.stderr == f"{told}--log-level debug and report the traceback\n"


def test_what_is_explained_already_stays():
    own = SlideError("s", "is torn", "copy it")
    assert explain("other", own) is own
    assert isinstance(explain("s", KeyError("a")), UnforeseenError)
    refused = explain("s", PermissionError(13, "Permission denied"))
    assert str(refused) == "s: Permission denied; check the path and its permissions"


def test_a_current_folder_that_was_removed_is_one_line(tmp_path):
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        "from wsikd.cli.main import main; main(['info', 'a.svs'], prog_name='wsikd')"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-c", code, str(gone)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: the current folder: does not exist any more; ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_with_130(tmp_path):
    code = (
        "import time, click\nfrom wsikd.cli.main import main\n"
        "@main.command()\ndef wait():\n    click.echo('here')\n    time.sleep(60)\n"
        "main(['wait'], prog_name='wsikd')"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=hear_interrupts, **pipes) as running:
        running.stdout.readline()
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tile -i a.svs -o out --classes NC --classes G3", "give --classes once, not 2 times"),
        ("export s --to images -o out --to clam-h5", "give --to once, not 2 times"),
        ("infer -i a.svs -m s -o a -o b -o c", "give --output once, not 3 times"),
    ],
)
def test_an_option_of_one_value_is_not_taken_twice(line, told):
    done = run(*line.split())
    assert done.exit_code == 2
    assert told in done.stderr


def test_flags_and_lists_may_be_given_again(places):
    done = run(
        *[
            "tile",
            "-i",
            "empty",
            "-i",
            "empty",
            "-o",
            "out",
            "--overwrite",
            "--overwrite",
            "--mag",
            "10",
            "--mag",
            "5",
        ]
    )
    assert done.exit_code == 4


@pytest.mark.parametrize(
    ("given", "formats"),
    [
        (("csv", "zarr"), ("zarr", "csv")),
        (("csv,zarr", " png "), ("zarr", "csv", "png")),
        (("all", "csv", "csv"), ("csv", "all")),
    ],
)
def test_formats_add_up(given, formats):
    assert formats_of(given) == formats


@pytest.mark.parametrize("given", [("csv", "jpg"), (",",)])
def test_formats_that_are_none(given):
    with pytest.raises(ConfigError):
        formats_of(given)


@pytest.mark.parametrize("name", ["infer", "attend"])
def test_format_takes_several_values(name):
    (option,) = (p for p in main.commands[name].params if p.name == "formats")
    assert option.multiple
