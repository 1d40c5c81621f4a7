"""Rows as base.yaml and rows.yaml, or as one file each."""

import json
from importlib import resources
from pathlib import Path

import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.grading import grading
from wsikd.core.errors import ConfigError
from wsikd.learn.reproduce.plan import read_rows

CONFIGS = Path(str(resources.files("wsikd.configs")))
AS_FILES = json.loads((Path(__file__).parent / "rows_as_files.json").read_text())
"""Folder -> row -> what its own file said, before the folder was base.yaml and rows.yaml."""

BASE = """
method: supervised
data: {paths: [a, b], mpp: 1.0}
optim: {lr: 0.001, epochs: 3}
"""
OURS = ("at_plus/controlled", "at_plus/real", "at_plus/sicapv2/recommended")
ROWS = """
teacher:
ce: &ce
  data: {student_mpp: 2.0, paths: [c]}
fm:
  <<: *ce
  method: at_plus
  weights: {fm: 2}
"""


def write(folder, base=BASE, rows=ROWS):
    (folder / "base.yaml").write_text(base)
    (folder / "rows.yaml").write_text(rows)
    return folder


@pytest.mark.parametrize("folder", AS_FILES)
def test_rows_say_what_their_files_said(folder):
    found = {row.name: row.config.model_dump() for row in read_rows(CONFIGS / folder)}
    assert [name for name in found if not name.startswith("self_kd")] == list(AS_FILES[folder])
    for name, content in AS_FILES[folder].items():
        assert found[name] == grading(content).model_dump(), name


@pytest.mark.parametrize("folder", OURS)
def test_the_control_of_self_distillation_is_a_row(folder):
    rows = {row.name: row for row in read_rows(CONFIGS / folder)}
    controls = [row for row in rows.values() if row.is_self_distilled]
    assert controls
    for row in controls:
        (name,) = row.taught_by
        base, teacher = row.config, rows[name].config
        assert (teacher.low_mpp, teacher.method) == (base.low_mpp, "supervised")
        assert (teacher.network, teacher.optim) == (base.network, base.optim)
        assert list(rows).index(name) < list(rows).index(row.name)


def test_rows_that_teach_come_along(tmp_path):
    control = "{method: at_plus, teacher: 'row:ce', teacher_reads: low, data: {student_mpp: 2.0}}"
    rows = f"control: {control}\nteacher:\nce: {{data: {{student_mpp: 2.0}}}}"
    found = read_rows(write(tmp_path, rows=rows), wanted=["control"])
    assert [row.name for row in found] == ["ce", "control"]
    assert found[1].taught_by == ("ce",)
    two = "teacher:\nce:\nboth: {method: at_plus, teacher: ['row:ce', 'row:teacher']}"
    found = read_rows(write(tmp_path, rows=two), wanted=["both"])
    assert [row.name for row in found] == ["teacher", "ce", "both"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a: {method: at_plus, teacher: 'row:b'}", "a: teacher row:b: no such row"),
        ("a: {method: at_plus, teacher: 'row:a'}", "a: teacher: is taught by itself"),
        (
            "a: {method: at_plus, teacher: 'row:b'}\nb: {method: at_plus, teacher: 'row:a'}",
            "a: teacher: is taught by itself",
        ),
    ],
)
def test_a_teaching_row_must_be_another(rows, told, tmp_path):
    with pytest.raises(ConfigError) as error:
        read_rows(write(tmp_path, rows=rows))
    assert told in str(error.value)


def test_a_row_is_the_base_and_what_differs(tmp_path):
    rows = read_rows(write(tmp_path), data=["d"], overrides=["optim.epochs=5", "fm:optim.lr=0.1"])
    assert [row.name for row in rows] == ["teacher", "ce", "fm"]
    teacher, ce, fm = (row.config for row in rows)
    assert (teacher.data.paths, teacher.low_mpp) == (["a", "b", "d"], 1.0)
    assert (ce.data.paths, ce.low_mpp, ce.data.mpp) == (["c", "d"], 2.0, 1.0)
    assert ({r.config.optim.epochs for r in rows}, ce.optim.lr, fm.optim.lr) == ({5}, 0.001, 0.1)
    assert (fm.method, fm.weights["fm"], fm.low_mpp) == ("at_plus", 2, 2.0)


