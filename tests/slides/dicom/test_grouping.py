"""DICOM is grouped by series, and a header tells which."""

import random

import pytest

from tests.slides.dicom_files import BIG, EXPLICIT, IMPLICIT, SEGMENTATION, write_dicom
from wsikd.slides.dicom.grouping import group_series
from wsikd.slides.dicom.header import read_header
from wsikd.slides.file_format import fingerprint
from wsikd.slides.listing.manifest import discover_slides, find_slides


def paths(entries):
    return [(e.name, e.path.name) for e in entries]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("nested", [False, True])
def test_a_header_is_read(tmp_path, syntax, nested):
    file = write_dicom(tmp_path / "a.dcm", "1.2.3", "LABEL", syntax=syntax, nested=nested)
    header = read_header(file)
    assert (header.series, header.image_type[2], header.is_scan) == ("1.2.3", "LABEL", False)


def test_a_torn_header_is_none_and_no_fault(tmp_path):
    whole = write_dicom(tmp_path / "a.dcm", "1.2.3", nested=True).read_bytes()
    file, draw = tmp_path / "b.dcm", random.Random(0)
    assert read_header(tmp_path / "gone.dcm") is None
    for cut in range(0, len(whole) - 24, 7):
        file.write_bytes(whole[:cut])
        assert read_header(file) is None
    for _ in range(200):
        mutant = bytearray(whole)
        for _ in range(3):
            mutant[draw.randrange(132, len(whole))] = draw.randrange(256)
        file.write_bytes(mutant)
        read_header(file)


def test_two_series_in_a_folder_are_two_slides(tmp_path):
    for n in range(3):
        write_dicom(tmp_path / "in" / f"a{n}.dcm", "1.2.3", number=n)
        write_dicom(tmp_path / "in" / f"b{n}.dcm", "4.5.6", number=n)
    two = [("a0", "a0.dcm"), ("b0", "b0.dcm")]
    shell = sorted((tmp_path / "in").glob("*.dcm"))
    for inputs in ([tmp_path / "in"], [f"{tmp_path}/in/*.dcm"], shell, [tmp_path / "in", *shell]):
        assert paths(find_slides(inputs)) == two
    assert paths(find_slides(shell[:1])) == two[:1]


def test_one_series_keeps_the_name_of_its_folder(tmp_path):
    for n in range(3):
        write_dicom(tmp_path / "case.7" / f"{n}.dcm", "1.2.3", number=n)
    write_dicom(tmp_path / "case.7" / "label.dcm", "1.2.3", "LABEL")
    (tmp_path / "case.7" / "._0.dcm").write_bytes(b"\0" * 4096)
    before = fingerprint(tmp_path / "case.7")
    (tmp_path / "case.7" / ".DS_Store").touch()
    assert fingerprint(tmp_path / "case.7") == before
    one = [("case.7", "case.7")]
    shell = sorted((tmp_path / "case.7").glob("?.dcm"))
    for inputs in ([tmp_path / "case.7"], [tmp_path], [f"{tmp_path}/*/*.dcm"], shell):
        assert paths(find_slides(inputs)) == one
    assert paths(find_slides(shell[:1])) == [("0", "0.dcm")]


def test_dicom_beside_slides_hides_none(tmp_path):
    for name in ("A.svs", "B.svs"):
        (tmp_path / name).write_text(name)
    for n in range(2):
        write_dicom(tmp_path / f"scan{n}.dcm", "1.2.3", number=n)
    write_dicom(tmp_path / "deep" / "x.dcm", "7.8")
    found = paths(find_slides([tmp_path]))
    assert found == [("A", "A.svs"), ("B", "B.svs"), ("deep", "deep"), ("scan0", "scan0.dcm")]
    assert paths(find_slides([f"{tmp_path}/*.dcm"])) == [("scan0", "scan0.dcm")]


def test_labels_overviews_and_other_objects_are_no_slides(tmp_path):
    write_dicom(tmp_path / "a.dcm", "1.2.3")
    for number, flavour in enumerate(("LABEL", "OVERVIEW", "THUMBNAIL")):
        write_dicom(tmp_path / f"{flavour}.dcm", f"5.{number}", flavour)
    write_dicom(tmp_path / "grades.dcm", "6", sop_class=SEGMENTATION)
    for inputs in ([tmp_path], [f"{tmp_path}/*.dcm"]):
        found = discover_slides(inputs)
        assert len(found.entries) == 1
        reasons = {one.path.name: one.reason for one in found.left_out}
        assert reasons["LABEL.dcm"] == "label of a DICOM slide"
        assert reasons["grades.dcm"] == "DICOM, but no whole-slide image"
        assert len(reasons) == 4


def test_copies_of_a_series_are_one_slide(tmp_path):
    for folder in ("x", "y"):
        for n in range(2):
            write_dicom(tmp_path / folder / f"{n}.dcm", "1.2.3", number=n)
    write_dicom(tmp_path / "z" / "0.dcm", "1.2.3", number=8)  # a poor anonymiser's series UID
    write_dicom(tmp_path / "z" / "1.dcm", "1.2.3", number=9)
    found = discover_slides([tmp_path])
    assert [e.name for e in found.entries] == ["x", "z"]
    assert [(one.path.name, one.reason) for one in found.left_out] == [("y", "a copy of x")]


def test_a_fingerprint_is_of_the_series_alone(tmp_path):
    for n in range(2):
        write_dicom(tmp_path / "both" / f"a{n}.dcm", "1.2.3", number=n)
        write_dicom(tmp_path / "alone" / f"a{n}.dcm", "1.2.3", number=n)
    alone = fingerprint(tmp_path / "alone")
    assert {fingerprint(tmp_path / "both" / f"a{n}.dcm") for n in range(2)} == {alone}
    write_dicom(tmp_path / "both" / "b.dcm", "4")
    assert fingerprint(tmp_path / "both" / "a1.dcm") == alone


def test_the_largest_file_stands_for_the_series(tmp_path):
    small = write_dicom(tmp_path / "a.dcm", "1.2.3")
    base = write_dicom(tmp_path / "b.dcm", "1.2.3")
    base.write_bytes(base.read_bytes() + b"\0" * 100)
    ((series,), others) = group_series([small, base])
    assert (series.main, others) == (base, [])
