"""Cross-fitted teachers: each patch is answered by those that never saw its slide."""

import numpy as np
import pytest
import torch
import yaml

from tests.learn.grading import grading
from tests.learn.methods.test_contract import wsikd
from tests.learn.patch.test_several_teachers import NETWORK, PLAIN, content, teach, trainer
from tests.learn.patch.whole_runs import resumes_to_the_byte, two_processes_train_what_one_does
from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.methods.base import Progress
from wsikd.models.files.bundle import load_bundle

KD = {"ce": 1, "kd": 1, "fm": 0, "at_plus": 0}


pytestmark = pytest.mark.usefixtures("one_thread")


def split(fold, folds=3, **more):
    return {"split": {"crossfit": folds, "leave_out": fold, **more}}


@pytest.fixture(scope="module")
def teachers(stripes, tmp_path_factory):
    place = tmp_path_factory.mktemp("folds")
    return [teach(stripes, place / f"fold{k}", k, **split(k)) for k in range(3)]


def told(csv, teachers, **more):
    return content(csv, teachers, teacher_answers="unseen", weights=KD, **more)


def slides_of(csv, part="train", **more):
    found = load_patches(Data(paths=[str(csv)]), Split(**more))
    return {found.slide[i] for i in found.indices(part)}


def test_folds_divide_the_training_part_alone(stripes):
    kept = [slides_of(stripes, crossfit=3, leave_out=k) for k in range(3)]
    train = slides_of(stripes)
    assert all(len(k) == 4 and k < train for k in kept)
    assert set.intersection(*kept) == set()
    assert sorted(s for k in kept for s in train - k) == sorted(train)
    for k in range(3):
        assert slides_of(stripes, "val", crossfit=3, leave_out=k) == slides_of(stripes, "val")
    with pytest.raises(ConfigError, match="3 is none of 3 folds"):
        slides_of(stripes, crossfit=3, leave_out=3)
    with pytest.raises(DataError, match=r"split\.crossfit: 6 slides or patients do not make 7"):
        slides_of(stripes, crossfit=7)


def test_folds_of_a_share_divide_that_share(patches_on_disk, tmp_path):
    csv = patches_on_disk.write(
        tmp_path / "set", slides=12, split=lambda s: ["train", "val"][s > 9]
    )
    few = slides_of(csv, share=0.6)
    kept = [slides_of(csv, share=0.6, crossfit=2, leave_out=k) for k in range(2)]
    assert kept[0] | kept[1] == few
    assert not kept[0] & kept[1]


def test_patches_without_a_label_go_with_their_patient(patches_on_disk, tmp_path):
    csv = patches_on_disk.write(
        tmp_path / "set",
        patient=lambda s: f"p{s % 4}",
        split=lambda s: ["train", "val"][s % 4 == 3],
    )
    rows = patches_on_disk.rows(csv)
    for row in rows:
        if row["slide"] in ("s0", "s1") and row["split"] == "train":
            row["label"] = row["class"] = ""
    patches_on_disk.write_rows(csv, rows)
    for k in range(3):
        found = load_patches(
            Data(paths=[str(csv)], unlabelled=True), Split(crossfit=3, leave_out=k)
        )
        used = {found.group[i] for i in found.trained_on}
        left = {g for g in found.group if g != "patient p3"} - used
        assert len(left) == 1


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_each_answer_is_of_the_teacher_that_has_not_seen_the_slide(
    stripes, teachers, tmp_path, cache
):
    made = trainer(told(stripes, teachers, teacher_cache=cache), tmp_path)
    left = [slides_of(stripes) - slides_of(stripes, crossfit=3, leave_out=k) for k in range(3)]
    every = made.train_indices
    if cache == "ram":
        turns = torch.zeros(3, len(every), dtype=torch.bool)
        answers = made.views.targets.of(every, turns).logits
        high = made.data.images(every)
    else:
        batch = made.views.batch(made.views.read(every), every, Progress(0, 2, 0, 1))
        high = batch.views["high"]
        answers = made.method.teach(high, box=batch.box).logits
    networks = [load_bundle(t).network() for t in teachers]
    with torch.no_grad():
        for row, index in enumerate(every.tolist()):
            (who,) = [k for k in range(3) if made.data.slide[index] in left[k]]
            expected = torch.softmax(networks[who](high[row][None].float())[0], 0)
            found = torch.softmax(answers[row], 0)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
            others = [torch.softmax(n(high[row][None].float())[0], 0)
                      for k, n in enumerate(networks) if k != who]  # fmt: skip
            assert all(float((found - other).abs().max()) > 1e-4 for other in others)


