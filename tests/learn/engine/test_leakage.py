"""Whoever was trained on a slide is not judged by it, under whatever name or in whatever fold."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.grading import grading
from wsikd.core.errors import BundleError, DataError
from wsikd.core.leak_hashes import HASH_CHARS
from wsikd.learn.engine import leakage as seen
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle

TINY = {"epochs": 1, "epoch_patches": 9, "batch_size": 9, "warmup_epochs": 0}


pytestmark = pytest.mark.usefixtures("one_thread")


def config(csv, teacher=None, **split):
    told = {"method": "supervised", "network": {"width": 0.25}, "optim": TINY, "split": split}
    told["data"] = {"paths": [str(csv)]}
    if teacher is not None:
        told |= {"method": "at_plus", "teacher": str(teacher)}
        told["data"] |= {"student_mpp": 2.0}
    return grading(told)


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    """Fold 0 of four is its test part."""
    folder = tmp_path_factory.mktemp("seen") / "teacher"
    distill(config(stripes, folds=4, fold=0, by="slide"), folder, device="cpu")
    return folder


def test_a_teacher_of_the_same_split_is_taken_and_its_record_handed_on(stripes, teacher, tmp_path):
    distill(config(stripes, teacher, folds=4, fold=0, by="slide"), tmp_path / "s", device="cpu")
    own = load_bundle(tmp_path / "s").card.seen
    assert own == load_bundle(teacher).card.seen
    assert len(own) == 1
    text = json.dumps(own)
    assert not any(f"s{i}" in text for i in range(8))  # no names


@pytest.mark.parametrize(
    ("split", "told"),
    [({"folds": 4, "fold": 1, "by": "slide"}, "in the val part, but the teacher was trained"),
     ({"folds": 4, "fold": 0, "by": "slide", "seed": 5}, "but the teacher was"),
     ({"given": False, "val": 0.5}, "in the val part, but the teacher was trained on the same")],
)  # fmt: skip
def test_a_teacher_of_another_split_is_refused(split, told, stripes, teacher, tmp_path):
    with pytest.raises(DataError, match=told) as caught:
        distill(config(stripes, teacher, **split), tmp_path / "s", device="cpu")
    assert "set split.check_teacher=false" in caught.value.remedy
    assert re.match(r"(slide s\d|\d slides: s\d, s\d.*)$", caught.value.subject)
    assert not (tmp_path / "s").exists()


def rewritten(patches_on_disk, stripes, root, rename):
    """The same pixels in other files and rows, of slides renamed."""
    rows = patches_on_disk.rows(stripes)
    (root / "images").mkdir(parents=True)
    for i, row in enumerate(rows):
        shutil.copy(stripes.parent / "images" / row["image"], root / "images" / f"x{i}.png")
        row["image"], row["slide"] = f"x{i}.png", rename(row["slide"])
    rows = [r for r in rows if r.pop("split")]
    patches_on_disk.write_rows(root / "labels.csv", rows[:-1])
    return root / "labels.csv"


def test_images_are_known_again_under_other_names(stripes, teacher, tmp_path, patches_on_disk):
    csv = rewritten(patches_on_disk, stripes, tmp_path / "set", lambda s: f"other{s}")
    with pytest.raises(DataError, match="was trained on the same image"):
        distill(config(csv, teacher, val=0.5), tmp_path / "s", device="cpu")


def test_slides_are_known_again_in_other_cuts(stripes, teacher, tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", seed=9)  # other pixels, the same slides
    given = {"val": 0.5}
    with pytest.raises(DataError, match="was trained on a slide or patient of that name"):
        distill(config(csv, teacher, **given), tmp_path / "s", device="cpu")
    distill(config(csv, teacher, **given, check_teacher=False), tmp_path / "s", device="cpu")
    both = load_bundle(tmp_path / "s").card.seen
    assert both[1:] == load_bundle(teacher).card.seen


def test_evaluate_refuses_what_was_seen_and_records_if_told(
    stripes, teacher, tmp_path, patches_on_disk
):
    bundle, csv = tmp_path / "b", tmp_path / "moved" / "labels.csv"
    shutil.copytree(teacher / "student", bundle)
    rewritten(patches_on_disk, stripes, csv.parent, str)

    def run(*more):
        asked = ["evaluate", bundle, "--data", csv, "--split", "test", "--device", "cpu", *more]
        return CliRunner().invoke(main, list(map(str, asked)), catch_exceptions=False)

    refused = run()
    assert refused.exit_code == 2
    assert re.search("its teacher was (trained|selected) on the same image; give", refused.stderr)
    assert len(refused.stderr.splitlines()) == 1
    assert not (bundle / "scores.json").exists()
    told = run("--allow-seen", "--json")
    assert json.loads(told.stdout)["seen_before"] is True


def test_a_card_that_does_not_say_is_warned_of(stripes, teacher, tmp_path, caplog):
    place = tmp_path / "teacher"
    shutil.copytree(teacher / "student", place)
    card = json.loads((place / "card.json").read_text())
    card.pop("seen")
    (place / "card.json").write_text(json.dumps(card))
    distill(config(stripes, place, folds=4, fold=1, by="slide"), tmp_path / "s", device="cpu")
    assert "card of the teacher does not list its training data" in caplog.text
    for damaged in ([{}], [7], [{"salt": "a", "train": None}]):
        (place / "card.json").write_text(json.dumps(card | {"seen": damaged}))
        with pytest.raises(BundleError, match="record of what was seen is damaged"):
            distill(config(stripes, place, folds=4, fold=0), tmp_path / "t", device="cpu")


def test_a_sample_of_many_images_still_meets_them(stripes, teacher, monkeypatch, tmp_path):
    """Of two sets that share many images, the least hashes of one are among the other's."""
    monkeypatch.setattr(seen, "MAX_IMAGES", 5)
    settings = config(stripes, folds=4, fold=0, by="slide")
    distill(settings, tmp_path / "t", device="cpu")
    record = load_bundle(tmp_path / "t").card.seen[0]
    assert len(record["train"]["images"]) == 5 * HASH_CHARS
    whole = load_bundle(teacher).card.seen[0]["train"]["images"]
    assert whole.startswith(record["train"]["images"])


def test_patients_of_a_validation_part_drawn_by_slide_are_the_teachers_too(
    stripes, tmp_path, patches_on_disk
):
    (tmp_path / "set").mkdir()
    shutil.copytree(stripes.parent / "images", tmp_path / "set" / "images")
    rows = patches_on_disk.rows(stripes)
    for row in rows:
        row["patient"] = f"p{int(row['slide'][1:]) // 4}"
    csv = tmp_path / "set" / "labels.csv"
    patches_on_disk.write_rows(csv, rows)
    given = {"folds": 2, "fold": 0, "val_by": "slide"}
    distill(config(csv, **given), tmp_path / "t", device="cpu")
    distill(config(csv, tmp_path / "t", **given), tmp_path / "s", device="cpu")
    with pytest.raises(DataError, match="in the val part, but the teacher was trained"):
        distill(config(csv, tmp_path / "t", **given, val=0.7), tmp_path / "u", device="cpu")
    with pytest.raises(DataError, match="but the teacher was"):
        distill(config(csv, tmp_path / "t", **(given | {"fold": 1})), tmp_path / "v", device="cpu")
