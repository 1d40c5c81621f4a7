import json
import os
import shutil
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from sklearn import metrics as oracle
from wsikd.cli.main import main

from tests.learn.miniature import write_sicap
from wsikd.core.errors import ConfigError, DataError, OutputError
from wsikd.core.output.lock import locked
from wsikd.core.run_places import absolute_places
from wsikd.core.softmax import softmax
from wsikd.learn.patch.settings import RunConfig
from wsikd.learn.patch.train import PatchTask
from wsikd.learn.reproduce import run_rows as reproduce
from wsikd.learn.reproduce.run_rows import Plan, read_rows, run_all
from wsikd.learn.reproduce.table import make_table, to_markdown
from wsikd.learn.score import test_record as scoring
from wsikd.models.files.bundle import load_bundle

TINY = [
    "network.arch=vgg_small", "network.width=0.25", "network.init=random", "optim.epochs=1",
    "optim.batch_size=16", "optim.lr=0.003",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sicap(tmp_path_factory):
    return write_sicap(tmp_path_factory.mktemp("mini") / "SICAPv2")


def copy_run(source, folder):
    """A run in another place, whose settings name the same data and teacher."""
    shutil.copytree(source, folder)
    settings = yaml.safe_load((source / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(absolute_places(settings, source)))


def run(*args):
    return CliRunner().invoke(main, [str(a) for a in args], catch_exceptions=False)


def command(sicap, out, *more, rows="ce_5x,at_plus_fm_5x", seeds="22,32"):
    sets = [part for text in TINY for part in ("--set", text)]
    return ["reproduce", "at_plus", "--data", sicap, "-o", out, "--seeds", seeds, "--rows", rows,
            "--device", "cpu", *sets, *more]  # fmt: skip


@pytest.fixture(scope="module")
def made(sicap, tmp_path_factory):
    out = tmp_path_factory.mktemp("table") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIKD_STATE", str(out.parent / "state"))  # nobody has looked before
        done = run(*command(sicap, out))
    assert done.exit_code == 0, done.output
    return out, done


def test_the_table_is_what_the_runs_predicted(made):
    out, done = made
    table = json.loads((out / "table.json").read_text())
    assert [r["name"] for r in table["rows"]] == [
        "teacher", "ce_5x", "at_plus_fm_5x", "colour_histogram",
    ]  # fmt: skip
    assert done.stdout == (out / "table.md").read_text()
    assert table["looks"]["looks"] >= 6
    assert "When it was scored last, this test part has been looked at " in done.stdout
    row = table["rows"][2]
    assert set(row["interval"].values()) == {None}  # one patient tells nothing of others
    kappas = []
    for seed in (22, 32):
        with np.load(out / f"runs/at_plus_fm_5x/seed{seed}/predictions_test.npz") as kept:
            said = kept["logits"].argmax(1)
            assert set(kept["group"]) == {"patient p0"}
            kappas.append(
                oracle.cohen_kappa_score(kept["truth"], said, weights="quadratic", labels=range(4))
            )
    assert row["mean"]["kappa"] == pytest.approx(np.mean(kappas))
    assert row["deviation"]["kappa"] == pytest.approx(np.std(kappas, ddof=1))
    assert row["macs"] == pytest.approx(table["rows"][0]["macs"])  # upsampled: the same cost
    assert len((out / "table.csv").read_text().splitlines()) == 5
    gain = next(g for g in table["gains"] if g["metric"] == "kappa")
    each = np.subtract(row["each"]["kappa"], table["rows"][1]["each"]["kappa"])
    assert gain["mean"] == pytest.approx(each.mean())
    assert (gain["row"], gain["over"]) == ("at_plus_fm_5x", "ce_5x")


def test_students_take_the_teacher_of_their_seed(made):
    out, _ = made
    for seed in (22, 32):
        card = json.loads((out / f"runs/at_plus_fm_5x/seed{seed}/student/card.json").read_text())
        teacher = json.loads((out / f"runs/teacher/seed{seed}/student/card.json").read_text())
        assert card["teacher"]["sha256"] == teacher["sha256"]
        assert teacher["training"]["seed"] == seed
        assert card["temperature"] is None or card["temperature"] >= 1  # two validation slides


def test_what_is_finished_is_not_done_again(made, sicap, monkeypatch):
    out, done = made
    scores = (out / "runs/teacher/seed22/scores.json").read_text()
    assert [s["by"] for s in json.loads(scores)["scores"]] == ["wsikd reproduce"]

    def never(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(reproduce, "distill", never)
    again = run(*command(sicap, out))
    assert again.stdout == done.stdout
    assert (out / "runs/teacher/seed22/scores.json").read_text() == scores
    other = run(*command(sicap, out, "--set", "optim.lr=0.1"))
    assert other.exit_code == 2
    assert "was started with another 'optim.lr'" in other.stderr


def test_other_data_are_refused(made, sicap, tmp_path):
    out, _ = made
    changed = write_sicap(tmp_path / "SICAPv2", seed=1)
    refused = run(*command(changed, out))
    assert refused.exit_code == 2
    assert "was made with another data; choose another -o" in refused.stderr


class Killed(BaseException):
    pass


def test_a_killed_table_goes_on_and_is_the_same(made, sicap, tmp_path, monkeypatch):
    out, done = made
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "state"))
    validate, calls = PatchTask.validate, []

    def dying(self, logits):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return validate(self, logits)

    with monkeypatch.context() as patch:
        patch.setattr(PatchTask, "validate", dying)
        with pytest.raises(Killed):
            run(*command(sicap, tmp_path / "out"))
    assert not (tmp_path / "out/table.md").exists()
    rest = run(*command(sicap, tmp_path / "out"))
    assert rest.stdout == done.stdout
    first, second = (
        p / "runs/ce_5x/seed22/student/model.safetensors" for p in (out, tmp_path / "out")
    )
    assert first.read_bytes() == second.read_bytes()


def test_the_test_part_is_scored_once(made, tmp_path, monkeypatch):
    out, _ = made
    monkeypatch.setenv("WSIKD_STATE", str(out.parent / "state"))
    folder = tmp_path / "run"
    copy_run(out / "runs/ce_5x/seed22", folder)
    refused = run("evaluate", folder, "--split", "test", "--by", "me", "--device", "cpu")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"OutputError: {folder}: its test part was scored on 20")
    assert (
        "by wsikd reproduce; use --split val for model selection, or give --again" in refused.stderr
    )
    assert len(refused.stderr.splitlines()) == 1
    done = run("evaluate", folder, "--split", "test", "--by", "me", "--again", "--json",
               "--no-report", "--device", "cpu")  # fmt: skip
    record = json.loads(done.stdout)
    kept = scoring.read_scores(folder / "scores.json")
    assert [(s["by"], s["times_before"]) for s in kept] == [("wsikd reproduce", 0), ("me", 1)]
    assert record == kept[1]
    assert record["looks"]["part"] == kept[0]["looks"]["part"]
    assert record["looks"]["looks"] >= 7  # six runs of the table, and the copy of one
    assert kept[0]["figures"] == pytest.approx(kept[1]["figures"])
    (folder / "scores.json").write_text("{torn")
    torn = run("evaluate", folder, "--split", "test", "--device", "cpu")
    assert torn.exit_code == 2
    assert "cannot be read as a record of scores" in torn.stderr


