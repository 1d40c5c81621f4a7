import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import GLASS, break_tile, tissue_rgb
from wsikd import RESEARCH_USE, __version__
from wsikd.slides.synthetic import write_pyramid
from wsikd.tiles.store import TileStore

FAST = ["--patch-size", "64", "--workers", "1"]
HEAVY = ["torch", "torchvision", "timm", "zarr", "dask", "tiatoolbox", "openslide", "cv2", "numpy"]
HEAVY += ["pydantic", "scipy", "shapely", "tifffile", "matplotlib", "lightning", "sklearn", "rich"]


def run(*arguments):
    """Run the command in this process; bugs come through as they are."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A slide of few fields."""
    path = tmp_path_factory.mktemp("small") / "small.svs"
    write_pyramid(path, tissue_rgb(640, 540, (100, 80, 400, 400)), mpp=0.5, power=20)
    return path


def text_file(path):
    path.write_text("these are no pixels")


def truncated(path):
    write_pyramid(path, tissue_rgb(640, 540), mpp=0.5, power=20)
    path.write_bytes(path.read_bytes()[:4000])


def without_mpp(path):
    write_pyramid(path, tissue_rgb(640, 540), mpp=0.5, power=20, omit_mpp=True)


def damaged(path):
    write_pyramid(path, tissue_rgb(640, 540), mpp=0.5, power=20)
    break_tile(path, 4)


def missing(path):
    assert not path.exists()


BAD = {
    text_file: ("SlideError", "not a slide that OpenSlide knows, or cut short"),
    truncated: ("SlideError", ""),
    without_mpp: ("MissingMppError", "no resolution in its metadata"),
    damaged: ("RegionReadError", "level 0 cannot be read at level-0 x="),
    missing: ("SlideError", "no such file"),
}


@pytest.mark.parametrize("command", [(), *((name,) for name in main.commands)])
def test_every_help_renders(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "--help" in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())
    if not command:
        assert all(name in result.output for name in main.commands)
        assert RESEARCH_USE in re.sub(r"\s+", " ", result.output)


def test_the_commands_of_the_readme_are_there():
    names = {"info", "tile", "distill", "infer", "bench", "demo", "init", "config", "doctor"}
    assert set(main.commands) == names


