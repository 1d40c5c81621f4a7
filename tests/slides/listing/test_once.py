"""Each slide once, and every slide counted."""

import shutil

import pytest

from wsikd.core.errors import ConfigError, NoSlidesError
from wsikd.core.output.names import name_key
from wsikd.slides.file_format import fingerprint
from wsikd.slides.listing import once
from wsikd.slides.listing.manifest import discover_slides, find_slides
from wsikd.slides.listing.once import Made, settle_names


def slide(path, content=None):
    """A file whose content is its own name, or as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or f"slide {path.name}")
    return path


def names(entries):
    return [entry.name for entry in entries]


def reasons(found):
    return {one.path.name: one.reason for one in found.left_out}


def test_a_link_that_leads_back(tmp_path, caplog):
    slide(tmp_path / "in" / "S.svs")
    (tmp_path / "in" / "again").symlink_to(".")
    (tmp_path / "in" / "deep").mkdir()
    (tmp_path / "in" / "deep" / "up").symlink_to("..")
    with caplog.at_level("INFO", logger="wsikd"):
        (entry,) = find_slides([tmp_path / "in"])
    assert entry.path == tmp_path / "in" / "S.svs"
    assert entry.copies == ()
    assert "left out 2: again (a link to a folder that was already searched), up (" in caplog.text


@pytest.mark.parametrize("link", ["symlink", "relative", "hard", "copy"])
def test_two_paths_to_one_slide(tmp_path, caplog, link):
    own = slide(tmp_path / "b.svs")
    other = tmp_path / "a.svs"
    make = {
        "symlink": lambda: other.symlink_to(own),
        "relative": lambda: other.symlink_to("b.svs"),
        "hard": lambda: other.hardlink_to(own),
        "copy": lambda: shutil.copy(own, other),
    }
    make[link]()
    slide(tmp_path / "c.svs")
    with caplog.at_level("WARNING", logger="wsikd"):
        found = discover_slides([tmp_path])
    kept = "b" if "link" in link or link == "relative" else "a"
    assert names(found.entries) == [kept, "c"]
    ((left, reason),) = reasons(found).items()
    what = "a copy of" if link == "copy" else "the same file as"
    assert (left, reason) == ({"a": "b.svs", "b": "a.svs"}[kept], f"{what} {kept}.svs")
    assert f"left out 1: {left} ({reason})" in caplog.text
    assert [p.name for p in found.entries[0].copies] == [left]


def test_two_links_to_a_slide_elsewhere(tmp_path):
    own = slide(tmp_path / "store" / "0815.svs")
    for name in ("a.svs", "b.svs"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).symlink_to(own)
    found = discover_slides([tmp_path / "in"])
    assert names(found.entries) == ["a"]
    assert reasons(found) == {"b.svs": "the same file as a.svs"}
    assert names(find_slides([tmp_path / "in", tmp_path / "store"])) == ["0815"]


def test_a_slide_that_several_inputs_name_is_not_left_out(tmp_path):
    slide(tmp_path / "a.svs")
    (tmp_path / "m.csv").write_text("slide,label\na.svs,G3\n")
    inputs = [tmp_path, tmp_path / "a.svs", f"{tmp_path}/*.svs", tmp_path / "m.csv"]
    found = discover_slides(inputs)
    assert [(e.name, e.label) for e in found.entries] == [("a", "G3")]
    assert reasons(found) == {"m.csv": "its name is not that of a slide"}


def test_slides_of_one_size_are_told_apart(tmp_path, monkeypatch):
    for name in ("a.svs", "b.svs", "longer.svs"):
        slide(tmp_path / name)
    read = []
    monkeypatch.setattr(once, "fingerprint", lambda path: read.append(path) or fingerprint(path))
    assert names(find_slides([tmp_path])) == ["a", "b", "longer"]
    assert sorted(p.name for p in read) == ["a.svs", "b.svs"]  # only where sizes are equal


def test_mrxs_counts_with_its_folder(tmp_path):
    for name, data in (("a", "1"), ("b", "2"), ("c", "1")):
        slide(tmp_path / f"{name}.mrxs", "the same")
        slide(tmp_path / name / "Data0000.dat", data)
        slide(tmp_path / name / "thumb.tif")
    found = discover_slides([tmp_path])
    assert names(found.entries) == ["a", "b"]
    assert reasons(found) == {"c.mrxs": "a copy of a.mrxs"}


def test_what_lies_beside_slides_is_left_out_with_the_reason(tmp_path, caplog):
    for name in ("S.svs", "T.ome.tif"):
        slide(tmp_path / name)
    beside = ["S_mask.tif", "s-overview.TIF", "S_thumb.tiff", "T_mask.ome.tif", "S.svs.label.tif"]
    for name in beside:
        slide(tmp_path / name)
    slide(tmp_path / "masks" / "S_mask.tiff")
    slide(tmp_path / "alone_mask.tif")
    slide(tmp_path / "._S.svs", "\0" * 4096)
    slide(tmp_path / ".trash" / "x.svs")
    slide(tmp_path / ".DS_Store")
    with caplog.at_level("INFO", logger="wsikd"):
        found = discover_slides([tmp_path])
    assert names(found.entries) == ["S", "T.ome", "alone_mask"]
    told = reasons(found)
    assert told["S_mask.tif"] == told["S_mask.tiff"] == "mask of S.svs"
    assert told["s-overview.TIF"] == "overview of S.svs"
    assert told["T_mask.ome.tif"] == "mask of T.ome.tif"
    assert set(told) == {*beside, "S_mask.tiff", "._S.svs", ".trash", ".DS_Store"}
    assert sum(str(tmp_path) in line for line in caplog.messages) == 2  # one line of each kind
    assert names(find_slides([f"{tmp_path}/*"])) == ["S", "T.ome", "alone_mask"]
    assert names(find_slides([tmp_path / "S_mask.tif", tmp_path / "._S.svs"]))[0] == "S_mask"


def test_masks_and_annotations_that_are_used_are_no_slides(tmp_path):
    slide(tmp_path / "S.svs")
    slide(tmp_path / "drawn" / "S.tif")
    (tmp_path / "m.csv").write_text("slide,mask\nS.svs,drawn/S.tif\n")
    for given in ({"annotations": tmp_path / "drawn"}, {}):
        inputs = [tmp_path] if given else [tmp_path, tmp_path / "m.csv"]
        found = discover_slides(inputs, **given)
        assert [e.path.name for e in found.entries] == ["S.svs"]
        assert reasons(found)["S.tif"] in ("annotation of S.svs", "mask of S.svs")


def test_results_and_zarr_folders_without_image_are_no_slides(tmp_path, caplog):
    slide(tmp_path / "S.svs")
    slide(tmp_path / "maps" / "S" / "result.json", '{"summary": {}, "made_with": {}}')
    slide(tmp_path / "maps" / "S" / "grades.tif")
    for n in range(20):
        slide(tmp_path / "plain.zarr" / "0" / str(n) / "0")
    slide(tmp_path / "plain.zarr" / ".zgroup", '{"zarr_format": 2}')
    with caplog.at_level("INFO", logger="wsikd"):
        assert names(find_slides([tmp_path])) == ["S"]
    (line,) = caplog.messages
    assert "plain.zarr (a Zarr folder without multiscales, so no OME-Zarr image), S (a re" in line
    caplog.clear()
    with pytest.raises(NoSlidesError, match="without multiscales") as caught:
        find_slides([tmp_path / "plain.zarr"])
    assert caught.value.exit_code == 4
    assert not caplog.messages


def test_a_glob_of_everything_takes_slides_only(tmp_path):
    for name in ("a.svs", "notes.txt", "labels.csv", "b.vsi"):
        slide(tmp_path / name)
    assert names(find_slides([f"{tmp_path}/*"])) == ["a"]
    assert names(find_slides([f"{tmp_path}/*.vsi"])) == ["b"]


@pytest.mark.parametrize(
    ("column", "values"),
    [("label", ("G3", "G4")), ("mpp", ("0.5", "0.25")), ("patient", ("P1", "P2")),
     ("split", ("train", "test")), ("annotation", ("a.json", "b.json"))],
)  # fmt: skip
@pytest.mark.parametrize("how", ["row", "copy", "link", "second manifest"])
def test_rows_that_contradict_each_other_are_refused(tmp_path, column, values, how):
    own = slide(tmp_path / "s1.svs")
    second = "s1.svs" if how in ("row", "second manifest") else "s2.svs"
    if how == "copy":
        shutil.copy(own, tmp_path / second)
    elif how == "link":
        (tmp_path / second).symlink_to(own)
    rows = [f"s1.svs,{values[0]}\n", f"{second},{values[1]}\n"]
    tables = [rows] if how != "second manifest" else [rows[:1], rows[1:]]
    inputs = []
    for number, some in enumerate(tables):
        inputs.append(tmp_path / f"m{number}.csv")
        inputs[-1].write_text("".join([f"slide,{column}\n", *some]))
    with pytest.raises(ConfigError, match=f"twice with different {column}: .*m0.csv, line 2"):
        find_slides(inputs)


def test_rows_that_agree_count_once_and_are_listed(tmp_path, caplog):
    shutil.copy(slide(tmp_path / "s1.svs"), tmp_path / "s2.svs")
    (tmp_path / "m.csv").write_text("slide,label,split\ns1.svs,G3,\ns2.svs,,train\n")
    with caplog.at_level("WARNING", logger="wsikd"):
        found = discover_slides([tmp_path / "m.csv"])
    assert [(e.label, e.split) for e in found.entries] == [("G3", "train")]
    assert "m.csv, line 3: the same slide as in " in caplog.text


@pytest.mark.parametrize("second", ["s1.svs,G3", "s1.svs,", "./s1.svs,G3"])
def test_a_slide_in_two_rows_of_one_manifest_is_refused(tmp_path, second):
    slide(tmp_path / "s1.svs")
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide,label\ns1.svs,G3\n{second}\n")
    with pytest.raises(ConfigError, match=r"s1\.svs: is given twice in .*m\.csv, lines 2 and 3"):
        find_slides([manifest])
    manifest.write_text("slide,label\ns1.svs,G3\n")
    assert names(find_slides([manifest, manifest])) == ["s1"]


def test_annotations_of_copies(tmp_path):
    for name in ("a.svs", "b.svs"):
        slide(tmp_path / name, "one")
    drawn = slide(tmp_path / "ann" / "b.json", "{}")
    assert find_slides([tmp_path], annotations=tmp_path / "ann")[0].annotation == drawn
    slide(tmp_path / "ann" / "a.json", "[]")
    with pytest.raises(ConfigError, match=r"different annotations: a\.json, b\.json"):
        find_slides([tmp_path], annotations=tmp_path / "ann")


def test_a_row_of_a_folder_with_two_dicom_slides_is_refused(tmp_path):
    from tests.slides.dicom_files import write_dicom

    write_dicom(tmp_path / "d" / "a.dcm", "1")
    write_dicom(tmp_path / "d" / "b.dcm", "2")
    (tmp_path / "m.csv").write_text("slide\nd\n")
    with pytest.raises(
        ConfigError, match=r"m\.csv, line 2: 'd' holds 2 DICOM slides; give one file"
    ):
        find_slides([tmp_path / "m.csv"])


@pytest.mark.parametrize("name", ["...svs", "..svs", "CON.svs", "a:b.svs", "x" * 251 + ".svs"])
def test_names_are_safe(tmp_path, name):
    (entry,) = find_slides([slide(tmp_path / "in" / name, "s")])
    assert entry.name not in ("", ".", "..", "CON")
    assert entry.name.strip(". ") == entry.name
    assert len(entry.name.encode()) <= 200
    assert not set(entry.name) & set(":/\\")


def test_many_slides_of_one_stem_have_as_many_names(tmp_path):
    for n in range(200):
        slide(tmp_path / f"p{n}" / "slide.svs", f"{n}")
    entries = find_slides([tmp_path])
    assert len({name_key(name) for name in names(entries)}) == 200


class Results:
    """A folder of results that are files with the slide's fingerprint in them."""

    def __init__(self, folder, ending=".zarr"):
        self.folder, self.ending = folder, ending
        folder.mkdir(exist_ok=True)

    def settle(self, entries):
        def read(path):
            return path.read_text() if path.is_file() else None

        return settle_names(entries, Made(self.folder, self.ending, read, also=(".part",)))

    def run(self, *inputs, ending=""):
        """Names of the results of a run, which it leaves in the folder."""
        entries = self.settle(find_slides(inputs))
        for entry in entries:
            file = self.folder / f"{entry.name}{self.ending}{ending}"
            if not file.exists():
                file.write_text(fingerprint(entry.path))
        return {entry.path.name: entry.name for entry in entries}

    def __len__(self):
        return len(list(self.folder.iterdir()))


