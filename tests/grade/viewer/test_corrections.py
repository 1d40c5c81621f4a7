"""A reviewer's corrections: kept whole, in the reviewer's name, and taken back as labels."""

import json
import shutil
from contextlib import ExitStack
from http.client import HTTPConnection
from multiprocessing import get_context

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.browser import CHROMIUM, browser
from tests.grade.graded import infer_slide
from tests.grade.maps import square_map
from tests.grade.runs.test_results import SPEC, Purple
from tests.grade.viewer.serving import served
from wsikd.core.errors import AnnotationError, OutputError
from wsikd.grade.corrections import Review, change_review, field_box, read_review, review_file
from wsikd.grade.exports.ome_zarr import read_alone
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.viewer.deepzoom import OUTLINE_PX, Plane, map_tile
from wsikd.grade.viewer.reviewing import corrected_grades
from wsikd.grade.viewer.server import TOKEN_HEADER
from wsikd.grade.viewer.session import Viewing
from wsikd.slides.annotations.geojson import read_geojson
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.tiles.store import TileStore

NASTY = 'Dr. </script><img src=x onerror=alert(1)> "O\'Neil" \u202e'


@pytest.fixture(scope="module")
def graded(tmp_path_factory, slide_file):
    out = tmp_path_factory.mktemp("graded") / "out"
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=2))
    entry = SlideEntry(slide_file, slide_file.stem)
    settings = ResultSettings(formats=("zarr",))
    infer_slide(predictor, entry, out, settings, student="abc")
    return out


@pytest.fixture
def out(tmp_path, graded):
    return shutil.copytree(graded, tmp_path / "out")


@pytest.fixture
def serve(out, slide_file):
    entries = [SlideEntry(slide_file, slide_file.stem)]
    with ExitStack() as running:
        yield lambda reviewer="A. Reviewer": running.enter_context(
            served(Viewing(out, entries, reviewer=reviewer))
        )


def send(server, content, path="/review/0.json", **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("PUT", path, body, {TOKEN_HEADER: server.token} | headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def about(server):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", "/about/0.json")
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


def first_field(out):
    """Plane box, class and file of the first field that was read."""
    folder = next(p for p in out.iterdir() if (p / "result.json").is_file())
    grade_map = read_alone(folder / "grades.zarr")
    row, column = np.argwhere(grade_map.valid_hw)[0]
    x, y, width, height = grade_map.boxes()[0]
    plane = Plane.over(grade_map.slide.bounds, (grade_map.slide.mpp.x, grade_map.slide.mpp.y))
    box = plane.box_from_level0((x, y, width, height))
    return box, int(grade_map.grade_hw[row, column]), review_file(out, folder.name), grade_map


def test_a_correction_is_kept_with_name_time_and_note_where_its_field_is(serve, out):
    box, was, path, grade_map = first_field(out)
    grade = (was + 1) % len(grade_map.classes)
    status, text = send(serve(NASTY), {"box": box, "grade": grade, "note": "<b>lumen"})
    assert status == 200, text
    [feature] = json.loads(path.read_text())["features"]
    given = feature["properties"]["metadata"]
    assert feature["properties"]["classification"]["name"] == grade_map.classes[grade]
    assert (given["by"], given["note"]) == (NASTY, "<b>lumen")
    assert given["was"] == grade_map.classes[was]
    left, top = grade_map.slide.bounds[:2]
    [region] = read_geojson(path, offset_xy=(left, top))
    x, y, width, height = grade_map.boxes()[0]
    np.testing.assert_allclose(region.geometry.bounds, (x, y, x + width, y + height), atol=0.002)
    shown = about(serve())["review"]["fields"][0]
    np.testing.assert_allclose(shown["box"], box, atol=0.002)
    assert (shown["grade"], shown["by"]) == (grade, NASTY)


def test_a_field_has_one_correction_and_none_after_it_is_removed(serve, out):
    box, _, path, grade_map = first_field(out)
    server = serve()
    for grade in (0, 1, 2):
        assert send(server, {"box": box, "grade": grade})[0] == 200
    [feature] = json.loads(path.read_text())["features"]
    assert feature["properties"]["classification"]["name"] == grade_map.classes[2]
    assert send(server, {"box": box, "grade": None})[0] == 200
    assert json.loads(path.read_text())["features"] == []


def test_a_region_is_the_fields_whose_centre_lies_in_it(serve, out):
    *_, path, grade_map = first_field(out)
    width, height = about(serve())["size"]
    assert send(serve(), {"box": [0, 0, width / 2, height], "grade": 1})[0] == 200
    centre = grade_map.boxes()[:, 0] + grade_map.boxes()[:, 2] / 2 - grade_map.slide.bounds[0]
    assert len(json.loads(path.read_text())["features"]) == (centre <= width / 2).sum() > 1


def test_a_change_after_the_signature_removes_it(serve, out):
    box, *_, path, _ = first_field(out)
    server = serve()
    send(server, {"note": "cut at an angle"})
    assert send(server, {"sign": True})[0] == 200
    head = json.loads(path.read_text())["wsikd"]
    assert (head["signed_by"], head["note"]) == ("A. Reviewer", "cut at an angle")
    assert head["signed_at"].endswith("+00:00")
    send(server, {"box": box, "grade": 1})
    head = json.loads(path.read_text())["wsikd"]
    assert (head["signed_by"], head["signed_at"], head["note"]) == ("", "", "cut at an angle")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({TOKEN_HEADER: ""}, "not of this session"),
        ({TOKEN_HEADER: "\xe9"}, "not of this session"),
        ({"Origin": "http://evil.example"}, "another page"),
        ({"Origin": "null"}, "another page"),
        ({"Host": "evil.example"}, "another name"),
    ],
)
def test_only_the_page_of_this_session_may_write(serve, out, headers, told):
    box, *_, path, _ = first_field(out)
    status, text = send(serve(), {"box": box, "grade": 1}, **headers)
    assert (status, told in text) == (403, True)
    assert not path.exists()