def test_evaluate_prints_colour_beside_the_network_and_draws(made, tmp_path, caplog):
    out, _ = made
    folder = tmp_path / "run"
    copy_run(out / "runs/at_plus_fm_5x/seed22", folder)
    done = run("evaluate", folder, "--device", "cpu")
    assert done.exit_code == 0, done.output
    record = scoring.read_scores(folder / "scores.json")[-1]
    line = next(x for x in done.stdout.splitlines() if x.startswith("kappa  "))
    assert line.split()[1] == f"{record['figures']['kappa']:.3f}"
    assert line.split()[-2] == f"{record['colour_histogram']['kappa']:.3f}"
    pictures = {"curves.png", "confusion_val.png", "reliability_val.png", "attention.png"}
    report = json.loads((folder / "report/report.json").read_text())
    assert set(report["files"]) == pictures
    assert {p.name for p in (folder / "report").iterdir()} == pictures | {"report.json"}
    assert all((folder / "report" / p).read_bytes()[:4] == b"\x89PNG" for p in pictures)
    assert sum(p.stat().st_size for p in (folder / "report").iterdir()) < 600_000
    assert -1 <= report["attention_agreement"] <= 1
    assert f"mean correlation {report['attention_agreement']:.3f}" in done.stdout
    own, colour = record["figures"]["kappa"], record["colour_histogram"]["kappa"]
    warned = any("not shown to be better than colour" in m for m in caplog.messages)
    assert warned == (own <= colour)
    teacher = load_bundle(out / "runs/teacher/seed22")
    patches = scoring.load_for(scoring.open_subject(folder))
    val, net = patches.indices("val"), teacher.network().eval()
    with torch.inference_mode():
        said = net(patches.images(val)).argmax(1).numpy()
    theirs = oracle.cohen_kappa_score(
        patches.label[val], said, weights="quadratic", labels=range(4)
    )
    assert float(line.split()[-1]) == pytest.approx(theirs, abs=6e-4)
    warned = any(
        m.startswith("kappa") and "the finer resolution gives no gain" in m for m in caplog.messages
    )
    assert warned == (theirs <= own)
    cost = next(x for x in done.stdout.splitlines() if "multiply-accumulates" in x)
    assert cost.startswith(f"{record['macs'] / 1e9:.3g} G multiply-accumulates a patch (2 um/px")
    assert cost.endswith(f"times the teacher's {teacher.card.macs / 1e9:.3g} G (1 um/px)")


