"""``wsikd tile``: counts by class, and labels that are not silently lost."""

import json
import logging

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.slides.pixels import copy_slide, tissue_rgb
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.store import TileStore

FAST = ["--mag", "10", "--patch-size", "64", "--jobs", "0", "--threads", "1"]
WIDTH, HEIGHT = 640, 384  # 5 x 3 fields of 128 level-0 px
FIELDS = 15


@pytest.fixture
def run(caplog):
    """Run ``wsikd tile`` in this process: code, lines of stdout, and warnings and errors."""

    def tile(*arguments):
        caplog.clear()
        whole = [] if "--tissue" in arguments else ["--tissue", "all"]
        result = CliRunner().invoke(main, ["tile", *FAST, *whole, *map(str, arguments)])
        fault = result.exception
        assert fault is None or isinstance(fault, SystemExit), fault
        warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        return result.exit_code, result.stdout.splitlines(), warned + result.stderr.splitlines()

    return tile


def said(told, *parts):
    """Whether one of the lines has all these parts."""
    return any(all(part in line for part in parts) for line in told)


def box(x0, y0, x1, y1, height=()):
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))
    return [[[x, y, *height] for x, y in corners]]


def polygon(*at, **more):
    return {"type": "Polygon", "coordinates": box(*at, **more)}


def feature(geometry, name=None, **properties):
    if name is not None:
        properties["classification"] = {"name": name}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def deep(geometry, levels=400):
    for _ in range(levels):
        geometry = {"type": "GeometryCollection", "geometries": [geometry]}
    return geometry


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "s.svs"
    write_pyramid(path, tissue_rgb(WIDTH, HEIGHT), mpp=0.5, power=20, downsamples=(1,))
    return path


@pytest.fixture
def annotated(slide, tmp_path):
    """Write the annotation of slide s (or a copy of another name); returns its folder."""

    def write(content, name="s"):
        if not (tmp_path / f"{name}.svs").exists():
            copy_slide(slide, tmp_path / f"{name}.svs")
        (tmp_path / f"{name}.geojson").write_text(json.dumps(content))
        return tmp_path

    return write


