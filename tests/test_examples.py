"""What wsikd 0.1.0 wrote, kept in ``tests/examples/0_1_0``, opens with the wsikd of today."""

import csv
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.bags.bag import find_bags, open_bag
from wsikd.grade.viewer.session import Viewing
from wsikd.learn.engine.configurations import model_of
from wsikd.learn.methods import METHODS, find_method
from wsikd.models.files.bundle import load_bundle
from wsikd.models.files.region_bundle import load_region_encoder
from wsikd.tiles.store import TileStore

EXAMPLES = Path(__file__).parent / "examples" / "0_1_0"
EXPECTED = json.loads((EXAMPLES / "expected.json").read_text())
NAMES = sorted(file.name.removesuffix(".full.yaml") for file in EXAMPLES.glob("yaml/*.full.yaml"))

CPU = ("--device", "cpu")
TILE = ("--mpp", 1, "--mpp", 2, "--patch-size", 32, "--tissue", "all", "--classes", "NC,G3,G4",
        "--jobs", 0, "--threads", 1)  # fmt: skip
VARIANTS = {
    "stores": (),
    "stores_jpeg": ("--codec", "jpeg"),
    "stores_zstd": ("--codec", "zstd"),
    "stores_0.4": ("--ome-version", "0.4", "--codec", "zstd"),
}
INFER = ("-i", "slides/s4.svs", "-m", "runs/student", "--tissue", "all", "--engine", "torch",
         "--precision", "fp32", "--jobs", 0, "--threads", 1, *CPU)  # fmt: skip
EMBED = ("-i", "slides/bags.csv", "--encoder", "runs/student", "--tissue", "all", "--threads", 1,
         *CPU)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def unpack(folder, kinds):
    for kind in kinds:
        with tarfile.open(EXAMPLES / f"{kind}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
    shutil.copytree(EXAMPLES / "slides", folder / "slides")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All examples, for tests that change none of them."""
    folder = tmp_path_factory.mktemp("examples")
    unpack(folder, [file.name.removesuffix(".tar.xz") for file in EXAMPLES.glob("*.tar.xz")])
    return folder


@pytest.fixture(autouse=True)
def old(whole, monkeypatch):
    """Examples in the working folder, since 0.1.0 kept paths as they were typed."""
    monkeypatch.chdir(whole)


@pytest.fixture
def own(old, tmp_path, monkeypatch):
    """Unpacks examples for one test alone."""

    def unpacked(*kinds):
        unpack(tmp_path, kinds)
        monkeypatch.chdir(tmp_path)

    return unpacked


def wsikd(*arguments, code=0):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def table(file):
    with Path(file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def same_rows(one, other, but=()):
    """Rows of two tables agree: numbers within rounding, all else exactly."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - set(but):
            try:
                assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-3, abs=1e-3), key
            except ValueError:
                assert a[key] == b[key], key


def images_of(store, mpp):
    return np.stack([store.read_patch(i, mpp) for i in range(len(store.patches))])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_store_opens_with_its_pixels(name):
    store, expected = TileStore.open(Path(name, "s4.zarr")), EXPECTED["stores"][name]
    assert list(store.classes) == expected["classes"]
    assert store.patches.label.tolist() == expected["label"]
    assert store.patches.xy.tolist() == expected["coords"]
    found = store.patient, store.split, store.digest
    assert found == tuple(expected[key] for key in ("patient", "split", "digest"))
    raw = TileStore.open(Path("stores", "s4.zarr"))
    for mpp, digest in expected["sha256"].items():
        images = images_of(store, float(mpp))
        if name == "stores_jpeg":  # another libjpeg may decode it otherwise by a grey level
            assert np.abs(images.astype(int) - images_of(raw, float(mpp))).mean() < 3
        else:
            assert hashlib.sha256(images.tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["stores_small", "stores_small_0.4"])
