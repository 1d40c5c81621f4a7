"""``result.json`` has one model and one reader; records of 0.1.0 are read."""

import csv
import json
import math
import tarfile
from pathlib import Path

import pytest

from tests.grade.cards import whole_card
from wsikd.core.errors import WsikdError
from wsikd.core.output.markers import RESULT
from wsikd.core.output.place import Place
from wsikd.grade.runs.compare_labels import read_results
from wsikd.grade.runs.record import (
    FILE,
    FORMAT,
    ResultRecord,
    named_records,
    newer_format,
    read_record,
    student_called,
    student_card,
)
from wsikd.grade.runs.results import _made
from wsikd.grade.runs.summary_file import Summary

EXAMPLES = Path(__file__).parents[2] / "examples" / "0_1_0"
SUMMARY = {"slide": "a", "isup_grade_group": 2, "NC_share": 0.5}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with tarfile.open(EXAMPLES / "results.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def written(out, content, name="a"):
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / FILE).write_text(json.dumps(content))
    return out / name


@pytest.mark.parametrize("kind", ["graded", "escalated"])
def test_a_record_of_0_1_0_is_read_and_written_again_as_it_was(old, kind):
    text = (old / kind / "s4" / FILE).read_text(encoding="utf-8")
    record = read_record(old / kind / "s4")
    assert json.dumps(record.record(), indent=2, ensure_ascii=False) + "\n" == text
    assert record.model_extra == {}  # the model knows every entry
    assert (record.format, record.slide, record.fingerprint) == (1, "s4", "f974410d29954fae")
    assert student_card(old / kind, record.summary["student"]).method == "at_plus"


def test_a_summary_of_0_1_0_is_written_again_as_it_was(old):
    before = (old / "graded" / "summary.csv").read_text(encoding="utf-8")
    assert Summary(old / "graded").write().read_text(encoding="utf-8") == before


def test_records_fit_the_schema(old):
    jsonschema = pytest.importorskip("jsonschema")
    schema = ResultRecord.model_json_schema()
    content = json.loads((old / "escalated" / "s4" / FILE).read_text())
    jsonschema.validate(content, schema)
    jsonschema.validate(ResultRecord(format=1, summary=SUMMARY).record(), schema)
    for wrong in ({"format": 2}, {"summary": {"slide": 3}}, {"made_with": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | wrong, schema)


def test_unknown_entries_are_kept(tmp_path):
    content = {"format": 1, "summary": SUMMARY, "later": {"x": [1, 2.5]}}
    assert read_record(written(tmp_path, content)).record() == content


@pytest.mark.parametrize(
    "content",
    [
        None, [], {}, {"summary": None}, {"summary": {}}, {"summary": {"slide": 3}},
        {"summary": SUMMARY | {"isup_grade_group": 7}}, {"summary": SUMMARY | {"x": {}}},
        {"summary": SUMMARY | {"x": [[1]]}}, {"summary": SUMMARY | {"x": 2**60}},
        {"summary": SUMMARY | {"x": math.nan}}, {"summary": SUMMARY, "made_with": []},
        {"summary": SUMMARY, "seconds": {"open": "long"}}, {"summary": SUMMARY, "seconds": 3},
        {"summary": SUMMARY, "format": 2}, {"summary": SUMMARY, "format": "1"},
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_malformed_or_of_a_newer_format_is_none(tmp_path, content):
    assert read_record(written(tmp_path, content)) is None


def test_a_folder_without_its_slides_name_is_left_out(tmp_path):
    written(tmp_path, {"summary": SUMMARY})
    written(tmp_path, {"summary": SUMMARY}, "a.part")
    (tmp_path / "b").mkdir()
    assert [folder.name for folder, _ in named_records(tmp_path)] == ["a"]
    assert list(named_records(tmp_path / "none")) == []


@pytest.mark.parametrize("digest", [None, 3, "../a", "zz"])
def test_a_card_is_found_by_the_digits_of_its_digest(tmp_path, digest):
    (tmp_path / "student-0123456789ab.json").write_text(json.dumps(whole_card(method="hdkd")))
    assert student_card(tmp_path, "0123456789ab").method == "hdkd"
    assert student_card(tmp_path, digest) is None
    (tmp_path / "student-01.json").write_text('{"network": 3}')
    assert student_card(tmp_path, "01") is None


def test_a_name_is_shown_only_with_the_digest_that_it_was_given_to(tmp_path):
    card = whole_card(name="Prostate", version="1.2")
    for digits in ("000000000000", "0123456789ab"):
        (tmp_path / f"student-{digits}.json").write_text(json.dumps(card))
    assert student_called(tmp_path, "000000000000") == "Prostate 1.2 (000000000000)"
    assert student_called(tmp_path, "0123456789ab") == "0123456789ab"
    assert [student_called(tmp_path, d) for d in (None, 3, "ff")] == ["", "3", "ff"]


def test_columns_of_the_summary_are_in_the_order_of_the_records(tmp_path):
    written(tmp_path, {"summary": {"slide": "a", "z": 1, "b": 2.00001}})
    with Summary(tmp_path).write().open() as stream:
        (row,) = csv.DictReader(stream)
    assert list(row)[:3] == ["slide", "z", "b"]
    assert row["b"] == "2.0"


def test_a_newer_format_is_named_not_taken_for_nothing(tmp_path):
    folder = written(tmp_path, {"format": FORMAT + 1, "summary": SUMMARY, "made_with": {}})
    fault = f"result.json has format {FORMAT + 1}, this wsikd reads up to {FORMAT}"
    assert newer_format(folder) == fault
    for refused in (
        lambda: read_results(tmp_path),
        lambda: _made(Place(folder, RESULT, tmp_path), {}),
    ):
        with pytest.raises(WsikdError, match=fault):
            refused()
    assert newer_format(written(tmp_path, {"format": FORMAT}, "b")) is None
    assert newer_format(written(tmp_path, ["format"], "c")) is None
