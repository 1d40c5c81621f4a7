"""``wsikd slides similar``: the right slides and regions, told in a table and shown on a page."""

import base64
import re
import subprocess
import sys
from itertools import permutations

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.learn.slpd.prototypes import FILE, NOBODY, PrototypeTable
from wsikd.synthetic.cohort import write_pyramid

SLIDES = ("ant", "bee", "cat <1>", "dog", "eel")
PATIENTS = ("p", None, "p", "q", None)
VALID = np.array([True, True, True, True, False])
K, PER, SIDE = 3, 4, 200


def draw():
    """Four slides with prototypes and one without, 12 regions each on a grid of 4 x 3."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(5, K, 8)) + rng.normal(size=8)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    prototypes[4] = 0
    count = K * PER
    slide = np.repeat(np.arange(5), count)
    region = np.tile(np.arange(count), 5)
    invalid = slide == 4
    assignment = np.where(
        invalid, NOBODY, rng.permuted(np.tile(np.arange(K), (5, PER)), axis=1).ravel()
    )
    coords = SIDE * np.column_stack([region % 4, region // 4]).astype(float)
    return PrototypeTable(
        slides=SLIDES, patients=PATIENTS, valid=VALID, prototypes=prototypes.astype(np.float32),
        neighbours=np.full((5, 1), NOBODY), similarity=np.full((5, 1), np.nan, np.float32),
        matched=np.full((5, 1, K), NOBODY), slide_index=slide, region_index=region,
        assignment=assignment, coords=coords, field_px=np.full((5, 2), float(SIDE)),
        closeness=np.where(invalid, np.nan, rng.random(len(slide))).astype(np.float32),
        about={"epoch": 7},
    )  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return draw()


@pytest.fixture
def run(tmp_path, table):
    (tmp_path / "run").mkdir()
    table.save(tmp_path / "run" / FILE)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Pictures of which each region has a colour of its own."""
    folder = tmp_path_factory.mktemp("slides")
    for number, name in enumerate(("ant", "bee", "dog")):
        rgb = np.zeros((3 * SIDE, 4 * SIDE, 3), np.uint8)
        for region in range(12):
            y, x = SIDE * (region // 4), SIDE * (region % 4)
            rgb[y : y + SIDE, x : x + SIDE] = colour(number, region)
        write_pyramid(folder / f"{name}.svs", rgb, mpp=0.5, power=20, subsampling="444")
    return folder


def colour(number, region):
    return (60 * number + 40, 16 * region + 30, 255 - 16 * region)


def similar(*arguments):
    return CliRunner().invoke(main, ["slides", "similar", *map(str, arguments)])


def by_enumeration(table, own):
    """Every other patient's slide, compared over all matchings: {index: (mean, matching)}."""
    found = {}
    for other in range(5):
        if other == own or not VALID[other] or (PATIENTS[own] and PATIENTS[other] == PATIENTS[own]):
            continue
        cosine = table.prototypes[own] @ table.prototypes[other].T
        found[other] = max(
            (float(np.mean([cosine[k, p[k]] for k in range(K)])), p) for p in permutations(range(K))
        )
    return found


@pytest.mark.parametrize("own", [0, 1])
def test_the_table_is_that_of_all_matchings(run, table, own):
    done = similar(run, SLIDES[own])
    assert done.exit_code == 0, done.output
    expected = by_enumeration(table, own)
    assert set(expected) == ({1, 3} if own == 0 else {0, 2, 3})  # 0 and 2 are of one patient
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["slide", "similarity", "matched", "prototypes", "(cosine)"]
    rows = lines[1 : 1 + len(expected)]
    order = sorted(expected, key=lambda other: -expected[other][0])
    for line, other in zip(rows, order, strict=True):
        mean, matching = expected[other]
        assert line.startswith(SLIDES[other])
        assert f"{mean:.3f}" in line
        pairs = [(int(a), int(b)) for a, b in re.findall(r"(\d)-(\d) \(", line)]
        assert pairs == list(enumerate(matching))
    page = run / "similar" / f"{SLIDES[own]}.html"
    assert lines[-1] == f"{page}: {len(order)} slide(s) like {SLIDES[own]}"


def pictures_of(page):
    """Each figure's slide, mean colour, and caption."""
    found = []
    for figure in re.findall(r"<figure>(.*?)</figure>", page, re.DOTALL):
        uri = re.search(r'src="data:image/jpeg;base64,([^"]+)" alt="region of ([^"]+)"', figure)
        at = re.search(r"x (\d+), y (\d+)", figure)
        rgb = None
        if uri:
            data = np.frombuffer(base64.b64decode(uri[1]), np.uint8)
            rgb = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        found.append((uri[2] if uri else None, rgb, (int(at[1]), int(at[2]))))
    return found


def test_pictures_are_the_regions_nearest_to_the_prototypes(run, table, slides, tmp_path):
    page = tmp_path / "page.html"
    done = similar(run, "ant", "-i", slides, "-o", page, "--count", "2", "--pictures", "2")
    assert done.exit_code == 0, done.output
    text = page.read_text()
    shown = pictures_of(text)
    assert len(shown) == 2 * K * 2 * 2
    expected = []
    ranked = by_enumeration(table, 0)
    for other in sorted(ranked, key=lambda o: -ranked[o][0])[:2]:
        for k, matched in enumerate(ranked[other][1]):
            for slide, prototype in ((0, k), (other, matched)):
                own = [
                    r for r in range(60)
                    if table.slide_index[r] == slide and table.assignment[r] == prototype
                ]  # fmt: skip
                own.sort(key=lambda r: -table.closeness[r])
                expected += [(slide, int(table.region_index[r])) for r in own[:2]]
    names = ("ant", "bee", None, "dog")
    for (name, rgb, at), (slide, region) in zip(shown, expected, strict=True):
        assert name == names[slide]
        assert at == (SIDE * (region % 4), SIDE * (region // 4))
        middle = rgb[20:-20, 20:-20].reshape(-1, 3).mean(0)
        number = ("ant", "bee", "dog").index(name)
        np.testing.assert_allclose(middle, colour(number, region), atol=4)
        assert max(rgb.shape) <= 160
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert "<script" not in text


def test_without_slides_it_says_so_and_lists_coordinates(run, tmp_path):
    done = similar(run, "bee", "-o", tmp_path / "p.html")
    assert done.exit_code == 0
    assert "no slides were given" in done.stderr
    text = (tmp_path / "p.html").read_text()
    assert "No slides were given" in text
    assert "cat &lt;1&gt;" in text
    assert "cat <1>" not in text
    shown = pictures_of(text)
    assert len(shown) == 3 * K * 2 * 3
    assert all(rgb is None for _, rgb, _ in shown)


def test_a_slide_that_is_not_there_or_cannot_be_read_hides_no_other(run, slides, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "in" / f"{name}.svs").symlink_to(slides / f"{name}.svs")
    (tmp_path / "in" / "dog.svs").write_bytes(b"no slide")
    done = similar(run, "bee", "-i", tmp_path / "in", "-o", tmp_path / "p.html")
    assert done.exit_code == 3
    assert "SlideError: dog.svs: not a slide" in done.stderr.replace(str(tmp_path / "in") + "/", "")
    text = (tmp_path / "p.html").read_text()
    assert "Not among the slides given: cat &lt;1&gt;" in text
    assert "dog cannot be shown: not a slide" in text
    assert {name for name, _, _ in pictures_of(text)} == {"ant", "bee", None}


@pytest.mark.parametrize(
    ("slide", "told"),
    [("bea", "slide 'bea': is none of this run; did you mean bee?"),
     ("zzzzzz", "give one of ant, bee, cat <1>, ..."),
     ("eel", "slide 'eel': had too few regions")],
)  # fmt: skip
def test_a_slide_that_cannot_be_asked_for(run, slide, told):
    done = similar(run, slide)
    assert done.exit_code == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (run / "similar").exists()


def test_a_folder_that_is_no_run(tmp_path):
    done = similar(tmp_path, "ant")
    assert done.exit_code == 2
    assert f"holds no {FILE}" in done.stderr


def test_its_help_imports_nothing_heavy():
    code = """
import sys
from wsikd.cli.main import main
try:
    main(["slides", "similar", "--help"])
except SystemExit:
    print("LOADED", *{"torch", "numpy", "cv2", "jinja2"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