def test_a_seen_slide_is_never_asked_about(stripes, teachers, tmp_path, monkeypatch):
    """No teacher is shown a patch of a slide that it was trained on."""
    made = trainer(told(stripes, teachers, teacher_cache="off"), tmp_path)
    nets = [made.method.teacher, *made.method.ensemble.others]
    images = made.data.images(made.train_indices)
    shown = [[] for _ in nets]
    for net, kept in zip(nets, shown, strict=True):
        net.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0].clone()))
    made.method.teach(images, box=torch.from_numpy(made.train_indices))
    for k, kept in enumerate(shown):
        trained = slides_of(stripes, crossfit=3, leave_out=k)
        rows = [r for r, i in enumerate(made.train_indices) if made.data.slide[i] in trained]
        seen = {images[r].numpy().tobytes() for r in rows}
        asked = [patch.numpy().tobytes() for batch in kept for patch in batch]
        assert len(asked) == len(images) - len(rows)
        assert not seen & set(asked)


def test_a_patient_in_two_folds_is_answered_by_neither(patches_on_disk, tmp_path):
    """Slide s0 is in fold 0 and, of the same patient, s3 in fold 1; then s0 is planted as s3."""
    csv = patches_on_disk.write(
        tmp_path / "set", split=lambda s: "val" if s >= 6 else "train",
        patient=lambda s: f"p{0 if s == 3 else s}",
    )  # fmt: skip
    rows = patches_on_disk.rows(csv)

    def without(*slides):
        file = csv.parent / f"without-{'-'.join(slides)}.csv"
        patches_on_disk.write_rows(file, [r for r in rows if r["slide"] not in slides])
        return file

    pairs = (("s0", "s1"), ("s2", "s3"), ("s4", "s5"))
    runs = [teach(without(*pair), tmp_path / f"r{n}", n) for n, pair in enumerate(pairs)]
    with pytest.raises(DataError, match=r"2 slides: s0, s3: every teacher was trained or selected"):
        trainer(told(csv, runs), tmp_path / "student")
    clean = teach(without("s0", "s3"), tmp_path / "clean", 9)
    made = trainer(told(csv, [*runs, clean], teacher_cache="off"), tmp_path / "student")
    asked = made.method.ensemble.answering.numpy()
    for index in made.train_indices.tolist():
        who = np.flatnonzero(asked[index]).tolist()
        expected = {"s0": [3], "s3": [3], "s1": [0], "s2": [1], "s4": [2], "s5": [2]}
        assert who == expected[made.data.slide[index]]


def test_an_image_under_another_name_counts_as_seen(patches_on_disk, stripes, teachers, tmp_path):
    rows = patches_on_disk.rows(stripes)
    left = sorted(slides_of(stripes) - slides_of(stripes, crossfit=3, leave_out=0))
    renamed = stripes.parent / "renamed.csv"
    known = next(r["slide"] for r in rows if r["slide"] not in left and r["split"] == "train")
    patches_on_disk.write_rows(
        renamed, [{**r, "slide": "new" if r["slide"] == known else r["slide"]} for r in rows]
    )
    made = trainer(told(renamed, teachers, teacher_cache="off"), tmp_path)
    rows = [i for i in made.train_indices.tolist() if made.data.slide[i] == "new"]
    asked = made.method.ensemble.answering.numpy()
    assert not asked[rows, 0].any()
    assert asked[rows].sum(1).tolist() == [1] * len(rows)


def test_terms_of_features_are_refused(stripes, teachers, tmp_path):
    with pytest.raises(ConfigError, match=r"weights\.fm: reads the features of one teacher, who"):
        trainer(told(stripes, teachers) | {"weights": KD | {"fm": 0.1}}, tmp_path)
    with pytest.raises(ConfigError, match="one teacher cannot be trained without every slide"):
        trainer(told(stripes, teachers[:1]), tmp_path)


