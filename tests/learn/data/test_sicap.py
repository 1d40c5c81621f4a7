import shutil

import numpy as np
import pytest
from openpyxl import load_workbook

from tests.learn.miniature import COLUMNS, write_sicap, write_table
from wsikd.core.errors import DataError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split


@pytest.fixture(scope="module")
def sicap(tmp_path_factory):
    return write_sicap(tmp_path_factory.mktemp("sicap") / "SICAPv2", per_slide=4, side=16)


@pytest.fixture
def copy(sicap, tmp_path):
    return shutil.copytree(sicap, tmp_path / "SICAPv2")


def load(root, own="Val1", **split):
    return load_patches(Data(paths=[str(root)], fold=own), Split(**split))


def sheet(path):
    return [list(row) for row in load_workbook(path).active.iter_rows(values_only=True)]


@pytest.mark.parametrize("fold", ["Val1", "Val3"])
def test_every_row_lands_in_its_split_with_its_class(sicap, fold):
    patches = load(sicap, fold)
    assert patches.classes == ("NC", "G3", "G4", "G5")
    files = {
        "train": f"Validation/{fold}/Train", "val": f"Validation/{fold}/Test", "test": "Test/Test",
    }  # fmt: skip
    for split, name in files.items():
        rows = sheet(sicap / "partition" / f"{name}.xlsx")[1:]
        wanted = sorted((r[0].split("_Block_")[0], r[1:5].index(1)) for r in rows)
        chosen = patches.indices(split)
        found = sorted((patches.slide[i], int(patches.label[i])) for i in chosen)
        assert found == wanted
    assert {patches.group[i] for i in patches.indices("test")} == {"patient p0"}


def test_without_patients_the_slide_is_what_stays_together(copy):
    (copy / "wsi_labels.xlsx").unlink()
    patches = load(copy)
    assert {patches.group[i] for i in patches.indices("test")} == {
        "slide 16B0000000", "slide 16B0000001",
    }  # fmt: skip


def test_a_patient_in_two_splits_is_refused(copy):
    table = copy / "wsi_labels.xlsx"
    rows = sheet(table)
    rows[1][1] = "p4"  # slide 0, of the test part, belongs to a patient of the training part
    write_table(table, rows)
    with pytest.raises(DataError, match="patient p4: is in both train and test"):
        load(copy)
    assert len(load(copy, by="slide"))


def test_a_copied_image_in_another_split_is_refused(copy):
    images = sorted((copy / "images").iterdir())
    shutil.copy(images[0], images[-1])
    with pytest.raises(DataError, match=r"an image in (train|test) is also in (train|test)"):
        load(copy)


def test_faults_of_the_tables_name_the_place(copy):
    table = copy / "partition/Test/Test.xlsx"
    rows = sheet(table)

    def refused(change, match):
        changed = [list(row) for row in rows]
        change(changed)
        write_table(table, changed)
        with pytest.raises(DataError, match=match):
            load(copy)

    refused(lambda r: r[2].__setitem__(1, 1), "line 3: has two classes: NC, G3")
    refused(lambda r: r[1].__setitem__(1, 0), "line 2: has no class")
    refused(lambda r: r[0].__setitem__(4, "GX"), "has no column 'G5'")
    refused(lambda r: r[1].__setitem__(0, "absent.jpg"), "image 'absent.jpg' is not in images/")
    table.write_bytes(b"no spreadsheet")
    with pytest.raises(DataError, match="cannot be read as a spreadsheet"):
        load(copy)
    table.unlink()
    with pytest.raises(DataError, match=r"Test\.xlsx: does not exist"):
        load(copy)


def test_names_without_suffix_and_tables_without_cribriform(copy):
    table = copy / "partition/Test/Test.xlsx"
    rows = [[str(row[0]).removesuffix(".jpg"), *row[1:5]] for row in sheet(table)]
    assert rows[0] == list(COLUMNS[:5])
    write_table(table, rows)
    assert len(load(copy).indices("test")) == len(rows) - 1


def test_folds_hold_every_group_once_and_all_classes(sicap):
    seen = []
    for fold in range(3):
        patches = load(sicap, folds=3, fold=fold, seed=5, val=0.3)
        test = patches.indices("test")
        seen.append(test)
        assert set(patches.label[test]) == {0, 1, 2, 3}
        for split in ("train", "val"):
            assert len(patches.indices(split))
    assert sorted(np.concatenate(seen)) == list(range(len(patches)))
    others = [load(sicap, folds=3, fold=0, seed=s, val=0.3).indices("test") for s in range(4)]
    assert len({tuple(o) for o in others}) > 1
    with pytest.raises(DataError, match="5 slides or patients do not make 6 folds"):
        load(sicap, folds=6)
    with pytest.raises(ValueError, match="3 is none of 3 folds"):
        load(sicap, folds=3, fold=3)
