"""One process at a time on one output."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wsikd.core.errors import OutputError
from wsikd.core.output import lock
from wsikd.core.output.lock import locked

HOLD = """
import sys
from pathlib import Path
from wsikd.core.output.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``out`` until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_kept_off_and_told(holder, tmp_path):
    file = tmp_path / "out.lock"
    with pytest.raises(OutputError) as caught, locked(tmp_path / "out"):
        raise AssertionError
    assert str(caught.value) == (
        f"{tmp_path / 'out'}: another process (pid {holder.pid} on {socket.gethostname()}) is "
        f"using it; wait for it, or remove {file} if that process has ended"
    )
    with locked(tmp_path / "another"):
        pass
    holder.communicate()
    assert not file.exists()
    with locked(tmp_path / "out"):
        assert file.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "out.lock").exists()
    with locked(tmp_path / "out"):
        assert (tmp_path / "out.lock").read_text().split()[0] == str(os.getpid())


def test_one_process_does_not_lock_twice(tmp_path):
    with locked(tmp_path / "out"):
        with pytest.raises(OutputError, match=f"pid {os.getpid()} on"), locked(tmp_path / "out"):
            raise AssertionError
        assert (tmp_path / "out.lock").exists()


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", False),
        ("12", False),  # torn by a kill
        (f"{os.getpid()} - {socket.gethostname()}", False),  # our number was another's before
        (f"{os.getppid()} 1 {socket.gethostname()}", False),  # begun at another time
        (f"{os.getppid()} - {socket.gethostname()}", True),
        ("1 1 another-host", True),
    ],
    ids=["empty", "torn", "our number", "other start", "parent", "other host"],
)
def test_what_counts_as_held(tmp_path, text, held):
    if text.split()[1:2] == ["1"] and not held and not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell when a process began")
    (tmp_path / "out.lock").write_text(text)
    if held:
        with pytest.raises(OutputError, match="another process"), locked(tmp_path / "out"):
            raise AssertionError
        assert (tmp_path / "out.lock").read_text() == text
    else:
        with locked(tmp_path / "out"):
            pass
        assert not (tmp_path / "out.lock").exists()


@pytest.mark.parametrize("make", ["text", "folder", "link"])
def test_what_is_no_lock_is_left_alone(tmp_path, make):
    file, other = tmp_path / "out.lock", tmp_path / "other"
    other.write_text("1 1 here\n")
    if make == "text":
        file.write_text("what is this")
    elif make == "folder":
        file.mkdir()
    else:
        file.symlink_to(other)
    told = pytest.raises(OutputError, match=r"out\.lock: (was not written|is a symbolic link)")
    with told, locked(tmp_path / "out"):
        raise AssertionError
    assert other.read_text() == "1 1 here\n"
    assert file.is_symlink() or file.is_dir() or file.read_text() == "what is this"


def test_a_lock_that_goes_while_it_is_opened_is_opened_again(tmp_path, monkeypatch):
    own, seen = lock._alone, []

    def meanwhile(handle):
        if not seen:
            (tmp_path / "out.lock").unlink()
        seen.append(handle)
        own(handle)

    monkeypatch.setattr(lock, "_alone", meanwhile)
    with locked(tmp_path / "out"):
        assert (tmp_path / "out.lock").exists()
    assert len(seen) == 2


def test_a_fault_inside_opens_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "out"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_holder_that_nobody_has_buried_is_gone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    file = tmp_path / "a.zarr.lock"
    file.write_text(f"{child.pid} {lock._started(child.pid)} {socket.gethostname()}\n")
    with pytest.raises(OutputError, match="is using it"), locked(tmp_path / "a.zarr"):
        pass
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, yet still in the table
    with locked(tmp_path / "a.zarr"):
        assert file.read_text().split()[0] == str(os.getpid())
    child.wait()


def test_a_full_disk_leaves_no_lock(tmp_path):
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"), locked(tmp_path / "out"):
            raise AssertionError
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "out"):
        pass
