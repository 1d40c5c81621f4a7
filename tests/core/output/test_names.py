import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsikd.core.output.names import MAX_NAME_BYTES, name_key, safe_name

ORDINARY = [
    "TCGA-G9-7509-01Z-00-DX1.D75B78D5",
    "slide 1",
    "a.ome",
    "Müller",
    "癌",
    "-x",
    "_",
    "com10",
]
LONGEST_ADDED = "labels-.csv.4194304.part"


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_name_stays(name):
    assert safe_name(name) == name


UNSAFE = ["", ".", "..", "...", " ", "/", "\\", "a/b", "a:b", "a?b", "a\nb", "x.", "x ", " x",
          "CON", "nul", "COM1", "Lpt9.tar", "CONIN$", ".hidden", "summary.csv", "S.part", "S.lock",
          "S.replaced", "caf\udce9", "\ud800", "a" * 250, "é" * 130]  # fmt: skip


@given(st.text(st.characters(codec=None), max_size=300))
@example("")
def test_any_text_becomes_a_name_that_file_systems_take(text):
    name = safe_name(text)
    assert 0 < len(os.fsencode(name)) <= MAX_NAME_BYTES <= 255 - len(LONGEST_ADDED) - 20
    assert not set(name) & set('\\/:*?"<>|\0\n')
    assert name.strip(". ") == name
    assert safe_name(text) == name == safe_name(name)
    assert (name == text) or name[-7] == "-"


def test_unsafe_names_are_changed_and_stay_apart():
    names = [safe_name(text) for text in UNSAFE]
    assert not set(names) & set(UNSAFE)
    assert len({name_key(name) for name in names}) == len(UNSAFE)
    assert all(name.split(".")[0].lower() not in ("con", "nul", "com1", "lpt9") for name in names)
    assert names[UNSAFE.index("caf\udce9")].startswith("caf_xe9-")


def test_taken_names_are_not_given_again():
    taken = {name_key("Straße")}
    assert safe_name("strasse", taken).startswith("strasse-")
    first = safe_name("a/b")
    assert safe_name("a/b", {first}).startswith(first[:-6])
    assert safe_name("a/b", {first}) != first


def test_forms_of_one_letter_are_one_key():
    assert name_key("Mu\u0308ller") == name_key("M\u00fcLLER")
