"""Every block of commands or Python in README and docs is run, on slides that are drawn here.

Blocks of a page run in order, in one folder. Those of the kinds ``console`` and ``python`` run in
this process, those of the kinds ``sh`` and ``bash`` in a shell. Pages of ``docs`` start from what
the quick start leaves behind. ``NOT_RUN`` lists what cannot run here, and why.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.synthetic import tissue
from wsikd.synthetic.cohort import write_cohort

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN = ("console", "python", "sh", "bash")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.M | re.S)
BUILT = ("_build", "measurements", "jupyter_execute")
SHOWN = ("csv", "text", "yaml", "toml", "json", "dockerfile")
"""Kinds of blocks that hold no commands."""
CHEAPER = {
    "tile": {"jobs": 0},
    "infer": {"jobs": 0, "engine": "torch"},
    "bench": {"jobs": 0, "repeats": 1, "engine": "torch"},
}
INDEX = "needs a package index; .ci/run installs the package"
NOT_RUN = {
    ("README.md", "pip install"): INDEX,
    ("docs/install.md", "pip install"): INDEX,
    ("docs/howto/weights.md", "pip install"): INDEX,
    ("docs/howto/containers.md", "pip install"): ".ci/small does it, with the network off",
    ("docs/howto/containers.md", "docker build"): "needs a builder of containers",
    ("docs/clusters.md", "SLURMCluster("): "needs SLURM and dask-jobqueue",
    ("docs/clusters.md", "--scheduler tcp:"): "needs that address; tests/test_tile_run.py runs one",
    ("docs/clusters.md", "helm install"): "needs Kubernetes",
    ("docs/other-programs.md", "PatchPredictor"): "tests/test_tia.py takes these steps",
    ("docs/howto/correct.md", "wsikd "): "tests/grade/viewer/test_corrections.py takes these steps",
    ("docs/decisions/0005-codec.md", "encode, start"): "the record of a measurement",
}
"""(page, text in the block) of blocks that are not run, and why."""
SLURM = {"SLURM_ARRAY_TASK_ID": "2"}
NOT_HERE = ("make demo", "make test")  # .ci/run runs both


def pages():
    """Every page with blocks to run, the quick start left out."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        parts = set(page.relative_to(DOCS).parts)
        if not parts & {*BUILT, "decisions", "extending"} and page.name != "quickstart.md":
            found += [str(page.relative_to(DOCS))] * any(True for _ in blocks(page))
    return found


def blocks(page):
    """(kind, lines without indentation) of each block of a page that is run."""
    for indent, kind, text in BLOCK.findall(page.read_text("utf-8")):
        if kind in RUN and not reason(page, text):
            yield kind, [line.removeprefix(indent) for line in text.splitlines()]


def reason(page, text):
    """Why a block is not run; None where it is."""
    own = str(page.relative_to(ROOT))
    return next(
        (why for (name, part), why in NOT_RUN.items() if name == own and part in text), None
    )


def commands(lines):
    """The commands of a console block, without their output."""
    for line in lines:
        if line.startswith("$ "):
            yield shlex.split(line[2:], comments=True)


def run(command):
    """One command in this process; ``init`` leaves settings that train in seconds."""
    words = [w for word in command[1:] for w in _globbed(word)]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, (shlex.join(command), done.output)
    if command[1:2] == ["init"] and len(command) > 2:
        for name in ("1_teacher.yaml", "2_student.yaml"):
            text = files("wsikd.configs").joinpath("smoke", name).read_text("utf-8")
            Path(name).write_text(text.replace("epochs: 2", "epochs: 1"), encoding="utf-8")


