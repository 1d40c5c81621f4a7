import pytest

from wsikd.core.errors import ConfigError
from wsikd.slides.annotations.label_map import parse_label_map


def test_pairs_are_sorted_and_stripped():
    assert parse_label_map(["3=G3", " 1 = NC ", "negative=-", "0="]) == (
        ("0", ""),
        ("1", "NC"),
        ("3", "G3"),
        ("negative", "-"),
    )
    assert parse_label_map([]) == ()


def test_the_last_sign_parts_source_and_class():
    assert parse_label_map(["a=b=G3"]) == (("a=b", "G3"),)


@pytest.mark.parametrize("name", ["map.yaml", "map.YML"])
def test_a_file(tmp_path, name):
    file = tmp_path / name
    file.write_text("1: NC\n3: G3\nno: 'yes'\nstroma:\nkante: ~\nnegative: '-'\n腺体: G4\n")
    assert dict(parse_label_map([str(file), "5=G5"])) == {
        "1": "NC",
        "3": "G3",
        "5": "G5",
        "no": "yes",
        "stroma": "",
        "kante": "",
        "negative": "-",
        "腺体": "G4",
    }


def test_one_spelling_of_accents():
    assert parse_label_map(["dru\u0308se=G3", "dr\u00fcse=G3"]) == (("dr\u00fcse", "G3"),)


@pytest.mark.parametrize(
    ("items", "fault"),
    [
        (["G3"], "'G3' is neither SOURCE=CLASS nor a YAML file"),
        (["=G3"], "'=G3' names no source"),
        (["3=G3", "3=G4"], "'3' becomes both 'G3' and 'G4'"),
        (["gone.yaml"], "gone.yaml: cannot be read (No such file"),
        (["list.yaml"], "list.yaml: does not map sources to classes"),
        (["deep.yaml"], "deep.yaml: does not map sources to classes"),
        (["broken.yaml"], "broken.yaml: is not YAML"),
        (["bytes.yaml"], "bytes.yaml: is not YAML"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, items, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "deep.yaml").write_text("1: {a: b}\n")
    (tmp_path / "broken.yaml").write_text("1: [\n")
    (tmp_path / "bytes.yaml").write_bytes(b"1: \xff\xfe")
    with pytest.raises(ConfigError) as caught:
        parse_label_map(items)
    assert fault in str(caught.value)
    assert "--label-map" in str(caught.value)
    assert "\n" not in str(caught.value)
