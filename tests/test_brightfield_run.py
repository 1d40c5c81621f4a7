"""The commands over slides that are not brightfield: refused one by one, or read as asked."""

import csv
import json

import cv2
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import tissue_rgb
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.synthetic.cohort import write_pyramid

FAST = ["--threads", "1"]
TILE = [*FAST, "--patch-size", "64"]
RGB = tissue_rgb(640, 540, (120, 80, 400, 400))


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One slide that is well, one of grey RGB, one of grey samples, one of planes."""
    folder = tmp_path_factory.mktemp("slides")
    grey = np.repeat(cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    write_pyramid(folder / "well.svs", RGB, mpp=0.5, power=20)
    write_pyramid(folder / "grey.svs", grey, mpp=0.5, power=20)
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
    how = {"photometric": "minisblack", "tile": (64, 64), **scale}
    tifffile.imwrite(folder / "one.tif", grey[..., 0], **how)
    tifffile.imwrite(folder / "planes.tif", np.moveaxis(RGB, 2, 0), **how)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(folder, network, spec, arch="vgg_small", width=0.25, min_area_mm2=0.0)


def failures(out):
    with (out / "failures.csv").open(encoding="utf-8") as file:
        return {row["slide"]: (row["error"], row["fault"]) for row in csv.DictReader(file)}


def test_info_says_why_a_slide_is_not_brightfield(slides):
    done = run("info", slides, *TILE)
    assert done.exit_code == 3  # the planes cannot be read at all
    said = [line for line in done.output.splitlines() if line.startswith("  brightfield ")]
    assert said == [
        "  brightfield no: its pixels are grey (R = G = B)",
        "  brightfield no: its pixels are uint8 of 1 channel(s)",
        "  brightfield no: its pixels are uint8 of 3 channel(s) in separate planes",
        "  brightfield yes",
    ]


def test_info_as_json_has_it_too(slides):
    named = [slides / "grey.svs", slides / "one.tif", slides / "well.svs"]
    found = json.loads(run("info", *named, *TILE, "--json").output)
    assert [one["brightfield"] for one in found] == [False, False, True]
    assert found[0]["brightfield_reason"] == "its pixels are grey (R = G = B)"


def test_tile_refuses_them_and_goes_on(slides, tmp_path):
    done = run("tile", "-i", slides, "-o", tmp_path, *TILE, "--jobs", "0")
    assert done.exit_code == 3
    assert {p.stem for p in tmp_path.glob("*.zarr")} == {"well"}
    found = failures(tmp_path)
    assert {error for error, _ in found.values()} == {"NotBrightfieldError"}
    assert found["grey"][1] == "its pixels are grey (R = G = B), so it is not brightfield RGB"
    assert set(found) == {"grey", "one", "planes"}
    again = run("tile", "-i", slides, "-o", tmp_path, *TILE, "--jobs", "0", "--accept-grey")
    assert again.exit_code == 3
    assert {p.stem for p in tmp_path.glob("*.zarr")} == {"well", "grey", "one"}
    found = failures(tmp_path)
    assert found["planes"][0] == "NotBrightfieldError"
    assert (found["well"][0], "slide accept_grey" in found["well"][1]) == (
        "StoreMismatchError", True,
    )  # fmt: skip
    back = run("tile", "-i", slides / "one.tif", "-o", tmp_path, *TILE, "--jobs", "0")
    assert back.exit_code == 3


def test_infer_refuses_them_and_never_mixes(slides, student, tmp_path):
    how = ["-m", student, "-o", tmp_path, *FAST, "--format", "csv", "--jobs", "0"]
    done = run("infer", "-i", slides, *how)
    assert done.exit_code == 3
    assert {p.parent.name for p in tmp_path.glob("*/result.json")} == {"well"}
    assert set(failures(tmp_path)) == {"grey", "one", "planes"}
    made_with = json.loads((tmp_path / "well" / "result.json").read_text())["made_with"]
    assert "accept_grey" not in made_with  # as in results of before
    again = run(
        "infer", "-i", slides / "grey.svs", "-i", slides / "well.svs", *how, "--accept-grey"
    )
    assert "accept_grey None there, True asked" in failures(tmp_path)["well"][1]
    assert again.exit_code == 3
    back = run("infer", "-i", slides / "grey.svs", *how)
    assert "accept_grey True there, None asked" in failures(tmp_path)["grey"][1]
    assert back.exit_code == 3


def test_embed_and_bench_refuse_grey(slides, student, tmp_path):
    grey = ["-i", slides / "grey.svs"]
    done = run("embed", *grey, "--encoder", student, "-o", tmp_path / "bags", *FAST)
    assert done.exit_code == 3
    assert "its pixels are grey" in done.output
    assert not list((tmp_path / "bags").glob("*.zarr"))
    how = ["--arch", "vgg_small", "--patch-size", "64", "--repeats", "1", "-o", tmp_path / "bench"]
    done = run("bench", *grey, *how, *FAST)
    assert done.exit_code != 0
    assert "its pixels are grey" in done.output
