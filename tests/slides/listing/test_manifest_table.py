"""Manifests as spreadsheets of any country write them."""

import pytest

from wsikd.core.errors import ConfigError
from wsikd.slides.listing.manifest import find_slides


def manifest(folder, text, name="m.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def said(path):
    return [(e.path.name, e.mpp, e.label) for e in find_slides([path])]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("slide,mpp,label\ns1.svs,0.5,G3\n", "m.csv"),
        ("slide;mpp;label\ns1.svs;0,5;G3\n", "m.csv"),
        ("slide\tmpp\tlabel\ns1.svs\t0.5\tG3\n", "m.csv"),
        ("slide\tmpp\tlabel\ns1.svs\t0,5\tG3\n", "m.tsv"),
        ("slide;mpp;label\ns1.svs;0.5;G3\n", "m.tsv"),
        ('slide,mpp,label\ns1.svs,"0,5",G3\n', "m.csv"),
        ("slide,mpp,label,,\ns1.svs,0.5,G3,,\n", "m.csv"),
        ("slide;mpp;label;;\ns1.svs;0,5;G3;;\n;;;;\n", "m.csv"),
        ("\ufeffslide;mpp;label\r\ns1.svs;0,5;G3\r\n", "m.csv"),
        ("sep=;\r\nslide;mpp;label\r\ns1.svs;0,5;G3\r\n", "m.csv"),
        ("slide,mpp,label\rs1.svs,0.5,G3\r", "m.csv"),
        ('"slide";"mpp";"label"\n"s1.svs";"0,5";"G3"\n', "m.csv"),
        ("label;slide;mpp\nG3;s1.svs;0,5\n", "m.csv"),
    ],
)
def test_spreadsheets_of_all_countries_are_read(tmp_path, text, name):
    assert said(manifest(tmp_path, text, name)) == [("s1.svs", 0.5, "G3")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "slide,mpp\ns1.svs,0.5,shifted,cells\n",
            "m.csv, line 2: has 4 cells under 2 columns ('shifted', 'cells' beyond them); ",
        ),
        ("slide,mpp,\ns1.svs,0.5,x\n", "m.csv, line 2: has 3 cells under 2 columns"),
        ("slide|mpp\ns1.svs|0.5\n", "m.csv: its columns are separated by bars ('|'); separate"),
        ("slide,,label\ns1.svs,,G3\n", "m.csv: a column without name"),
        ("slide,label,label\ns1.svs,G3,G4\n", "m.csv: 2 columns 'label'; keep one"),
        ("Slide;mpp\ns1.svs;1\n", "m.csv: unknown column 'Slide'; did you mean 'slide'?"),
        ('slide,label\ns1.svs,"G3\n', "m.csv, line 2: no CSV (unexpected end of data)"),
        ('slide,label\ns1.svs,"a\nb"\n,G4\n', "m.csv, line 4: no slide name"),
        ("sep=;\nslide;label\n;G4\n", "m.csv, line 3: no slide name"),
        (
            "slide,mpp\ns1.svs,nan\n",
            "m.csv, line 2: mpp 'nan' is not a size of a pixel; give um/px",
        ),
        ("slide,mpp\ns1.svs,-1\n", "m.csv, line 2: mpp '-1' is not a size of a pixel"),
        ('slide,mpp\ns1.svs,"1,000,5"\n', "m.csv, line 2: mpp '1,000,5' is not a number"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(tmp_path, text, message):
    path = manifest(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        find_slides([path])
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused_by_name(tmp_path, encoding):
    path = manifest(tmp_path, "slide,mpp\ns1.svs,0.5\n", encoding=encoding)
    with pytest.raises(ConfigError, match=r"UTF-16.*; save it as CSV in UTF-8"):
        find_slides([path])


def test_a_quoted_cell_may_hold_delimiters_and_line_ends(tmp_path):
    path = manifest(tmp_path, 'slide,label\n"a,b.svs","G3\nor 4"\nc.svs,G4\n')
    assert said(path) == [("a,b.svs", None, "G3\nor 4"), ("c.svs", None, "G4")]
