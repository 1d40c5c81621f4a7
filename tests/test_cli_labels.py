"""``wsikd tile``: labels and tissue from files of the user's own."""

import json
import re

import cv2
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import GLASS, copy_slide, tissue_rgb
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import TileStore

FAST = ["--mag", "10", "--patch-size", "64"]
BOX = (100, 80, 400, 400)


def run(*arguments, apart=False):
    """Run the command in this process, or, ``apart``, with the worker process of the default."""
    here = ["--jobs", "0"] if not apart and arguments[0] == "tile" else []
    result = CliRunner().invoke(main, [*map(str, arguments), *here])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "s.svs"
    write_pyramid(path, tissue_rgb(640, 540, BOX), mpp=0.5, power=20)
    return path


def halves(folder, name="s_mask.tif"):
    """A mask whose left half is 3 and whose right half is 5, a quarter of the slide's size."""
    values = np.full((135, 160), 3, np.uint8)
    values[:, 80:] = 5
    tifffile.imwrite(folder / name, values, tile=(64, 64), compression="deflate")
    return folder / name


def check_halves(store, classes=("G3", "G5")):
    assert store.classes == classes
    middle = store.patches.xy[:, 0] + 64
    assert set(store.patches.label) == {0, 1}
    sure = np.abs(middle - 320) > 1
    np.testing.assert_array_equal(store.patches.label[sure], (middle > 320)[sure])


@pytest.mark.parametrize("how", ["options", "yaml"])
def test_a_mask_pyramid(slide, tmp_path, how):
    halves(tmp_path)
    (tmp_path / "map.yaml").write_text("3: G3\n5: G5\n")
    options = ["--label-map", "5=G5", "--label-map", "3=G3"]
    if how == "yaml":
        options = ["--label-map", tmp_path / "map.yaml"]
    out = tmp_path / "out"
    result = run("tile", "-i", slide, "-o", out, "--annotations", tmp_path, *options, *FAST)
    assert result.exit_code == 0
    store = TileStore.open(out / "s.zarr")
    check_halves(store)
    assert store.settings["label_map"] == [["3", "G3"], ["5", "G5"]]
    g3, g5 = np.bincount(store.patches.label)
    assert f"s: {len(store.patches)} patches (G3 {g3}, G5 {g5}), in {out}" in result.output


def test_a_mask_without_a_map_is_refused_in_one_line(slide, tmp_path):
    mask = halves(tmp_path)
    result = run("tile", "-i", slide, "-o", tmp_path / "o", "--annotations", mask, *FAST)
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == (
        f"ConfigError: {mask}: is a mask with the values 3, 5, and none has a class; name the "
        f"class of each, as in --label-map 3=NC"
    )


# Clear, then a code of no entry: imagecodecs' decoder of LZW follows it out of its table.
CRASHES = bytes.fromhex("804b003010")
# What it meets there may, rarely, be sound memory; then it gives too few values.
FAULT = r"(SlideError: {0}: reading it killed the worker|AnnotationError: .*{0}.* truncated)"


def crashing(path):
    """A mask of one LZW strip that takes the process that decodes it down."""
    tifffile.imwrite(path, np.full((135, 160), 3, np.uint8), compression="lzw", rowsperstrip=135)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[0]
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(CRASHES)
    return path


