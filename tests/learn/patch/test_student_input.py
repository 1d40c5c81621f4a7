"""The scale of the student's input: x1, x2, x4 as an axis of a search, and its cost."""

import csv
import json

import pytest
import torch
import yaml

from tests.learn.grading import grading
from tests.learn.methods.test_contract import wsikd
from tests.learn.patch.whole_runs import resumes_to_the_byte
from wsikd.core.errors import ConfigError
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle

pytestmark = pytest.mark.usefixtures("one_thread")


def content(csv, given, mpp=4.0):
    return {
        "method": "supervised", "network": {"width": 0.25}, "student_input": given,
        "data": {"paths": [str(csv)], "student_mpp": mpp},
        "optim": {"epochs": 2, "batch_size": 18},
    }  # fmt: skip


@pytest.fixture(scope="module")
def fine(tmp_path_factory, patches_on_disk):
    """Patches of 64 px, so that 16 px are left at a quarter."""
    root = tmp_path_factory.mktemp("fine")
    return patches_on_disk.write(
        root / "set", side=64, split=lambda s: "val" if s >= 6 else "train"
    )


@pytest.mark.parametrize(
    ("given", "kept", "factor"),
    [("x1", "native", 1), ("native", "native", 1), ("x2", "half", 2), ("half", "half", 2),
     ("x4", "x4", 4), ("upsampled", "upsampled", 4)],
)  # fmt: skip
def test_names_of_the_scale(given, kept, factor):
    config = grading(content("set", given))
    assert (config.student_input, config.upsample) == (kept, factor)
    assert config.ratio == 4 / factor


def test_four_times_is_the_teachers_size_at_a_quarter_of_its_resolution(fine, tmp_path):
    runs = {}
    for given in ("x4", "upsampled"):
        distill(grading(content(fine, given)), tmp_path / given, seed=1, device="cpu")
        runs[given] = load_bundle(tmp_path / given)
    one, two = (bundle.weights for bundle in runs.values())
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert runs["x4"].card.macs == runs["upsampled"].card.macs
    x = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        logits = [bundle.network()(x) for bundle in runs.values()]
    assert torch.equal(*logits)
    assert runs["x4"].spec.student_input == "x4"


def test_killed_and_resumed(fine, tmp_path, monkeypatch):
    resumes_to_the_byte(content(fine, "x4"), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("given", "mpp", "fault"),
    [("x4", 2.0, "enlarges by more than the 2 pixels"), ("x3", 4.0, "student_input"),
     ("x2", 1.0, r"needs data\.student_mpp above")],
)  # fmt: skip
def test_what_enlarges_too_much_is_refused(given, mpp, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_settings(content("set", given, mpp), name="c.yaml")


def test_the_scale_is_an_axis_of_tune(fine, tmp_path):
    file = tmp_path / "c.yaml"
    told = content(fine, "native")
    told["optim"]["epochs"] = 1
    file.write_text(yaml.safe_dump(told))
    asked = ("tune", "-c", file, "-o", tmp_path / "out", "--device", "cpu",
             "--grid", "student_input=x1,x2,x4")  # fmt: skip
    said = wsikd(*asked)
    with (tmp_path / "out/trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["student_input"] for row in rows] == ["x1", "x2", "x4"]
    costs = [int(row["macs"]) for row in rows]
    assert costs[2] == pytest.approx(16 * costs[0], rel=0.02)
    assert costs[1] == pytest.approx(4 * costs[0], rel=0.02)
    assert (tmp_path / "out/cost.png").is_file()
    lines = said.splitlines()
    assert "| trial | GMAC | kappa |" in lines
    table = [line for line in lines if line.startswith("| student_input ")]
    assert [line.split()[2] for line in table] == ["x1", "x2", "x4"]
    assert table[0].startswith("| student_input x1 * |")  # the cheapest is on the curve
    assert wsikd(*asked).splitlines() == lines


def test_the_scale_is_an_axis_of_reproduce(fine, tmp_path, patches_on_disk):
    rows = patches_on_disk.rows(fine)
    csv_file = fine.parent / "parts.csv"
    part = {"s0": "test", "s6": "val", "s7": "val"}
    patches_on_disk.write_rows(
        csv_file, [{**r, "split": part.get(r["slide"], "train")} for r in rows]
    )
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "base.yaml").write_text(
        "method: supervised\nnetwork: {width: 0.25}\noptim: {epochs: 1, batch_size: 16}\n"
        "data: {student_mpp: 4.0}\n"
    )
    (folder / "rows.yaml").write_text(
        "teacher: {data: {student_mpp: 1.0}}\nx1:\nx2: {student_input: x2}\n"
        "x4: {student_input: x4}\n"
        "kd_x2: {method: at_plus, student_input: x2, weights: {kd: 1, fm: 0, at_plus: 0}}\n"
    )
    out = tmp_path / "out"
    wsikd("reproduce", "at_plus", "--config-dir", folder, "--data", csv_file, "-o", out,
          "--device", "cpu", "--seeds", "1")  # fmt: skip
    table = json.loads((out / "table.json").read_text())
    assert {g["over"] for g in table["gains"] if g["row"] == "kd_x2"} == {"x2"}
    assert (out / "cost.png").read_bytes()[:4] == b"\x89PNG"