def test_nobody_may_write_unless_a_reviewer_was_named(serve, out):
    box, *_, path, _ = first_field(out)
    server = serve("")
    assert "token" not in server.address
    status, text = send(server, {"box": box, "grade": 1})
    assert (status, "--reviewer" in text) == (403, True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400), (b"[]", 400), (b"\xff", 400), ({"box": [0, 0, 1], "grade": 1}, 400),
        ({"box": [0, 0, float("nan"), 1], "grade": 1}, 400), ({"box": None, "file": "/x"}, 400),
        ({"box": [0, 0, 1e9, 1e9], "grade": 99}, 400), ({"box": [0, 0, 1, 1], "grade": 1}, 400),
        ({"note": "x" * 2001}, 400), (b"x" * 70000, 413), ({"note": 1}, 400),
    ],
)  # fmt: skip
def test_what_is_no_change_writes_nothing(serve, out, content, status):
    *_, path, _ = first_field(out)
    assert send(serve(), content)[0] == status
    assert not path.exists()


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1_0", "", "\xb2"])
def test_a_body_of_no_known_length_is_refused_in_a_line(serve, length):
    status, text = send(serve(), {"note": "x"}, **{"Content-Length": length})
    assert (status, text.count("\n")) == (413, 1)


@pytest.mark.parametrize("path", ["/review/1.json", "/review/-1.json", "/", "/review/../x.json"])
def test_other_places_take_nothing(serve, path):
    assert send(serve(), {"note": "x"}, path)[0] == 404


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("mine", "is damaged"),
        ('{"type": "FeatureCollection", "features": []}', "not a file of corrections"),
        ('{"wsikd": {"kind": "corrections of a reviewer"}, "features": []}', "not a file of"),
        (None, "another slide"),
    ],
)
def test_a_file_that_cannot_be_used_is_shown_as_such_and_stays(serve, out, content, told):
    box, *_, path, _ = first_field(out)
    if content is None:
        change_review(out, path.stem, "feedbeef", lambda review: review.with_note("x"))
    else:
        path.parent.mkdir()
        path.write_text(content)
    before = path.read_bytes()
    server = serve()
    assert told in about(server)["review"]["fault"]
    status, text = send(server, {"box": box, "grade": 1})
    assert (status, told in text, text.count("\n")) == (409, True, 1)
    assert path.read_bytes() == before


def test_a_slide_with_the_name_of_the_folder_is_not_written_into(tmp_path):
    folder = tmp_path / "corrections"
    folder.mkdir()
    row = {"format": 1, "summary": {"slide": "corrections"}, "made_with": {}, "seconds": {}}
    (folder / "result.json").write_text(json.dumps(row))
    with pytest.raises(AnnotationError, match="grade into another folder"):
        change_review(tmp_path, "corrections", "abc", lambda review: review.with_note("x"))
    assert [p.name for p in folder.iterdir()] == ["result.json"]


def test_a_link_is_not_replaced(tmp_path):
    (tmp_path / "corrections").mkdir()
    (tmp_path / "other").write_text("mine")
    (tmp_path / "corrections" / "s.geojson").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="symbolic link"):
        change_review(tmp_path, "s", "abc", lambda review: review.with_note("x"))


def _correct(out, start):
    boxes = [((100.0 * n, 0.0, 50.0, 50.0), "NC") for n in range(start, start + 20)]
    for box in boxes:
        change_review(
            out, "s", "abc", lambda review, box=box: review.with_class([box], "G3", by="b")
        )