def test_the_teacher_s_test_figures_are_those_of_its_one_scoring(made, tmp_path, caplog):
    out, _ = made
    student, teacher = tmp_path / "student", tmp_path / "teacher"
    copy_run(out / "runs/at_plus_fm_5x/seed22", student)
    copy_run(out / "runs/teacher/seed22", teacher)
    config = (student / "config.yaml").read_text()
    old = next(x for x in config.splitlines() if x.startswith("teacher:"))
    (student / "config.yaml").write_text(config.replace(old, f"teacher: {teacher}"))
    record = json.loads((teacher / "scores.json").read_text())
    record["scores"][0]["figures"]["kappa"] = -0.5  # not what it would reach now
    (teacher / "scores.json").write_text(json.dumps(record))

    def kappa():
        asked = ["evaluate", student, "--split", "test", "--again", "--no-report", "--json"]
        beside = json.loads(run(*asked, "--device", "cpu").stdout)["teacher"]
        return beside and beside["figures"]["kappa"]

    assert kappa() == -0.5
    assert any("kappa -0.500 of the teacher at 1 um/px is no better" in m for m in caplog.messages)
    (teacher / "scores.json").unlink()
    assert kappa() is None
    assert not (teacher / "scores.json").exists()
    shutil.rmtree(teacher)
    assert kappa() is None


def test_a_bundle_alone_is_scored_on_the_data_it_is_given(made, sicap, tmp_path):
    out, _ = made
    bundle = tmp_path / "bundle"
    shutil.copytree(out / "runs/teacher/seed22/student", bundle)
    missing = run("evaluate", bundle, "--split", "test", "--device", "cpu")
    assert missing.exit_code == 2
    assert "lists no data; give --data" in missing.stderr
    asked = ["evaluate", bundle, "--split", "test", "--data", sicap, "--device", "cpu", "--json"]
    record = json.loads(run(*asked).stdout)
    kept = scoring.read_scores(out / "runs/teacher/seed22/scores.json")[0]
    assert record["figures"] == pytest.approx(kept["figures"])
    assert "report" not in record
    assert run(*asked).exit_code == 2


def test_data_without_a_split_are_all_test_for_a_bundle(made, sicap, tmp_path):
    """Class folders: the same test images, and no training part to fit the baseline on."""
    out, _ = made
    bundle, folders = tmp_path / "bundle", tmp_path / "folders"
    shutil.copytree(out / "runs/teacher/seed22/student", bundle)
    for i, image in enumerate(sorted((sicap / "images").glob("16B000000[01]_*"))):
        place = folders / ("NC", "G3", "G4", "G5")[i % 8 % 4]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    done = run(
        "evaluate", bundle, "--split", "test", "--data", folders, "--json", "--device", "cpu"
    )
    record = json.loads(done.stdout)
    kept = scoring.read_scores(out / "runs/teacher/seed22/scores.json")[0]
    assert record["confusion"] == kept["confusion"]
    assert (record["groups"], record["colour_histogram"]) == (2, None)
    assert record["calibration"] is None  # no temperature fits, and there is no validation part
    assert kept["calibration"] is None
    text = run("evaluate", bundle, "--split", "test", "--data", folders, "--again")
    assert text.stdout.startswith("test: 16 patches of 2 slides or patients")
    none = run("evaluate", bundle, "--data", folders)
    assert (none.exit_code, "there are no val patches" in none.stderr) == (2, True)


