import shutil

import cv2
import numpy as np
import pytest

from tests.learn.grading import grading
from wsikd.core.errors import ConfigError, DataError, StoreNotFoundError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.data.source_base import read_csv, slide_of
from wsikd.learn.patch.settings import load_grading, parse_grading


def load(*paths, split=None, **options):
    return load_patches(Data(paths=[str(p) for p in paths], **options), split or Split())


def test_csv_gives_pixels_labels_and_its_own_split(stripes, patches_on_disk):
    patches = load(stripes)
    rows = patches_on_disk.rows(stripes)
    assert patches.classes == ("NC", "G3", "G4")
    assert patches.label.tolist() == [int(r["label"]) for r in rows]
    assert patches.split.tolist() == [r["split"] for r in rows]
    assert patches.patch_px == 32
    for i in (0, 40, 71):
        image = cv2.imread(str(stripes.parent / "images" / rows[i]["image"]))[..., ::-1]
        assert np.array_equal(patches.images([i])[0].permute(1, 2, 0), image)
    same = load(stripes.parent)  # the folder of a labels.csv
    assert same.label.tolist() == patches.label.tolist()


def test_memory_disk_and_threads_agree(stripes):
    patches = load(stripes)
    order = np.random.default_rng(0).permutation(len(patches))
    lazy = [(x.clone(), i) for x, i in patches.batches(order, 10, threads=3)]
    assert not patches.keep(order, 1e-6, 2)
    assert patches.keep(order[:60], 1.0, 2)
    for (x, i), (y, j) in zip(lazy, patches.batches(order, 10), strict=True):
        assert (x == y).all()
        assert (i == j).all()
    assert np.concatenate([i for _, i in lazy]).tolist() == order.tolist()
    assert [len(i) for _, i in patches.batches(order, 10, drop_last=True)] == [10] * 7
    assert [len(i) for _, i in patches.batches(order[:4], 10, drop_last=True)] == [4]


def test_centre_crop(stripes):
    whole, cropped = load(stripes), load(stripes, patch_px=16)
    assert (cropped.images([5]) == whole.images([5])[:, :, 8:24, 8:24]).all()
    with pytest.raises(DataError, match="smaller than 64"):
        load(stripes, patch_px=64).images([0])


def test_classes_can_be_renamed_by_number_or_refused_by_name(stripes):
    assert load(stripes, classes=["a", "b", "c"]).classes == ("a", "b", "c")
    reordered = load(stripes, classes=["G4", "NC", "G3"])
    assert reordered.label[:3].tolist() == [1, 2, 0]
    with pytest.raises(DataError, match="class 'G4' is unknown"):
        load(stripes, classes=["NC", "G3"])
    with pytest.raises(DataError, match="two different names"):
        load(stripes, classes=["NC", "NC"])