def test_two_processes_lose_no_correction(tmp_path):
    context = get_context("fork")
    workers = [context.Process(target=_correct, args=(tmp_path, n)) for n in (0, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(read_review(tmp_path, "s", "abc").corrections) == 40


def test_corrections_of_another_map_change_no_field():
    grade_map = square_map()
    own = field_box(grade_map, 0, 0)
    shifted = (own[0] + 1, *own[1:])
    review = Review("s", "abc").with_class([(shifted, "NC")], "G5", by="b")
    np.testing.assert_array_equal(corrected_grades(review, grade_map), grade_map.grade_hw)
    review = review.with_class([(own, "NC")], "G9", by="b").with_class([(own, "NC")], "G5", by="b")
    assert corrected_grades(review, grade_map)[0, 0] == 3


def test_outlines_are_a_line_inside_each_region_and_meet_over_tiles():
    grade_map = square_map()
    mpp = grade_map.slide.mpp
    plane = Plane.over(grade_map.slide.bounds, (mpp.x, mpp.y))
    for column in (0, 1):
        whole = map_tile(grade_map, plane, plane.last_level, column, 0, 15)
        lines = map_tile(grade_map, plane, plane.last_level, column, 0, 15, outline=True)
        drawn = lines[..., 3] > 0
        np.testing.assert_array_equal(lines[drawn], whole[drawn])
        value = whole.astype(int) @ [1, 300, 90000, 27000000]
        edge = np.zeros(value.shape, bool)
        for step in range(1, OUTLINE_PX + 1):
            edge[:, step:] |= value[:, step:] != value[:, :-step]
            edge[:, :-step] |= value[:, step:] != value[:, :-step]
            edge[step:] |= value[step:] != value[:-step]
            edge[:-step] |= value[step:] != value[:-step]
        inside = np.s_[3:-3, 3:-3]
        corners = drawn[inside] & ~(edge & (whole[..., 3] > 0))[inside]
        assert corners.sum() < 100  # diagonal neighbours at corners of regions
        assert not ((edge & (whole[..., 3] > 0)) & ~drawn)[inside].any()


def test_a_browser_corrects_signs_and_the_corrections_come_back_as_labels(
    serve, out, slide_file, tmp_path
):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed to correct with")
    box, _, path, grade_map = first_field(out)
    server = serve(NASTY)
    with browser(server.address, tmp_path / "profile") as page:
        page.wait("typeof viewer !== 'undefined' && viewer.world.getItemCount() > 1")
        middle = [box[0] + box[2] / 2, box[1] + box[3] / 2]
        place = page.value(
            f"""(() => {{
              const inside = find("view").getBoundingClientRect();
              const at = viewer.viewport.pixelFromPoint(
                mapLayer().imageToViewportCoordinates({middle[0]}, {middle[1]}), true);
              return [inside.x + at.x, inside.y + at.y];
            }})()"""
        )
        page.click(*place)
        page.wait("selected")
        page.press("4")
        page.wait("about.review.fields.length === 1")
        page.wait("find('field').textContent.includes('by the student')")
        page.value("find('slidenote').value = '<img src=x onerror=alert(2)>'; find('sign').click()")
        page.wait("about.review.signed_by")
        assert page.value("document.querySelectorAll('aside img').length") == 0
        assert NASTY in page.value("find('signature').textContent")
    head = json.loads(path.read_text())["wsikd"]
    assert (head["signed_by"], head["note"]) == (NASTY, "<img src=x onerror=alert(2)>")
    classes = ",".join(grade_map.classes)
    stores = tmp_path / "stores"
    call = [
        "tile", "-i", slide_file, "-o", stores, "--annotations", path.parent,
        "--classes", classes, "--patch-size", 64, "--mpp", 1,
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(part) for part in call], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    table = TileStore.open(next(stores.glob("*.zarr"))).patches
    labelled = table.label >= 0
    assert set(table.label[labelled].tolist()) == {3}
    x, y, width, height = grade_map.boxes()[0]
    assert (np.abs(table.xy[labelled] - (x, y)) < (width, height)).all()


def test_without_a_reviewer_a_key_hides_a_class_and_writes_nothing(serve, out, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed to look at the page with")
    *_, path, _ = first_field(out)
    with browser(serve("").address, tmp_path / "profile") as page:
        page.wait("typeof viewer !== 'undefined' && viewer.world.getItemCount() > 1")
        assert page.value("find('review').hidden")
        page.press("2")
        assert page.value("[...find('classes').querySelectorAll('input')].map(b => b.checked)") == [
            True, False, True, True,
        ]  # fmt: skip
        page.press("o")
        assert page.value("find('outline').checked")
    assert not path.exists()
