"""The viewer: tiles are the reader's pixels, maps lie in their place, no one else is served."""

import csv
import hashlib
import json
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.browser import CHROMIUM
from tests.grade.cards import whole_card
from tests.grade.graded import infer_slide
from tests.grade.maps import BOUNDS, CLASSES, FakeSlide, map_of, square_map
from tests.grade.runs.test_results import SPEC, Purple
from tests.grade.viewer.serving import served
from tests.interrupts import hear_interrupts
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import ConfigError, NoSlidesError
from wsikd.grade.exports import write_all
from wsikd.grade.exports.ome_zarr import read_alone
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.viewer import session as viewing_module
from wsikd.grade.viewer.deepzoom import TILE_PX, Plane, cell_at, map_tile, slide_tile
from wsikd.grade.viewer.server import ViewServer
from wsikd.grade.viewer.session import Viewing
from wsikd.slides.base import Mpp, open_slide
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_tiles_of_every_level_cover_it_once(width, height):
    plane = Plane.over((0, 0, width, height), (0.5, 0.5))
    assert plane.size == (width, height)
    for level in range(plane.first_level, plane.last_level + 1):
        factor = 2 ** (plane.last_level - level)
        size = (-(-width // factor), -(-height // factor))
        across, down = (-(-side // TILE_PX) for side in size)
        x, y, w, h = plane.box(level, across - 1, down - 1)
        assert (x + w, y + h) == size
        assert 0 < w <= TILE_PX
        assert plane.box(level, across, 0) is None
        assert plane.box(level, 0, down) is None
    assert plane.box(plane.first_level, 1, 0) is None
    assert plane.box(plane.last_level + 1, 0, 0) is None


@pytest.fixture(scope="module")
def fake():
    rgb = np.random.default_rng(1).integers(0, 256, (991, 1237, 3)).astype(np.uint8)
    return FakeSlide(cv2.blur(rgb, (3, 3)), bounds=BOUNDS)


def test_the_finest_tiles_are_the_slides_own_pixels_within_its_bounds(fake):
    plane = Plane.over(BOUNDS, (fake.mpp.x, fake.mpp.y))
    x, y, width, height = BOUNDS
    scanned = fake.levels[0][y : y + height, x : x + width]
    for column in range(3):
        for row in range(2):
            tile = slide_tile(fake, plane, plane.last_level, column, row)
            own = scanned[row * TILE_PX :, column * TILE_PX :][:TILE_PX, :TILE_PX]
            np.testing.assert_array_equal(tile, own)


def test_a_coarse_tile_is_the_mean_over_areas(fake):
    plane = Plane.over(BOUNDS, (fake.mpp.x, fake.mpp.y))
    tile = slide_tile(fake, plane, plane.last_level - 2, 0, 0)
    x, y = BOUNDS[:2]
    part = fake.levels[0][y : y + 960, x : x + 1200].astype(float)
    mean = part.reshape(240, 4, 300, 4, 3).mean((1, 3))
    assert np.abs(tile[:240, :300] - mean).max() <= 1


ANISOTROPIC = replace(map_of([[0]]).slide, mpp=Mpp(0.4, 0.499, "test"))


@pytest.mark.parametrize("info", [None, ANISOTROPIC], ids=["square", "oblong"])
@pytest.mark.parametrize("drop", [0, 1])
def test_each_pixel_of_a_map_tile_has_the_colour_of_the_cell_under_its_centre(info, drop):
    grade_map = square_map(info=info) if info else square_map()
    mpp = grade_map.slide.mpp
    plane = Plane.over(grade_map.slide.bounds, (mpp.x, mpp.y))
    level = plane.last_level - drop
    shown = 0b0101
    tile = map_tile(grade_map, plane, level, 0, 0, shown)
    grade = grade_map.grade_hw
    size = max(mpp.x, mpp.y) * 2**drop
    for row in range(0, tile.shape[0], 7):
        for column in range(0, tile.shape[1], 7):
            x = grade_map.slide.bounds[0] + (column + 0.5) * size / mpp.x
            y = grade_map.slide.bounds[1] + (row + 0.5) * size / mpp.y
            j = int((x - grade_map.origin_xy[0]) // grade_map.cell_px[0])
            i = int((y - grade_map.origin_xy[1]) // grade_map.cell_px[1])
            inside = 0 <= i < grade.shape[0] and 0 <= j < grade.shape[1] and grade[i, j] >= 0
            want = [0, 0, 0, 0]
            if inside and shown >> int(grade[i, j]) & 1:
                want = [*class_colour(CLASSES[grade[i, j]], int(grade[i, j])), 255]
            assert tile[row, column].tolist() == want
            assert cell_at(grade_map, x, y) == ((i, j) if inside else None)


@pytest.fixture(scope="module")
def out(tmp_path_factory, slide_file):
    """Results of two slides, the second of which has bounds of its own name."""
    folder = tmp_path_factory.mktemp("view") / "out"
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=2))
    for name in ("odd", "<img src=x onerror=alert(1)>"):
        entry = SlideEntry(slide_file, name)
        infer_slide(predictor, entry, folder, ResultSettings(formats=("zarr",)), student="abc")
    return folder


@pytest.fixture
def serve(out, slide_file):
    own = [SlideEntry(slide_file, "odd")]
    with ExitStack() as running:
        yield lambda entries=None: running.enter_context(
            served(Viewing(out, own if entries is None else entries))
        )


def ask(server, path, method="GET", **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def number_of(server, name):
    return json.loads(ask(server, "/slides.json")[1])["slides"].index(name)


def picture(body):
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)


def test_tiles_over_http_are_the_readers_pixels(serve, slide_file):
    server = serve()
    odd = number_of(server, "odd")
    about = json.loads(ask(server, f"/about/{odd}.json")[1])
    assert about["notice"] == ""
    assert about["size"] == [1301, 907]
    with open_slide(slide_file) as slide:
        for column, row in ((0, 0), (2, 1)):
            answer, body = ask(server, f"/slide/{odd}/{about['levels'][1]}/{column}_{row}.png")
            assert answer.status == 200
            got = picture(body)[..., ::-1]
            size = (got.shape[1], got.shape[0])
            own = slide.read_level(0, (column * TILE_PX, row * TILE_PX), size)
            np.testing.assert_array_equal(got, own)
    assert ask(server, f"/slide/{odd}/{about['levels'][1]}/3_0.png")[0].status == 404


def test_the_field_at_a_place_has_the_maps_probabilities(serve, out):
    server = serve()
    grade_map = read_alone(out / "odd" / "grades.zarr")
    x, y, width, height = grade_map.boxes()[5]
    row, column = np.argwhere(grade_map.valid_hw)[5]
    odd = number_of(server, "odd")
    found = json.loads(ask(server, f"/at/{odd}.json?x={x + width / 2}&y={y + height / 2}")[1])
    np.testing.assert_allclose(found["box"], [x, y, width, height])
    np.testing.assert_allclose(
        found["probabilities"], grade_map.probability_khw[:, row, column], atol=1e-4
    )
    assert json.loads(ask(server, f"/at/{odd}.json?x=1&y=1")[1]) is None
    for query in ("", "?x=a&y=1", "?x=nan&y=1", "?x=1e999&y=0"):
        assert ask(server, f"/at/{odd}.json{query}")[0].status == 404


def test_doubtful_fields_cores_and_reasons_are_named_with_their_places(serve, out):
    path = out / "odd" / "result.json"
    record = json.loads(path.read_text())
    cores = [
        {"core": n, "x": 10.0 * n, "y": 20.0, "width": 100.0, "height": 50.0,
         "gleason_score": f"{n + 2}+4={n + 6}", "isup_grade_group": n}
        for n in (1, 2)
    ]  # fmt: skip
    summary = record["summary"] | {"isup_low": 0, "isup_high": 4}
    path.write_text(json.dumps(record | {"cores": cores, "summary": summary}))
    try:
        server = serve()
        about = json.loads(ask(server, f"/about/{number_of(server, 'odd')}.json")[1])
    finally:
        path.write_text(json.dumps(record))
    reason = about["reasons"][0]
    assert not reason["grave"]
    assert "from no cancer to 4" in reason["text"]
    assert [core["score"] for core in about["cores"]] == [
        "Gleason 3+4=7, grade group 1", "Gleason 4+4=8, grade group 2",
    ]  # fmt: skip
    assert about["cores"][1]["box"] == [20.0, 20.0, 100.0, 50.0]


def test_a_students_name_is_shown_before_its_digest(serve, out):
    file = out / "student-abc.json"
    server = serve()
    place = f"/about/{number_of(server, 'odd')}.json"
    assert json.loads(ask(server, place)[1])["student"] == "abc"
    card = whole_card(name="<b>Prostate", version="1.2") | {"sha256": "abc" + "0" * 61}
    file.write_text(json.dumps(card))
    try:
        assert json.loads(ask(server, place)[1])["student"] == "<b>Prostate 1.2 (abc000000000)"
    finally:
        file.unlink()


def test_doubtful_fields_are_those_of_the_table_in_its_order(tmp_path):
    sure = square_map(info=ANISOTROPIC)
    probability = sure.probability_khw.copy()
    probability[:, 2, 3], probability[:, 4, 6] = (0.02, 0.08, 0.47, 0.43), (0.5, 0.49, 0.01, 0)
    grade_map = replace(sure, probability_khw=probability)
    write_all(grade_map, tmp_path / "s", ("zarr", "uncertain"))
    row = {"format": 1, "summary": {"slide": "s"}, "made_with": {}, "seconds": {}}
    (tmp_path / "s" / "result.json").write_text(json.dumps(row))
    found = Viewing(tmp_path).about(0)["doubtful"]
    with (tmp_path / "s" / "uncertain.csv").open() as file:
        table = list(csv.DictReader(file))
    wanted = [[float(line[k]) for k in ("minx", "miny", "width", "height")] for line in table]
    assert len(wanted) == 2
    scale = max(grade_map.slide.mpp.x, grade_map.slide.mpp.y) / np.array((0.4, 0.499))
    level0 = np.array(found) * np.tile(scale, 2)
    level0[:, :2] += grade_map.slide.bounds[:2]
    np.testing.assert_allclose(level0, wanted, atol=1e-3)


def test_a_slide_that_is_not_at_hand_leaves_the_map(serve, tmp_path, slide_file, out):
    gone = SlideEntry(tmp_path / "gone.svs", "odd")
    other = tmp_path / "other.svs"
    write_pyramid(other, tissue_rgb(1301, 907, (100, 100, 300, 300)), mpp=0.499, power=20)
    for entries, told in (
        ((), "only its map is shown; results do not store paths"),
        ((gone,), "gone.svs"),
        ((SlideEntry(other, "odd"),), "is not the slide that was graded"),
        ((SlideEntry(slide_file, "odd", mpp=0.25, mpp_source="x"),), "has another mpp"),
    ):
        server = serve(entries)
        odd = number_of(server, "odd")
        about = json.loads(ask(server, f"/about/{odd}.json")[1])
        assert told in about["notice"]
        assert "\n" not in about["notice"]
        assert ask(server, f"/slide/{odd}/{about['levels'][1]}/0_0.png")[0].status == 404
        assert ask(server, f"/map/{odd}/15/{about['levels'][1]}/0_0.png")[0].status == 200


def test_only_this_machine_under_its_own_name_is_answered(serve):
    server = serve()
    assert server.server_address[0] == "127.0.0.1"
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", ""):
        answer, body = ask(server, "/slides.json", Host=host)
        assert answer.status == 403
        assert b"odd" not in body
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/..%2f..%2fetc/passwd", "/viewer/../view.py", "//etc/passwd",
        "/slide/0/../../x.png", "/slide/99/1/0_0.png", "/map/0/15/99/0_0.png", "/about/7.json",
        "/slide/0/99999999999/0_0.png", "/about/-1.json", "/about/%D9%A3.json", "/slides.json/x",
    ],
)  # fmt: skip
def test_what_is_no_tile_is_not_there(serve, path):
    answer, body = ask(serve(), path)
    assert answer.status == 404
    assert len(body) < 200


def test_nothing_can_be_sent_or_written(serve, out):
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    server = serve()
    for method in ("POST", "DELETE", "OPTIONS"):
        assert ask(server, "/", method)[0].status == 501
    assert ask(server, "/review/0.json", "PUT")[0].status == 403
    head, body = ask(server, "/", "HEAD")
    assert (head.status, body) == (200, b"")
    assert "script-src 'self';" in head.getheader("Content-Security-Policy")
    ask(server, "/about/0.json")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_pages_name_no_other_place(serve):
    server = serve()
    for path in ("/", "/viewer.js", "/viewer.css"):
        assert b"//" not in ask(server, path)[1].replace(b"\n//", b"")


def test_tiles_kept_and_slides_open_are_bounded(monkeypatch):
    cache = viewing_module._Cache(100)
    for n in range(20):
        cache.put((n,), b"x" * 30)
        cache.put((n,), b"y" * 30)
    assert [n for n in range(20) if cache.get((n,))] == [17, 18, 19]
    cache.put(("vast",), b"x" * 101)
    assert cache.get(("vast",)) is None


def test_slides_beyond_a_few_are_closed(out, slide_file, monkeypatch):
    monkeypatch.setattr(viewing_module, "_MOST_OPEN", 1)
    viewing = Viewing(
        out, [SlideEntry(slide_file, name) for name in ("odd", "<img src=x onerror=alert(1)>")]
    )
    closed = []
    for number in (0, 1, 0, 1):
        with viewing._lease(number) as slide:
            real = slide.close
            monkeypatch.setattr(slide, "close", lambda real=real: (closed.append(1), real()))
    assert len(closed) == 3
    viewing.close()
    assert len(closed) == 4


def test_a_folder_without_maps_and_a_port_in_use_say_so(tmp_path, serve, out):
    with pytest.raises(NoSlidesError, match="--format zarr"):
        Viewing(tmp_path)
    taken = serve().server_port
    with pytest.raises(ConfigError, match=f"--port {taken}: cannot be used"):
        ViewServer(Viewing(out), taken)


def test_the_command_tells_its_address_and_ends_with_an_interrupt(out, slide_file):
    command = [sys.executable, "-m", "wsikd", "view", str(out), "-i", str(slide_file)]
    with subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=hear_interrupts,
    ) as running:  # fmt: skip
        try:
            line = running.stdout.readline()
            found = re.search(r"2 slide\(s\) at http://127\.0\.0\.1:(\d+)/", line)
            connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
            connection.request("GET", "/slides.json")
            assert "odd" in json.loads(connection.getresponse().read())["slides"]
            connection.close()
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, errors) == (0, "")