def folders(root, stripes, rows, splits):
    for row in rows:
        place = root / row["split"] / row["class"] if splits else root / row["class"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(stripes.parent / "images" / row["image"], place)


@pytest.mark.parametrize("splits", [True, False])
def test_class_folders(tmp_path, stripes, patches_on_disk, splits):
    rows = patches_on_disk.rows(stripes)
    folders(tmp_path, stripes, rows, splits)
    patches = load(tmp_path, classes=["NC", "G3", "G4"])
    assert np.bincount(patches.label).tolist() == [24, 24, 24]
    assert set(patches.slide) == {f"s{i}" for i in range(8)}
    held = {s for s, n in zip(patches.slide, patches.split, strict=True) if n == "val"}
    kept = {s for s, n in zip(patches.slide, patches.split, strict=True) if n == "train"}
    assert not held & kept
    if splits:
        assert held == {"s6", "s7"}


def test_cases_of_class_folders_are_never_divided(tmp_path, stripes, patches_on_disk):
    """Names as the osteosarcoma set has them: case, block, place."""
    cases = ("Case-3-A15", "Case-3-A17", "Case-4-C22", "Case-48-P5-C18", "P9-B12", "P9-B28")
    rows = patches_on_disk.rows(stripes)
    names = {"NC": "Non-Tumor", "G3": "Non-Viable-Tumor", "G4": "Viable"}
    for i, row in enumerate(rows):
        place = tmp_path / "set" / names[row["class"]]
        place.mkdir(parents=True, exist_ok=True)
        name = f"{cases[i // 3 % 6]}-{i}-{7 * i}_{i}.png"
        shutil.copy(stripes.parent / "images" / row["image"], place / name)
    patches = load(tmp_path / "set")
    assert patches.classes == ("Non-Tumor", "Non-Viable-Tumor", "Viable")
    assert patches.benign == (0,)
    assert set(patches.slide) == set(cases)
    assert set(patches.group) == {f"patient {c}" for c in ("Case-3", "Case-4", "Case-48", "P9")}
    parts = {g: {n for h, n in zip(patches.group, patches.split, strict=True) if h == g}
             for g in set(patches.group)}  # fmt: skip
    assert all(len(part) == 1 for part in parts.values())
    own = load(tmp_path / "set", slide_pattern=r"^(\w+-\d+|P9)")
    assert set(own.group) == {f"slide {c}" for c in ("Case-3", "Case-4", "Case-48", "P9")}


def test_images_that_do_not_tell_their_slides_are_refused(tmp_path, stripes, patches_on_disk):
    for i, row in enumerate(patches_on_disk.rows(stripes)):
        place = tmp_path / "set" / row["class"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(stripes.parent / "images" / row["image"], place / f"patch{i}.png")
    with pytest.raises(DataError, match=r"such as patch\d+\.png.*slide_pattern"):
        load(tmp_path / "set")
    assert len(set(load(tmp_path / "set", slide_pattern="(.+)").slide)) == 72


def test_class_folders_are_in_order_of_grade(tmp_path, stripes, patches_on_disk):
    for split, place in (("train", "one"), ("val", "two")):
        rows = [r for r in patches_on_disk.rows(stripes) if r["split"] == split]
        folders(tmp_path / place, stripes, rows, splits=False)
    (tmp_path / "two" / "NC").rename(tmp_path / "two" / "benign")
    assert load(tmp_path / "one").classes == ("NC", "G3", "G4")
    both = load(tmp_path / "one", tmp_path / "two")
    assert both.classes == ("benign", "NC", "G3", "G4")


def test_two_folders_of_one_name_are_two_sources(tmp_path, stripes, patches_on_disk):
    for split, place in (("train", "a"), ("val", "b")):
        rows = [r for r in patches_on_disk.rows(stripes) if r["split"] == split]
        folders(tmp_path / place / "set", stripes, rows, splits=False)
    patches = load(tmp_path / "a" / "set", tmp_path / "b" / "set")
    assert len(patches.digests) == 2
    assert patches.digests == sorted(patches.digests)


def test_a_slide_pattern_that_is_none_is_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("method: supervised\ndata: {slide_pattern: '('}\n")
    with pytest.raises(ConfigError, match=r"data\.slide_pattern: '\(' is not a regular") as caught:
        load_grading(path)
    assert "\n" not in str(caught.value)
    assert Data(slide_pattern=r"(\d+)").slide_pattern == r"(\d+)"


def test_slide_names_from_stems():
    assert slide_of("16B0001851_Block_Region_1_0_0_xini_6803") == "16B0001851"
    assert slide_of("a-b_12") == "a-b"
    assert slide_of("P9-B12-15791-34183_103") == "P9-B12"
    assert slide_of("case7-x3", r"(case\d+)-") == "case7"
    with pytest.raises(DataError, match="finds no slide"):
        slide_of("case7", r"(slide\d+)")


def test_identical_images_in_two_splits_are_refused(tmp_path, patches_on_disk):
    path = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    images = path.parent / "images"
    shutil.copy(images / "s0_001.png", images / "s7_001.png")
    with pytest.raises(DataError, match=r"slide s7: an image in val is also in train, in slide s0"):
        load(path)
    assert len(load(path, split=Split(check_images=False))) == 72


BROKEN = {
    "no slide column": (lambda rows: [r.pop("slide") for r in rows], "no column 'slide'"),
    "no class": (
        lambda rows: [(r.pop("class"), r.pop("label")) for r in rows],
        "no column 'class'",
    ),
    "no image": (lambda rows: rows[3].update(image="x.png"), "image 'x.png' does not exist"),
    "unknown split": (lambda rows: rows[3].update(split="holdout"), "line 5: split 'holdout'"),
    "leak": (lambda rows: rows[3].update(split="val"), "slide s0: is in both"),
    "label no number": (lambda rows: rows[3].update(label="one"), "line 5: label 'one'"),
    "empty slide": (lambda rows: rows[3].update(slide=""), "line 5: has no image or no slide"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_csv_is_one_line(tmp_path, patches_on_disk, name):
    path = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    rows = patches_on_disk.rows(path)
    change, message = BROKEN[name]
    change(rows)
    patches_on_disk.write_rows(path, rows)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_data(tmp_path, stripes):
    with pytest.raises(DataError, match="lists no data"):
        load()
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(DataError, match="no images in folders"):
        load(tmp_path)
    with pytest.raises(DataError, match="no tile stores"):
        load(tmp_path, source="stores")
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(StoreNotFoundError):
        load(tmp_path)
    copied = tmp_path / "set"
    shutil.copytree(stripes.parent, copied)
    (copied / "images" / "s3_004.png").write_bytes(b"no image")
    patches = load(copied / "labels.csv")
    with pytest.raises(DataError, match=r"s3_004\.png: cannot be decoded"):
        patches.keep(np.arange(len(patches)), 1.0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "supervised", "teacher": "x"}, "supervised has no teacher"),
        ({"method": "at_plus", "data": {"student_mpp": 2.5}}, "not a multiple"),
        ({"method": "at_plus", "student_input": "half"}, "needs data.student_mpp"),
        ({"method": "at_plus", "weights": {"fmm": 1}}, "did you mean 'fm'"),
        ({"method": "supervised", "weights": {"fm": 1}}, "not a term of this method"),
        (
            {"method": "at_puls"},
            "at_puls: not among the known methods; did you mean",
        ),
    ],
    ids=str,
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_grading(settings, name="x.yaml")
    assert str(caught.value).startswith("x.yaml")


def test_terms_that_are_not_named_keep_their_defaults():
    config = grading({"method": "at_plus", "weights": {"fm": 0}})
    assert config.weights == {"ce": 1.0, "fm": 0.0, "at_plus": 10.0}


@pytest.mark.parametrize("column", ["split", "slide", "label"])
def test_the_identity_of_files_covers_what_the_csv_says_of_them(stripes, tmp_path, column):
    """Else a test part would be scored that was drawn from other patches than it was trained on."""
    copied = tmp_path / "copy"
    shutil.copytree(stripes.parent, copied)
    file = copied / "labels.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    before = read_csv(file).digest
    if column not in rows[0]:
        rows[0].append(column)
        rows = [rows[0], *([*row, ""] for row in rows[1:])]
    at = rows[0].index(column)
    others = {"split": ("val", "train"), "slide": ("another", ""), "label": ("1", "0")}[column]
    rows[1][at] = others[0] if rows[1][at] != others[0] else others[1]
    file.write_text("\n".join(map(",".join, rows)) + "\n")
    assert read_csv(file).digest != before


def test_a_run_uses_its_share(stripes):
    data, split = Data(paths=[str(stripes)]), Split(share=0.34, share_seed=3)
    whole, part = load_patches(data, Split()), load_patches(data, split)
    assert {whole.slide[i] for i in whole.indices("train")} == {f"s{i}" for i in range(6)}
    assert len({part.slide[i] for i in part.indices("train")}) == 2
    assert part.indices("val").tolist() == whole.indices("val").tolist()
    assert part.digests == whole.digests


def test_the_same_image_twice_within_training_is_no_leak(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    image = csv.parent / "images"
    (image / "s1_000.png").write_bytes((image / "s0_000.png").read_bytes())
    for seed in range(4):
        assert load_patches(Data(paths=[str(csv)]), Split(share=0.2, share_seed=seed))