def _globbed(word):
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def run_script(lines, folder):
    """A block for a shell; ``srun`` of SLURM runs its command here."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tools / "srun").chmod(0o755)
    places = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    own = {**os.environ, **SLURM, "PATH": os.pathsep.join(places)}
    subprocess.run(["bash", "-e", "-c", "\n".join(lines)], check=True, cwd=folder, env=own)


def run_page(page, folder):
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        for command, defaults in CHEAPER.items():
            for parameter in main.commands[command].params:
                if parameter.name in defaults:
                    patch.setattr(parameter, "default", defaults[parameter.name])
        names = {}
        for kind, lines in blocks(page):
            if kind == "console":
                for command in commands(lines):
                    if shlex.join(command) not in NOT_HERE:
                        assert command[0] == "wsikd", command
                        run(command)
            elif kind == "python":
                exec(compile("\n".join(lines), str(page), "exec"), names)
            else:
                run_script(lines, folder)


def written_manifest(page, folder):
    """The manifest that a page shows, as the user would save it."""
    found = BLOCK.findall(page.read_text("utf-8"))
    text = next(text for _, kind, text in found if kind == "csv")
    (folder / "slides.csv").write_text(text, encoding="utf-8")


def drawn(folder, *, mpp):
    """Four slides of 1.8 mm with annotations, named as README and docs name them."""
    side = round(1792 / mpp)
    with pytest.MonkeyPatch.context() as patch:  # colours that fit the grade are drawn sooner
        patch.setattr(tissue, "colour_shift", lambda rgb, *_: np.zeros(rgb.shape, np.int8))
        made = write_cohort(folder, seed=3, slides=4, size_px=(side, side), mpp=mpp)
    for name, slide in zip(("s01", "s02", "s03", "new"), made, strict=True):
        slide.path.rename(folder / f"{name}.svs")
        slide.annotation.rename(folder / f"{name}.geojson")
    return folder


def placed(slides, folder):
    """The user's folder: slides and annotations, the same in the folders that pages name."""
    for file in slides.iterdir():
        os.link(file, folder / file.name)
    for name, own in {"slides": ("s01", "s02", "s03"), "new_slides": ("new",)}.items():
        (folder / name).mkdir()
        for slide in own:
            os.link(slides / f"{slide}.svs", folder / name / f"{slide}.svs")
    (folder / "drawn").mkdir()
    for slide in ("s01", "s02", "s03"):
        shutil.copy(slides / f"{slide}.geojson", folder / "drawn")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """What the quick start leaves behind."""
    folder = tmp_path_factory.mktemp("quickstart")
    placed(drawn(tmp_path_factory.mktemp("drawn"), mpp=0.5), folder)
    written_manifest(DOCS / "quickstart.md", folder)
    run_page(DOCS / "quickstart.md", folder)
    return folder


def test_readme(tmp_path, tmp_path_factory):
    slides = drawn(tmp_path_factory.mktemp("drawn"), mpp=1.0)  # soon drawn; 10x and 2.5x are read
    placed(slides, tmp_path)
    (tmp_path / "new_slides").rename(tmp_path / "apart")
    written_manifest(ROOT / "README.md", tmp_path)
    run_page(ROOT / "README.md", tmp_path)
    assert (tmp_path / "out/new/overlay.jpg").exists()
    assert (tmp_path / "out/new/grades.geojson").exists()
    assert (tmp_path / "out/summary.csv").exists()


@pytest.mark.slow
def test_quick_start(started):
    assert (started / "out/report.html").exists()
    assert (started / "out/new/overlay.jpg").exists()
    assert (started / "bench/bench.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_page(page, started):
    run_page(DOCS / page, started)


def test_every_block_is_run_or_has_a_reason():
    """``make docs`` runs the cells of notebooks, tests/outside the pages on extending."""
    run_here = {"README.md", "docs/quickstart.md", *(f"docs/{page}" for page in pages())}
    reasons = dict(NOT_RUN)
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]:
        own = str(page.relative_to(ROOT))
        if {*BUILT, "extending"} & set(page.relative_to(ROOT).parts):
            continue
        for _, kind, text in BLOCK.findall(page.read_text("utf-8")):
            assert kind in (*RUN, *SHOWN), f"{own}: a block of kind {kind}"
            if kind in RUN and own not in run_here:
                assert reason(page, text), f"{own}: a block that nothing runs:\n{text}"
            reasons = {k: v for k, v in reasons.items() if k[0] != own or k[1] not in text}
    assert reasons == {}, "reasons for blocks that are no more"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
    assert (DOCS / "pictures" / "demo.png").stat().st_size < 300_000


def texts():
    """README and docs without what the build generates."""
    built = {*BUILT, "decisions"}
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        parts = set(page.relative_to(ROOT).parts)
        if not parts & built and ("reference" not in parts or page.name == "index.md"):
            yield page


@pytest.mark.parametrize("page", list(texts()), ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(page):
    text = page.read_text("utf-8")
    for words in re.findall(r"\bwsikd ([a-z][a-z-]*(?: [^`\n|]*)?)[`\n|]", text):
        name, *rest = words.split()
        if name not in main.commands:
            continue
        own = {o for p in main.commands[name].params for o in p.opts}
        inner = getattr(main.commands[name], "commands", {})
        own |= {o for command in inner.values() for p in command.params for o in p.opts}
        for word in rest:
            if re.fullmatch(r"--[a-z0-9-]+", word):
                assert word in {*own, "--help"}, f"{page.name}: wsikd {name} {word}"


@pytest.mark.parametrize("page", list(texts()), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    generated = {"cli.md", "api.md", "configuration.md", "formats.md", "papers.md"}
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8")):
        file = page.parent / target
        if file.name in generated or file.parent.name in ("measurements", "extending"):
            continue
        assert file.exists(), f"{page.relative_to(ROOT)}: {target}"