def test_the_vendored_file_is_as_released():
    folder = Path(viewing_module.__file__).parent
    script = (folder / "openseadragon.min.js").read_bytes()
    digest = "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad"
    assert hashlib.sha256(script).hexdigest() == digest
    assert "CodePlex" in (folder / "openseadragon.LICENSE.txt").read_text()


def test_a_browser_shows_slide_and_map(serve, tmp_path, slide_file):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed to look at the page with")
    server = serve()
    odd = number_of(server, "odd")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,700", "--hide-scrollbars",
        "--virtual-time-budget=6000", f"--screenshot={tmp_path / 'page.png'}",
        f"{server.address}#{odd}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = cv2.imread(str(tmp_path / "page.png"))[:, 300:, ::-1].reshape(-1, 3).astype(int)
    with open_slide(slide_file) as slide:
        glass = slide.read_level(0, (0, 0), (1, 1))[0, 0].astype(int)
    tissue, tinted = np.array([190, 120, 170]), {"tissue": 0, "glass": 0}
    for index in (0, 1):  # fields of both lie on glass too
        tint = 0.45 * np.array(class_colour(CLASSES[index], index))
        on_tissue = (np.abs(page - tint - 0.55 * tissue).max(1) < 24).sum()
        assert on_tissue > 200, CLASSES[index]
        tinted["tissue"] += on_tissue
        tinted["glass"] += (np.abs(page - tint - 0.55 * glass).max(1) < 6).sum()
    assert tinted["glass"] < 0.1 * tinted["tissue"]  # the mask is no finer than 8 um
    assert (np.abs(page - glass).max(1) < 6).sum() > 1000
