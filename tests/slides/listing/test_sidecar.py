from pathlib import Path

import pytest

from wsikd.core.errors import ConfigError
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.slides.listing.sidecar import ENDINGS, own_masks, sidecar


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_found(tmp_path, ending):
    (tmp_path / f"a{ending}").touch()
    assert sidecar(tmp_path, Path("slides/a.svs")) == tmp_path / f"a{ending}"
    assert sidecar(tmp_path, Path("slides/b.svs")) is None


def test_the_first_wins_and_one_file_serves_all(tmp_path):
    for ending in (".tif", ".png", "_mask.tiff", ".xml"):
        (tmp_path / f"a{ending}").touch()
    assert sidecar(tmp_path, Path("a.svs")).name == "a.xml"
    assert sidecar(tmp_path / "a.png", Path("b.svs")) == tmp_path / "a.png"


def test_a_slide_is_not_its_own_mask(tmp_path, monkeypatch):
    (tmp_path / "a.tif").touch()
    assert sidecar(tmp_path, tmp_path / "a.tif") is None
    monkeypatch.chdir(tmp_path)
    assert sidecar(tmp_path, Path("a.tif")) is None
    (tmp_path / "a_mask.tif").touch()
    assert sidecar(tmp_path, tmp_path / "a.tif") == tmp_path / "a_mask.tif"


def test_names_with_dots_and_folders_of_dicom(tmp_path):
    (tmp_path / "s.1.2.json").touch()
    assert sidecar(tmp_path, Path("s.1.2.svs")).name == "s.1.2.json"
    (tmp_path / "case.7").mkdir()
    (tmp_path / "case.7.png").touch()
    assert sidecar(tmp_path, tmp_path / "case.7").name == "case.7.png"


def entry(name, mask=None):
    return SlideEntry(Path(f"slides/{name}.svs"), name, mask=mask)


def test_maskers_by_name_leave_the_slides_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "otsu").mkdir()  # a masker's name wins
    for name in ("otsu", "all", "tiatoolbox-otsu"):
        assert own_masks(name, [entry("a")]) == (name, [entry("a")], [])


def test_masks_of_the_users_own(tmp_path):
    (tmp_path / "a.png").touch()
    given = Path("given.png")
    slides = [entry("a"), entry("b"), entry("c", mask=given)]
    method, masked, unmasked = own_masks(str(tmp_path), slides)
    assert method == "mask"
    assert [(e.name, e.mask) for e in masked] == [("a", tmp_path / "a.png"), ("c", given)]
    assert [e.name for e in unmasked] == ["b"]
    method, masked, unmasked = own_masks(str(tmp_path / "a.png"), slides[:2])
    assert [e.mask for e in masked] == [tmp_path / "a.png"] * 2
    assert not unmasked


@pytest.mark.parametrize(
    ("tissue", "told"),
    [
        ("ostu", "ostu: not among the known maskers; did you mean 'otsu'? choose one of otsu, all"),
        ("gone.png", "gone.png: neither a file or folder nor a masker; give an existing mask"),
        ("masks/gone", "masks/gone: neither a file or folder nor a masker"),
    ],
)
def test_neither_masker_nor_place(tissue, told):
    with pytest.raises(ConfigError) as caught:
        own_masks(tissue, [entry("a")])
    assert str(caught.value).startswith(told)


def test_masks_of_tissue_are_no_xml(tmp_path):
    for ending in (".xml", ".png"):
        (tmp_path / f"a{ending}").touch()
    assert own_masks(str(tmp_path), [entry("a")])[1][0].mask == tmp_path / "a.png"
