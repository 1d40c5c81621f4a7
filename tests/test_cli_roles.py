"""A path in the wrong place: one line that names the mistake and the right command."""

import json
from pathlib import Path

import pytest
import zarr
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.core.errors import ConfigError
from wsikd.learn.patch.settings import load_grading
from wsikd.learn.preflight import check_run
from wsikd.models.files.peek import check_pair, peek_bundle, teacher_note
from wsikd.slides import what_is as w
from wsikd.slides.what_is import check_role, kinds_in, what_is

INPUT = {"patch_px": 64, "mean": [0, 0, 0], "std": [1, 1, 1], "classes": ["NC", "G3"]}


def card(folder, mpp=4.0, kind=None, **more):
    """A run folder with a card and empty weights."""
    folder = folder / "student"
    folder.mkdir(parents=True)
    about = {"format": 1, "sha256": f"{folder.parent.name}", "method": "at_plus", **more}
    if kind is None:
        about |= {"network": {"arch": "vgg_small"}, "input": {**INPUT, "mpp": mpp}}
    else:
        about["kind"] = kind
    (folder / "card.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"")


def group(folder, arrays=(), **attributes):
    made = zarr.create_group(folder, zarr_format=3, attributes=attributes)
    for name, shape in arrays:
        made.create_array(name, shape=shape, dtype="f4")


def write_all_kinds(root):
    """One folder of each kind, with as little in it as tells what it is."""
    (root / "slides").mkdir()
    (root / "slides" / "a.svs").write_text("")
    (root / "nested" / "p1").mkdir(parents=True)
    (root / "nested" / "p1" / "a.tif").write_text("")
    group(root / "stores" / "a.zarr", wsikd={"settings": {}}, ome={"multiscales": []})
    (root / "stores" / "overlays").mkdir()
    (root / "stores" / "overlays" / "a.png").write_text("")
    group(root / "bags" / "a.zarr", [("features", (2, 3))], wsikd_bag={"slide": "a"})
    group(root / "grids" / "a.zarr", [("features", (2, 3, 4, 4))], wsikd_bag={"slide": "a"})
    (root / "h5").mkdir()
    (root / "h5" / "a.h5").write_text("")
    (root / "results" / "a").mkdir(parents=True)
    (root / "results" / "a" / "result.json").write_text("{}")
    (root / "results" / "a" / "grades.ome.tiff").write_text("")
    for name in ("NC/a_1", "NC/b_1", "G3/a_2", "G3/b_2"):
        file = root / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (root / "tifs" / "NC").mkdir(parents=True)
    (root / "tifs" / "NC" / "a_1.tif").write_text("")
    (root / "labels.csv").write_text("image,slide,class\n")
    (root / "slides.csv").write_text("slide,mpp\n")
    card(root / "teacher", 1.0, method="supervised", teacher=None)
    card(root / "student", 4.0, teacher={"sha256": "teacher", "mpp": 1.0})
    for kind in ("mil", "region", "embedder", "detector"):
        card(root / kind, kind=kind)
    (root / "unfinished" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "provenance.json"):
        (root / "unfinished" / name).write_text("")
    (root / "empty").mkdir()
    (root / "run.yaml").write_text("method: at_plus\n")
    (root / "first.yaml").write_text("method: supervised\n")
    (root / "mil.yaml").write_text("method: mil\n")
    (root / "slpd.yaml").write_text("method: slpd\n")
    (root / "rows").mkdir()
    for name, text in (("base", "method: at_plus\n"), ("rows", "ce: {}\n")):
        (root / "rows" / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    write_all_kinds(root)
    return root


@pytest.fixture(autouse=True)
def here(kinds, monkeypatch):
    monkeypatch.chdir(kinds)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("slides", w.SLIDES), ("slides/a.svs", w.SLIDES), ("slides.csv", w.SLIDES),
        ("nested", w.IMAGES), ("stores", w.STORES), ("stores/a.zarr", w.STORES),
        ("bags", w.BAGS), ("bags/a.zarr", w.BAGS), ("h5", w.BAGS), ("h5/a.h5", w.BAGS),
        ("grids", w.GRIDS), ("results", w.RESULTS), ("results/a", w.RESULTS),
        ("images", w.IMAGES), ("labels.csv", w.IMAGES), ("teacher", w.GRADER),
        ("student/student", w.GRADER), ("student/student/model.safetensors", w.WEIGHTS),
        ("mil", w.CLASSIFIER), ("region", w.REGIONS), ("embedder", w.EMBEDDER),
        ("detector", w.DETECTOR), ("unfinished", w.UNFINISHED), ("run.yaml", w.SETTINGS),
        ("empty", None), ("gone", None),
    ],
)  # fmt: skip
def test_what_a_path_is(path, kind):
    assert what_is(path) == kind