def test_cross_fitting_predicts_every_patch_once_a_repeat(sicap, tmp_path):
    rows = read_rows(
        Path(str(resources.files("wsikd.configs") / "at_plus/sicapv2")),
        data=[str(sicap)], overrides=[*TINY, "ce_*:optim.lr=0.002"], wanted=["ce_5x"],
    )  # fmt: skip
    assert [r.name for r in rows] == ["ce_5x"]
    assert rows[0].config.optim.lr == 0.002
    plan = Plan(rows, (1,), folds=2, repeats=2)
    run_all(plan, tmp_path, device="cpu")
    found = reproduce.collect(plan, tmp_path)
    for predictions in (*found["ce_5x"].values(), *found["colour_histogram"].values()):
        assert list(predictions.index) == list(range(80))
    table = make_table(plan, tmp_path)
    assert [r["units"] for r in table["rows"]] == [2, 2]
    assert table["plan"]["groups"] == 5
    assert "2 x 2-fold cross-fitting" in to_markdown(table)
    names = {p.name for p in (tmp_path / "runs/ce_5x").iterdir() if p.is_dir()}
    assert names == {f"seed1-repeat{r}-fold{f}" for r in (0, 1) for f in (0, 1)}


def test_redealt_folds_are_each_seeds_own(sicap, tmp_path):
    rows = read_rows(ROOT, data=[str(sicap)], overrides=TINY, wanted=["ce_5x"])
    seeds, out = (1, 5), tmp_path / "out"
    plan = Plan(rows, seeds, folds=2, redeal=True)
    run_all(plan, out, device="cpu")
    dealt = {
        seed: reproduce.read_predictions(out / f"runs/ce_5x/seed{seed}-repeat{seed}-fold0" /
                                         scoring.PREDICTIONS).index.tolist()
        for seed in seeds
    }  # fmt: skip
    assert dealt[1] != dealt[5]
    table = make_table(plan, out)
    assert [r["units"] for r in table["rows"]] == [2, 2]
    assert table["rows"][-1]["each_is"] == [{"seed": s, "repeat": s} for s in seeds]
    assert "each seed's own 2-fold cross-fitting" in to_markdown(table)
    options = ("at_plus", "--data", sicap, "-o", tmp_path / "none", "--redeal")
    for more in ((), ("--folds", "2", "--repeats", "2")):
        told = run("reproduce", *options, *more)
        assert (told.exit_code, "--redeal: draws the folds once for each seed" in told.stderr) == (
            2,
            True,
        )


def test_rows_that_make_no_table_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no row"):
        read_rows(tmp_path)
    root = Path(str(resources.files("wsikd.configs") / "at_plus/sicapv2"))
    with pytest.raises(ConfigError, match="fm_5: no such row; did you mean 'fm_5x'"):
        read_rows(root, wanted=["fm_5"])
    (tmp_path / "1_fm.yaml").write_text("method: at_plus\n")
    with pytest.raises(ConfigError, match="its students have no teacher; add 0_teacher"):
        read_rows(tmp_path)
    shutil.copy(tmp_path / "1_fm.yaml", tmp_path / "2_fm.yaml")
    with pytest.raises(ConfigError, match="two rows have the same name"):
        read_rows(tmp_path)
    seeds = run("reproduce", "--data", tmp_path, "-o", tmp_path / "o", "--seeds", "1,x")
    assert seeds.exit_code == 2
    paper = run("reproduce", "none", "--data", tmp_path, "-o", tmp_path / "o")
    assert (paper.exit_code, "no such paper" in paper.stderr) == (2, True)


