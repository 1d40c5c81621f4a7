"""``failures.csv`` stays true when several processes fill one folder."""

import subprocess
import sys

import pytest

from wsikd.core.errors import OutputError, SlideError
from wsikd.core.output.failures import FILE, read_failures, update_failures
from wsikd.core.output.lock import locked

MANY = """
import sys
from pathlib import Path
from wsikd.core.errors import SlideError
from wsikd.core.output.failures import update_failures
for n in range(15):
    name = f"{sys.argv[2]}{n}"
    update_failures(Path(sys.argv[1]), {name: SlideError(name, "bad", "copy it again")})
    if n % 3 == 0:
        update_failures(Path(sys.argv[1]), {}, [name])
"""


def error(fault="bad"):
    return SlideError("s", fault, "copy it again")


def listed(folder):
    return {line["slide"]: line["fault"] for line in read_failures(folder)}


def test_lines_of_other_slides_stay(tmp_path):
    update_failures(tmp_path, {"a": error(), "b": error()})
    update_failures(tmp_path, {"c": error("worse")}, ["d"])
    assert listed(tmp_path) == {"a": "bad", "b": "bad", "c": "worse"}
    update_failures(tmp_path, {"b": error("again")}, ["a"])
    assert listed(tmp_path) == {"b": "again", "c": "worse"}
    update_failures(tmp_path, {}, ["b", "c"])
    assert list(tmp_path.iterdir()) == []
    update_failures(tmp_path, {}, ["b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["=cmd|'/C'!A0", "'=x", "-x", "a,b", 'a"b', "a\nb", "é\udcff"])
def test_names_of_any_kind_are_found_again(tmp_path, name):
    update_failures(tmp_path, {name: error(), "other": error()})
    assert "\n=" not in (tmp_path / FILE).read_text(encoding="utf-8")
    update_failures(tmp_path, {name: error("again")})
    assert list(listed(tmp_path).values()) == ["bad", "again"]
    update_failures(tmp_path, {}, [name])
    assert listed(tmp_path) == {"other": "bad"}


def test_two_processes_lose_no_line_of_each_other(tmp_path):
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    both = [subprocess.Popen([*command, name]) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    expected = {f"{name}{n}" for name in "ab" for n in range(15) if n % 3}
    assert set(listed(tmp_path)) == expected
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_table_of_others_is_left_alone(tmp_path):
    (tmp_path / FILE).write_text("mine,own\n1,2\n")
    with pytest.raises(OutputError, match="is not a table of failures written by wsikd"):
        update_failures(tmp_path, {"a": error()})
    assert (tmp_path / FILE).read_text() == "mine,own\n1,2\n"


def test_a_lock_that_is_held_is_waited_for(tmp_path):
    with (
        locked(tmp_path / "x"),
        pytest.raises(OutputError, match="is using"),
        locked(tmp_path / "x", wait_s=0.1),
    ):
        raise AssertionError