@pytest.mark.parametrize("order", [("X.svs", "X.tif"), ("X.tif", "X.svs")])
@pytest.mark.parametrize("ending", ["", ".part"])
def test_a_slide_of_the_same_stem_added_later(tmp_path, order, ending):
    results, folder = Results(tmp_path / "out"), tmp_path / "in"
    slide(folder / order[0])
    assert results.run(folder, ending=ending) == {order[0]: "X"}
    slide(folder / order[1])
    grown = results.run(folder)
    assert grown[order[0]] == "X"
    assert grown[order[1]].startswith("X-")
    assert results.run(folder) == grown
    assert results.run(folder / order[1], folder / order[0]) == grown  # however they are given
    (folder / order[0]).unlink()
    assert results.run(folder) == {order[1]: grown[order[1]]}
    assert len(results) == 2 + (ending != "")


def test_a_copy_added_later_has_its_result_already(tmp_path):
    results, folder = Results(tmp_path / "out", ""), tmp_path / "in"
    own = slide(folder / "S.svs")
    assert results.run(folder) == {"S.svs": "S"}
    for name in ("A.svs", "S.tif", "T.svs"):
        shutil.copy(own, folder / name)
        assert list(results.run(folder).values()) == ["S"]
    assert len(results) == 1


def test_slides_that_collide_from_the_start_keep_their_names(tmp_path):
    results, folder = Results(tmp_path / "out"), tmp_path / "in"
    for name in ("X.svs", "X.tif"):
        slide(folder / name)
    both = results.run(folder)
    assert all(name.startswith("X-") for name in both.values())
    assert results.run(folder) == both
    for name in both:
        assert results.run(folder / name) == {name: both[name]}
    slide(folder / "X.ndpi")
    assert both.items() <= results.run(folder).items()
    assert len(results) == 3


def test_another_slide_of_a_name_does_not_take_its_result(tmp_path):
    results = Results(tmp_path / "out")
    results.run(slide(tmp_path / "a" / "X.svs", "first"))
    assert results.run(slide(tmp_path / "b" / "X.svs", "second")) == {"X.svs": "X"}  # is refused
    assert len(results) == 1
    slide(tmp_path / "in" / "Y-abcdef.svs")
    slide(tmp_path / "in" / "Y.svs")
    names = {"Y-abcdef.svs": "Y-abcdef", "Y.svs": "Y"}
    assert results.run(tmp_path / "in") == results.run(tmp_path / "in") == names


def test_a_copy_and_a_slide_of_its_stem_added_at_once(tmp_path):
    results, folder = Results(tmp_path / "out"), tmp_path / "in"
    own = slide(folder / "X.svs")
    results.run(folder)
    shutil.copy(own, folder / "A.svs")
    slide(folder / "X.tif")
    grown = results.run(folder)
    assert grown["A.svs"] == "X"  # X.svs is left out as its copy
    assert grown["X.tif"].startswith("X-")
    assert results.run(folder) == grown
    assert len(results) == 2
