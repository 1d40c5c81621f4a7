import csv
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.common import one_line_errors
from wsikd.cli.main import main

from tests.slides.pixels import GLASS, break_tile, copy_slide, tissue_rgb
from wsikd import RESEARCH_USE, __version__
from wsikd.core.about import NOT_ASSESSED
from wsikd.grade.bench.compare import open_trained
from wsikd.grade.predict import PredictSettings
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import TileStore

FAST = ["--patch-size", "64", "--threads", "1"]
HEAVY = ["torch", "torchvision", "timm", "zarr", "dask", "tiatoolbox", "openslide", "cv2", "numpy"]
HEAVY += ["pydantic", "scipy", "shapely", "tifffile", "matplotlib", "lightning", "sklearn", "rich"]


def run(*arguments, apart=False):
    """Run the command in this process; bugs come through as they are.

    A worker process, the default of tile and infer, takes seconds to start: only where ``apart``.
    """
    here = ["--jobs", "0"] if not apart and arguments[:1] in [("tile",), ("infer",)] else []
    result = CliRunner().invoke(main, [*map(str, arguments), *here])
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
    path.write_text("these are not pixels")


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
    text_file: ("SlideError", "not a slide format that OpenSlide supports, or truncated"),
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


def test_the_list_of_commands_is_not_cut_and_every_section_names_options():
    lines = CliRunner().invoke(main, ["--help"], terminal_width=80).output.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert not [line for line in lines[1:] if line.rstrip().endswith("...")]
    for command in main.commands.values():
        names = {parameter.name for parameter in command.params}
        for title, listed in getattr(command, "sections", {}).items():
            assert set(listed) <= names, f"{command.name}, {title}"


def test_options_stand_under_their_headings():
    told = run("infer", "--help").output
    first, own, _, teacher, machine = re.split(r"\n\n[A-Z][\w ,]+:\n", told)[1:]
    assert "--output" in first
    assert "--stride" in own
    assert "--budget" in teacher
    assert "--device" in machine
    options = {o for p in main.commands["infer"].params for o in p.opts}
    assert all(told.count(f"\n  {option} ") + told.count(f", {option} ") == 1
               for option in options if option.startswith("--"))  # fmt: skip


