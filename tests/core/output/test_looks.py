"""The ledger of looks at test parts."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wsikd.core.output import looks
from wsikd.core.output.looks import Part, earlier, looks_text, note, state_folder, tally

A = Part.of(["s1", "s2", "s3"])
NONE = Part.of(["x1"])


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    monkeypatch.setenv("WSIKD_STATE", str(folder))
    return folder


def look(part=A, network="n1", **more):
    return tally(note(part, command="wsikd evaluate", network=network, **more), [part.key])


def test_a_part_is_its_content_in_any_order():
    assert Part.of(["s3", "s1", "s2", "s1"]) == A
    assert Part.of(["s1", "s2"]).key != A.key
    assert not A.items & NONE.items
    many = Part.of(map(str, range(5000)))
    assert len(many.items) == looks.SKETCH
    assert len(many.items & Part.of(map(str, range(2500, 7500))).items) > 40  # a third is shared


def test_looks_and_runs_are_counted(state):
    assert look() == tally([], []).__class__(1, 1, 0)
    look(network="n1")
    found = look(network="n2")
    assert (found.looks, found.networks, found.others) == (3, 2, 0)
    assert found.text == "this test part has been looked at 3 times by 2 runs"
    assert looks_text(found.record()) == found.text
    assert look(NONE).text == "this test part has been looked at once by 1 run"
    assert [p.name for p in state.iterdir()] == ["looks.json"]  # no lock and no part is left


def test_a_part_with_one_slide_less_does_not_escape():
    look()
    look(network="n2")
    found = look(Part.of(["s1", "s2"]))
    assert (found.looks, found.others) == (1, 2)
    assert found.text.endswith("by 1 run, and parts that share slides with it 2 times")


def test_nothing_of_the_data_can_be_read_from_it(state):
    look(Part.of(["Mrs Smith"]))
    text = (state / "looks.json").read_text()
    assert "Smith" not in text
    entry = json.loads(text)["looks"][0]
    assert set(entry) == {"id", "time", "command", "part", "items", "network"}


def test_what_one_ledger_has_lost_comes_back_from_the_other(state, tmp_path, monkeypatch):
    beside = tmp_path / "stores"
    beside.mkdir()
    look(folders=[beside, beside])
    look(folders=[beside])
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "another user"))
    assert look(folders=[beside]).looks == 3
    (beside / "looks.json").unlink()
    assert look(folders=[beside]).looks == 4
    assert len(json.loads((beside / "looks.json").read_text())["looks"]) == 4
    monkeypatch.setenv("WSIKD_STATE", str(state))
    assert tally(earlier(A, folders=[beside]), [A.key]).looks == 4


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"kind": "looks at test parts"}', '{"kind": "another", "looks": []}',
     '{"kind": "looks at test parts", "looks": [{"id": 1}]}'],
)  # fmt: skip
def test_what_is_no_ledger_is_warned_of_and_stays(content, state, caplog):
    state.mkdir()
    (state / "looks.json").write_text(content)
    assert look().looks == 1
    assert "looks.json" in caplog.text
    assert (state / "looks.json").read_text() == content


def test_a_link_is_not_followed(state, tmp_path, caplog):
    state.mkdir()
    target = tmp_path / "mine.json"
    target.write_text("mine")
    (state / "looks.json").symlink_to(target)
    look()
    assert target.read_text() == "mine"
    assert "is not kept" in caplog.text


def test_a_state_folder_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "file" / "state"))
    assert look().looks == 1
    assert "the look at the test part is not kept" in caplog.text


def test_beside_data_that_are_read_only_nothing_is_written(tmp_path, monkeypatch, caplog):
    beside = tmp_path / "stores"
    beside.mkdir()
    monkeypatch.setattr(looks.os, "access", lambda path, mode: Path(path) != beside)
    look(folders=[beside, tmp_path / "absent"])
    assert list(beside.iterdir()) == []
    assert not (tmp_path / "absent").exists()
    assert not caplog.records


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_passed_over(tmp_path):
    beside = tmp_path / "stores"
    beside.mkdir()
    beside.chmod(stat.S_IREAD | stat.S_IEXEC)
    assert look(folders=[beside]).looks == 1
    assert list(beside.iterdir()) == []


def test_no_look_is_lost_where_processes_look_at_once(state):
    code = (
        "from wsikd.core.output.looks import Part, note\n"
        "for i in range(5):\n"
        "    note(Part.of(['s1', 's2', 's3']), command='c', network='n')\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [w.wait(60) for w in workers] == [0] * 4
    assert tally(earlier(A), [A.key]).looks == 20


def test_the_state_folder_is_that_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("WSIKD_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "wsikd"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert state_folder() == tmp_path / ".local" / "state" / "wsikd"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert state_folder() == tmp_path / "Library" / "Application Support" / "wsikd"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert state_folder() == tmp_path / "local" / "wsikd"


def test_without_a_home_there_is_a_warning(monkeypatch, caplog):
    def nowhere():
        raise RuntimeError("no home")

    monkeypatch.setattr(looks, "state_folder", nowhere)
    assert look().looks == 1
    assert "no home" in caplog.text