@pytest.mark.parametrize("options", [[], ["--label-map", "3=G3"]])
def test_a_mask_that_crashes_its_decoder_is_a_fault_of_its_slide(slide, tmp_path, options):
    for name in ("a", "b"):
        copy_slide(slide, tmp_path / f"{name}.svs")
    crashing(tmp_path / "a_mask.tif")
    (tmp_path / "b.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    out = tmp_path / "out"
    slides = ["-i", tmp_path / "a.svs", "-i", tmp_path / "b.svs"]
    asked = ["--annotations", tmp_path, *options, *FAST]
    result = run("tile", *slides, "-o", out, *asked, apart=True)
    assert result.exit_code == 3
    assert re.search(f"^{FAULT.format('a')}", result.output, re.MULTILINE)
    assert "1 made, 0 already there, 1 failed" in result.output
    assert [p.name for p in out.glob("*.zarr")] == ["b.zarr"]


def test_asap_groups_with_an_exclusion(slide, tmp_path):
    def drawn(group, x0, y0, x1, y1):
        points = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        listed = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in
                         enumerate(points))  # fmt: skip
        return (
            f'<Annotation Name="a" Type="Polygon" PartOfGroup="{group}"><Coordinates>{listed}'
            "</Coordinates></Annotation>"
        )

    (tmp_path / "s.xml").write_text(
        "<ASAP_Annotations><Annotations>"
        + drawn("tissue", 0, 0, 640, 540)
        + drawn("negative", 0, 0, 640, 256)
        + "</Annotations></ASAP_Annotations>"
    )
    options = ["--label-map", "tissue=G4", "--label-map", "negative=-"]
    arguments = ["tile", "-i", slide, "--annotations", tmp_path, *options, *FAST]
    assert run(*arguments, "-o", tmp_path / "out").exit_code == 0
    store = TileStore.open(tmp_path / "out" / "s.zarr")
    assert store.classes == ("G4",)
    np.testing.assert_array_equal(
        store.patches.label, np.where(store.patches.xy[:, 1] >= 256, 0, -1)
    )


def test_purity_on_the_command_line(slide, tmp_path):
    mask = halves(tmp_path)
    options = ["--annotations", mask, "--label-map", "3=G3", "--label-map", "5=G5"]
    counts = {}
    for purity in ("0", "1"):
        out = tmp_path / purity
        run("tile", "-i", slide, "-o", out, *options, "--min-purity", purity, *FAST[:2],
            "--patch-size", "96")  # fmt: skip
        counts[purity] = (TileStore.open(out / "s.zarr").patches.label >= 0).sum()
    assert counts["1"] < counts["0"]


def test_tissue_from_masks_of_the_users_own(slide, tmp_path):
    masks, slides = tmp_path / "masks", tmp_path / "slides"
    masks.mkdir()
    slides.mkdir()
    for name in ("a", "b"):
        copy_slide(slide, slides / f"{name}.svs")
    own = np.zeros((54, 64), np.uint8)
    own[26:, :32] = 1
    cv2.imwrite(str(masks / "a.png"), own)
    out = tmp_path / "out"
    result = run("tile", "-i", slides, "-o", out, "--tissue", masks, *FAST)
    assert result.exit_code == 3
    assert f"AnnotationError: b: no mask for it in {masks}; add b.png or .geojson" in result.output
    store = TileStore.open(out / "a.zarr")
    assert store.settings["tissue"] == "mask"
    assert (store.patches.xy[:, 0] < 320).all()
    assert (store.patches.xy[:, 1] + 128 > 260).all()
    assert (out / "overlays" / "a.png").exists()
    cv2.imwrite(str(masks / "b.png"), own)
    assert run("tile", "-i", slides, "-o", out, "--tissue", masks, *FAST).exit_code == 0


def test_info_takes_masks_as_tile_does(slide, tmp_path):
    own = np.zeros((54, 64), np.uint8)
    own[27:, :32] = 1
    masks = tmp_path / "masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "s.png"), own)
    for name in ("r", "t"):
        copy_slide(slide, tmp_path / f"{name}.svs")
    crashing(masks / "t.tif")
    slides = [slide, tmp_path / "r.svs", tmp_path / "t.svs"]
    result = run("info", *slides, "--tissue", masks, "--patch-size", "64", "--mag", "10", "--json")
    assert result.exit_code == 3
    assert f"AnnotationError: r: no mask for it in {masks}; add r.png" in result.output
    assert re.search(f"^{FAULT.format('t')}", result.output, re.MULTILINE)
    found = {r["name"]: r for r in json.loads(result.stdout)}
    assert found["s"]["tissue_fraction"] == 0.25
    assert found["s"]["fields"][0]["fields"] == 9  # 320 x 270 px of tissue, fields of 128
    assert "fields" not in found["t"]
    (tmp_path / "m.csv").write_text(f"slide,mask\n{slide},{masks / 's.png'}\n")
    (record,) = json.loads(run("info", tmp_path / "m.csv", "--json").stdout)
    assert record["tissue_fraction"] == 0.25


