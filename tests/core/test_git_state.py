"""The commit in a record; a checkout is only read."""

import os
import shutil
import subprocess

import pytest

from wsikd.core.run import git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(root, *command):
    author = {
        f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", root, *command], env=os.environ | author, check=True, stdout=-1
    )
    return done.stdout.decode().strip()


def test_the_commit_and_whether_it_was_changed(tmp_path):
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    file = tmp_path / "a.txt"
    file.write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-qm", "first")
    commit, index = git(tmp_path, "rev-parse", "HEAD"), tmp_path / ".git" / "index"
    os.utime(file, (1, 1))  # git would refresh its index here
    before = index.read_bytes()
    (tmp_path / ".git" / "index.lock").touch()  # another git is working
    assert git_state(tmp_path) == commit
    file.write_text("b")
    assert git_state(tmp_path) == f"{commit}-dirty"
    assert index.read_bytes() == before
    assert (tmp_path / ".git" / "index.lock").exists()
