"""SLPD's study: vectors, folds, leaks, scores and the whole way on a tiny cohort."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from wsikd.cli.main import main

from benchmarks.studies.slpd.cohort import make_cohort, read_truth
from benchmarks.studies.slpd.mixtures import LABELS, PLAIN, draw_vectors, plan_mixtures
from benchmarks.studies.slpd.pool import over_seeds, pool_areas, pool_scores
from benchmarks.studies.slpd.run import main as compare
from benchmarks.studies.slpd.scores import (
    check_left_out,
    figures,
    mean_of,
    nearest_means,
    nearest_neighbours,
    score_clusters,
)
from benchmarks.studies.slpd.settings import RAW, SHUFFLED, TRUE, UNTRAINED, Cohort, read_study
from benchmarks.studies.slpd.study import Study, Vectors, mean_of_tiles
from benchmarks.studies.slpd.table import write_table
from wsikd.bags.bag import open_bag, write_bag
from wsikd.bags.region_table import open_regions
from wsikd.bags.region_vectors import VectorEmbedder, write_vectors
from wsikd.core.errors import BundleError, ConfigError, DataError, OutputError
from wsikd.learn.data.settings import Split
from wsikd.learn.engine.train import train
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.method import BagData
from wsikd.learn.slpd.method import Prototypes
from wsikd.learn.slpd.train import SlpdTask
from wsikd.models.files.region_bundle import load_region_encoder, save_region_encoder
from wsikd.models.slide_level.region_vit import RegionEncoder, RegionShape

pytestmark = pytest.mark.studies

COHORT = Cohort(form="grids", slides=18, regions=(8, 9), grid=4, dim=8, noise=2.0)
TINY = (
    "cohort={form: grids, slides: 12, regions: [8, 9], grid: 4, dim: 8}", "folds=2",
    "variants=[intra_inter]", "shares=[1.0]",
    "network={width: 8, depth: 1, heads: 2, hidden: 8, bottleneck: 8, outputs: 16}",
    "crops={global_grid: 3, local_grid: 2, local_views: 1}",
    "prototypes={start_epoch: 1, clusters: 3, least_regions: 8}",
    "optim={epochs: 2, batch_size: 32, warmup_epochs: 0}", "head={arch: mean, hidden: 8}",
    "head_optim={epochs: 1, lr: 0.01, batch_size: 8}",
)  # fmt: skip


def tiny(*more):
    return read_study((*TINY, *more))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are slower on two threads, and far slower where both cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    return make_cohort(out, COHORT)


def write_encoder(folder, grids, **changes):
    """A region encoder of random weights for these grids, trained on none."""
    bag = open_bag(next(iter(sorted(grids.glob("*.zarr")))))
    torch.manual_seed(3)
    shape = RegionShape(dim=bag.dim, table=3, width=8, depth=2, heads=2, hidden=8, bottleneck=8)
    with torch.no_grad():
        network = RegionEncoder(shape)
        for weight in network.parameters():
            weight.copy_(torch.randn_like(weight))
    about = {
        "encoder": dict(bag.info.encoder),
        "mpp": bag.info.mpp,
        "grid": bag.shape[2],
        **changes,
    }
    save_region_encoder(folder, network, variant="dino", **about)
    return folder


# ---------------------------------------------------------------- vectors


def test_vectors_are_those_of_a_slow_loop(grids, tmp_path):
    """One region at a time, in eval mode, on its native grid, whatever the batch."""
    run = write_encoder(tmp_path / "run", grids)
    path = sorted(grids.glob("*.zarr"))[0]
    done = VectorEmbedder(run, device="cpu", batch_size=3).embed(path, tmp_path / "v.zarr")
    bag, vectors = open_bag(path), open_bag(tmp_path / "v.zarr")
    network = load_region_encoder(run)
    with torch.no_grad():
        slowly = [network.vit(torch.from_numpy(g)[None])[0].numpy() for g in bag.features()]
    np.testing.assert_allclose(vectors.features(), slowly, atol=1e-5)
    assert np.std(vectors.features(), axis=0).min() > 1e-3
    np.testing.assert_array_equal(vectors.coords(), bag.coords())
    assert vectors.shape == (done.patches, 8) == (len(bag), 8)
    assert replace(vectors.info, encoder={}) == replace(bag.info, encoder={})
    assert vectors.info.encoder["sha256"] == network.sha256
    assert vectors.info.encoder["tiles"] == bag.info.encoder


def embed(grids, run, out, *more):
    given = ["embed", "-i", str(grids), "--encoder", str(run), "-o", str(out), "--device", "cpu"]
    return CliRunner().invoke(main, [*given, *more])


def test_the_command_leaves_one_damaged_grid_out(grids, tmp_path):
    run = write_encoder(tmp_path / "run", grids)
    copy = shutil.copytree(grids, tmp_path / "grids")
    (copy / "m001.zarr" / "features" / "c" / "0" / "0" / "0" / "0").write_bytes(b"torn")
    found = embed(copy, run, tmp_path / "out")
    assert found.exit_code == 3, found.output
    assert "17 made, 0 already there, 1 failed" in found.output
    assert "m001.zarr" in found.stderr
    assert len(list((tmp_path / "out").glob("*.zarr"))) == 17
    again = embed(copy, run, tmp_path / "out")
    assert "0 made, 17 already there, 1 failed" in again.output
    other = embed(copy, write_encoder(tmp_path / "run2", grids, grid=4, mpp=0.5), tmp_path / "out")
    assert "0 made, 17 already there" in other.output, "the same weights are the same encoder"


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"grid": 16}, "are 8 x 4 x 4 a region"), ({"mpp": 2.0}, "are at 0.5 um/px"),
     ({"encoder": {"id": "drawn embeddings", "sha256": "other"}}, "were embedded with sha256")],
)  # fmt: skip
def test_regions_that_are_not_the_encoders(grids, tmp_path, changes, told):
    run = write_encoder(tmp_path / "run", grids, **changes)
    one = next(iter(sorted(grids.glob("*.zarr"))))
    with pytest.raises(BundleError, match=told):
        VectorEmbedder(run, device="cpu").embed(one, tmp_path / "v.zarr")
    found = embed(one, run, tmp_path / "out")
    assert found.exit_code == 3
    assert found.stderr.count("\n") == 1
    assert told in found.stderr


def test_patches_are_no_regions_and_options_that_do_nothing_are_refused(grids, tmp_path):
    run = write_encoder(tmp_path / "run", grids)
    bag = open_bag(next(iter(sorted(grids.glob("*.zarr")))))
    write_bag(tmp_path / "p.zarr", bag.info, bag.features()[:, :, 0, 0], bag.coords())
    with pytest.raises(DataError, match="holds patches, not regions"):
        VectorEmbedder(run, device="cpu").embed(tmp_path / "p.zarr", tmp_path / "v.zarr")
    for more in (("--mpp", "0.5"), ("--h5",), ("--regions", "64"), ("--tissue", "all")):
        found = embed(grids, run, tmp_path / "out", *more)
        assert found.exit_code == 2
        assert f"{more[0]} does not go with a region encoder" in found.output


# ---------------------------------------------------------------- cohort


def mean_tells(seed, shift=0.0):
    """AUC of the nearest slides by means over all tiles, over folds of patients."""
    planned = plan_mixtures(seed=seed, slides=144, regions=(16, 20), grid=4)
    label = np.array([LABELS.index(one.label) for one in planned])
    drawn = [draw_vectors(one, dim=8, noise=3.0, patient_shift=2.0) for one in planned]
    means = np.stack([one.mean((0, 2, 3)) for one in drawn]) + shift * label[:, None]
    said = cross_val_predict(
        KNeighborsClassifier(5), means, label, groups=[one.patient for one in planned],
        cv=GroupKFold(3), method="predict_proba",
    )  # fmt: skip
    return roc_auc_score(label, said[:, 1])


def test_the_label_does_not_leak_into_means_over_tiles():
    assert np.mean([mean_tells(seed) for seed in range(4)]) == pytest.approx(0.5, abs=0.08)
    assert mean_tells(0, shift=2.0) > 0.9, "it would be seen"


def spread_by_type(grids):
    """How far tiles of a region lie apart, (R,), and whether its type has two kinds, (R,)."""
    truth, spread, mixed = read_truth(grids.parent), [], []
    for path in sorted(grids.glob("*.zarr")):
        bag = open_bag(path)
        assert len(truth[bag.info.slide]) == len(bag)
        spread.append(bag.features().std((2, 3)).mean(1))
        mixed.append(truth[bag.info.slide] != PLAIN)
    return np.concatenate(spread), np.concatenate(mixed)


def test_truth_goes_with_the_regions_of_the_grids(grids):
    """Pairs have two kinds of tile, so their tiles vary most: told from the grids alone."""
    spread, mixed = spread_by_type(grids)
    assert roc_auc_score(mixed, spread) > 0.98


@pytest.mark.slow
def test_drawn_slides_through_openslide_and_embed(tmp_path):
    """Pixels instead of drawn embeddings: tiles of a region lie where the plan has them."""
    cohort = Cohort(
        form="slides", slides=4, regions=(8, 8), grid=4, encoder_slides=4, encoder_epochs=4
    )
    grids = make_cohort(tmp_path, cohort, device="cpu")
    for path in sorted(grids.glob("*.zarr")):
        assert open_bag(path).shape[2:] == (4, 4)
    spread, mixed = spread_by_type(grids)
    assert len(spread) == 32
    assert roc_auc_score(mixed, spread) > 0.9


# ---------------------------------------------------------------- scores


def test_clusters_and_neighbours_are_found_where_they_are_plain(grids):
    """Vectors that are the types themselves: all is found; without types or order, nothing is."""
    truth, table = read_truth(grids.parent), open_regions([grids])
    types = np.concatenate([truth[s] for s in table.slides])
    labels = dict(zip(table.slides, table.labels, strict=True))
    plain = np.eye(5, dtype=np.float32)[types]
    many = Prototypes(clusters=3, least_regions=8, restarts=8)
    found = score_clusters(plain, table, many, labels, truth)
    kinds = {s: len(set(truth[s].tolist())) for s in table.slides}
    three = [found[s]["rand"] for s in table.slides if kinds[s] == 3]
    assert all(r == pytest.approx(1) for r in three)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(types), 5)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    chance = mean_of(score_clusters(noise, table, many, labels, truth), "rand")
    assert abs(chance["value"]) < 0.15 < mean_of(found, "rand")["value"]
    patients = dict(zip(table.slides, table.patients, strict=True))
    for slide, one in found.items():
        assert patients[one["nearest"]] != patients[slide], "never a slide of the same patient"
        assert one["right"] == (labels[one["nearest"]] == labels[slide])
        others = [s for s in table.slides if patients[s] != patients[slide]]
        assert one["chance"] == pytest.approx(np.mean([labels[s] == labels[slide] for s in others]))
    few = score_clusters(plain, table, Prototypes(clusters=3, least_regions=9), labels, truth)
    small = [s for s in table.slides if len(truth[s]) < 9]
    assert small
    assert all(few[s]["rand"] is None and few[s]["right"] is None for s in small)


@pytest.fixture(scope="module")
def vectors(grids, tmp_path_factory):
    """Bags of means over tiles, moved apart by class, so that neighbours tell something."""
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    for path in sorted(grids.glob("*.zarr")):
        bag = open_bag(path)
        shift = 0.4 * LABELS.index(bag.info.label) + 0.5 * rng.normal()
        about = {"id": "means", "sha256": "means"}
        write_vectors(bag, folder / path.name, about, lambda g, s=shift: mean_of_tiles(g) + s, 8)
    return folder


def test_nearest_neighbours_are_sklearns(vectors):
    data, split = BagData(paths=[str(vectors)]), Split(given=False, val=0.25)
    rows = nearest_neighbours([data] * 3, split, 3, 3)
    assert sorted(r["slide"] for r in rows) == [f"m{k:03d}" for k in range(18)]
    for fold in range(3):
        bags = load_bags(data, split.model_copy(update={"folds": 3, "fold": fold}))
        means = np.stack([b.features().mean(0) for b in bags.bags])
        for row in (r for r in rows if r["fold"] == fold):
            index = bags.slide.index(row["slide"])
            assert bags.split[index] == "test"
            train = bags.indices("train")
            near = train[np.argsort(np.linalg.norm(means[train] - means[index], axis=1))[:3]]
            assert row["probability"][1] == pytest.approx(bags.label[near].mean())
    said = figures(rows)
    assert said["auc"]["std"] == pytest.approx(np.std(said["auc"]["folds"]))


def test_the_nearest_mean_is_of_another_patient(vectors):
    bags = load_bags(BagData(paths=[str(vectors)]), Split(given=False))
    means = np.stack([b.features().mean(0) for b in bags.bags])
    found = nearest_means(bags)
    for index, slide in enumerate(bags.slide):
        distance = np.linalg.norm(means - means[index], axis=1)
        distance[[g == bags.group[index] for g in bags.group]] = np.inf
        assert found[slide]["nearest"] == bags.slide[int(distance.argmin())]


def said(seed, tell=0.25):
    """Rows as of two folds, where the label moves what is said."""
    rng = np.random.default_rng(seed)
    return [
        {"slide": f"s{k:02d}", "group": f"p{k // 2}", "label": k % 2, "fold": k // 2 % 2,
         "probability": [1 - p, p], "decided": 0}
        for k, p in enumerate(rng.uniform(size=80) * 0.5 + tell * (np.arange(80) % 2))
    ]  # fmt: skip


def test_areas_over_seeds_are_means_and_differences_are_paired():
    every = [said(0), said(1)[::-1], said(2)]
    found = pool_areas(every)
    each = [figures(rows)["auc"]["value"] for rows in every]
    assert found["value"] == pytest.approx(np.mean(each))
    assert found["seeds"]["values"] == pytest.approx(each)
    one = pool_areas(every[:1])
    assert one["interval"] == pytest.approx(figures(every[0])["auc"]["interval"])
    few = [row | {"group": f"p{i // 4}"} for i, row in enumerate(said(0))]
    assert pool_areas([few])["interval"] is None
    assert one["seeds"]["interval"] is None
    same = pool_areas(every, [rows[::-1] for rows in every])
    assert same["value"] == 0
    assert same["interval"][0] == -same["interval"][1] < 0
    worst = [[r | {"probability": [0.5, 0.5]} for r in rows] for rows in every]
    differ = pool_areas(every, worst)
    assert differ["value"] == pytest.approx(found["value"] - 0.5)
    assert differ["interval"][0] < differ["value"] < differ["interval"][1]
    with pytest.raises(DataError, match="not of the same slides"):
        pool_areas(every, [rows[:-1] for rows in every])


def test_intervals_over_seeds_are_students():
    found = over_seeds([0.5, 0.6, 0.7])["interval"]
    half = 4.302653 * 0.1 / 3**0.5  # the 97.5 % point of Student's t with two degrees of freedom
    assert found == pytest.approx([0.6 - half, 0.6 + half])
    assert over_seeds([0.5])["interval"] is None
    assert over_seeds([0.5, None, 0.7])["interval"] is None


def test_scores_over_seeds_are_means_by_slide():
    seeds = [
        {"a": {"group": "p", "rand": 0.2}, "b": {"group": "q", "rand": 0.4}},
        {"a": {"group": "p", "rand": 0.6}, "b": {"group": "q", "rand": None}},
    ]
    found = pool_scores(seeds, "rand")
    assert found["value"] == pytest.approx(0.4)
    assert found["slides"] == 2
    assert found["seeds"]["values"] == pytest.approx([0.3, 0.6])


def test_means_have_intervals_over_groups():
    found = {f"s{k}": {"group": f"p{k // 5}", "right": k < 30, "rand": None} for k in range(60)}
    one = mean_of(found, "right")
    assert one["value"] == 0.5
    assert one["slides"] == 60
    low, high = one["interval"]
    assert low < 0.3, "twelve groups, not sixty slides"
    assert high > 0.7
    assert mean_of(found, "rand") == {"value": None, "interval": None, "slides": 0}


# ---------------------------------------------------------------- the study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    changes = [a for s in TINY for a in ("--set", s)]
    command = ["-o", str(out), "--device", "cpu", *changes]
    found = CliRunner().invoke(compare, command)
    assert found.exit_code == 0, found.output
    return out, command, found.output


def test_tables_hold_every_row(study):
    out, _, output = study
    table = json.loads((out / "table.json").read_text())
    assert (out / "table.md").read_text() in output
    rows = {(r["vectors"], r["protocol"]) for r in table["slides"]}
    plain = {(name, None) for name in (RAW, TRUE, UNTRAINED)}
    trained = {("intra_inter", p) for p in ("transductive", "per_fold")}
    assert rows == plain | trained | {(SHUFFLED, None)}
    for row in table["slides"]:
        for by in ("head", "nearest"):
            assert row[by]["slides"] == 12
            assert 0 <= row[by]["auc"]["value"] <= 1
            assert len(row[by]["each"][0]["auc"]["folds"]) == 2
            assert "to_dino" not in row[by], "there is none in this study"
    true = next(r for r in table["clusters"] if r["vectors"] == TRUE)
    assert true["rand"]["value"] > 0.5
    assert {(r["vectors"], r["protocol"]) for r in table["clusters"]} == plain | trained
    for row in table["clusters"]:
        assert row["rand"]["slides"] == row["right_by_means"]["slides"] == 12


def test_labels_dealt_anew_are_of_whole_patients(study):
    out, _, _ = study
    made = (out / "vectors" / "seed0" / "true_types_labels_dealt_anew").glob("*.zarr")
    dealt = {bag.info.slide: bag.info.label for bag in map(open_bag, made)}
    table = open_regions([out / "grids"])
    old = dict(zip(table.slides, table.labels, strict=True))
    assert set(dealt) == set(old)
    assert dealt != old
    known = {(p, old[s], dealt[s]) for s, p in zip(table.slides, table.patients, strict=True)}
    assert len(known) == len(set(table.patients)), "a patient has one label"
    assert sorted(was for _, was, _ in known) == sorted(new for _, _, new in known)


def test_an_untrained_encoder_is_what_its_training_begins_with(study, tmp_path):
    """Its weights are those of a run that hardly moves."""
    out, _, _ = study
    one = tiny("optim.lr=1e-30", "optim.lr_end=0", "optim.weight_decay=0", "optim.epochs=1",
               "optim.weight_decay_end=0", "variants=[dino]")  # fmt: skip
    config = Study(one, tmp_path / "s", device="cpu", data=[out / "grids"])._pretraining("dino", ())
    config.data.paths.append(str(out / "grids"))
    train(SlpdTask, config, tmp_path / "run", seed=0, device="cpu")
    trained, fresh = (
        load_region_encoder(p) for p in (tmp_path / "run", out / "runs" / "seed0" / "untrained")
    )
    for (name, a), b in zip(trained.named_parameters(), fresh.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-20), name


def test_a_folds_encoder_has_never_read_its_test_patients(study):
    """By the configuration of its run, by the record in its card, and with a leak planted."""
    out, _, _ = study
    for fold in range(2):
        run = out / "runs" / "seed0" / "per_fold" / "intra_inter" / f"fold{fold}"
        rows = json.loads(
            (out / "heads/seed0/per_fold/intra_inter/labels100/runs" / f"seed0-fold{fold}"
             / "predictions.json").read_text()
        )  # fmt: skip
        tested = {r["slide"] for r in rows}
        patients = {r["group"].removeprefix("patient ") for r in rows}
        about = open_regions([out / "grids"])
        encoder = load_region_encoder(run)
        trained = run / "prototypes.npz"
        with np.load(trained) as found:
            slides = set(json.loads(str(found["text"]))["slides"])
        assert not slides & tested
        assert slides | tested == set(about.slides)
        held = {p for s, p in zip(about.slides, about.patients, strict=True) if s in slides}
        assert not held & patients
        names = sorted({f"slide {s}" for s in tested} | {r["group"] for r in rows})
        check_left_out(encoder, names)
        leaky = load_region_encoder(out / "runs" / "seed0" / "transductive" / "intra_inter")
        with pytest.raises(DataError, match="is in the test part, but"):
            check_left_out(leaky, names)


def test_a_planted_leak_stops_the_study(study, tmp_path):
    """The encoder of a fold is exchanged for the one that has read everything."""
    out, command, _ = study
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    runs = copy / "runs" / "seed0"
    run = runs / "per_fold" / "intra_inter" / "fold0"
    shutil.rmtree(run / "student")
    shutil.copytree(runs / "transductive" / "intra_inter" / "student", run / "student")
    shutil.rmtree(copy / "vectors" / "seed0" / "per_fold")
    found = CliRunner().invoke(compare, [str(copy) if c == str(out) else c for c in command])
    assert found.exit_code == 2
    assert "is in the test part, but" in found.output


def test_what_is_finished_stays_and_other_settings_are_refused(study):
    out, command, output = study
    files = [f for f in sorted(out.rglob("*")) if f.suffix in (".json", ".safetensors", ".npz")]
    kept = {f: f.stat().st_mtime_ns for f in files if not f.name.startswith("table")}
    scored = next(f for f in kept if f.name == "nearest.json")
    scored.unlink()  # as if it had been stopped before the last step
    again = CliRunner().invoke(compare, command)
    assert again.exit_code == 0, again.output
    assert again.output == output
    assert scored.is_file()
    kept.pop(scored)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    other = CliRunner().invoke(compare, [*command, "--set", "folds=3"])
    assert other.exit_code == 2
    assert "holds a study with another 'folds'" in other.output


def test_own_grids_with_one_damaged_among_them(grids, tmp_path, caplog):
    copy = tmp_path / "grids"
    for k in range(9):
        shutil.copytree(grids / f"m{k:03d}.zarr", copy / f"m{k:03d}.zarr")
    (copy / "m002.zarr" / "features" / "zarr.json").unlink()
    changes = ("variants=[dino]", "protocols=[transductive]", "optim.epochs=1", "cohort={}")
    one = Study(tiny(*changes), tmp_path / "out", device="cpu", data=[copy])
    one.run()
    assert set(one.left_out) == {"m002"}
    assert "m002.zarr: cannot be read" in caplog.text
    for by in ("head", "nearest"):
        assert len(one.predictions(Vectors(0, "transductive", "dino"), 1.0, by)) == 8
    text = write_table(one)
    assert "Left out, since they cannot be read: m002." in text
    assert "by construction" not in text
    shutil.copytree(grids / "m002.zarr", copy / "m002.zarr", dirs_exist_ok=True)
    with pytest.raises(OutputError, match="holds a study of other regions"):
        Study(tiny(*changes), tmp_path / "out", device="cpu", data=[copy]).run()


@pytest.mark.parametrize(
    ("change", "told"),
    [("variants=[dino, dino]", "names one twice"), ("variant=dino", "did you mean 'variants'"),
     ("shares=[0]", "greater than 0"), ("folds=1", "greater than or equal to 2"),
     ("prototypes.start_epoch=50", "is never reached"), ("cohort.form=pixels", "choose one of")],
)  # fmt: skip
def test_settings_that_will_not_do(change, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Study(read_study([change]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_users_own_regions_start_from_the_published_settings():
    own, small = read_study(own_data=True), read_study()
    assert (own.network.width, own.optim.epochs, own.head.arch) == (192, 100, "hipt")
    assert (own.head_optim.lr, own.head_optim.epochs, own.head_optim.batch_size) == (2e-4, 20, 1)
    assert small.network.width < own.network.width
