"""What an earlier wsikd made of wrongly decoded colours is not taken for done."""

import csv
import json

import pytest
import zarr
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.dicom_slides import frames_of, write_level
from tests.slides.pixels import tissue_rgb
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.tiles.store import StoreSettings, settings_digest

RGB = tissue_rgb(640, 512, (100, 80, 400, 400))
FAST = ["--threads", "1", "--jobs", "0"]
MARK = "colours_corrected"


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A DICOM slide that says RGB of YCbCr frames, and one that says what they are."""
    folder = tmp_path_factory.mktemp("slides")
    write_level(folder / "wrong" / "0.dcm", frames_of(RGB), (640, 512), claim="RGB")
    write_level(folder / "right" / "0.dcm", frames_of(RGB), (640, 512))
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(folder, network, spec, arch="vgg_small", width=0.25, min_area_mm2=0.0)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def only_failure(out):
    with (out / "failures.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["slide"] == "wrong"
    return row["fault"]


def test_a_store_of_wrong_colours_is_of_other_settings(wrong, tmp_path):
    how = ["tile", "-i", wrong, "-o", tmp_path, *FAST, "--patch-size", "64"]
    run(*how)
    right = dict(zarr.open_group(tmp_path / "right.zarr").attrs)["wsikd"]
    assert MARK not in right["identity"]
    group = zarr.open_group(tmp_path / "wrong.zarr", mode="r+")
    meta = dict(group.attrs)["wsikd"]
    meta["identity"].pop(MARK, None)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["settings"].items()}
    meta["digest"] = settings_digest(StoreSettings(**settings), meta["identity"])
    group.attrs["wsikd"] = meta
    run(*how, code=3)
    assert only_failure(tmp_path) == (
        f"made with other settings (slide {MARK} None there, True asked)"
    )
    run(*how, "--overwrite")
    run(*how)


def test_a_result_of_wrong_colours_is_of_other_settings(wrong, student, tmp_path):
    how = ["infer", "-i", wrong, "-m", student, "-o", tmp_path, *FAST, "--format", "csv"]
    run(*how)
    assert MARK not in json.loads((tmp_path / "right" / "result.json").read_text())["made_with"]
    file = tmp_path / "wrong" / "result.json"
    record = json.loads(file.read_text())
    record["made_with"].pop(MARK, None)
    file.write_text(json.dumps(record))
    run(*how, code=3)
    assert only_failure(tmp_path) == f"made with other settings ({MARK} None there, True asked)"
    run(*how, "--overwrite")
    run(*how)


def test_a_bag_of_wrong_colours_is_of_other_settings(wrong, student, tmp_path):
    how = ["embed", "-i", wrong, "--encoder", student, "-o", tmp_path, "--threads", "1"]
    run(*how)
    right = dict(zarr.open_group(tmp_path / "right.zarr").attrs)["wsikd_bag"]
    assert MARK not in right["encoder"]["patches"]
    group = zarr.open_group(tmp_path / "wrong.zarr", mode="r+")
    about = dict(group.attrs)["wsikd_bag"]
    about["encoder"]["patches"].pop(MARK, None)
    group.attrs["wsikd_bag"] = about
    done = run(*how, code=3)
    assert f"{MARK} None there, True asked" in done.output