def test_no_help_imports_anything_heavy():
    code = """
import sys
from wsikd.cli.main import main
for command in ([], *([name] for name in main.commands)):
    try:
        main([*command, "--help"], prog_name="wsikd")
    except SystemExit as end:
        assert end.code == 0, command
print("LOADED", *(name for name in sys.argv[1:] if name in sys.modules))
"""
    command = [sys.executable, "-c", code, *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_version_and_the_module_as_a_command():
    command = [sys.executable, "-m", "wsikd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert __version__ in done.stdout


def test_tile_then_tile_again(small, tmp_path):
    first = run("tile", "-i", small, "-o", tmp_path / "out", *FAST)
    assert first.exit_code == 0
    store = TileStore.open(tmp_path / "out" / "small.zarr")
    assert store.mpps == (1.0, 4.0)
    assert (store.patch_px(1.0), store.patch_px(4.0)) == (64, 16)
    assert f"small: {len(store.patches)} patches, in {store.path}" in first.output
    assert first.output.splitlines()[-1] == "1 made, 0 already there"
    second = run("tile", "-i", small, "-o", tmp_path / "out", *FAST)
    assert second.exit_code == 0
    assert second.output.splitlines()[-1] == "0 made, 1 already there"


@pytest.mark.parametrize(
    ("options", "mpps", "patches"),
    [
        (["--mag", "2.5", "--mag", "10"], (1.0, 4.0), (64, 16)),
        (["--mag", "5"], (2.0,), (64,)),
        (["--mpp", "0.8", "--mpp", "1.6"], (0.8, 1.6), (64, 32)),
    ],
)
def test_magnifications(small, tmp_path, options, mpps, patches):
    assert run("tile", "-i", small, "-o", tmp_path, *options, *FAST).exit_code == 0
    store = TileStore.open(tmp_path / "small.zarr")
    assert store.mpps == mpps
    assert tuple(store.patch_px(m) for m in mpps) == patches


@pytest.mark.parametrize("make", BAD)
def test_one_bad_slide_among_good_ones(small, tmp_path, make):
    error, fault = BAD[make]
    make(tmp_path / "bad.svs")
    shutil.copy(small, tmp_path / "good.svs")
    shutil.copy(small, tmp_path / "very_good.svs")
    slides = [x for n in ("bad", "good", "very_good") for x in ("-i", tmp_path / f"{n}.svs")]
    out = tmp_path / "out"
    result = run("tile", *slides, "-o", out, *FAST)
    assert result.exit_code == 3
    assert sorted(p.name for p in out.iterdir()) == [
        "failures.csv", "good.zarr", "very_good.zarr",
    ]  # fmt: skip
    *_, summary, last = result.output.splitlines()
    assert summary == "2 made, 0 already there, 1 failed"
    assert last.startswith(f"{error}: ")
    assert "bad.svs: " in last
    assert fault in last
    assert "; " in last
    with (out / "failures.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert list(row) == ["slide", "error", "fault", "remedy"]
    assert (row["slide"], row["error"]) == ("bad", error)
    assert fault in row["fault"]
    assert last.endswith(f"{row['fault']}; {row['remedy']}")


def test_failures_are_forgotten_once_mended(small, tmp_path):
    slide, out = tmp_path / "s.svs", tmp_path / "out"
    without_mpp(slide)
    assert run("tile", "-i", slide, "-o", out, *FAST).exit_code == 3
    assert (out / "failures.csv").exists()
    assert run("tile", "-i", slide, "-o", out, *FAST, "--slide-mpp", "0.5").exit_code == 0
    assert [p.name for p in out.iterdir()] == ["s.zarr"]
    assert TileStore.open(out / "s.zarr").provenance["slide"]["mpp_source"] == "--slide-mpp"


def test_a_bug_is_written_down_and_the_others_are_done(small, tmp_path, monkeypatch):
    from wsikd.tiles import tiling

    own = tiling.tile_slide

    def buggy(slide, *args, **more):
        if slide.info.name == "a":
            raise ZeroDivisionError("what")
        return own(slide, *args, **more)

    monkeypatch.setattr(tiling, "tile_slide", buggy)
    for name in ("a", "b"):
        shutil.copy(small, tmp_path / f"{name}.svs")
    result = run("tile", "-i", tmp_path / "?.svs", "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 3
    assert "unforeseen ZeroDivisionError: what" in result.output
    assert (tmp_path / "out" / "b.zarr").exists()


def test_a_manifest_with_everything(small, tmp_path):
    regions = {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[100, 80], [500, 80], [500, 480], [100, 480], [100, 80]]],
        },
        "properties": {"classification": {"name": "G4"}},
    }
    (tmp_path / "r.geojson").write_text(json.dumps(regions))
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide,mpp,patient,split,annotation\n{small},0.5,P-0815,test,r.geojson\n")
    out = tmp_path / "out"
    assert run("tile", "-i", manifest, "-o", out, "--classes", "NC,G4", *FAST).exit_code == 0
    store = TileStore.open(out / "small.zarr")
    assert store.classes == ("NC", "G4")
    assert store.split == "test"
    assert set(store.patches.label) <= {-1, 1}
    assert (store.patches.label == 1).sum() >= 4
    assert store.patient
    assert "P-0815" not in json.dumps(store.provenance)


TILE = ["tile", "-i", "SLIDE", "-o", "OUT"]
UNKNOWN_TISSUE = "not among the known maskers; choose one of otsu, all"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tile"], 2, "Missing option"),
        ([*TILE, "--mag", "10", "--mpp", "1"], 2, "not both"),
        ([*TILE, "--mag", "-1"], 2, "--mag"),
        ([*TILE, "--patch-size", "510"], 2, "give multiples of 4"),
        ([*TILE, "--tissue", "ostu"], 2, UNKNOWN_TISSUE),
        (["info", "SLIDE", "--tissue", "ostu"], 2, UNKNOWN_TISSUE),
        (["tile", "-i", "EMPTY", "-o", "OUT"], 4, "NoSlidesError: "),
        (["info", "EMPTY"], 4, "NoSlidesError: "),
        (["tile", "-i", "gone.csv", "-o", "OUT"], 2, "ConfigError: gone.csv: cannot be read"),
        (["tile", "-i", "SLIDE", "-o", "SLIDE"], 1, "OutputError: "),
        ([*TILE, "--mag", "40"], 3, "0.25 um/px is finer than its own 0.5"),
        (["tlie"], 2, "No such command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes_and_one_line_each(small, tmp_path, arguments, code, told):
    (tmp_path / "empty").mkdir()
    places = {"SLIDE": small, "EMPTY": tmp_path / "empty", "OUT": tmp_path / "out"}
    result = run(*(places.get(a, a) for a in arguments))
    assert result.exit_code == code
    assert told in result.output.splitlines()[-1]
    assert not list(tmp_path.glob("out/*.zarr*"))


def test_a_store_of_other_settings(small, tmp_path):
    assert run("tile", "-i", small, "-o", tmp_path, *FAST).exit_code == 0
    result = run("tile", "-i", small, "-o", tmp_path, *FAST, "--stride", "32")
    assert result.exit_code == 3
    assert "stride_px 64 there, 32 asked" in result.output.splitlines()[-1]
    again = run("tile", "-i", small, "-o", tmp_path, *FAST, "--stride", "32", "--overwrite")
    assert again.exit_code == 0
    assert TileStore.open(tmp_path / "small.zarr").settings["stride_px"] == 32


def test_twins_in_two_folders_get_two_stores(small, tmp_path):
    glass = np.full((540, 640, 3), GLASS, np.uint8)
    for place in ("p1", "p2"):
        (tmp_path / place).mkdir()
    shutil.copy(small, tmp_path / "p1" / "s.svs")
    write_pyramid(tmp_path / "p2" / "s.svs", glass, mpp=0.5, power=20)
    out = tmp_path / "out"
    inputs = ["-i", tmp_path / "p1", "-i", tmp_path / "p2"]
    assert run("tile", *inputs, "-o", out, *FAST).exit_code == 0
    sizes = sorted(len(TileStore.open(path).patches) for path in out.iterdir())
    assert len(sizes) == 2
    assert sizes[0] == 0 < sizes[1]
    again = run("tile", *inputs[2:], *inputs[:2], "-o", out, *FAST)
    assert again.output.splitlines()[-1] == "0 made, 2 already there"


def test_info_tells_all(small):
    text = run("info", small, "--patch-size", "64").output
    for line in (
        "vendor      aperio, read by openslide",
        "dimensions  640 x 540 px",
        "mpp         0.5 um/px (from aperio.MPP), 0.32 x 0.27 mm",
        "objective   20x",
        "bounds      x 0, y 0, 640 x 540 px",
        "level 0     640 x 540 px, downsample 1, 0.5 um/px",
        "level 1     160 x 135 px, downsample 4, 2 um/px",
        "level 2     40 x 33 px, downsample 16, 8 um/px",
    ):
        assert f"  {line}\n" in text
    fields = re.findall(r"fields +(\d+) of 5 x 5 at (10|2.5)x \((64|16) px", text)
    assert [f[1:] for f in fields] == [("10", "64"), ("2.5", "16")]
    assert fields[0][0] == fields[1][0]


def test_info_as_json_agrees_with_the_store(small, tmp_path):
    (record,) = json.loads(run("info", small, "--patch-size", "64", "--json").output)
    assert record["dimensions"] == [640, 540]
    assert record["mpp"] == {"x": 0.5, "y": 0.5, "source": "aperio.MPP"}
    assert [level["downsample"] for level in record["levels"]] == [[1, 1], [4, 4], [16, 16]]
    assert record["tissue_fraction"] == pytest.approx(400 * 400 / (640 * 540), abs=0.05)
    run("tile", "-i", small, "-o", tmp_path, *FAST)
    patches = len(TileStore.open(tmp_path / "small.zarr").patches)
    assert [f["fields"] for f in record["fields"]] == [patches, patches]


@pytest.mark.parametrize("make", BAD)
def test_info_goes_on_after_a_bad_slide(small, tmp_path, make):
    make(tmp_path / "bad.svs")
    result = run("info", tmp_path / "bad.svs", small, "--patch-size", "64")
    assert result.exit_code == (0 if make is damaged else 3)
    assert "dimensions  640 x 540 px" in result.output
    if make is without_mpp:
        assert "mpp         unknown" in result.output
    if make is not damaged:
        assert result.output.splitlines()[-1].startswith(f"{BAD[make][0]}: ")


def test_odd_real_slides_end_in_one_line_each(real_slides, tmp_path):
    odd = sorted(p for p in (real_slides / "odd").iterdir() if p.is_file())
    result = run("info", *odd, "--tissue", "all", "--patch-size", "64")
    assert result.exit_code == 3
    errors = [line for line in result.output.splitlines() if re.match(r"\w+Error: ", line)]
    assert len(errors) >= 5
    assert result.output.splitlines()[-len(errors) :] == errors
    assert not [line for line in errors if "unforeseen" in line]