def test_the_documented_sequence(stripes, tmp_path, monkeypatch):
    """Teachers one by one, a finished one taken up again, then the student; killed and resumed."""
    file = tmp_path / "1_teacher.yaml"
    file.write_text(yaml.safe_dump({
        "method": "supervised", "network": NETWORK, "augment": PLAIN,
        "data": {"paths": [str(stripes)]}, "optim": {"epochs": 1, "batch_size": 18},
    }))  # fmt: skip
    ask = ("distill", "-c", file, "--device", "cpu", "--set", "split.crossfit=2")
    for fold in (0, 1):
        run = tmp_path / f"teacher_{fold}"
        wsikd(*ask, "--set", f"split.leave_out={fold}", "-o", run)
        before = (run / "student/model.safetensors").read_bytes()
        wsikd(*ask, "--set", f"split.leave_out={fold}", "-o", run, "--resume")
        assert (run / "student/model.safetensors").read_bytes() == before
    runs = [tmp_path / f"teacher_{fold}" for fold in (0, 1)]
    resumes_to_the_byte(told(stripes, runs), tmp_path, monkeypatch)
    assert len(load_bundle(tmp_path / "whole").card.teachers) == 2


def test_two_processes_train_what_one_does(stripes, teachers, tmp_path):
    two_processes_train_what_one_does(told(stripes, teachers, teacher_cache="off"), tmp_path)


def test_hdkd_takes_them_for_its_token(stripes, tmp_path):
    hybrid = {"units": [2, 1, 1], "dim": 8, "heads": 2, "depth": 1, "positions": 1}
    fine = {"arch": "hdkd_teacher", "width": 0.125, "hybrid": hybrid | {"stem_stride": 4}}
    runs = [teach(stripes, tmp_path / f"h{k}", k, network=fine, **split(k, 2)) for k in range(2)]
    own = {"arch": "hdkd_student", "width": 0.125, "hybrid": hybrid | {"stem_stride": 2}}
    more = {"method": "hdkd", "network": own}
    made = trainer(told(stripes, runs) | more | {"weights": {"fkd": 0}}, tmp_path)
    chosen = made.train_indices[:6]
    batch = made.views.batch(made.views.read(chosen), chosen, Progress(0, 2, 0, 3))
    terms = made.method(batch, Progress(0, 2))
    assert float(terms["lkd"].detach()) > 0
    with pytest.raises(ConfigError, match=r"weights\.fkd: reads the features"):
        trainer(told(stripes, runs) | more | {"weights": {"fkd": 10}}, tmp_path)
    mean = told(stripes, runs, **more) | {"teacher_answers": "mean", "weights": {}}
    assert grading(mean).teachers
    trainer(mean, tmp_path)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_patches_without_a_label_are_answered_by_all(patches_on_disk, tmp_path, cache):
    """Slides whose labels are hidden were in no teacher's training, so that all answer."""
    csv = patches_on_disk.write(
        tmp_path / "set", slides=10, split=lambda s: "val" if s >= 8 else "train"
    )
    share = {"share": 0.5}
    runs = [teach(csv, tmp_path / f"r{k}", k, **split(k, 2, **share)) for k in range(2)]
    data = {"paths": [str(csv)], "student_mpp": 2.0, "unlabelled": True}
    made = trainer(told(csv, runs, data=data, split=share, teacher_cache=cache), tmp_path / "s")
    extra, asked = made.data.indices("extra"), made.method.ensemble.answering.numpy()
    assert len(extra) == 4 * 9
    assert asked[extra].all()
    assert (asked[made.data.indices("train")].sum(1) == 1).all()
    images = made.data.images(extra).float()
    with torch.no_grad():
        soft = [torch.softmax(load_bundle(r).network()(images) / 4, 1) for r in runs]
    answer = made.method.teach(images, box=torch.from_numpy(extra)).logits
    torch.testing.assert_close(torch.softmax(answer / 4, 1), sum(soft) / 2, rtol=1e-4, atol=1e-6)
    assert made.task.extra_classes.shape == extra.shape
