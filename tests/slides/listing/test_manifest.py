import json
import os

import pytest

from wsikd.core.errors import ConfigError, NoSlidesError
from wsikd.slides.listing import manifest as manifests
from wsikd.slides.listing.manifest import find_slides, open_entry
from wsikd.slides.listing.search import SLIDE_SUFFIXES


@pytest.fixture
def folder(tmp_path):
    """Slides in depth, and files that are none."""
    for name in ("a.svs", "sub/B.SVS", "sub/deep/c.tiff", "notes.txt", "a.geojson", "d.ndpi"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store = tmp_path / "in" / "old.zarr"
    store.mkdir()
    (store / "z.tif").touch()
    return tmp_path / "in"


def names(entries):
    return [entry.name for entry in entries]


def test_a_file(folder):
    (entry,) = find_slides([folder / "a.svs"], slide_mpp=0.5)
    assert (entry.path, entry.name) == (folder / "a.svs", "a")
    assert (entry.mpp, entry.mpp_source) == (0.5, "--slide-mpp")
    assert (entry.label, entry.patient, entry.split, entry.annotation, entry.mask) == (None,) * 5


def test_a_file_that_is_missing_is_left_to_the_reader(tmp_path):
    assert names(find_slides([tmp_path / "gone.svs"])) == ["gone"]


def test_a_folder_in_depth_passes_over_what_is_no_slide(folder, caplog):
    with caplog.at_level("INFO", logger="wsikd"):
        assert names(find_slides([folder])) == ["B", "a", "c", "d"]
    assert "skipped 2 files that are not slides: a.geojson, notes.txt" in caplog.text


def test_names_that_are_no_utf8_are_spelt_out(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / os.fsdecode(b"\xff.svs")).touch()
        (tmp_path / folder / os.fsdecode(b"\xff.txt")).touch()
    (alone,) = find_slides([tmp_path / "a"])
    assert alone.name == "_xff-a8100a"
    assert alone.path.exists()
    both = names(find_slides([tmp_path]))
    assert len(set(both)) == 2
    assert all(name.startswith("_xff-") for name in both)


def test_a_glob(folder):
    assert names(find_slides([f"{folder}/*.[sn]*"])) == ["a", "d"]
    assert names(find_slides([f"{folder}/sub/**/*.tiff"])) == ["c"]


def test_a_slide_named_twice_counts_once(folder):
    inputs = [folder, folder / "a.svs", f"{folder}/*.svs"]
    assert names(find_slides(inputs)) == ["B", "a", "c", "d"]


def test_nothing_found(tmp_path):
    (tmp_path / "readme.txt").touch()
    for item in (tmp_path, f"{tmp_path}/*.svs"):
        with pytest.raises(NoSlidesError, match="no slide found") as caught:
            find_slides([item])
        assert caught.value.exit_code == 4
        assert all(suffix in str(caught.value) for suffix in SLIDE_SUFFIXES)


def test_every_column_of_a_manifest(tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "\ufeffslide, mpp ,label,patient,split,annotation,mask\n"
        "x/one.svs,0.25,G3,P1,train,ann/one.geojson,masks/one.png\n"
        "two.svs,,,,,,\n",
        encoding="utf-8",
    )
    one, two = find_slides([manifest], slide_mpp=0.5)
    assert one.path == tmp_path / "x/one.svs"
    assert (one.name, one.mpp, one.mpp_source) == ("one", 0.25, "column mpp of m.csv")
    assert (one.label, one.patient, one.split) == ("G3", "P1", "train")
    assert one.annotation == tmp_path / "ann/one.geojson"
    assert one.mask == tmp_path / "masks/one.png"
    assert (two.mpp, two.mpp_source) == (0.5, "--slide-mpp")
    assert (two.label, two.patient, two.split, two.annotation, two.mask) == (None,) * 5


def test_tabs_and_absolute_paths(tmp_path):
    manifest = tmp_path / "m.tsv"
    manifest.write_text(f"slide\tsplit\n{tmp_path}/a,b.svs\tval\n")
    (entry,) = find_slides([manifest])
    assert (entry.path, entry.split) == (tmp_path / "a,b.svs", "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,mmp\na.svs,1\n", "m.csv: unknown column 'mmp'; did you mean 'mpp'?"),
        ("label\nG3\n", "m.csv: no column 'slide'; name the columns slide, mpp,"),
        ("", "m.csv: no column 'slide'"),
        (
            "slide,split\na.svs,trian\n",
            "m.csv, line 2: unknown split 'trian'; did you mean 'train'?",
        ),
        ("slide,mpp\na.svs,half\n", "m.csv, line 2: mpp 'half' is not a number; give um/px"),
        ("slide,mpp\na.svs,0.5\n,0.5\n", "m.csv, line 3: no slide name"),
        ("slide,mpp\na.svs,0.5\n\n,0.5\n", "m.csv, line 4: no slide name"),
    ],
)
def test_a_manifest_that_cannot_be_understood(tmp_path, text, message):
    manifest = tmp_path / "m.csv"
    manifest.write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_slides([manifest])
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_manifest_without_rows_or_file(tmp_path):
    (tmp_path / "m.csv").write_text("slide,mpp\n")
    with pytest.raises(NoSlidesError):
        find_slides([tmp_path / "m.csv"])
    with pytest.raises(ConfigError, match="no such file"):
        find_slides([tmp_path / "gone.csv"])
    (tmp_path / "latin.csv").write_bytes("slide\nM\xfcller.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        find_slides([tmp_path / "latin.csv"])


def _twins(root):
    for place in ("p1", "p2"):
        (root / place).mkdir(parents=True)
        (root / place / "slide.svs").touch()
    (root / "other.svs").touch()


def test_one_stem_in_two_folders_gets_two_names_that_stay(tmp_path):
    for root in ("here", "there"):
        _twins(tmp_path / root)
    first, second = (find_slides([tmp_path / root]) for root in ("here", "there"))
    assert len(set(names(first))) == 3
    assert names(first) == names(second)  # wherever the folder lies
    assert names(first)[0] == "other"
    assert all(name.startswith("slide-") for name in names(first)[1:])


@pytest.mark.parametrize("inputs", [["p1", "p2"], ["p2", "p1"], ["p*"], ["p1/slide.svs", "p2"]])
def test_one_stem_in_two_inputs_gets_two_names(tmp_path, inputs):
    _twins(tmp_path)
    found = find_slides([f"{tmp_path}/{item}" for item in inputs])
    assert len({entry.path for entry in found}) == 2
    assert len(set(names(found))) == 2
    assert find_slides([f"{tmp_path}/{item}" for item in reversed(inputs)]) == found


def test_names_that_differ_in_case_only_are_told_apart(tmp_path):
    for name in ("S.svs", "s.tif"):
        (tmp_path / name).touch()
    assert len({name.casefold() for name in names(find_slides([tmp_path]))}) == 2


def test_a_dicom_folder_is_one_slide(tmp_path):
    series = tmp_path / "in" / "case.7"
    series.mkdir(parents=True)
    for n in range(3):
        (series / f"{n}.dcm").touch()
    (tmp_path / "in" / "a.svs").touch()
    entries = find_slides([tmp_path / "in"])
    assert [(e.name, e.path.name) for e in entries] == [("a", "a.svs"), ("case.7", "case.7")]
    assert find_slides([series])[0].path == series


def test_annotations_beside(tmp_path):
    for name in ("a.svs", "b.svs", "ann/a.geojson", "ann/c.json", "c.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "ann"
    found = [e.annotation for e in find_slides([tmp_path / "?.svs"], annotations=folder)]
    assert found == [folder / "a.geojson", None, folder / "c.json"]
    one = folder / "a.geojson"
    assert find_slides([tmp_path / "b.svs"], annotations=one)[0].annotation == one


def test_a_relative_folder(tmp_path, monkeypatch):
    _twins(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert names(find_slides(["."])) == names(find_slides([tmp_path]))
    assert os.fspath(find_slides(["p1"])[0].path) == "p1/slide.svs"


@pytest.mark.parametrize(
    "name",
    ["a.JP2", "a.QPTIFF", "a.ome.tiff", "A.OME.TIF", "a.Svs", "a.btf"],
)
def test_suffixes_in_any_case(name, tmp_path):
    (tmp_path / name).touch()
    assert [e.path.name for e in find_slides([tmp_path])] == [name]


def _zarr(folder, file, attributes):
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(attributes))


def test_zarr_folders_that_hold_an_image(tmp_path, caplog):
    image = {"multiscales": [{}]}
    _zarr(tmp_path / "old.zarr", ".zattrs", image)
    _zarr(tmp_path / "sub" / "new.ZARR", "zarr.json", {"attributes": {"ome": image}})
    ours = {"attributes": {"ome": image, "wsikd": {}}}
    _zarr(tmp_path / "store.zarr", "zarr.json", ours)
    _zarr(tmp_path / "store04.zarr", ".zattrs", {**image, "wsikd": {}})
    _zarr(tmp_path / "table.zarr", ".zattrs", {})
    _zarr(tmp_path / "broken.zarr", ".zattrs", [])
    (tmp_path / "store.zarr" / "x.svs").touch()
    assert names(find_slides([tmp_path])) == ["new.ZARR", "old.zarr"]
    assert names(find_slides([tmp_path / "old.zarr"])) == ["old.zarr"]
    with pytest.raises(NoSlidesError):
        find_slides([tmp_path / "table.zarr"])


def test_an_entry_is_opened_as_it_says(tmp_path, monkeypatch):
    (tmp_path / "m.csv").write_text("slide,mpp\na.svs,0.25\n")
    (entry,) = find_slides([tmp_path / "m.csv"], reader="openslide")
    asked = {}
    monkeypatch.setattr(manifests, "open_slide", lambda path, **rest: asked.update(rest, path=path))
    open_entry(entry)
    assert asked == {
        "path": tmp_path / "a.svs",
        "slide_mpp": 0.25,
        "mpp_source": "column mpp of m.csv",
        "reader": "openslide",
        "name": "a",
        "series": None,
        "accept_grey": False,
    }


def test_an_unknown_reader_is_refused_before_the_first_slide(tmp_path):
    (tmp_path / "a.svs").touch()
    with pytest.raises(ConfigError, match="auto, openslide, direct, tiatoolbox"):
        find_slides([tmp_path], reader="bioformats")
    assert find_slides([tmp_path])[0].reader == "auto"
