"""Every benchmark runs alone, at its smallest size, and writes the form that is asked of it."""

import contextlib
import json
import math
import os
import runpy
import subprocess
import sys
import traceback
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch

pytestmark = pytest.mark.studies

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
HELPERS = {
    "__init__", "biopsies", "cohort_loop", "harness", "infer_peers", "native_level", "peers",
    "synthetic", "whole_slide",
}  # fmt: skip
THEMES = sorted(p.stem for p in BENCHMARKS.glob("*.py") if p.stem not in HELPERS)


@pytest.fixture(scope="module")
def harness():
    """The harness, imported without leaving its settings or its folder behind."""
    before = dict(os.environ)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import harness

        yield harness
    finally:
        sys.path.remove(str(BENCHMARKS))
        os.environ.clear()
        os.environ.update(before)


def test_the_themes_are_known():
    assert THEMES == [
        "cohort", "distill_step", "drawn_colour", "gpu", "infer", "slpd_step", "tiling",
    ]  # fmt: skip


def run_script(script, folder):
    """A script, as its command runs it, in this process: imports take longest."""
    asked = [str(script), "--smallest", "--rounds", "1", "--json", str(folder / "sub/record.json")]
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / "told").open("w") as told,
        contextlib.redirect_stdout(told),
        contextlib.chdir(folder.parent),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        patch.setattr(sys, "argv", asked)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except BaseException as error:  # noqa: BLE001 - of this script alone
            (folder / "fault").write_text("".join(traceback.format_exception(error)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, harness):
    """A folder of each script's record and lines."""
    folder = tmp_path_factory.mktemp("runs")
    threads = cv2.getNumThreads(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIKD_CACHE", str(folder / "cache"))
        for theme in THEMES:
            (folder / theme).mkdir()
            run_script(BENCHMARKS / f"{theme}.py", folder / theme)
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    return folder


@pytest.mark.parametrize("theme", THEMES)
def test_a_benchmark_writes_its_record(theme, runs):
    file, told = runs / theme / "sub" / "record.json", (runs / theme / "told").read_text()
    fault = runs / theme / "fault"
    assert not fault.exists(), fault.read_text()
    record = json.loads(file.read_text())
    assert set(record) == {"ratios", "environment", "raw"}
    assert record["ratios"]
    for ratio in record["ratios"]:
        assert set(ratio) == {"name", "value", "bar", "better"}
        assert ratio["better"] in ("higher", "lower")
        assert math.isfinite(ratio["bar"])
        line = next(row for row in told.splitlines() if row.startswith(ratio["name"] + ": "))
        if ratio["value"] is None:
            assert record["raw"]["missing"][ratio["name"]] in line
            assert line.endswith("not met")
        else:
            assert math.isfinite(ratio["value"])
            assert ratio["name"] not in record["raw"]["missing"]
    assert len({r["name"] for r in record["ratios"]}) == len(record["ratios"])
    assert record["environment"]["theme"] == theme
    assert str(runs) not in file.read_text()
    assert [p.name for p in file.parent.iterdir()] == ["record.json"]
    assert not (runs / "cache").exists(), "the smallest size keeps no slide"


def test_the_engines_versions_are_recorded(harness):
    found = harness._versions()
    for name in ("torch", "openvino", "onnxruntime"):
        assert found[name] == (version(name) if find_spec(name) else "absent")


def test_contenders_run_in_turn_after_a_warm_up(harness):
    calls = []

    def contender(name):
        def run():
            calls.append(name)
            sum(range(20_000))
            return 2.0

        return run

    timed = harness.measure({"a": contender("a"), "b": contender("b")}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(samples) for samples in timed.values()] == [3, 3]
    assert all(s.work == 2 and s.cpu > 0 and s.wall > 0 for s in timed["a"])


def test_cpu_seconds_count_threads_and_ended_children(harness):
    line = "import time\nwhile time.process_time() < 0.3: pass"
    (sample,) = harness.measure(
        {"child": lambda: subprocess.run([sys.executable, "-c", line], check=True).returncode + 1},
        1,
    )["child"]
    assert sample.cpu >= 0.29


def test_a_ratio_compares_work_per_cpu_second(harness):
    twice = [harness.Sample(cpu=1.0, wall=9.0, work=4.0), harness.Sample(2.0, 1.0, 8.0)]
    once = [harness.Sample(cpu=2.0, wall=1.0, work=4.0), harness.Sample(4.0, 5.0, 8.0)]
    assert harness.rate_ratios(twice, once) == [2.0, 2.0]
    row = harness.summary(once)["CPU seconds per unit"]
    assert (row["median"], row["min"], row["max"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("value", "better", "verdict"),
    [(1.1, "higher", "met"), (0.9, "higher", "not met"), (0.9, "lower", "met"),
     (1.1, "lower", "not met"), (None, "higher", "not met")],
)  # fmt: skip
def test_a_bar_is_judged_honestly(harness, value, better, verdict):
    ratio = {"name": "x / y", "value": value, "bar": 1.0, "better": better}
    line = harness.describe(ratio, "y is not installed")
    assert line.endswith(f": {verdict}")
    assert ("y is not installed" in line) == (value is None)


def test_the_record_is_written_whole_or_not_at_all(harness, tmp_path):
    file = tmp_path / "record.json"
    report = harness.Report(harness.Options("tiling", file, smallest=True, rounds=1))
    report.raw["bad"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.finish()
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_keeps_the_rounds_that_it_has_completed(harness, tmp_path):
    file, kept = tmp_path / "record.json", []
    report = harness.Report(harness.Options("tiling", file, smallest=True, rounds=2))

    def keep(timed):
        report.keep(timed, "slides")
        kept.append(json.loads(file.read_text())["raw"]["unfinished"]["sum"])

    harness.measure({"sum": lambda: float(sum(range(100_000)))}, 2, keep)
    assert [row["rounds"] for row in kept] == [1, 2]
    assert {row["unit"] for row in kept} == {"slides"}
    report.finish()
    assert "unfinished" not in json.loads(file.read_text())["raw"]