def test_folders_of_tiffs_pass_as_patches_and_as_slides():
    assert set(kinds_in("tifs")) == {w.IMAGES, w.SLIDES} == set(kinds_in("nested"))


def test_results_beside_the_slides_are_no_obstacle(tmp_path):
    (tmp_path / "a.svs").write_text("")
    (tmp_path / "maps" / "a").mkdir(parents=True)
    (tmp_path / "maps" / "a" / "result.json").write_text("{}")
    check_role(tmp_path, "-i", w.SLIDES)
    (tmp_path / "maps" / "slides").mkdir()
    (tmp_path / "maps" / "slides" / "b.svs").write_text("")
    check_role(tmp_path / "maps", "-i", w.SLIDES)


def test_looking_is_bounded(tmp_path):
    for name in range(100):
        (tmp_path / f"{name}" / "a" / "b").mkdir(parents=True)
    assert kinds_in(tmp_path) == []


WRONG = [
    ("infer -i stores -m student", ("stores: holds tile stores, which -i does not take; give the "
     "slides themselves; tile stores go to wsikd distill --data, wsikd embed -i and wsikd export")),
    ("infer -i stores/*.zarr -m student", "stores/a.zarr: holds tile stores"),
    ("infer -i results -m student", "results go to wsikd view, wsikd report and wsikd evaluate"),
    ("infer -i slides -m mil", "mil: is a slide classifier (method mil), which -m does not take"),
    ("infer -i slides -m region", "it goes to wsikd embed --encoder and wsikd slides similar"),
    ("infer -i slides -m detector", "it goes to trunk.weights of method ts2g"),
    ("infer -i slides -m stores", "give a run of wsikd distill that grades patches; tile stores"),
    ("infer -i slides -m unfinished", "has not finished; finish it with wsikd distill --resume"),
    ("infer -i slides -m student/student/model.safetensors", "give the folder that it lies in"),
    ("infer -i slides -m teacher --escalate student", "give -m student --escalate teacher"),
    ("tile -i images", ("images: holds patch images, which -i does not take; give the slides "
     "themselves; patch images go to wsikd distill --data as they are")),
    ("tile -i bags", "bags go to wsikd distill --data (method mil) and wsikd attend --bags"),
    ("export slides --to images", "tile them first: wsikd tile -i slides -o STORES"),
    ("export results --to images", "give tile stores of wsikd tile; results go to wsikd view"),
    ("embed -i results --encoder embedder", "results: holds results of wsikd infer"),
    ("embed -i slides --encoder mil", "mil: is a slide classifier"),
    ("embed -i slides --encoder region", "wsikd embed -i slides --encoder NAME --regions PX"),
    ("bench -i slides --teacher student --student teacher",
     "are swapped; give --teacher teacher --student student"),
    ("bench -i stores --teacher teacher --student student", "stores: holds tile stores"),
    ("distill -c first.yaml --data slides", "tile them first: wsikd tile -i slides -o STORES"),
    ("distill -c first.yaml --data bags", "give tile stores of wsikd tile; bags go to wsikd dis"),
    ("distill -c mil.yaml --data stores", "wsikd embed -i stores --encoder NAME -o BAGS"),
    ("distill -c slpd.yaml --data bags", "give region grids of wsikd embed --regions"),
    ("distill -c run.yaml --data stores --teacher stores", "stores: holds tile stores, which --t"),
    ("distill -c run.yaml --data stores --teacher student", ("--teacher student: is a student of 4 "
     "um/px, not the teacher of 1 um/px (data.mpp); give the run that this student was distilled")),
    ("distill -c run.yaml --data stores --teacher mil", "mil: is a slide classifier"),
    ("tune -c run.yaml --grid weights.fm=1,2 --data slides", "wsikd tile -i slides -o STORES"),
    ("distill -c rows/rows.yaml --data stores", ("rows/rows.yaml: holds the rows of a comparison, "
     "not one training; run wsikd reproduce at_plus --config-dir rows, or give")),
    ("tune -c rows/rows.yaml --grid weights.fm=1,2 --data stores", "holds the rows of a compari"),
    ("reproduce --data slides", "wsikd tile -i slides -o STORES"),
    ("reproduce mil --data stores", "wsikd embed -i stores --encoder NAME -o BAGS"),
    ("attend student -i slides --bags bags", "student: is a student or teacher, which RUN does n"),
    ("attend mil -i slides --bags stores", "wsikd embed -i stores --encoder NAME -o BAGS"),
    ("export-model mil --to onnx", "mil: is a slide classifier (method mil), which STUDENT does"),
]  # fmt: skip
WITHOUT_OUT = [
    ("info results", "results: holds results of wsikd infer, which wsikd info does not take"),
    ("name results Mine", "results: holds results of wsikd infer, which STUDENT does not take"),
    ("name slides Mine", "slides: holds slides, which STUDENT does not take"),
    ("report stores", "grade the slides: wsikd infer -i SLIDES -m STUDENT -o OUT, and give OUT"),
    ("report slides", "grade them first: wsikd infer -i slides -m STUDENT -o OUT"),
    ("view stores", "grade the slides: wsikd infer -i SLIDES -m STUDENT -o OUT, and give OUT"),
    ("view student", "give the -o of wsikd infer; it goes to wsikd infer -m, wsikd evaluate"),
    ("evaluate stores", "stores: holds tile stores, which RUN does not take; give a run of wsikd"),
    ("evaluate student --data slides", "wsikd tile -i slides -o STORES"),
    ("evaluate --slides stores --labels slides.csv", "grade the slides: wsikd infer -i SLIDES"),
    ("slides similar student a", ("student: is a student or teacher, which RUN does not take; "
     "give a run of wsikd distill (method slpd); it goes to wsikd infer -m")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told"),
    [*((f"{a} -o wrong", b) for a, b in WRONG), *WITHOUT_OUT],
    ids=lambda v: v[:60],
)
def test_a_thing_in_the_wrong_place_is_one_line_with_the_right_command(kinds, line, told):
    done = CliRunner().invoke(main, line.split())
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert told in done.stderr
    assert not (kinds / "wrong").exists()


@pytest.mark.parametrize(
    ("teacher", "student", "swapped"),
    [((1.0, None), (4.0, "a"), False), ((4.0, None), (1.0, None), True),
     ((2.0, None), (2.0, None), False), ((2.0, "b"), (2.0, None), True)],
)  # fmt: skip
def test_who_is_the_teacher_follows_from_the_cards(tmp_path, teacher, student, swapped):
    for name, (mpp, taught_by) in (("a", teacher), ("b", student)):
        card(tmp_path / name, mpp, teacher=taught_by and {"sha256": taught_by})
    pair = [peek_bundle(tmp_path / name) for name in ("a", "b")]
    if swapped:
        with pytest.raises(ConfigError, match="swapped; give them rightly"):
            check_pair(*pair, "give them rightly")
    else:
        check_pair(*pair, "give them rightly")


def test_grading_with_a_teacher_is_allowed_and_noted(kinds):
    assert "is a teacher at 10x; it reads 16 times the pixels" in teacher_note(
        peek_bundle(kinds / "teacher")
    )
    assert teacher_note(peek_bundle(kinds / "student")) is None


@pytest.mark.parametrize("arch", ["timm:resnet18", "hdkd_student", "vgg16"])
def test_known_networks_pass(kinds, arch):
    config = load_grading(Path("first.yaml"), [f"network.arch={arch}"])
    check_run(config.model_copy(update={"data": config.data.model_copy(
        update={"paths": ["images"]})}))  # fmt: skip
