"""HDKD's study: rows on shares of the training slides."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn import metrics as oracle

from benchmarks.studies.hdkd.label_efficiency import SHARES, make_study, to_markdown
from benchmarks.studies.hdkd.run import main
from tests.learn.conftest import write_set
from wsikd.learn.reproduce.run_rows import Plan, read_rows

pytestmark = pytest.mark.studies

ROWS = ("teacher", "none", "logit", "feature", "both")
RUN = ("teacher", "none", "both")
SMALL = [
    "network.width=0.125", "network.hybrid.dim=16", "network.hybrid.heads=2",
    "network.hybrid.depth=1", "network.hybrid.positions=2", "network.hybrid.units=[1,1,1]",
    "data.patch_px=32", "optim.epochs=1", "optim.batch_size=8", "augment.rotate_deg=0",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    csv = write_set(
        root / "set", slides=10, per_slide=3,
        split=lambda s: "test" if s >= 8 else "val" if s >= 6 else "train",
    )  # fmt: skip
    done = command(csv, root / "out")
    assert done.exit_code == 0, done.output
    return csv, root / "out", done


def command(csv, out, *more):
    options = [part for text in SMALL for part in ("--set", text)]
    arguments = [
        "--data", csv, "-o", out, "--seeds", "0,1", "--shares", "34,100",
        "--rows", "none,both", "--device", "cpu", *options, *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(a) for a in arguments])


def predictions(out, share, row, seed):
    folder = out / "runs" / share / row
    file = folder / f"seed{seed}.npz" if row == "colour_histogram" else folder / f"seed{seed}"
    with np.load(file if file.suffix else file / "predictions_test.npz") as kept:
        return kept["truth"], kept["logits"]


def test_points_are_what_the_predictions_say(made):
    _, out, _ = made
    study = json.loads((out / "table.json").read_text())
    assert len(study["points"]) == 2 * (len(RUN) + 1)
    for point in study["points"]:
        share = f"{100 * point['share']:g}%"
        kappas = []
        for seed in (0, 1):
            truth, logits = predictions(out, share, point["row"], seed)
            said = logits.argmax(1)
            kappas.append(oracle.cohen_kappa_score(truth, said, weights="quadratic"))
        assert np.nan_to_num(point["each"]["kappa"]) == pytest.approx(np.nan_to_num(kappas))
        assert point["mean"]["kappa"] == pytest.approx(np.mean(kappas))
        assert point["deviation"]["kappa"] == pytest.approx(np.std(kappas, ddof=1), abs=1e-12)
    means = {(p["share"], p["row"]): p["mean"]["kappa"] for p in study["points"]}
    for gain in (g for g in study["gains"] if g["metric"] == "kappa"):
        expected = means[gain["share"], gain["row"]] - means[gain["share"], "none"]
        assert gain["over"] == "none"
        assert gain["mean"] == pytest.approx(expected, abs=1e-12)
    assert {g["row"] for g in study["gains"]} == {"both"}


def test_all_rows_of_a_seed_see_the_same_slides_and_seeds_differ(made):
    _, out, _ = made
    told = {}
    for seed in (0, 1):
        for row in RUN:
            card = json.loads((out / f"runs/34%/{row}/seed{seed}/student/card.json").read_text())
            told.setdefault(seed, set()).add(card["seen"][0]["train"]["names"])
            if row not in ("teacher", "none"):
                teacher = (out / f"runs/34%/teacher/seed{seed}/student/card.json").read_text()
                assert card["teacher"]["sha256"] == json.loads(teacher)["sha256"]
    assert [len(names) for names in told.values()] == [1, 1]
    assert told[0] != told[1]
    whole = json.loads((out / "runs/100%/none/seed0/student/card.json").read_text())
    (part,) = told[0]
    assert len(whole["seen"][0]["train"]["names"]) == 3 * len(part)  # 6 slides, 2 of them


def test_given_again_it_only_reads(made, monkeypatch):
    csv, out, done = made

    def never(*arguments, **options):
        raise AssertionError("done again")

    monkeypatch.setattr("wsikd.learn.reproduce.run_rows.distill", never)
    monkeypatch.setattr("wsikd.learn.score.test_record.score", never)
    again = command(csv, out)
    assert again.stdout == done.stdout
    with Image.open(out / "kappa.png") as picture:
        assert picture.size[0] > 400
    assert (out / "kappa.png").stat().st_size < 200_000


def test_a_share_without_three_seeds_is_left_out_and_named(made):
    csv, out, _ = made
    rows = read_rows(efficiency_folder(), data=[str(csv)], overrides=SMALL, wanted=["none", "both"])
    study = make_study(Plan(rows, (0, 1, 2)), out, (0.34, 1.0))
    assert study["points"] == []
    assert study["missing"] == [0.34, 1.0]
    assert "Not finished with 3 seeds, so left out: 34%, 100%." in to_markdown(study)


def efficiency_folder():
    return Path(str(files("wsikd.configs") / "hdkd/efficiency"))


def test_rows_differ_in_their_terms_only():
    rows = {r.name: r.config for r in read_rows(efficiency_folder(), data=["x"])}
    assert tuple(rows) == ROWS
    assert SHARES == (0.1, 0.25, 0.5, 1.0)
    weights = {n: (c.weights.get("lkd", 0), c.weights.get("fkd", 0)) for n, c in rows.items()}
    assert weights == {
        "teacher": (0, 0), "none": (0, 0), "logit": (0.5, 0), "feature": (0, 10), "both": (0.5, 10),
    }  # fmt: skip
    same = [rows[n] for n in ROWS[1:]]
    for part in ("data", "split", "optim", "augment"):
        assert len({getattr(c, part).model_dump_json() for c in same}) == 1, part
    assert len({c.hdkd.model_dump_json() for c in same if c.method == "hdkd"}) == 1
    for config in same:
        assert config.network.hybrid.distillation == (config.weights.get("lkd", 0) > 0)


@pytest.mark.parametrize("shares", ["0,10", "10,10", "abc", "101"])
def test_odd_shares_are_refused(shares, tmp_path):
    (tmp_path / "labels.csv").write_text("image,slide,class\n")
    asked = ["--data", tmp_path / "labels.csv", "-o", tmp_path / "out", "--shares", shares]
    done = CliRunner().invoke(main, [*map(str, asked)])
    assert done.exit_code == 2
    assert "is not a list of different per cents" in done.output