def test_patches_are_counted_by_class(run, annotated, tmp_path):
    annotated([feature(polygon(0, 0, 640, 128), "G3"), feature(polygon(0, 128, 128, 256), "NC")])
    annotated([feature(polygon(0, 0, 256, 128), "G3")], name="t")
    arguments = ["-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path]
    wanted = [*arguments, "--classes", "NC,G3,G4"]
    counts = {"s": "15 patches (NC 1, G3 5, unlabelled 9)", "t": "15 patches (G3 2, unlabelled 13)"}
    total = "in all 30 patches (NC 1, G3 7, G4 0, unlabelled 22)"
    code, lines, told = run(*wanted, "--dry-run")
    assert (code, lines[2]) == (0, total)
    for line, (name, count) in zip(lines, counts.items(), strict=False):
        assert line.startswith(f"{name}: {count}, ")
    assert not (tmp_path / "out").exists()
    assert said(told, "--classes: not annotated on any slide: G4")
    code, lines, _ = run(*wanted)
    assert code == 0
    for name, count in counts.items():
        assert any(line.startswith(f"{name}: {count}, in {tmp_path}") for line in lines)
    assert lines[-2:] == [total, "2 made, 0 already there"]
    (record,) = (tmp_path / "out" / "runs").iterdir()
    slides = {s["slide"]: s for s in json.loads(record.read_text())["slides"]}
    assert slides["s"]["labels"]["per_class"] == [1, 5, 0]
    for again in ([], ["--dry-run"]):
        lines = run(*wanted, *again)[1]
        assert lines[0].startswith(f"s: {counts['s']}, already in ")
        assert total in lines


def test_without_labels_nothing_is_said_of_them(run, slide, tmp_path):
    code, lines, told = run("-i", slide, "-o", tmp_path)
    assert (code, lines[-1]) == (0, "1 made, 0 already there")
    assert lines[0].startswith(f"s: {FIELDS} patches, in {tmp_path}")
    assert len(lines) == 2
    assert told == []


@pytest.mark.parametrize("dry", [False, True])
def test_polygons_off_the_slide(run, annotated, tmp_path, dry):
    annotated([feature(polygon(9000, 9000, 9900, 9900), "G3")])
    arguments = ["-i", tmp_path / "s.svs", "-o", tmp_path / "out", "--annotations", tmp_path]
    code, lines, told = run(*arguments, *(["--dry-run"] if dry else []))
    assert code == 2
    assert said(told, "annotated polygons wholly or mostly off the slide: s (1 of 1)")
    last = told[-1]
    assert last.startswith(
        f"ConfigError: --annotations {tmp_path}: no patch gets a label (15 patches of 1 slide(s))"
    )
    assert "in all 15 patches (G3 0, unlabelled 15)" in lines
    if dry:
        assert "store" not in last
        return
    assert "; the stores stay, without labels; " in last
    assert (TileStore.open(tmp_path / "out" / "s.zarr").patches.label == -1).all()
    (record,) = (tmp_path / "out" / "runs").iterdir()
    assert json.loads(record.read_text())["status"] == "finished without labels"


def test_a_multipolygon_partly_off_the_slide(run, annotated, tmp_path):
    both = {
        "type": "MultiPolygon",
        "coordinates": [
            box(0, 0, 256, 128),
            box(384, 0, 640, 384),
            box(-300, 256, 84, 384),  # a fifth of it is on the slide
            box(700, 0, 900, 300),
        ],
    }
    annotated([feature(both, "G3")])
    code, lines, told = run("-i", tmp_path / "s.svs", "-o", tmp_path, "--annotations", tmp_path)
    assert code == 0
    assert said(told, "off the slide: s (2 of 4)")
    assert "in all 15 patches (G3 9, unlabelled 6)" in lines


@pytest.mark.parametrize(
    "content",
    [
        polygon(0, 0, 512, 256),
        [polygon(0, 0, 512, 256)],
        [feature(polygon(0, 0, 512, 256), objectType="annotation")],
        [feature(deep(polygon(0, 0, 512, 256)))],
    ],
    ids=["bare", "list of bare", "no class", "nested"],
)
def test_annotations_without_class(run, annotated, tmp_path, content):
    arguments = ["-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path]
    annotated(content)
    code, _, told = run(*arguments)
    assert code == 2
    assert said(
        told, "none of the 1 annotated areas has a class (s.geojson); give the areas a class"
    )
    assert not (tmp_path / "out").exists()
    annotated([feature(polygon(0, 0, 512, 256), "G3")], name="t")
    code, lines, told = run(*arguments)
    assert code == 0
    assert said(told, "areas without a class are ignored: 1, in s.geojson (1 of 1)")
    assert said(told, "annotated or labelled, but without a labelled patch: 1 of 2 slides: s")
    assert "in all 30 patches (G3 8, unlabelled 22)" in lines
    tissue = ["--tissue", tmp_path / "s.geojson", "--min-tissue", "0.5"]
    lines = run("-i", tmp_path / "s.svs", "-o", tmp_path / "as_tissue", *tissue)[1]
    assert lines[0].startswith("s: 8 patches, in ")


@pytest.mark.parametrize(
    "geometry",
    [
        polygon(0, 0, 512, 256, height=(7,)),
        polygon(0, 0, 512, 256, height=(None, 1)),
        deep(polygon(0, 0, 512, 256, height=(7,))),
        {"type": "GeometryCollection", "geometries": [
            {"type": "Point", "coordinates": [1, 1, 1]}, deep(polygon(0, 0, 512, 128), 3),
            polygon(0, 128, 512, 256)]},
        {"type": "Polygon", "coordinates": [[[0, 0, 5], *box(0, 0, 512, 256)[0][1:]]]},
    ],
    ids=["3-D", "odd heights", "nested deep", "mixed collection", "some heights"],
)  # fmt: skip
def test_heights_and_collections(run, annotated, tmp_path, geometry):
    """In annotations, and in masks of tissue."""
    annotated({"type": "FeatureCollection", "features": [feature(geometry, "G3")]})
    lines = run("-i", tmp_path, "-o", tmp_path / "a", "--annotations", tmp_path)[1]
    assert lines[-2] == "in all 15 patches (G3 8, unlabelled 7)"
    tissue = ["--tissue", tmp_path / "s.geojson", "--min-tissue", "0.5"]
    lines = run("-i", tmp_path, "-o", tmp_path / "t", *tissue)[1]
    assert lines[0].startswith("s: 8 patches, in ")


def test_classes_and_maps_that_match_nothing(run, annotated, tmp_path):
    annotated([feature(polygon(0, 0, 512, 256), "Gleason 3")])
    arguments = ["-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path]
    for options, remedy in (
        (["--classes", "NC,G3"], "did you mean 'Gleason 3'? Rename it with --label-map"),
        (["--label-map", "Gleason3=G3"], "did you mean 'Gleason 3'?"),
        (["--label-map", "Gleason 3="], "give the areas a class"),
        (
            ["--label-map", "Gleason 3=G4", "--classes", "G3,G5"],
            "name the classes as they are annotated",
        ),
    ):
        code, lines, told = run(*arguments, *options)
        assert (code, lines) == (2, [])
        assert len(told) == 1
        assert remedy in told[0]
        assert not (tmp_path / "out").exists()


def test_labels_asked_for_where_there_are_none(run, slide, annotated, tmp_path):
    (tmp_path / "empty").mkdir()
    for options, asked in (
        (["--annotations", tmp_path / "empty"], f"--annotations {tmp_path / 'empty'}"),
        (["--classes", "NC,G3"], "--classes"),
        (["--label-map", "3=G3"], "--label-map"),
    ):
        code, _, told = run("-i", slide, "-o", tmp_path / "out", *options)
        assert code == 2
        assert told[-1].startswith(f"ConfigError: {asked}: no slide has an annotation or a label; ")
    for name in "tu":
        annotated([feature(polygon(0, 0, 512, 256), "G3")], name=name)
    (tmp_path / "u.geojson").unlink()
    code, _, told = run("-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path)
    assert code == 0
    assert said(told, "neither annotation nor label: 1 of 2 slides: u")


def test_spellings_over_the_cohort(run, annotated, tmp_path):
    annotated([feature(polygon(0, 0, 512, 128), "G3")])
    annotated([feature(polygon(0, 0, 512, 128), "g3 ")], name="t")
    annotated([feature(polygon(0, 0, 512, 128), "Gleason 3+4")], name="u")
    arguments = ["-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path, "--dry-run"]
    code, lines, told = run(*arguments)
    assert code == 0
    assert said(
        told, "classes 'G3' and 'g3' differ only by case or spaces (G3: s.geojson; g3: t.geo"
    )
    assert said(told, "class 'Gleason 3+4' (u.geojson) looks like a score of a whole slide")
    assert "in all 45 patches (G3 4, g3 4, Gleason 3+4 4, unlabelled 33)" in lines
    renamed = ["--label-map", "g3=G3", "--label-map", "Gleason 3+4=G4"]
    code, lines, told = run(*arguments, *renamed)
    assert "in all 45 patches (G3 8, G4 4, unlabelled 33)" in lines
    assert told == []


def test_labels_of_a_manifest(run, slide, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide,label\n{slide},Gleason 4+3\n")
    arguments = ["-i", manifest, "-o", tmp_path / "out", "--dry-run"]
    code, lines, told = run(*arguments)
    assert (code, lines[1]) == (0, "in all 15 patches (Gleason 4+3 15)")
    assert said(told, "class 'Gleason 4+3' (s) looks like a score")
    code, _, told = run(*arguments, "--classes", "G3,G4")
    assert code == 2
    assert said(told, "none of G3, G4 is annotated (annotated: Gleason 4+3)")


def test_mask_values_that_no_label_map_names(run, slide, tmp_path):
    values = np.full((96, 160), 3, np.uint8)
    values[:, 40:] = 5
    tifffile.imwrite(tmp_path / "s_mask.tif", values, tile=(64, 64))
    arguments = ["-i", slide, "-o", tmp_path / "out", "--annotations", tmp_path, "--dry-run"]
    unnamed = "mask values that --label-map does not name are ignored: 5 (s)"
    code, lines, told = run(*arguments, "--label-map", "3=G3")
    assert (code, lines[1]) == (0, "in all 15 patches (G3 3, unlabelled 12)")
    assert said(told, unnamed)
    assert run(*arguments, "--label-map", "3=G3", "--label-map", "5=")[2] == []
    code, _, told = run(*arguments, "--label-map", "7=G3")
    assert code == 2
    assert said(told, "are ignored: 3, 5 (s)")


def asap(*drawn):
    shapes = "".join(
        f'<Annotation Name="{name}" Type="Polygon"{group}><Coordinates>'
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in
                  enumerate(box(*at)[0][:4]))
        + "</Coordinates></Annotation>"
        for name, group, at in drawn
    )  # fmt: skip
    groups = '<AnnotationGroups><Group Name="" PartOfGroup="None"/></AnnotationGroups>'
    return f"<ASAP_Annotations><Annotations>{shapes}</Annotations>{groups}</ASAP_Annotations>"


def test_asap_groups_without_a_name(run, slide, tmp_path):
    arguments = ["-i", slide, "-o", tmp_path / "out", "--annotations", tmp_path, "--dry-run"]
    bare = [("a", ' PartOfGroup=""', (0, 0, 512, 128)), ("b", "", (0, 128, 512, 256))]
    (tmp_path / "s.xml").write_text(asap(*bare))
    code, _, told = run(*arguments)
    assert code == 2
    assert said(told, "none of the 2 annotated areas has a class (s.xml)")
    (tmp_path / "s.xml").write_text(asap(*bare, ("c", ' PartOfGroup="G3"', (0, 256, 512, 384))))
    code, lines, told = run(*arguments)
    assert (code, lines[1]) == (0, "in all 15 patches (G3 4, unlabelled 11)")
    assert said(told, "areas without a class are ignored: 2, in s.xml (2 of 3)")
    code, lines, told = run(*arguments, "--label-map", "None=NC", "--label-map", "c=G4")
    assert lines[1] == "in all 15 patches (NC 8, G4 4, unlabelled 3)"
    assert told == []


def test_a_failed_slide_counts_before_missing_labels(run, annotated, tmp_path):
    annotated([feature(polygon(9000, 0, 9900, 128), "G3")])
    annotated([feature(polygon(0, 0, 512, 128), "G3")], name="t")
    (tmp_path / "t.svs").write_bytes(b"no slide")
    code, _, told = run("-i", tmp_path, "-o", tmp_path / "out", "--annotations", tmp_path)
    assert code == 3
    assert said(told, "no patch gets a label (15 patches of 1 slide(s))")
