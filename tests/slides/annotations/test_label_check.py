import pytest

from wsikd.core.errors import ConfigError
from wsikd.slides.annotations.label_check import Cohort, check_classes, warnings_of
from wsikd.slides.annotations.survey import Survey


def cohort(*names, sources=None, labels=None, **more):
    """Slides a, b, ... annotated with one class each."""
    files = {
        f"{file}.geojson": Survey((name,), frozenset(sources or [name]), 1, 0)
        for file, name in zip("abcdefgh", names, strict=False)
    }
    return Cohort(files, labels or {}, **more)


def refusal(found, label_map=(), wanted=()):
    with pytest.raises(ConfigError) as caught:
        check_classes(found, dict(label_map), wanted)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "wanted", "told"),
    [
        (["Gleason 3"], ("NC", "G3"), "none of NC, G3 is annotated (annotated: Gleason 3); did"),
        (["NC", "Gleason 3"], ("NC", "G3"), "'G3' is not annotated; did you mean 'Gleason 3'?"),
        (["NC", "g3"], ("NC", "G3"), "'G3' is not annotated; did you mean 'g3'?"),
        (["Tumour", "x"], ("Tumor", "x"), "'Tumor' is not annotated; did you mean 'Tumour'?"),
        (["x"], ("Tumor", "Benign"), "none of Tumor, Benign is annotated (annotated: x); name the"),
    ],
)  # fmt: skip
def test_classes_that_match_nothing_are_refused(names, wanted, told):
    assert refusal(cohort(*names), wanted=wanted).startswith(f"--classes: {told}")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["NC", "G3"], ("NC", "G3", "G4", "G5")),
        (["NC", "Gleason 3", "Gleason 4"], ("NC", "Gleason 3", "Gleason 5")),
        (["G3", "stroma"], ("NC", "G3")),
    ],
    ids=["a part of all grades", "a neighbour left out", "stroma left out"],
)
def test_a_class_that_this_cohort_lacks_is_warned_of(names, wanted):
    found = cohort(*names)
    check_classes(found, {}, wanted)
    missing = ", ".join(w for w in wanted if w not in names)
    left = ", ".join(name for name in names if name not in wanted)
    lines = [f"--classes: not annotated on any slide: {missing}"]
    if left:
        lines.append(f"annotated, but not in --classes, so their areas give no label: {left}")
    assert warnings_of(found, {}, wanted) == lines


def test_labels_of_slides_count_as_annotated():
    found = cohort(labels={"a": "NC", "b": "G3"})
    check_classes(found, {}, ("NC", "G3"))
    assert refusal(found, wanted=["Gleason 4"]).startswith("--classes: none of Gleason 4 is")


@pytest.mark.parametrize(
    ("label_map", "told"),
    [
        ({"Gleason3": "G3"}, "'Gleason3': no annotation has this class; did you mean 'Gleason "),
        ({"G9": "G3"}, "'G9': no annotation has this class; known: Gleason 3, Stroma"),
        ({"stroma": "", "Gleason 3": "G3"}, "'stroma': no annotation has this class; did you"),
    ],
)  # fmt: skip
def test_a_label_map_that_matches_nothing_is_refused(label_map, told):
    found = cohort("G3", sources=["Gleason 3", "Stroma"])
    assert refusal(found, label_map).startswith(f"--label-map: {told}")


def test_an_entry_of_a_label_map_that_this_cohort_lacks_is_warned_of():
    found, label_map = cohort("G3", sources=["Gleason 3"]), {"Gleason 3": "G3", "trash": "-"}
    check_classes(found, label_map, ())
    assert warnings_of(found, label_map, ()) == ["--label-map: is empty on any slide: trash"]


def test_values_of_masks_are_known_only_when_they_are_read():
    drawn, mask = Survey(("G3",), frozenset(["G3"]), 1, 0), Survey(("G4",), mask=True)
    check_classes(Cohort({"a.png": mask, "b.xml": drawn}), {"7": "G4", "G3": "G3"}, ())
    assert refusal(Cohort({"b.xml": drawn}), {"7": "G4"}).startswith(
        "--label-map: '7': no annotation"
    )


def test_nothing_to_label_with_is_refused():
    told = refusal(Cohort(asked="--annotations x"))
    assert told.startswith("--annotations x: no slide has an annotation or a label; name annot")
    bare = Cohort({"a.geojson": Survey((), frozenset(), 3, 3)})
    assert "none of the 3 annotated areas has a class (a.geojson)" in refusal(bare)
    assert "nothing is annotated with a class (a)" in refusal(Cohort({"a": Survey()}))


def test_a_file_that_cannot_be_read_is_its_slides_fault():
    check_classes(cohort("x", unread=1), {"y": "G3"}, ("NC",))
    check_classes(Cohort(unread=2), {}, ())


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["G3", "g3 "], ["classes 'G3' and 'g3 ' differ only by case or spaces (G3: a"]),
        (["Gleason 3", "GLEASON3"], ["classes 'Gleason 3' and 'GLEASON3' differ only by"]),
        (["Gleason 4+3"], ["class 'Gleason 4+3' (a.geojson) looks like a score of a whole slide"]),
        (["3+4=7"], ["class '3+4=7' (a.geojson) looks like a score"]),
        (["Grade group 2", "ISUP 3", "Gleason score 7"], ["class "] * 3),
        (["NC", "G3", "Gleason 4", "GP5", "CD3+", "4x40 tile"], []),
    ],
)  # fmt: skip
def test_odd_names(names, told):
    found = warnings_of(cohort(*names), {}, ())
    assert len(found) == len(told)
    for line, start in zip(found, told, strict=True):
        assert line.startswith(start)


def test_many_files_are_summed_up():
    files = {f"{n}.xml": Survey(("G3",), frozenset(["G3"]), 5, n % 2) for n in range(20)}
    (line,) = warnings_of(Cohort(files), {}, ())
    assert line == (
        "annotated areas without a class are ignored: 10, in 1.xml (1 of 5), 3.xml "
        "(1 of 5), 5.xml (1 of 5), 7.xml (1 of 5), 9.xml (1 of 5) and 5 more"
    )