@pytest.mark.parametrize("folder", ["sicapv2", "sicapv2/recommended"])
def test_every_row_of_the_paper_loads(folder):
    rows = read_rows(Path(str(resources.files("wsikd.configs") / "at_plus" / folder)))
    assert rows[0].name == "teacher"
    paper = folder == "sicapv2"
    names = (
        ["ce", "kd", "fm", "sr", "at", "at_plus", "at_plus_fm", "at_grad"]
        if paper
        else ["ce", "recommended", "self_kd"]
    )
    expected = [f"{n}_{m}" for m in ("5x", "2.5x", "1.25x") for n in names]
    assert [r.name for r in rows[1:]] == expected
    for row in rows[1:]:
        mpp = {"5x": 2.0, "2.5x": 4.0, "1.25x": 8.0}[row.name.rpartition("_")[2]]
        assert row.config.low_mpp == mpp
        assert row.config.student_input == ("upsampled" if paper else "native")
    if paper:
        for row in rows:
            optim = row.config.optim
            assert (optim.name, optim.lr, optim.weight_decay) == ("adam", 1e-4, 0)
            assert (optim.epochs, optim.batch_size, optim.schedule) == (20, 32, "constant")
            assert (optim.balance, optim.deterministic, optim.min_delta) == (
                "frozen_pool",
                True,
                0.01,
            )
            assert row.config.network.input_norm == "none"
            assert row.config.corner_aligned == (row.name != "teacher")
            augment = row.config.augment
            assert (augment.flips, augment.rotate_deg, augment.shift) == ("horizontal", 45, 0.05)
            assert (augment.scale_range, augment.probability) == ((0.95, 1.2), 0.5)
            assert (augment.padding, augment.stain) == ("zero", 0)
            assert {augment.brightness, augment.contrast, augment.saturation} == {0.1}
        both = {r.name: {k: v for k, v in r.config.weights.items() if v} for r in rows}
        assert both["at_plus_fm_2.5x"] == {"ce": 1, "fm": 0.1, "at_plus": 10}
        assert both["fm_5x"] == {"ce": 1, "fm": 0.1}


def test_gap_closed_only_where_there_is_a_gap(monkeypatch, tmp_path):
    """A blind baseline, a student half way, and a teacher that is right or blind: made up."""
    from wsikd.learn.reproduce import table as module

    rng = np.random.default_rng(0)
    truth, group = np.tile(np.arange(4), 60), np.repeat([f"slide {i}" for i in range(12)], 20)

    def predictions(share):
        said = np.where(rng.random(240) < share, truth, rng.integers(0, 4, 240))
        p, alone = softmax(4.0 * np.eye(4)[said]), np.zeros(240, np.int64)
        return reproduce.Predictions(truth, p, np.arange(240), group, alone)

    root = Path(str(resources.files("wsikd.configs") / "at_plus/sicapv2"))
    rows = read_rows(root, wanted=["teacher", "ce_5x", "fm_5x"])
    plan = Plan(rows, (1, 2))
    monkeypatch.setattr(module, "read_card", lambda *_: {"macs": 10**9})
    shares = {"teacher": 1.0, "ce_5x": 0.0, "fm_5x": 0.5, "colour_histogram": 0.25}
    right = {n: {(s, 0): predictions(share) for s in (1, 2)} for n, share in shares.items()}
    for made, expected in ((right, True), (right | {"teacher": right["ce_5x"]}, False)):
        monkeypatch.setattr(module, "collect", lambda *_, made=made: made)
        table = make_table(plan, tmp_path)
        gain = next(g for g in table["gains"] if g["metric"] == "kappa")
        assert (gain["gap_closed"] is not None) == expected
        if expected:
            assert gain["gap_closed"] == pytest.approx(0.5, abs=0.15)
            assert gain["interval_slides"][0] > 0
        told = " ".join(table["warnings"])
        assert "ce_5x: kappa" in told
        assert ("teacher (1 um/px)" in told) != expected


def made_up(accuracies, units):
    """Predictions of rows: row -> share that is right in each unit, colour always a quarter."""
    truth, group = np.tile(np.arange(4), 60), np.repeat([f"slide {i}" for i in range(12)], 20)

    def predictions(share):
        said = np.where(np.arange(240) % 100 < 100 * share, truth, (truth + 2) % 4)
        p, alone = softmax(4.0 * np.eye(4)[said]), np.zeros(240, np.int64)
        return reproduce.Predictions(truth, p, np.arange(240), group, alone)

    return {
        name: {unit: predictions(share) for unit, share in zip(units, shares, strict=True)}
        for name, shares in {**accuracies, "colour_histogram": [0.25] * len(units)}.items()
    }


def gain_of(table, metric="accuracy"):
    return next(g for g in table["gains"] if g["metric"] == metric)


def table_of(monkeypatch, tmp_path, plan, found):
    from wsikd.learn.reproduce import table as module

    monkeypatch.setattr(module, "GAINS", ("accuracy",))
    monkeypatch.setattr(module, "read_card", lambda *_: {"macs": 10**9})
    monkeypatch.setattr(module, "collect", lambda *_: found)
    return make_table(plan, tmp_path)