def test_rows_are_the_same_in_either_form(tmp_path):
    folders = tmp_path / "one", tmp_path / "each"
    for folder in folders:
        folder.mkdir()
    write(folders[0])
    for number, (name, more) in enumerate(
        {
            "teacher": "data: {paths: [a, b]}",
            "ce": "data: {student_mpp: 2.0, paths: [c]}",
            "fm": "data: {student_mpp: 2.0, paths: [c]}\nweights: {fm: 2}",
        }.items()
    ):
        method = "at_plus" if name == "fm" else "supervised"
        text = f"method: {method}\noptim: {{lr: 0.001, epochs: 3}}\n{more}\n"
        (folders[1] / f"{number}_{name}.yaml").write_text(text)
    assert read_rows(folders[0]) == read_rows(folders[1])


@pytest.mark.parametrize(
    ("base", "rows", "told"),
    [
        (BASE, "teacher:\n  optim: {lrr: 1}", "rows.yaml: teacher: optim.lrr: unknown key; did"),
        (BASE, "teacher:\n  optim: {lr: -1}", "rows.yaml: teacher: optim.lr: -1 is not valid;"),
        (BASE, "teacher: {optim: 3}", "rows.yaml: teacher: optim: 3 is not valid;"),
        (BASE + "optimm: 1", ROWS, "base.yaml: optimm: unknown key; did you mean 'optim'?"),
        (
            "optim: {lr: -1}",
            "teacher: {method: supervised}",
            "base.yaml: optim.lr: -1 is not valid",
        ),
        ("optim: {lr: 1}", "teacher:", "rows.yaml: teacher: method: is required; add it"),
        ("- 1", ROWS, "base.yaml: holds a list, not a mapping;"),
        (BASE, "[teacher]", "rows.yaml: holds a list, not a mapping;"),
        (BASE, "", "rows.yaml: holds no row;"),
        (BASE, "teacher: {}\nce: 5", "rows.yaml: ce: holds one value, not a mapping;"),
        (BASE, "teacher: {}\n../ce: {}", "rows.yaml: ../ce: is not a name of a row;"),
        (BASE, "1: {}", "rows.yaml: 1: is not a name of a row;"),
        (BASE, "ce: {}\nteacher: {}\nce: {}", "key 'ce' is given twice (line 3);"),
        (BASE, "ce: {method: at_plus}", "its students have no teacher; add teacher to rows.yaml,"),
    ],
)
def test_a_fault_names_file_row_and_key(base, rows, told, tmp_path):
    with pytest.raises(ConfigError) as error:
        read_rows(write(tmp_path, base, rows))
    line = str(error.value)
    assert told in line
    assert "\n" not in line


def test_two_forms_in_a_folder_and_no_base_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "0_teacher.yaml").write_text("method: supervised\n")
    with pytest.raises(ConfigError, match=r"holds rows\.yaml and 0_teacher\.yaml; keep one"):
        read_rows(tmp_path)
    (tmp_path / "0_teacher.yaml").unlink()
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(ConfigError, match=r"base\.yaml: cannot be read"):
        read_rows(tmp_path)


def test_the_command_takes_rows_of_a_user(tmp_path):
    write(tmp_path, rows="teacher: {}\nfm: {method: at_plus, weights: {fmm: 1}}")
    arguments = ["reproduce", "--config-dir", tmp_path, "--data", tmp_path, "-o", tmp_path / "out"]
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exit_code == 2
    assert "rows.yaml: fm: weights: 'fmm' is not a term of this method; did you mean" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
