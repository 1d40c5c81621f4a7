"""What a newcomer writes first: objects for paths, names of the command line, OpenSlide's names."""

import numpy as np
import pytest

import wsikd
from wsikd.core.errors import BundleError, ConfigError, DataError, SlideError


def test_only_public_names_are_listed():
    assert dir(wsikd) == sorted(wsikd.__all__)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("open_slid", "did you mean 'open_slide'?"),
        ("train", "distill trains teachers too"),
        ("open_store", "use TileStore.open"),
        ("load_run", "use Run.open"),
    ],
)
def test_an_unknown_name_says_which_is_meant(name, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(wsikd, name)
    assert str(caught.value).endswith(f"; {hint}")


def test_names_of_openslide(shop):
    with wsikd.open_slide("s.svs") as slide:
        assert slide.level_count == len(slide.level_dimensions)
        with pytest.raises(AttributeError, match=r"'get_thumbnail'; use thumbnail\(\)"):
            slide.get_thumbnail((100, 100))
        assert not hasattr(slide, "nothing")


def test_runs_and_stores_stand_for_their_paths(shop):
    stores = wsikd.tile(["slides.csv"], "stores", patch_px=256)
    teacher = wsikd.Run.open("runs/teacher")
    run = wsikd.distill("2_student.yaml", data=stores, teacher=teacher, out="runs/objects")
    assert run.metrics
    assert wsikd.load_student(run).mpp == 4.0
    assert "kappa" in wsikd.evaluate(run, device="cpu")


def test_a_store_has_the_name_of_its_slide(shop):
    stores = wsikd.tile(["slides.csv"], "stores", patch_px=256)
    assert stores["a"].path == stores[0].path
    with pytest.raises(KeyError, match="known: a, b"):
        stores["nothing"]
    with pytest.raises(KeyError, match=r"no patch at 2 um/px, only at 1\.0, 4\.0"):
        stores["a"][0][2.0]


def test_options_of_tile_as_the_command_has_them(shop):
    with pytest.raises(ConfigError, match=r"^mag: .*give mpp=\(1\.0, 4\.0\)"):
        wsikd.tile("s.svs", "new", mag=10)
    with pytest.raises(ConfigError, match="did you mean 'patch_px'"):
        wsikd.tile("s.svs", "new", patch_size=256)
    drawn = {"patch_px": 256, "annotations": "slides/a.geojson"}
    text = wsikd.tile("slides/a.svs", "new", classes="NC,G3,G4,G5", **drawn)
    assert text.classes == ("NC", "G3", "G4", "G5")


@pytest.mark.parametrize("slides", [["s.svs"], np.zeros((8, 8, 3), np.uint8), None])
def test_predict_takes_one_path(shop, slides):
    with pytest.raises(ConfigError, match=r"is not a path; .*wsikd\.infer"):
        wsikd.load_student("runs/student").predict(slides)


def test_one_format_needs_no_list(shop):
    grades = wsikd.load_student("runs/student").predict("s.svs")
    assert list(grades.save("maps", formats="geojson")) == ["geojson"]


def test_a_missing_path_names_what_is_beside_it(shop):
    with pytest.raises(BundleError, match=r"did you mean 'runs/student'\?"):
        wsikd.load_student("runs/studnt")
    with pytest.raises(ConfigError, match=r"did you mean '2_student\.yaml'\?"):
        wsikd.distill("2_student.yml", data="stores", teacher="runs/teacher")
    with pytest.raises(SlideError, match=r"did you mean 'slides/a\.svs'\?"):
        wsikd.open_slide("slides/a.sv")
    with pytest.raises(ConfigError, match=r"no such file; check the path$"):
        wsikd.tile(["somewhere.csv"], "new")


def test_annotations_beside_slides_that_are_not_read_are_named(shop, caplog):
    wsikd.tile(["slides"], "bare", patch_px=256)
    beside = list((shop / "slides").glob("*.geojson"))
    said = f"{len(beside)} of 2 slides have annotations beside them; to read these, give"
    assert said in caplog.text
    caplog.clear()
    wsikd.tile(["slides"], "drawn", patch_px=256, annotations="slides")
    assert "annotations beside them" not in caplog.text


def test_a_class_that_is_drawn_but_not_named_is_reported(shop, caplog):
    wsikd.tile(["slides"], "new", patch_px=256, annotations="slides", classes=["NC", "G3"])
    assert "not in --classes, so their areas give no label: G4, G5" in caplog.text
    with pytest.raises(ConfigError, match="put commas between the names: --classes NC,G3,G4,G5"):
        wsikd.tile(["slides"], "x", patch_px=256, annotations="slides", classes="NC G3 G4 G5")


def test_stores_without_labels_ask_for_annotations(shop):
    wsikd.tile(["slides"], "bare", patch_px=256)
    with pytest.raises(DataError, match="holds no labelled patches; tile with annotations"):
        wsikd.distill("1_teacher.yaml", data="bare", out="runs/none")


def test_a_picture_and_a_file_for_a_folder(shop):
    (shop / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(SlideError, match="a picture has no levels"):
        wsikd.open_slide("photo.jpg")


def test_a_field_larger_than_the_slide_is_named(shop, caplog):
    wsikd.tile("s.svs", "new", patch_px=50_000)
    assert "a field is larger than the slide (--patch-size)" in caplog.text