def test_arrays_of_zeros_and_white_pixels_were_left_out(name):
    """One field, in row 0 and column 0, of class 0: 0.1.0 wrote no chunks of fill values."""
    for slide in ("one", "white"):
        store = TileStore.open(Path(name, f"{slide}.zarr"))
        found = [store.patches.row, store.patches.column, store.patches.label]
        assert [column.tolist() for column in found] == [[0], [0], [0]]
        assert (images_of(store, 1.0).mean() > 250) == (slide == "white")


@pytest.mark.parametrize("name", VARIANTS)
def test_tile_finds_a_store_done_and_may_replace_it(own, name):
    own("stores", "variants")
    asked = ("tile", "-i", "slides/tiles.csv", "-o", name, *TILE, *VARIANTS[name])
    assert "0 made, 1 already there" in wsikd(*asked)
    if name not in ("stores", "stores_0.4"):
        return
    before = images_of(TileStore.open(Path(name, "s4.zarr")), 2.0)
    assert "1 made, 0 already there" in wsikd(*asked, "--overwrite")
    after = images_of(TileStore.open(Path(name, "s4.zarr")), 2.0)
    assert np.abs(before.astype(int) - after).max() <= 1


def test_a_store_is_exported():
    assert "1 exported" in wsikd("export", "stores_0.4/s4.zarr", "--to", "images", "-o", "images")
    rows = table("images/labels.csv")
    classes = EXPECTED["stores"]["stores"]["classes"]
    found = [classes[label] for label in EXPECTED["stores"]["stores"]["label"]]
    assert [row["class"] for row in rows] == found
    wsikd("export", "stores", "--to", "clam-h5", "-o", "clam")


@pytest.mark.parametrize("run", ["teacher", "student", "hdkd"])
def test_a_bundle_gives_the_logits_that_it_gave(run):
    bundle, store = load_bundle(Path("runs", run)), TileStore.open(Path("stores", "s4.zarr"))
    images = torch.from_numpy(images_of(store, bundle.spec.mpp)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = bundle.network()(images.contiguous().float())
    np.testing.assert_allclose(logits, EXPECTED["logits"][run], rtol=1e-3, atol=1e-3)


def epochs(run):
    rows = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "epoch" in row]


def test_a_stopped_run_goes_on(own):
    """By the settings in its own folder; its last epochs are those of the run without a stop."""
    own("stores", "runs", "stopped")
    run = Path("runs", "stopped")
    begun = epochs(run)
    wsikd("distill", "-c", run / "config.yaml", "-o", run, "--resume", "--seed", 1, *CPU)
    found, whole = epochs(run), epochs("runs/student")
    assert found[: len(begun)] == begun
    assert len(begun) < len(found) == len(whole)
    for one, other in zip(found, whole, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)
        assert one["val"] == pytest.approx(other["val"], rel=1e-2)
    assert load_bundle(run).card.training.best_epoch > 0


def test_a_finished_run_is_a_teacher(own):
    own("stores", "runs")
    wsikd("distill", "-c", "student.yaml", "--data", "stores", "--teacher", "runs/teacher",
          "-o", "runs/new", "--set", "optim.epochs=1", "--name", "New <b>", "--version-label", "2",
          *CPU)  # fmt: skip
    teacher, new = load_bundle("runs/teacher"), load_bundle("runs/new")
    assert new.card.teacher.sha256 == teacher.sha256
    assert new.card.called == f"New <b> 2 ({new.sha256[:12]})"
    wsikd("distill", "-c", "runs/new/config.yaml", "-o", "runs/new", "--resume", *CPU)
    again = load_bundle("runs/new")
    assert (again.sha256, again.card.called) == (new.sha256, new.card.called)