ROOT = Path(str(resources.files("wsikd.configs") / "at_plus/sicapv2"))


def test_repeats_of_a_seed_do_not_count_as_seeds(monkeypatch, tmp_path):
    """Two seeds of three repeats: the interval has one degree of freedom, not five."""
    from scipy import stats

    units = [(seed, repeat) for seed in (1, 2) for repeat in (0, 1, 2)]
    plan = Plan(read_rows(ROOT, wanted=["ce_5x", "fm_5x"]), (1, 2), folds=2, repeats=3)
    ce = [0.5, 0.52, 0.54, 0.5, 0.52, 0.54]
    fm = [0.60, 0.64, 0.62, 0.70, 0.74, 0.72]
    found = made_up({"teacher": [0.9] * 6, "ce_5x": ce, "fm_5x": fm}, units)
    table = table_of(monkeypatch, tmp_path, plan, found)
    row = next(r for r in table["rows"] if r["name"] == "fm_5x")
    each = np.array(row["each"]["accuracy"]).reshape(2, 3)
    assert row["each_is"] == [{"seed": s, "repeat": r} for s, r in units]
    assert row["deviation"]["accuracy"] == pytest.approx(each.mean(1).std(ddof=1))
    assert row["deviation_repeats"]["accuracy"] == pytest.approx(each.mean(0).std(ddof=1))
    gain, other = gain_of(table), next(r for r in table["rows"] if r["name"] == "ce_5x")
    by_seed = (each - np.array(other["each"]["accuracy"]).reshape(2, 3)).mean(1)
    expected = stats.t.interval(0.95, 1, by_seed.mean(), stats.sem(by_seed))
    assert gain["interval_seeds"] == pytest.approx(expected)
    assert gain["mean"] == pytest.approx(by_seed.mean())


@pytest.mark.parametrize(
    ("change", "key"),
    [("optim.epochs=21", "optim.epochs"), ("augment.stain=0.1", "augment.stain"),
     ("network.width=0.5", "network.width"), ("network.init=teacher", None),
     ("weights.fm=3", None)],
)  # fmt: skip
def test_a_gain_needs_the_same_schedule_and_augmentation(change, key, monkeypatch, tmp_path):
    rows = read_rows(ROOT, wanted=["ce_5x", "fm_5x"], overrides=[f"fm_5x:{change}"])
    units = [(1, 0), (2, 0)]
    shares = {"teacher": [0.9, 0.9], "ce_5x": [0.5, 0.52], "fm_5x": [0.6, 0.7]}
    table = table_of(monkeypatch, tmp_path, Plan(rows, (1, 2)), made_up(shares, units))
    said = [w for w in table["warnings"] if "no gain is given" in w]
    if key is None:
        assert (len(table["gains"]), said) == (1, [])
    else:
        assert table["gains"] == []
        assert said == [f"fm_5x: no gain is given, since ce_5x has another {key}"]


def test_an_auc_needs_a_class_that_is_benign(sicap, tmp_path):
    """Folders a and b: nothing tells which is cancer, until data.benign does."""
    for i, image in enumerate(sorted((sicap / "images").iterdir())):
        place = tmp_path / "set" / "ab"[i % 8 % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "0_teacher.yaml").write_text("method: supervised\nsplit: {test: 0.25}\n")
    sets = [part for text in TINY for part in ("--set", text)]
    for benign in ([], ["--set", "data.benign=[b]"]):
        out = tmp_path / f"out{len(benign)}"
        done = run("reproduce", "--config-dir", rows, "--data", tmp_path / "set", "-o", out,
                   "--seeds", "1", "--device", "cpu", *sets, *benign)  # fmt: skip
        assert done.exit_code == 0, done.output
        assert ("no class is known as benign (data.benign)" in done.stdout) == (not benign)
        row = json.loads((out / "table.json").read_text())["rows"][0]
        with np.load(out / "runs/teacher/seed1/predictions_test.npz") as kept:
            score = kept["logits"][:, 0] - kept["logits"][:, 1]  # of a, where b is benign
            expected = oracle.roc_auc_score(kept["truth"] == 0, score) if benign else None
        assert row["mean"]["auc_cancer"] == (expected and pytest.approx(expected))
        folder = out / "runs/teacher/seed1"
        told = run("evaluate", folder, "--no-report", "--device", "cpu")
        assert ("AUC cancer is not given" in told.stdout) == (not benign)
        assert ("\nAUC cancer  " in told.stdout) == bool(benign)
    card = json.loads((folder / "student/card.json").read_text())
    assert card["benign"] == ["b"]


