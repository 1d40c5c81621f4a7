"""The small installation: grading, reports and viewer without PyTorch and what training needs."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import copy_slide
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader

ROOT = Path(__file__).parents[1]
ABSENT = (
    "torch", "torchvision", "tiatoolbox", "dask", "distributed", "lightning", "lightning_fabric",
    "matplotlib", "sklearn", "optuna", "timm", "h5py", "psutil", "openpyxl", "onnx", "onnxruntime",
)  # fmt: skip
BLOCK = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None  # an import of it fails, as if it were not installed
"""
CHILD = """
import json, os, signal, sys, threading, time
from urllib.error import URLError
from urllib.request import urlopen
from wsikd.cli.main import main

def look(port):
    '''Ask the viewer for its page, and for a tile of the slide and of the map; then Ctrl-C.'''
    def get(path):
        with urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            return answer.read()

    try:
        for _ in range(200):
            try:
                page = get("")
                break
            except URLError:
                time.sleep(0.05)
        about = json.loads(get("about/0.json"))
        level = about["levels"][0]
        tiles = [get(f"{kind}/{level}/0_0.png") for kind in ("slide/0", "map/0/15")]
        print("viewed", b"<html" in page, about["name"], *(t[1:4].decode() for t in tiles))
    finally:
        os.kill(os.getpid(), signal.SIGINT)

for line in sys.argv.pop(1).split(";"):
    print("$", line, flush=True)
    if line.startswith("view"):
        threading.Thread(target=look, args=(line.rpartition(",")[2],)).start()
    try:
        main(line.split(","))
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.lower().split("==") for line in lines if re.match(r"[\w.-]+==", line))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_its_versions_are_the_tested_ones():
    small, tested = pins("requirements-infer.txt"), pins("constraints.txt")
    assert small.pop("opencv-python-headless") == tested["opencv-python"]
    assert len(small) > 20
    assert {name: tested.get(name) for name in small} == small
    assert not {"torch", "torchvision", "tiatoolbox", "dask", "lightning"} & set(small)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    torch.manual_seed(1)
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(folder, network, spec, arch="vgg_small", width=0.25, temperature=1.0)


@pytest.fixture(scope="module")
def carried(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried") / "grader"
    done = CliRunner().invoke(
        main, ["export-model", str(student), "--to", "bundle", "-o", str(folder)]
    )
    assert done.exit_code == 0, done.output
    assert "greatest difference of a logit" in done.output
    return folder


def test_grading_and_reports_work_and_the_rest_says_what_to_install(
    student, carried, slide_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path / "cache"))
    block = tmp_path / "block"
    block.mkdir()
    (block / "sitecustomize.py").write_text(BLOCK)  # of workers too
    slide, out = copy_slide(slide_file, tmp_path / "a.svs"), tmp_path / "out"
    lines = [
        f"info,{slide}", f"infer,-i,{slide},-m,{carried},-o,{out}", f"report,{out},-i,{slide}",
        f"report,{out}", f"view,{out},-i,{slide},--no-browser,--port,{free_port()}",
        "doctor,--profile,infer",
        f"infer,-i,{slide},-m,{student},-o,{tmp_path / 'no_graph'}",
        f"tile,-i,{slide},-o,{tmp_path / 'stores'},--mag,10", f"evaluate,{student}",
        f"embed,-i,{slide},-o,{tmp_path / 'bags'},--encoder,{student}",
        f"demo,-o,{tmp_path / 'demo'}",
        f"infer,-i,{slide},-m,{carried},-o,{tmp_path / 'other'},--engine,torch",
    ]  # fmt: skip
    child = subprocess.run(
        [sys.executable, "-c", CHILD, ";".join(lines)],
        check=False, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(block), str(ROOT)))},
    )  # fmt: skip
    everything = child.stdout + child.stderr
    ends = re.findall(r"^exit (\w+)", child.stdout, re.MULTILINE)
    assert ends[:6] == ["0"] * 6, everything
    assert "0" not in ends[6:], everything
    assert len(ends) == len(lines)
    assert "Traceback" not in everything
    assert "nforeseen" not in everything
    assert "viewed True a PNG PNG" in child.stdout, everything
    record = json.loads((out / "a" / "result.json").read_text(encoding="utf-8"))
    assert record["engine"].startswith("openvino")
    assert {"grades.zarr", "overlay.jpg", "tiles.csv"} <= {p.name for p in (out / "a").iterdir()}
    assert (out / "report.html").is_file()
    for refused in ("stores", "demo"):
        assert not (tmp_path / refused).exists()
    no_graph, *others = re.findall(r"ConfigError: .*", everything)
    assert "holds no graph" in no_graph
    assert "--to bundle" in no_graph
    assert [re.search(r"needs (\w+), which is not installed", one)[1] for one in others] == [
        "Dask", "PyTorch", "PyTorch", "PyTorch", "PyTorch",
    ]  # fmt: skip


def test_a_carried_student_is_the_same_student(student, carried):
    names = {path.name for path in carried.iterdir()}
    (graph,) = (name for name in names if name.endswith(".onnx"))
    assert names - {graph} == {path.name for path in student.iterdir()}
    for name in names - {graph}:
        assert (carried / name).read_bytes() == (student / name).read_bytes()


def test_a_graph_of_other_weights_or_a_damaged_one_is_not_used(carried, tmp_path, monkeypatch):
    from wsikd.grade.engines import Network, graph
    from wsikd.models.files.bundle import peek_bundle

    monkeypatch.setenv("WSIKD_CACHE", str(tmp_path / "cache"))
    bundle = peek_bundle(carried)
    assert graph.is_kept(Network(bundle.network, 16, bundle.key, carried))
    assert not graph.is_kept(Network(bundle.network, 16, "0" * 64, carried))
    (file,) = carried.glob("*.onnx")
    copy = tmp_path / "copy"
    copy.mkdir()
    other = file.name.replace(bundle.key[:40], "0" * 40)
    shutil.copyfile(file, copy / other)  # the graph of this student under another's name
    assert not graph.is_kept(Network(bundle.network, 16, "0" * 64, copy))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    (copy / file.name).write_bytes(data)
    assert not graph.is_kept(Network(bundle.network, 16, bundle.key, copy))


def test_an_earlier_copy_is_replaced_only_when_asked_and_nothing_else_ever(
    carried, student, tmp_path
):
    def export(folder, *more):
        line = ["export-model", str(student), "--to", "bundle", "-o", str(folder), *more]
        return CliRunner().invoke(main, line)

    folder = tmp_path / "grader"
    assert export(folder).exit_code == 0
    again = export(folder)
    assert again.exit_code == 2
    assert "--overwrite" in str(again.exception) + again.output
    assert export(folder, "--overwrite").exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    assert export(mine, "--overwrite").exit_code == 2
    assert (mine / "notes.txt").read_text() == "mine"