def test_a_run_is_scored_and_its_test_part_only_once(own):
    own("stores", "runs")
    asked = ("evaluate", "runs/student", "--no-report", "--by", "tester", "--json", *CPU)
    record = json.loads(wsikd(*asked))
    metrics = load_bundle("runs/student").card.metrics
    assert record["figures"]["kappa"] == pytest.approx(metrics["kappa"], abs=1e-6)
    assert record["confusion"] == metrics["confusion"]
    refusal = wsikd(*asked, "--split", "test", code=2)
    assert len(refusal.splitlines()) == 1
    assert "--again" in refusal
    before = json.loads(Path("runs/student/scores.json").read_text())["scores"][0]
    again = json.loads(wsikd(*asked, "--split", "test", "--again"))
    assert before["confusion"] == again["confusion"]
    assert again["times_before"] == 1


def test_infer_grades_as_it_did(own):
    own("runs", "results")
    assert "1 graded, 0 already there" in wsikd("infer", *INFER, "-o", "new", "--min-area", 0)
    same_rows(table("new/s4/tiles.csv"), table("graded/s4/tiles.csv"))
    (new,), (old,) = table("new/summary.csv"), table("graded/summary.csv")
    assert new["note"].startswith(old["note"])
    assert (new["grade_status"], new["rules"]) == ("graded", "GUPS 2019")
    left = [f"{name}_share_{end}" for name in ("NC", "G3", "G4") for end in ("low", "high")]
    gone = [key for key in old if key not in new]
    assert gone == [key for key in old if key in left or "_low" in key or "_high" in key]
    assert new["intervals"] == "none: the student's card holds no errors of shares"
    shared = {key: value for key, value in old.items() if key in new}
    same_rows([{key: new[key] for key in shared}], [shared], but=["seconds", "note"])
    one, other = (json.loads(Path(o, "s4/grades.geojson").read_text()) for o in ("new", "graded"))
    assert len(one["features"]) == len(other["features"])


def test_infer_finds_results_done_and_mixes_no_others_in(own):
    own("runs", "results")
    assert "0 graded, 1 already there" in wsikd("infer", *INFER, "-o", "graded", "--min-area", 0)
    before = table("graded/summary.csv")
    refusal = wsikd("infer", *INFER, "-o", "graded", "--min-area", 0.5, code=3)
    assert "min_area_mm2" in refusal
    assert "0 graded, 0 already there, 1 failed" in refusal
    assert table("graded/summary.csv") == before
    again = wsikd("infer", *INFER, "-o", "graded", "--min-area", 0.5, "--overwrite")
    assert "1 graded, 0 already there" in again
    assert table("graded/summary.csv")[0]["min_area_mm2"] == "0.5"


def test_results_are_reported_and_compared(own):
    own("results")
    assert "1 slide(s), 1 failure(s)" in wsikd("report", "graded")
    html = Path("graded/report.html").read_text()
    (row,) = table("graded/summary.csv")
    assert row["gleason_score"] in html
    assert "broken" in html
    Path("labels.csv").write_text("slide,grade_group\ns4,3\n")
    record = json.loads(wsikd("evaluate", "--slides", "graded", "--labels", "labels.csv", "--json"))
    assert record["slides"] == 1
    assert np.array(record["confusion"])[3, int(row["isup_grade_group"])] == 1


def test_the_viewer_shows_old_results():
    viewing = Viewing(Path("graded"))
    assert viewing.names() == ["s4"]
    assert [c["name"] for c in viewing.about(0)["classes"]] == ["NC", "G3", "G4"]
    grid = viewing.at(0, 10.0, 10.0)
    assert grid is not None
    viewing.close()


def test_a_teacher_is_asked_by_the_curve_in_an_old_card(own):
    own("runs", "results")
    asked = ("infer", *INFER, "--escalate", "runs/teacher", "--format", "csv",
             "--min-area", 0, "-o")  # fmt: skip
    wsikd(*asked, "new", "--budget", 0.5)
    same_rows(table("new/s4/tiles.csv"), table("escalated/s4/tiles.csv"))
    found = wsikd(*asked, "escalated", "--budget", 0.5)
    assert "0 graded, 1 already there" in found
    wsikd(*asked, "by_curve", "--agreement", 0.9)