def test_one_scoring_at_a_time_whoever_asks(made, sicap):
    """The table and wsikd evaluate share one lock."""
    out, _ = made
    folder = out / "runs/ce_5x/seed22"
    kept = (folder / "scores.json").read_text()
    with locked(folder / "scores.json"):
        for again in (["--again", "--split", "test"], []):
            busy = run("evaluate", folder, *again, "--no-report", "--device", "cpu")
            assert (busy.exit_code, "another process" in busy.stderr) == (2, True)
        (folder / "predictions_test.npz").rename(folder / "moved")
        table = run(*command(sicap, out))
        assert (table.exit_code, "another process" in table.stderr) == (2, True)
    (folder / "moved").rename(folder / "predictions_test.npz")
    assert (folder / "scores.json").read_text() == kept


def test_scores_cannot_be_kept_where_nothing_can_be_written(made, tmp_path, monkeypatch):
    out, _ = made
    folder = tmp_path / "run"
    copy_run(out / "runs/ce_5x/seed22", folder)
    subject = scoring.open_subject(folder)
    patches = scoring.load_for(subject)

    def full(*args, **options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="cannot be written"):
        scoring.score(subject, patches, "val", by="me")


def test_a_run_is_not_scored_on_data_that_have_changed(monkeypatch, tmp_path):
    """Its split would be drawn anew, and patches of its training would be tested."""
    own = SimpleNamespace(digests=["a"])
    monkeypatch.setattr("wsikd.learn.data.patches.load_patches", lambda *_, **__: own)
    card = SimpleNamespace(data=["a"])
    bundle = SimpleNamespace(card=card, spec=None)
    run = scoring.Subject(bundle, tmp_path, RunConfig(method="supervised"))
    assert scoring.load_for(run) is own
    card.data = ["b"]
    with pytest.raises(DataError, match="its data have changed since it was trained"):
        scoring.load_for(run)
    assert scoring.load_for(run, ["elsewhere"]) is own


def test_a_row_is_taught_by_another_row(patches_on_disk, tmp_path):
    """The control of self-distillation, with the run of its own seed as teacher."""
    part = lambda s: ("train", "train", "train", "val", "test")[s % 5]  # noqa: E731
    csv = patches_on_disk.write(tmp_path / "set", slides=10, split=part)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "base.yaml").write_text(
        "method: supervised\nnetwork: {width: 0.25}\noptim: {epochs: 1, batch_size: 16}\n"
    )
    (rows / "rows.yaml").write_text(
        "teacher:\nce: &ce {data: {student_mpp: 2.0}}\n"
        "control: {<<: *ce, method: at_plus, teacher: 'row:ce', teacher_reads: low,"
        " weights: {kd: 1, fm: 0, at_plus: 0}}\n"
        "two: {<<: *ce, method: at_plus, teacher: ['row:teacher', 'row:teacher_b'],"
        " weights: {kd: 1}}\nteacher_b: {optim: {lr: 0.002}}\n"
    )
    out = tmp_path / "out"
    asked = ("reproduce", "at_plus", "--config-dir", rows, "--data", csv, "-o", out,
             "--device", "cpu", "--seeds", "1,2")  # fmt: skip
    done = run(*asked)
    assert done.exit_code == 0, done.output
    for seed in (1, 2):
        card, ce = (
            json.loads((out / f"runs/{name}/seed{seed}/student/card.json").read_text())
            for name in ("control", "ce")
        )
        assert card["teacher"]["sha256"] == ce["sha256"]
        both = json.loads((out / f"runs/two/seed{seed}/student/card.json").read_text())
        assert len({one["sha256"] for one in both["teachers"]}) == 2
    table = json.loads((out / "table.json").read_text())
    row = next(r for r in table["rows"] if r["name"] == "control")
    assert (row["taught_by"], row["self_distilled"]) == (["ce"], True)
    assert (
        "Control of self-distillation: control learns from ce, which reads the same" in done.stdout
    )
    assert {"control", "two"} <= {gain["row"] for gain in table["gains"]}
    assert run(*asked).stdout == done.stdout
