"""Every ``console`` and ``python`` block of README and docs is run, on slides that are drawn here.

Blocks of a page run in order, in one folder, in this process. Pages of ``docs`` start from what the
quick start leaves behind. ``sh`` and ``text`` blocks are for other programs and for output.
"""

import os
import re
import shlex
import shutil
from contextlib import chdir
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.synthetic.cohort import write_cohort

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^( *)```(console|python|csv)\n(.*?)^ *```$", re.M | re.S)
CHEAPER = {
    "tile": {"jobs": 0},
    "infer": {"jobs": 0, "engine": "torch"},
    "bench": {"jobs": 0, "repeats": 1, "engine": "torch"},
}
ELSEWHERE = {
    "clusters.md": "needs SLURM",
    "other-programs.md": "run by tests/test_tia_student.py, half a minute of imports",
}
"""Pages whose Python blocks are not run here. Blocks of ``extending`` are run by tests/outside."""
NOT_HERE = ("make demo", "make test")  # .ci/run runs both


def pages():
    """Every page with blocks, the quick start left out."""
    found = [p for p in sorted(DOCS.rglob("*.md")) if BLOCK.search(p.read_text("utf-8"))]
    apart = {"_build", "decisions", "extending", "measurements", "jupyter_execute"}
    kept = [p for p in found if not apart & set(p.relative_to(DOCS).parts)]
    return [str(p.relative_to(DOCS)) for p in kept if p.name != "quickstart.md"]


def blocks(page):
    """(kind, lines without indentation) of each block of a page."""
    for indent, kind, text in BLOCK.findall(page.read_text("utf-8")):
        yield kind, [line.removeprefix(indent) for line in text.splitlines()]


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


def run_page(page, folder, *, python=True):
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
            elif kind == "python" and python:
                exec(compile("\n".join(lines), str(page), "exec"), names)


def written_manifest(page, folder):
    """The manifest that a page shows, as the user would save it."""
    text = next(lines for kind, lines in blocks(page) if kind == "csv")
    (folder / "slides.csv").write_text("\n".join(text) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Four slides with annotations, named as README and docs name them."""
    folder = tmp_path_factory.mktemp("drawn")
    made = write_cohort(folder, seed=3, slides=4, size_px=(3584, 3584))
    for name, slide in zip(("s01", "s02", "s03", "new"), made, strict=True):
        slide.path.rename(folder / f"{name}.svs")
        slide.annotation.rename(folder / f"{name}.geojson")
    return folder


def placed(drawn, folder):
    """The user's folder: slides and annotations, the same in the folders that pages name."""
    for file in drawn.iterdir():
        os.link(file, folder / file.name)
    for name, slides in {"slides": ("s01", "s02", "s03"), "new_slides": ("new",)}.items():
        (folder / name).mkdir()
        for slide in slides:
            os.link(drawn / f"{slide}.svs", folder / name / f"{slide}.svs")
    (folder / "drawn").mkdir()
    for slide in ("s01", "s02", "s03"):
        shutil.copy(drawn / f"{slide}.geojson", folder / "drawn")


@pytest.fixture(scope="module")
def started(drawn, tmp_path_factory):
    """What the quick start leaves behind."""
    folder = tmp_path_factory.mktemp("quickstart")
    placed(drawn, folder)
    written_manifest(DOCS / "quickstart.md", folder)
    run_page(DOCS / "quickstart.md", folder)
    return folder


def test_readme(drawn, tmp_path):
    placed(drawn, tmp_path)
    (tmp_path / "new_slides").rename(tmp_path / "apart")
    written_manifest(ROOT / "README.md", tmp_path)
    run_page(ROOT / "README.md", tmp_path)
    assert (tmp_path / "out/new/overlay.png").exists()
    assert (tmp_path / "out/new/grades.geojson").exists()
    assert (tmp_path / "out/summary.csv").exists()


@pytest.mark.slow
def test_quick_start(started):
    assert (started / "out/report.html").exists()
    assert (started / "out/new/overlay.png").exists()
    assert (started / "bench/bench.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_page(page, started):
    run_page(DOCS / page, started, python=page not in ELSEWHERE)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 8192
    assert (DOCS / "pictures" / "demo.png").stat().st_size < 300_000


def texts():
    """README and docs without what the build generates."""
    built = {"_build", "measurements", "jupyter_execute", "decisions"}
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
