"""wsikd watch: what arrives is graded once, half copies wait, kills lose and double nothing."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import copy_slide
from wsikd.grade.runs.arrivals import Arrivals
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.listing.entry import SlideEntry

ROOT = Path(__file__).parents[1]
QUICK = ("--every", "0.1", "--settle", "0.3", "--format", "csv", "--threads", "1")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    torch.manual_seed(1)
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(
        folder, network, spec, arch="vgg_small", width=0.25, min_area_mm2=0.0, temperature=1.0
    )


def incoming(folder, slide, names):
    folder.mkdir()
    for name in names:
        copy_slide(slide, folder / f"{name}.svs")
    return folder


def command(folder, student, out, *more):
    return ["watch", *map(str, (folder, "-m", student, "-o", out, *QUICK, *more))]


def run(*arguments):
    return CliRunner().invoke(main, command(*arguments))


def started(*arguments):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wsikd", *command(*arguments)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def events(out):
    lines = (out / "watch.jsonl").read_text(encoding="utf-8").splitlines()
    return [(e["event"], e.get("slide")) for e in map(json.loads, lines)]


def state(out):
    return json.loads((out / "watch.json").read_text(encoding="utf-8"))


def tables(out):
    return {p.parent.name: p.read_bytes() for p in out.glob("*/tiles.csv")}


def test_a_slide_is_ready_once_its_files_have_stayed_the_same(tmp_path):
    file, folder = tmp_path / "a.mrxs", tmp_path / "a"
    entry = SlideEntry(file, "a")
    arrivals = Arrivals(10.0)
    file.write_bytes(b"1")
    assert arrivals.ready([entry], 0.0) == []
    assert arrivals.ready([entry], 9.9) == []
    folder.mkdir()
    (folder / "Data0000.dat").write_bytes(b"22")  # a part that came later
    assert arrivals.ready([entry], 10.0) == []
    assert arrivals.ready([entry], 19.9) == []
    assert arrivals.waiting == 1
    assert arrivals.ready([entry], 20.0) == [entry]
    arrivals.handled([entry])
    assert arrivals.ready([entry], 99.0) == []
    assert arrivals.waiting == 0
    (folder / "Data0000.dat").write_bytes(b"333")
    assert arrivals.ready([entry], 100.0) == []
    assert arrivals.ready([entry], 110.0) == [entry]
    assert arrivals.ready([], 111.0) == []
    assert arrivals.ready([entry], 112.0) == []  # it was away: it must settle again


def test_results_are_those_of_infer_and_a_damaged_slide_is_reported_once(
    slide_file, student, tmp_path
):
    folder = incoming(tmp_path / "in", slide_file, "ab")
    (folder / "broken.svs").write_bytes(slide_file.read_bytes()[:5000])
    out, metrics = tmp_path / "out", tmp_path / "wsikd.prom"
    done = run(folder, student, out, "--jobs", "0", "--once", "--prometheus", metrics)
    assert done.exit_code == 0, done.output
    line = ["infer", "-i", folder, "-m", student, "-o", tmp_path / "other", "--format", "csv"]
    assert CliRunner().invoke(main, [*map(str, line), "--jobs", "0"]).exit_code == 3
    assert tables(out) == tables(tmp_path / "other")
    assert len(tables(out)) == 2
    found = events(out)
    assert (found[0][0], found[-1][0]) == ("started", "stopped")
    assert sorted(found[1:-1]) == [("failed", "broken"), ("graded", "a"), ("graded", "b")]
    now = state(out)
    assert [now[k] for k in ("state", "graded", "failed", "waiting")] == ["stopped", 2, 1, 0]
    assert "wsikd_watch_graded_total 2\n" in metrics.read_text()
    again = run(folder, student, out, "--jobs", "0", "--once")
    assert again.exit_code == 0, again.output
    assert sorted(events(out)[len(found) + 1 : -1]) == [("failed", "broken")]


def test_what_is_not_ours_is_refused_and_kept(slide_file, student, tmp_path):
    folder, out = incoming(tmp_path / "in", slide_file, "a"), tmp_path / "out"
    inside = run(folder, student, folder / "out", "--once")
    assert inside.exit_code == 2
    assert not (folder / "out").exists()
    out.mkdir()
    for name, option in (("watch.json", ()), ("watch.jsonl", ()), ("m.prom", ("--prometheus",))):
        file = out / name
        file.write_text("mine")
        refused = run(folder, student, out, "--once", *((*option, file) if option else ()))
        assert refused.exit_code == 2, refused.output
        assert name in str(refused.exception) + refused.output
        assert file.read_text() == "mine"
        file.unlink()
    assert not tables(out)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_slide_that_arrives_is_graded_and_sigterm_ends_a_watch(slide_file, student, tmp_path):
    folder, out = incoming(tmp_path / "in", slide_file, ""), tmp_path / "out"
    process = started(folder, student, out)
    try:
        wait_for((out / "watch.json").is_file)
        second = run(folder, student, out, "--once")
        assert second.exit_code == 2
        copy_slide(slide_file, folder / "late.svs")
        wait_for((out / "late/result.json").is_file)
        wait_for(lambda: state(out)["graded"] == 1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert events(out) == [("started", None), ("graded", "late"), ("stopped", None)]
    assert state(out)["state"] == "stopped"


def kill_at_random(slide, student, tmp_path, kills):
    names = [f"s{n}" for n in range(6)]
    folder = incoming(tmp_path / "in", slide, names)
    whole = tmp_path / "whole"
    assert run(folder, student, whole, "--jobs", "0", "--once").exit_code == 0
    out, chance = tmp_path / "out", random.Random(7)
    for _ in range(kills):
        process = started(folder, student, out, "--once")
        time.sleep(chance.uniform(0.2, 3.0))
        process.kill()
        process.wait()
        for name in names:  # a result is whole or not there
            if (out / name).is_dir():
                assert (out / name / "result.json").is_file()
    end = started(folder, student, out, "--once")
    assert end.wait(120) == 0
    assert tables(out) == tables(whole)
    with (out / "summary.csv").open(encoding="utf-8") as file:
        assert sorted(row["slide"] for row in csv.DictReader(file)) == names
    graded = [slide for event, slide in events(out) if event == "graded"]
    assert len(graded) == len(set(graded))
    left = {p.name for p in out.iterdir()} - {*names, "summary.csv", "watch.json", "watch.jsonl"}
    assert not [name for name in left if name.endswith((".part", ".lock"))], left


def test_kills_lose_and_double_nothing(slide_file, student, tmp_path):
    kill_at_random(slide_file, student, tmp_path, 2)


@pytest.mark.slow
def test_twenty_kills_lose_and_double_nothing(slide_file, student, tmp_path):
    kill_at_random(slide_file, student, tmp_path, 20)
