"""The recipes of containers name files that exist, install pinned versions, and are linted."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKER, APPTAINER = ROOT / "containers/Dockerfile", ROOT / "containers/wsikd.def"
MADE = "dist/wsikd-*.whl"


def instructions(file):
    """Lines of a Dockerfile, continued ones joined, without comments."""
    text = re.sub(r"\\\n\s*", " ", file.read_text(encoding="utf-8"))
    return [line.split(None, 1) for line in text.splitlines() if line and line[0] != "#"]


def sections(file):
    """Section -> lines of an Apptainer definition, the header as ''."""
    found, name = {"": []}, ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            found[name] = []
        elif line.strip() and not line.startswith("#"):
            found[name].append(line.strip())
    return found


def test_docker_has_the_three_targets_and_an_unprivileged_user():
    stages = [rest for word, rest in instructions(DOCKER) if word == "FROM"]
    assert {"infer", "cpu", "cuda"} <= {stage.split(" AS ")[1] for stage in stages}
    assert [rest for word, rest in instructions(DOCKER) if word == "USER"] == ["1000"] * 3


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_files_exist_and_every_installation_is_pinned(kind):
    if kind == "docker":
        lines = instructions(DOCKER)
        copied = [f for word, rest in lines if word == "COPY" for f in rest.split()[:-1]]
        run = [rest for word, rest in lines if word == "RUN"]
    else:
        parts = sections(APPTAINER)
        assert {"post", "files", "runscript", "environment"} <= set(parts)
        assert "Bootstrap: docker" in parts[""]
        copied = [line.split()[0] for line in parts["files"]]
        run = parts["post"]
    assert MADE in copied
    assert all((ROOT / file).is_file() for file in copied if file != MADE)
    installs = [one for line in run for one in re.findall(r"pip install [^&]*", line)]
    assert len(installs) >= 3
    for one in installs:
        assert re.search(r"--constraint|requirements-infer\.txt|uv==", one), one


def test_the_body_of_the_apptainer_recipe_is_a_shell_script(tmp_path):
    script = "\n".join(sections(APPTAINER)["post"]).replace("{{ profile }}", "infer")
    done = subprocess.run(["sh", "-n"], input=script, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed (extra dev)")
    done = subprocess.run([program, DOCKER], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