def test_bags_open_and_embed_finds_them_done(own):
    own("runs", "bags")
    whole = {path.stem: open_bag(path) for path in find_bags([Path("bags_h5")])}
    assert set(whole) == {f"s{k}" for k in range(1, 7)}
    bag, h5 = whole["s4"], open_bag(Path("bags_h5/s4.h5"))
    np.testing.assert_array_equal(bag.features(), h5.features())
    np.testing.assert_array_equal(bag.coords(), EXPECTED["stores"]["stores"]["coords"])
    assert (bag.info.label, bag.info.split, bag.info.mpp) == ("negative", "test", 2.0)
    before = bag.features()
    assert "0 made, 1 already there" in wsikd("embed", *EMBED, "-o", "bags_h5", "--h5")
    assert "1 made" in wsikd("embed", *EMBED, "-o", "bags_h5", "--h5", "--overwrite")
    after = open_bag(Path("bags_h5/s4.zarr")).features()
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "source", "bags"),
    [("ts2g", "stores/s4.zarr", "bags_ts2g"), ("slpd", "regions", "vectors")],
)
def test_an_encoder_gives_the_embeddings_that_it_gave(own, encoder, source, bags):
    own("stores", "runs", "bags")
    asked = ("embed", "-i", source, "--encoder", f"runs/{encoder}", *CPU, "-o")
    assert "0 made" in wsikd(*asked, bags)
    assert "0 already there" in wsikd(*asked, "new")
    old, new = (open_bag(Path(folder, "s4.zarr")) for folder in (bags, "new"))
    np.testing.assert_allclose(new.features(), old.features(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(new.coords(), old.coords())


def test_prototypes_are_read(own):
    own("runs")
    assert "like s4" in wsikd("slides", "similar", "runs/slpd", "s4")


def test_region_grids_and_their_encoder_train_on(own):
    own("runs", "bags")
    assert load_region_encoder(Path("runs/slpd")) is not None
    wsikd("embed", *EMBED, "-o", "regions", "--regions", 32)
    wsikd("distill", "-c", "slpd.yaml", "--data", "regions", "-o", "runs/new", *CPU)


def test_a_bag_network_is_scored_and_draws_attention(own):
    own("runs", "bags", "results")
    record = json.loads(Path("runs/mil/scores.json").read_text())["scores"][-1]
    asked = ("evaluate", "runs/mil", "--split", "test", "--by", "tester", "--json")
    assert "--again" in wsikd(*asked, code=2)
    again = json.loads(wsikd(*asked, "--again"))
    assert again["auc"] == record["auc"]
    attend = ("attend", "runs/mil", "-i", "slides/s4.svs", "--bags", "bags", "--threads", 1, "-o")
    wsikd(*attend, "new")
    same_rows(table("new/s4/tiles.csv"), table("attended/s4/tiles.csv"))
    wsikd(*attend, "attended")
    wsikd("distill", "-c", "mil.yaml", "--data", "bags", "-o", "runs/new", *CPU)


def includes(new, old):
    """A mapping holds all that another holds; what came later may stand beside it."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(k in new and includes(new[k], old[k]) for k in old)
    return new == old


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_means_what_it_meant(name):
    file, full = EXAMPLES / "yaml" / f"{name}.yaml", EXAMPLES / "yaml" / f"{name}.full.yaml"
    meant = yaml.safe_load(full.read_text())
    known = set(model_of(meant["method"]).model_fields)
    others = {key: meant.pop(key) for key in [*meant] if key not in known}
    for key, section in others.items():  # 0.1.0 gave each run the sections of every method
        (owner,) = [m for m in map(find_method, METHODS) if key in m.Config.model_fields]
        assert owner.Config().model_dump(mode="json")[key] == section
    assert includes(yaml.safe_load(wsikd("config", full)), meant)
    for section, key in (("optim", "threads"), ("optim", "precision"), ("data", "cache_gb")):
        meant.get(section, {}).pop(key, None)  # left to the machine since, unless it is set
    assert includes(yaml.safe_load(wsikd("config", file)), meant)
