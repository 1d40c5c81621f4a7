"""The tables of a folder of thousands of results: each record is read once, and none goes stale."""

import json
import shutil
import sys

import pytest

from tests.grade.runs.test_cases import record
from wsikd.core.output.cells import TextRow, columns_of_all, csv_records
from wsikd.core.run import write_json_atomic
from wsikd.grade.runs import result_index, summary_file
from wsikd.grade.runs.result_index import INDEX_FILE
from wsikd.grade.runs.summary_file import Summary

TABLES = ("summary.csv", "cores.csv", "cases.csv")


def put(out, name, *, area=1.0, **row):
    (out / name).mkdir(exist_ok=True)
    made = record(name, (10, area, 0.5, 0), cores=[{"core": 1, "tissue_mm2": area / 3}], **row)
    made.made_with.update(student="ab", specimen="biopsy")
    write_json_atomic(out / name / "result.json", made.record())


def tables(out):
    return {name: (out / name).read_text() for name in TABLES if (out / name).exists()}


def from_scratch(out, patients=None):
    """The tables of the same results without an index."""
    other = out.parent / f"{out.name}-again"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(out, other, ignore=shutil.ignore_patterns(INDEX_FILE, *TABLES))
    Summary(other, patients).write()
    return tables(other)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(5):
        put(folder, f"s{number}", area=number / 7)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """Names of the folders whose record was read."""
    seen, own = [], result_index.read_record

    def read(folder):
        seen.append(folder.name)
        return own(folder)

    monkeypatch.setattr(result_index, "read_record", read)
    return seen


def test_a_record_is_read_once_in_all_runs(out, reads):
    Summary(out).write()
    assert reads == [f"s{n}" for n in range(5)]
    put(out, "a0", patient="P", extra="new, column")
    Summary(out).write()
    assert reads[5:] == ["a0"]
    assert tables(out) == from_scratch(out)
    assert tables(out).keys() == {*TABLES}


def test_cells_are_those_of_a_table_written_at_once(out):
    put(out, "t", remark="=1+1", other='two "words", and\na line')
    records = [json.loads((out / n / "result.json").read_text()) for n in ("s0", "t")]
    rows = [TextRow.of(summary_file.row_cells(one["summary"])) for one in records]
    columns = list(columns_of_all(rows))
    raw = [{"remark": "=1+1", "other": 'two "words", and\na line', "slide": "t"}]
    assert csv_records(["remark", "other", "slide"], raw).splitlines()[1].startswith("'=1+1,")
    text = summary_file.joined(columns, rows)
    assert "'=1+1" in text
    assert '"two ""words"", and\na line"' in text


def test_rows_of_other_columns_and_cells_of_any_text_come_back_from_the_index(out):
    put(out, "a\tb\\n", patient="P", remark='tab\t, back\\slash\\t, line\nend\r, quote" and \x1e')
    put(out, "c", first="x", second=[1, 2])
    wanted = from_scratch(out)
    Summary(out).write()
    Summary(out).write()
    assert tables(out) == wanted
    assert "tab\t, back\\slash\\t, line\nend" in wanted["summary.csv"]


def test_what_was_replaced_removed_or_renamed_is_seen(out, reads):
    Summary(out).write()
    reads.clear()
    put(out, "s1", area=5)
    shutil.rmtree(out / "s2")
    (out / "s3").rename(out / "s3.replaced")
    Summary(out).write()
    assert reads == ["s1", "s3.replaced"]
    Summary(out).write()
    assert reads == ["s1", "s3.replaced"]
    assert tables(out) == from_scratch(out)


def test_patients_of_a_later_manifest_count_for_earlier_slides(out):
    Summary(out).write()
    assert "cases.csv" not in tables(out)
    patients = {"s1": "P", "s2": "P"}
    Summary(out, patients).write()
    assert tables(out) == from_scratch(out, patients)
    assert "\nP,2," in tables(out)["cases.csv"]
    Summary(out).write()
    assert "cases.csv" not in tables(out)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        '{"kind": "another"}\n',
        None,
        "[1, 2]\n",
        "\x00\x01",
        '["s1", [1, 2, 3], [], 0, 5]\n',
    ],
)
def test_a_damaged_index_costs_time_alone(out, damage):
    Summary(out).write()
    wanted, index = tables(out), out / INDEX_FILE
    if damage is None:
        index.unlink()
    elif damage.startswith("["):
        index.write_text(index.read_text() + damage)
    else:
        index.write_text(damage)
    Summary(out).write()
    assert tables(out) == wanted


def test_a_file_of_somebody_else_is_left_alone(out):
    (out / INDEX_FILE).write_text("mine")
    Summary(out).write()
    put(out, "t")
    Summary(out).write()
    assert (out / INDEX_FILE).read_text() == "mine"
    assert "\nt," in tables(out)["summary.csv"]


def test_lines_of_results_that_were_replaced_do_not_pile_up(out, monkeypatch):
    monkeypatch.setattr(result_index, "_STALE", 3)
    for area in range(1, 20):
        put(out, "s1", area=area)
        Summary(out).write()
    assert len((out / INDEX_FILE).read_text().split("\n")) < 16
    assert tables(out) == from_scratch(out)


def opens(work, out):
    """How many files of a folder some work opens."""
    found, counting = [], [True]

    def hook(event, arguments):
        if counting and event == "open" and str(out) in str(arguments[0]):
            found.append(arguments[0])

    sys.addaudithook(hook)
    work()
    counting.clear()
    return len(found)


def test_files_opened_for_a_slide_do_not_grow_with_the_folder(out):
    counts = []
    for more in (0, 60):
        for number in range(more):
            put(out, f"m{number}")
        Summary(out).write()
        put(out, f"new{more}")
        counts.append(opens(lambda: Summary(out).write(), out))
    assert counts[0] == counts[1] < 15


def test_tables_are_written_now_and_then_and_at_the_end(out, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(summary_file.time, "monotonic", lambda: now[0])
    written = []
    own = Summary.write
    monkeypatch.setattr(Summary, "write", lambda self: written.append(now[0]) or own(self))
    summary = Summary(out)
    for second in range(25):
        now[0] = float(second)
        summary.graded()
    assert written == [10.0, 20.0]
    summary.end()
    summary.end()
    assert written == [10.0, 20.0, 24.0]