def test_the_commands_of_the_readme_are_there():
    names = "info tile export distill evaluate tune reproduce infer bench demo init config doctor"
    more = "attend embed report slides export-model name view watch"
    assert set(main.commands) == {*names.split(), *more.split()}


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
    first = run("tile", "-i", small, "-o", tmp_path / "out", *FAST, apart=True)
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
    copy_slide(small, tmp_path / "good.svs")
    copy_slide(small, tmp_path / "very_good.svs")
    slides = [x for n in ("bad", "good", "very_good") for x in ("-i", tmp_path / f"{n}.svs")]
    out = tmp_path / "out"
    result = run("tile", *slides, "-o", out, *FAST)
    assert result.exit_code == 3
    assert sorted(p.name for p in out.iterdir()) == [
        "failures.csv", "good.zarr", "overlays", "runs", "very_good.zarr",
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
    assert sorted(p.name for p in out.iterdir()) == ["overlays", "runs", "s.zarr"]
    assert TileStore.open(out / "s.zarr").provenance["slide"]["mpp_source"] == "--slide-mpp"


def test_a_bug_is_written_down_and_the_others_are_done(small, tmp_path, monkeypatch):
    from wsikd.tiles import write as tiling

    own = tiling.tile_slide

    def buggy(slide, *args, **more):
        if slide.info.name == "a":
            raise ZeroDivisionError("what")
        return own(slide, *args, **more)

    monkeypatch.setattr(tiling, "tile_slide", buggy)
    for name in ("a", "b"):
        copy_slide(small, tmp_path / f"{name}.svs")
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
UNKNOWN_TISSUE = "not among the known maskers; did you mean 'otsu'? choose one of otsu, all"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tile"], 2, "Missing option"),
        ([*TILE, "--mag", "10", "--mpp", "1"], 2, "not both"),
        ([*TILE, "--mag", "-1"], 2, "--mag"),
        ([*TILE, "--patch-size", "510"], 2, "give multiples of 4"),
        ([*TILE, "--tissue", "ostu"], 2, UNKNOWN_TISSUE),
        (["info", "SLIDE", "--tissue", "ostu"], 2, UNKNOWN_TISSUE),
        (["info", "SLIDE", "--mag", "10", "--mag", "3"], 2, "ConfigError: "),
        ([*TILE, "--mag", "10", "--mag", "3"], 2, "ConfigError: "),
        (
            [*TILE, "--classes", "A,,B"],
            2,
            "'A,,B' repeats a name or names no class; give them as A,B,C",
        ),
        ([*TILE, "--classes", "A, A"], 2, "repeats a name or names no class"),
        (
            ["infer", "-i", "SLIDE", "-o", "OUT", "-m", "X", "--format", "csv,jpg"],
            2,
            "jpg: not among",
        ),
        (["tile", "-i", "EMPTY", "-o", "OUT"], 4, "NoSlidesError: "),
        (["info", "EMPTY"], 4, "NoSlidesError: "),
        (["tile", "-i", "gone.csv", "-o", "OUT"], 2, "ConfigError: gone.csv: no such file"),
        (["tile", "-i", "SLIDE", "-o", "SLIDE"], 2, "OutputError: "),
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
    sizes = sorted(len(TileStore.open(path).patches) for path in out.glob("*.zarr"))
    assert len(sizes) == 2
    assert sizes[0] == 0 < sizes[1]
    again = run("tile", *inputs[2:], *inputs[:2], "-o", out, *FAST)
    assert again.output.splitlines()[-1] == "0 made, 2 already there"


def test_info_tells_all(small):
    text = run("info", small, "--patch-size", "64").output
    for line in (
        "vendor      aperio",
        "ICC profile none",
        "dimensions  640 x 540 px",
        "mpp         0.5 um/px (from aperio.MPP), 0.32 x 0.27 mm",
        "objective   20x",
        "bounds      x 0, y 0, 640 x 540 px",
        "level 0     640 x 540 px, downsample 1, 0.5 um/px",
        "level 1     160 x 135 px, downsample 4, 2 um/px",
        "level 2     40 x 33 px, downsample 16, 8 um/px",
    ):
        assert f"  {line}\n" in text
    assert re.search(r"^  reader      (direct|openslide) \(.+\)$", text, re.MULTILINE)
    fields = re.findall(r"fields +(\d+) of 5 x 5 at (10|2.5)x \((64|16) px", text)
    assert [f[1:] for f in fields] == [("10", "64"), ("2.5", "16")]
    assert fields[0][0] == fields[1][0]


def test_a_reader_who_has_seen_enough_is_no_fault(small):
    """As in ``wsikd info SLIDE | head -1``."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "wsikd", "info", str(small)]
    with os.fdopen(theirs, "w") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_info_as_json_agrees_with_the_store(small, tmp_path):
    (record,) = json.loads(run("info", small, "--patch-size", "64", "--json").output)
    assert record["dimensions"] == [640, 540]
    assert record["mpp"] == {"x": 0.5, "y": 0.5, "source": "aperio.MPP"}
    assert [level["downsample"] for level in record["levels"]] == [[1, 1], [4, 4], [16, 16]]
    assert (record["icc_profile"], record["brightfield"]) == (False, True)
    assert record["reader_note"]
    counts = [(f["patch_px"], f["fields"]) for f in record["fields"]]
    assert [f["store_bytes"] for f in record["fields"]] == [3 * p * p * n for p, n in counts]
    assert record["tissue_fraction"] == pytest.approx(400 * 400 / (640 * 540), abs=0.05)
    run("tile", "-i", small, "-o", tmp_path, *FAST)
    patches = len(TileStore.open(tmp_path / "small.zarr").patches)
    assert [f["fields"] for f in record["fields"]] == [patches, patches]


def test_a_reader_that_is_asked_for_reads(small):
    text = run("info", small, "--patch-size", "64", "--reader", "openslide").output
    assert "  reader      openslide\n" in text
    result = run("info", small, "--reader", "bioformats")
    assert result.exit_code == 2
    assert result.output.endswith("choose one of auto, openslide, direct, tiatoolbox\n")


def test_info_goes_on_after_bad_slides(small, tmp_path):
    """Damaged pixels deep in a slide are not seen: info reads few of them."""
    bad = {make: tmp_path / f"{make.__name__}.svs" for make in BAD}
    for make, path in bad.items():
        make(path)
    result = run("info", *bad.values(), small, "--patch-size", "64")
    assert result.exit_code == 3
    assert result.output.count("dimensions  640 x 540 px") == 3  # without_mpp, damaged, small
    assert result.output.count("mpp         unknown") == 1
    told = result.output.splitlines()[-4:]
    for make in set(BAD) - {damaged}:
        (line,) = (line for line in told if bad[make].name in line)
        assert line.startswith(f"{BAD[make][0]}: ")


def test_the_option_fills_gaps_and_the_manifest_overrides(small, tmp_path):
    text = run("info", small, "--patch-size", "64", "--slide-mpp", "0.25").output
    assert "mpp         0.5 um/px (from aperio.MPP)" in text
    (tmp_path / "m.csv").write_text(f"slide,mpp\n{small},0.25\n")
    text = run("info", tmp_path / "m.csv", "--patch-size", "64", "--slide-mpp", "0.4").output
    assert "mpp         0.25 um/px (from column mpp of m.csv)" in text
    without_mpp(tmp_path / "bare.svs")
    text = run("info", tmp_path / "bare.svs", "--patch-size", "64", "--slide-mpp", "0.4").output
    assert "mpp         0.4 um/px (from --slide-mpp)" in text


def test_names_that_are_no_utf8_stop_nobody(small, tmp_path):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    shutil.copy(small, slides / os.fsdecode(b"\xe4.svs"))
    copy_slide(small, slides / "good.svs")
    text_file(slides / os.fsdecode(b"\xff.svs"))
    command = [sys.executable, "-m", "wsikd", "tile", "-i", str(slides), "-o", str(out), *FAST]
    done = subprocess.run([*command, "--jobs", "0"], capture_output=True, check=False)
    assert done.returncode == 3
    told = done.stdout.decode() + done.stderr.decode()
    assert "Traceback" not in told
    assert "_xe4-5e1eff: " in told
    assert "SlideError: \\xff.svs: not a slide" in told
    names = sorted(p.name for p in out.iterdir())
    assert names == ["_xe4-5e1eff.zarr", "failures.csv", "good.zarr", "overlays", "runs"]
    failed = (out / "failures.csv").read_text(encoding="utf-8").splitlines()[1]
    assert failed.startswith("_xff-a8100a,")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "x/y"), "x/y: No space left on device; free space"),
        (
            OSError(30, "Read-only file system", "x/y"),
            "x/y: Read-only file system; choose a folder",
        ),
        (OSError(122, "Disk quota exceeded"), "file: Disk quota exceeded; free space within"),
        (PermissionError(13, "Permission denied", "x"), "x: Permission denied; check the path"),
        (FileNotFoundError(2, "No such file", os.fsdecode(b"\xff")), "\\udcff: No such file; "),
        (OSError("what"), "file: what; check that it is whole"),
    ],
    ids=str,
)
def test_what_the_system_refuses_is_one_line(capsys, error, told):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"OutputError: {told}")


@pytest.fixture
def without_libgl(tmp_path, monkeypatch):
    """Environment of a machine where OpenCV lacks the system's libGL.

    The slowest of the sound libraries are empty there.
    """
    (tmp_path / "first").mkdir()
    for name in ("lightning", "torchvision"):
        (tmp_path / "first" / f"{name}.py").touch()
    fault = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "first" / "cv2.py").write_text(f"raise ImportError({fault!r})\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "first")}


def test_doctor_tells_a_missing_libgl(without_libgl):
    command = [sys.executable, "-m", "wsikd", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=without_libgl, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAULT ")]
    assert [f.split()[1].rstrip(":") for f in faults] == ["opencv-python", "readers", "geometry"]
    assert all(f.endswith("apt-get install libgl1 libglib2.0-0") for f in faults)
    assert "ok    cpu: " in done.stdout
    assert done.stdout.splitlines()[-1] == "3 fault(s)"


def test_a_missing_libgl_is_one_line(without_libgl, small):
    command = [sys.executable, "-m", "wsikd", "info", str(small)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_libgl, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "libGL.so.1: cannot open" in line
    assert line.endswith("apt-get install libgl1 libglib2.0-0")


def test_another_missing_module_is_a_fault_of_ours(capsys, caplog):
    caplog.set_level("DEBUG", "wsikd")
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise ImportError("elsewhere")
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "UnforeseenError: wsikd: unforeseen ImportError: elsewhere; run it again with "
        "--log-level debug and report the traceback"
    )
    assert "raise ImportError" in caplog.text


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A bundle of an untrained student."""
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(folder, network, spec, arch="vgg_small", width=0.25, min_area_mm2=0.0)


def test_formats_in_any_order_are_the_same(small, student, tmp_path):
    arguments = ["infer", "-i", small, "-m", student, "-o", tmp_path, "--threads", "1"]
    assert run(*arguments, "--format", "png,csv").exit_code == 0
    again = run(*arguments, "--format", " csv , png")
    assert again.output.splitlines()[-1] == f"0 graded, 1 already there. {NOT_ASSESSED}"
    assert {p.name for p in (tmp_path / "small").iterdir()} == {
        "tiles.csv", "overlay.png", "result.json",
    }  # fmt: skip


def test_a_bench_leaves_its_three_files(small, tmp_path):
    options = ["--arch", "vgg_small", "--patch-size", "64", "--repeats", "1", "--threads", "1"]
    result = run("bench", "-i", small, "-o", tmp_path, *options, "--max-fields", "4")
    assert result.exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.json", "bench.md", "bench.png"]


def test_a_bench_says_in_which_engine(small, tmp_path):
    options = ["--arch", "vgg_small", "--patch-size", "64", "--repeats", "1", "--threads", "1"]
    options += ["-i", small, "-o", tmp_path, "--max-fields", "2", "--engine"]
    result = run("bench", *options, "openvino")
    assert result.exit_code == 0
    record = json.loads((tmp_path / "bench.json").read_text())
    assert [one["engine"] for one in record["contenders"]] == ["openvino fp32"] * 2
    assert "openvino fp32, torch" in (tmp_path / "bench.md").read_text()
    refused = run("bench", *options, "opnvino")
    assert refused.exit_code == 2
    assert "choose one of torch, compile, onnx, openvino" in refused.output


def test_a_card_without_macs_is_counted_anew(student, tmp_path):
    shutil.copytree(student, tmp_path / "student")
    card = json.loads((student / "card.json").read_text())
    told = card.pop("macs")
    (tmp_path / "student" / "card.json").write_text(json.dumps(card))
    contender = open_trained("student", tmp_path / "student", "cpu", PredictSettings())
    assert contender.macs == told > 0


def test_named_classes_are_stripped_and_found_ones_ordered(small, tmp_path):
    (tmp_path / "one.csv").write_text(f"slide,label\n{small},NC\n")
    named = ["--classes", "G4, NC"]
    assert run("tile", "-i", tmp_path / "one.csv", "-o", tmp_path / "a", *named, *FAST)
    assert TileStore.open(tmp_path / "a" / "small.zarr").classes == ("G4", "NC")
    manifest = tmp_path / "m.csv"
    rows = []
    for label in ("tumour", "GP5", "GP3", "non-cancer"):
        copy_slide(small, tmp_path / f"{label}.svs")
        rows.append(f"{label}.svs,{label}\n")
    manifest.write_text("slide,label\n" + "".join(rows))
    assert run("tile", "-i", manifest, "-o", tmp_path / "b", *FAST).exit_code == 0
    found = TileStore.open(tmp_path / "b" / "GP3.zarr").classes
    assert found == ("non-cancer", "GP3", "GP5", "tumour")


def test_patients_are_hidden_by_one_key_per_output(small, tmp_path):
    for name in ("a", "b"):
        copy_slide(small, tmp_path / f"{name}.svs")
    (tmp_path / "m.csv").write_text("slide,patient\na.svs,4711\nb.svs,4711\n")
    out = tmp_path / "out"
    assert run("tile", "-i", tmp_path / "m.csv", "-o", out, *FAST).exit_code == 0
    names = sorted(p.name for p in out.iterdir())
    assert names == [".wsikd-key", "a.zarr", "b.zarr", "overlays", "runs"]
    stores = [TileStore.open(out / f"{name}.zarr") for name in ("a", "b")]
    assert stores[0].patient == stores[1].patient
    again = run("tile", "-i", tmp_path / "m.csv", "-o", out, *FAST)
    assert again.output.splitlines()[-1] == "0 made, 2 already there"


def test_odd_real_slides_end_in_one_line_each(real_slides, tmp_path):
    odd = sorted(p for p in (real_slides / "odd").iterdir() if p.is_file())
    result = run("info", *odd, "--tissue", "all", "--patch-size", "64")
    assert result.exit_code == 3
    errors = [line for line in result.output.splitlines() if re.match(r"\w+Error: ", line)]
    assert len(errors) >= 5
    assert result.output.splitlines()[-len(errors) :] == errors
    assert not [line for line in errors if "unforeseen" in line]