def test_areas_are_part_of_the_settings(slide, tmp_path):
    arguments = ["tile", "-i", slide, "-o", tmp_path, *FAST]
    assert run(*arguments, "--min-tissue-area", "20000").exit_code == 0
    assert run(*arguments).output.splitlines()[-1] == "0 made, 1 already there"
    result = run(*arguments, "--min-tissue-area", "90000")
    assert result.exit_code == 3
    assert "min_tissue_um2 20000.0 there, 90000.0 asked" in result.output
    assert run(*arguments, "--min-tissue-area", "90000", "--overwrite").exit_code == 0
    assert len(TileStore.open(tmp_path / "s.zarr").patches) == 0
    assert run(*arguments, "--max-hole-area", "5", "--overwrite").exit_code == 0
    settings = TileStore.open(tmp_path / "s.zarr").settings
    assert (settings["min_tissue_um2"], settings["max_hole_um2"]) == (20000, 5)


def test_the_overlay_shows_the_tissue(slide, tmp_path):
    assert run("tile", "-i", slide, "-o", tmp_path, *FAST).exit_code == 0
    seen = cv2.imread(str(tmp_path / "overlays" / "s.png"))[..., ::-1]
    assert seen.shape == (34, 40, 3)  # 540 x 640 px of 0.5 um at 8 um/px
    x, y, w, h = (v / 16 for v in BOX)
    assert (seen[int(y + 3) : int(y + h - 3), int(x + 3) : int(x + w - 3)] > 60).all()
    assert abs(int(seen[1, 1, 0]) - round(GLASS * 0.75)) <= 3
    assert (seen == (0, 200, 80)).all(2).sum() > 60


def test_a_slide_of_glass_is_an_empty_store(tmp_path, caplog):
    write_pyramid(tmp_path / "g.svs", np.full((540, 640, 3), GLASS, np.uint8), mpp=0.5, power=20)
    result = run("tile", "-i", tmp_path / "g.svs", "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 0
    assert "g: 0 patches" in result.output
    assert len(TileStore.open(tmp_path / "out" / "g.zarr").patches) == 0
    assert "g: tissue on only 0.00 % of the scanned area" in caplog.text
    assert (tmp_path / "out" / "overlays" / "g.png").exists()


def test_a_geojson_as_tissue(slide, tmp_path):
    square = [[320, 256], [640, 256], [640, 540], [320, 540], [320, 256]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}}
    (tmp_path / "t.geojson").write_text(json.dumps(drawn))
    arguments = ["tile", "-i", slide, "-o", tmp_path / "out", *FAST]
    assert run(*arguments, "--tissue", tmp_path / "t.geojson").exit_code == 0
    xy = TileStore.open(tmp_path / "out" / "s.zarr").patches.xy
    assert len(xy)
    assert (xy + 128 > [320, 256]).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--label-map", "G3"], "'G3' is neither SOURCE=CLASS nor a YAML file"),
        (["--label-map", "3=G3", "--label-map", "3=G4"], "'3' becomes both 'G3' and 'G4'"),
        (["--tissue", "gone/masks"], "gone/masks: neither a file or folder nor a masker"),
        (["--min-purity", "2"], "--min-purity"),
        (["--min-tissue-area", "-1"], "--min-tissue-area"),
    ],
)
def test_what_is_refused(slide, tmp_path, options, told):
    result = run("tile", "-i", slide, "-o", tmp_path, *options, *FAST)
    assert result.exit_code == 2
    assert told in result.output
