"""The page of a folder of results: whole, safe, and readable without anything beside it."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.browser import CHROMIUM
from tests.grade.cards import whole_card
from tests.grade.graded import infer_slide
from tests.grade.maps import square_map
from tests.grade.runs.test_results import SPEC, Purple
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import NoSlidesError
from wsikd.core.output.looks import Part, note
from wsikd.grade.corrections import change_review, review_file
from wsikd.grade.exports import find_exporter, write_all
from wsikd.grade.exports.overlay import slide_size
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.reports.folder_report import write_results_report
from wsikd.grade.reports.slide_card import PLAIN_PX, THUMBNAIL_PX
from wsikd.grade.reports.thumbnail import thumbnail
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.runs.slide_looks import looks_at
from wsikd.slides.base import open_slide
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid

ODD = [
    'a"b',
    "<script>alert(1)</script>".replace("/", "-"),
    "x' onerror='alert(1)",
    "Prostata-μ-前列腺",
]
HOLLOW = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in HOLLOW:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += text

    def all(self, tag, **wanted):
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


def result(out, name, formats=("png",), **summary):
    folder = out / name
    folder.mkdir(parents=True)
    if formats:
        write_all(square_map(), folder, formats)
    row = {
        "slide": name, "tissue_mm2": 2.5, "NC_mm2": 1.5, "NC_share": 0.6, "G4_mm2": 1.0,
        "G4_share": 0.4, "gleason_score": "4+4=8", "isup_grade_group": 4, "mean_uncertainty": 0.31,
        "fields": 40, "seconds": 1.25, "student": "0123456789ab", "specimen": "biopsy",
    } | summary  # fmt: skip
    record = {
        "summary": row,
        "made_with": {"student": "0123456789abcdef", "stride_px": 64, "slide_mpp": [0.5, 0.5]},
        "seconds": {"open": 0.25, "forward": 1.0},
        "wsikd": "0.1.0",
        "created": "2026-11-25T22:33:45+00:00",
    }
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")


def page_of(out):
    path, *_ = write_results_report(out)
    return Page(path.read_text(encoding="utf-8"))


def test_every_slide_is_a_card_with_what_was_written_of_it(tmp_path):
    sure = {"G4_share_low": 0.25, "G4_share_high": 0.5, "isup_low": 3, "isup_high": 5}
    result(tmp_path, "s1", G4_mm2_interval=[0.8, 1.2], unlike_training=True, **sure)
    result(tmp_path, "s2", isup_grade_group=None, gleason_score=None, unlike_training=False)
    page = page_of(tmp_path)
    one, two = page.all("article")
    assert (one["data-name"], one["data-group"], one["data-flagged"]) == ("s1", "4", "1")
    assert (two["data-name"], two["data-group"], two["data-flagged"]) == ("s2", "none", "0")
    text = " ".join(page.text.split())
    for told in (
        "Likely Gleason 4+4=8, grade group 4 (3 to 5).", "No score.", "40.0 (25.0 to 50.0) %",
        "60.0 %", "1.5 mm2", "40 fields", "0.31", "Stain or focus differ", "G4 mm2 interval",
        "0.8 to 1.2", "1.25: open 0.250, forward 1.000", "slides to review",
        "For research use only, not for diagnosis.",
        "0123456789ab", "stride px",
    ):  # fmt: skip
        assert told in text, told
    assert text.count("Stain or focus differ") == 2  # in the list of what to review, and the card


@pytest.mark.parametrize("kind_of_overlay", ["jpeg", "png", "webp"])
def test_pictures_are_small_and_show_the_slide_without_the_legend(kind_of_overlay, tmp_path):
    result(tmp_path, "s1", (kind_of_overlay,))
    page = page_of(tmp_path)
    (image,) = page.all("img")
    kind, _, data = image["src"].partition(";base64,")
    assert kind == "data:image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert max(small.size) == THUMBNAIL_PX
        shown = small.width / small.height
    with Image.open(tmp_path / "s1" / find_exporter(kind_of_overlay).file) as whole:
        width, height = slide_size(whole)
        assert whole.height > height + 50
    assert shown == pytest.approx(width / height, rel=0.01)
    (link,) = page.all("a")
    assert (tmp_path / link["href"]).is_file()


@pytest.mark.parametrize("name", ODD)
def test_names_of_any_kind_are_text_and_nothing_else(tmp_path, name):
    hostile = f"{name}</p><script>alert(2)</script>"
    result(tmp_path, name, unlike_training=True, farthest_in=hostile, grade_status=hostile)
    with (tmp_path / "failures.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["slide", "error", "fault", "remedy"])
        rows.writerow([f"{name}-2", "SlideError", "<b>bad</b>", "<img src=x>"])
    page = page_of(tmp_path)
    assert len(page.all("script")) == 1
    assert not page.all("b", onerror="alert(1)")
    assert all(not k.startswith("on") for _, attributes in page.elements for k in attributes)
    assert [a["src"][:10] for a in page.all("img")] == ["data:image"]
    assert page.all("article")[0]["data-name"] == name
    for told in (f"{name}-2", "SlideError: <b>bad</b>", "<img src=x>", f"{name}</p><script>"):
        assert told in page.text


def test_nothing_is_asked_of_any_other_place(tmp_path):
    result(tmp_path, "s1")
    page = page_of(tmp_path)
    places = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "srcset")]
    assert len(places) == 2
    assert all(v.startswith(("data:", "./")) for v in places)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|@import|url\((?!#)", re.sub(r"base64,\S+", "", text))


def test_slides_to_review_come_first_the_graver_before_the_others(tmp_path):
    result(tmp_path, "a", isup_low=1, isup_high=5)
    result(tmp_path, "b")
    result(tmp_path, "c d", guard_distance=1.9, grade_status="withheld: unlike training",
           gleason_score=None, isup_grade_group=None)  # fmt: skip
    page = page_of(tmp_path)
    links = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert links == ["#slide-c%20d", "#slide-a"]
    assert [a["id"] for a in page.all("article")] == ["slide-a", "slide-b", "slide-c%20d"]
    grave, mild = page.all("p", **{"class": "grave"}), page.all("article", **{"data-flagged": "1"})
    assert (len(grave), len(mild)) == (1, 2)
    assert page.text.index("not seen tissue like this") < page.text.index("anything from 1 to 5")
    assert "No grade: the slide differs from the training data." in page.text


def test_why_there_are_no_intervals_is_said_once(tmp_path):
    for name in ("a", "b"):
        result(tmp_path, name, intervals="none: not enough validation slides (1 of 20)")
    text = page_of(tmp_path).text
    assert text.count("not enough validation slides") == 1


def test_failures_stand_with_their_remedies_even_alone(tmp_path):
    (tmp_path / "failures.csv").write_text(
        "slide,error,fault,remedy\ns9,MissingMppError,no resolution,pass --slide-mpp 0.25\n"
    )
    page = page_of(tmp_path)
    assert "MissingMppError: no resolution" in page.text
    assert "pass --slide-mpp 0.25" in page.text
    assert not page.all("article")


def test_half_results_foreign_files_and_no_overlay_are_put_up_with(tmp_path):
    result(tmp_path, "s1", formats=())
    result(tmp_path, "s2.part", slide="s2")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"summary": ')
    result(tmp_path, "s3", formats=(), tissue_mm2="many", fields=None, mean_uncertainty="x")
    (tmp_path / "s3" / "overlay.png").write_bytes(b"no picture")
    (tmp_path / "student-0123456789ab.json").write_text('{"network": 3}')
    page = page_of(tmp_path)
    assert [a["data-name"] for a in page.all("article")] == ["s1", "s3"]
    assert page.text.count("no overlay") == 2
    assert "not kept with these results" in page.text


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(NoSlidesError, match="holds no results; give the -o of wsikd infer"):
        write_results_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_three_hundred_slides_stay_a_few_megabytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
    result(tmp_path, "s000", formats=())
    Image.fromarray(noise).save(tmp_path / "s000" / "overlay.png")  # what compresses worst
    page_of(tmp_path)
    once = (tmp_path / "report.html").stat().st_size
    assert 300 * once < 30e6


def test_a_browser_filters_and_sorts(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed to look at the page with")
    for number, (group, flag) in enumerate(((1, False), (5, True), (None, True)), start=1):
        result(tmp_path, f"s{number}", formats=(), isup_grade_group=group, unlike_training=flag)
    path, *_ = write_results_report(tmp_path)
    act = """<script>
    const set = (id, v) => { const f = document.getElementById(id); f.value = v;
      f.dispatchEvent(new Event("input")); };
    const seen = () => [...document.querySelectorAll(".card")].filter((c) => !c.hidden)
      .map((c) => c.dataset.name).join(",");
    const told = [seen()];
    set("sort", "group"); told.push(seen());
    set("flagged", "1"); told.push(seen());
    set("group", "none"); told.push(seen());
    set("group", ""); set("find", "S2"); told.push(seen());
    document.title = told.join(" | ");
    </script></body>"""
    path.write_text(path.read_text().replace("</body>", act))
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*)</title>", done.stdout)[1]
    assert title == "s1,s2,s3 | s2,s1,s3 | s2,s3 | s3 | s2"
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)


def test_the_licence_of_the_first_weights_is_shown(tmp_path):
    result(tmp_path, "s1")
    card = {
        "format": 1, "network": {"arch": "timm:x"}, "sha256": "0123456789abcdef",
        "input": {"mpp": 4.0, "patch_px": 64, "mean": [0.5] * 3, "std": [0.5] * 3,
                  "classes": ["NC", "G4"]},
        "init_weights": {"source": "package:tiny 0.1", "file": "t.pth", "sha256": "f" * 64,
                         "licence": "Apache-2.0"},
    }  # fmt: skip
    (tmp_path / "student-0123456789ab.json").write_text(json.dumps(card))
    text = " ".join(page_of(tmp_path).text.split())
    assert "package:tiny 0.1, t.pth, SHA-256 ffffffffffff..., licence Apache-2.0" in text


def test_a_students_name_is_text_beside_its_digest_and_nothing_else(tmp_path):
    nasty = '<img src=x onerror="alert(1)">{{ 7 * 7 }}'
    result(tmp_path, "s1")
    result(tmp_path, "s2", student="ba9876543210")
    card = whole_card(name=nasty, version="</p><script>2") | {"sha256": "0123456789ab" + "c" * 52}
    (tmp_path / "student-0123456789ab.json").write_text(json.dumps(card))
    page = page_of(tmp_path)
    called = f"{nasty} </p><script>2 (0123456789ab)"
    text = " ".join(page.text.split())
    assert f"Graded by student {called} on 2026-11-25" in text
    assert "Graded by student ba9876543210 on 2026-11-25" in text
    assert text.count(called) == 2
    assert len(page.all("script")) == 1
    assert [a["src"][:10] for a in page.all("img")] == ["data:image"] * 2
    (tmp_path / "student-0123456789ab.json").write_text(json.dumps(card | {"name": "x\n" * 5000}))
    text = page_of(tmp_path).text
    assert "Graded by student 0123456789ab on" in text
    assert "x\nx" not in text


def test_looks_at_the_slides_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("WSIKD_STATE", str(tmp_path / "state"))
    assert looks_at(["a", "b"], tmp_path) is None
    note(Part.of(["b", "c"]), command="wsikd evaluate --slides", network="n")
    said = looks_at(["a", "b"], tmp_path)
    assert said == "these slides, or some of them, have been compared with a reference once"


def test_a_review_is_shown_escaped_and_a_damaged_one_as_such(tmp_path):
    nasty = '<img src=x onerror="alert(1)">'
    result(tmp_path, "a")
    result(tmp_path, "b")
    fingerprint = json.loads((tmp_path / "a" / "result.json").read_text())["made_with"].get("slide")
    box = ((0.0, 0.0, 9.0, 9.0), "NC")
    change_review(
        tmp_path, "a", fingerprint or "",
        lambda old: old.with_class([box], "G3", by=nasty).with_note(nasty).signed(nasty),
    )  # fmt: skip
    review_file(tmp_path, "b").write_text("{")
    text = write_results_report(tmp_path)[0].read_text()
    page = Page(text)
    assert f"Signed by {nasty}" in page.text
    assert f"1 field has another class ({nasty})" in page.text
    assert page.text.count(nasty) == 3
    assert not page.all("img", src="x")
    assert "is damaged" in page.text


def test_given_slides_stand_beside_their_maps_and_others_do_not(tmp_path, slide_file, caplog):
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=2))
    entry = SlideEntry(slide_file, "odd")
    infer_slide(predictor, entry, tmp_path / "out", ResultSettings(), student="abc")
    other = tmp_path / "odd.svs"
    write_pyramid(other, tissue_rgb(1301, 907, (100, 100, 300, 300)), mpp=0.499, power=20)
    (tmp_path / "out" / "report.html").unlink(missing_ok=True)
    for entries, pictures in (([], 0), ([SlideEntry(other, "odd")], 0), ([entry], 2)):
        text = write_results_report(tmp_path / "out", entries)[0].read_text()
        page = Page(text)
        assert len(page.all("svg", role="img")) == 1
        assert len(page.all("img", alt="odd without its map")) == pictures // 2
        assert text.count("<image href=") == pictures // 2
    told = [r.getMessage() for r in caplog.records if "was graded" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("odd.svs: is not the slide that was graded")
    uri = page.all("img", alt="odd without its map")[0]["src"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(uri))) as plain, open_slide(slide_file) as slide:
        assert PLAIN_PX / 2 <= max(plain.size) <= PLAIN_PX
        seen = thumbnail(slide, PLAIN_PX)[0].astype(int)
        assert np.abs(np.asarray(plain.convert("RGB"), int) - seen).mean() < 2
