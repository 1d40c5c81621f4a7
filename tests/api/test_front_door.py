"""``import wsikd``: quick, lazy, typed, and the same refusals as the commands."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

import wsikd
from wsikd.core.errors import ConfigError, OutputError, StoreMismatchError


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_import_is_quick_and_imports_nothing_heavy():
    heavy = ("torch", "numpy", "cv2", "zarr", "dask", "pydantic", "importlib.metadata")
    code = f"import sys, wsikd; print([n for n in {heavy!r} if n in sys.modules])"
    assert python(code).stdout.strip() == "[]"
    timed = "import time; s = time.process_time(); import wsikd; print(time.process_time() - s)"
    assert min(float(python(timed).stdout) for _ in range(3)) < 0.1


def test_slides_stores_and_cards_need_no_torch(shop):
    code = """
    import sys, wsikd
    wsikd.open_slide("s.svs").thumbnail()
    wsikd.tile("s.svs", "new", patch_px=256)[0]
    wsikd.load_student("runs/student")._repr_html_()
    print("torch" in sys.modules)
    """
    assert python(textwrap.dedent(code)).stdout.strip() == "False"


def test_every_name_is_there_and_others_are_not():
    assert set(wsikd.__all__) <= set(dir(wsikd))
    assert all(getattr(wsikd, name) is not None for name in wsikd.__all__)
    assert sorted(set(wsikd.__all__)) == sorted(wsikd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wsikd.nothing  # noqa: B018


ANNOTATIONS_ALONE = """
[mypy]
strict = True
follow_imports = skip
[mypy-wsikd.*]
follow_imports = silent
ignore_errors = True
"""
"""Bodies of functions and other packages take a minute more; ``make types`` checks them."""


def test_a_script_of_a_user_is_typed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import wsikd

            store: wsikd.TileStore = wsikd.tile("s.svs", "stores", patch_px=512, codec="zstd")
            stores: wsikd.Stores = wsikd.tile(["a.svs", "b.svs"], "stores")
            student = wsikd.load_student("runs/student")
            reveal_type(wsikd.open_slide("s.svs"))
            reveal_type(student.predict("s.svs", tissue="all"))
            reveal_type(store[0])
            reveal_type(wsikd.distill("2_student.yaml", data="stores").student)
            reveal_type(wsikd.infer(["s.svs"], student, "out"))
            student.predict("s.svs", tisue="all")
            wsikd.nothing
            """
        )
    )
    settings = tmp_path / "mypy.ini"
    settings.write_text(ANNOTATIONS_ALONE)
    options = ["--config-file", str(settings), "--cache-dir", os.devnull]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(script)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    types = [line.split('"')[1].rpartition(".")[2] for line in done.stdout.splitlines()
             if "Revealed type" in line]  # fmt: skip
    assert types == ["Slide", "GradeMap", "Field", "Student", "Results"]
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2, done.stdout
    assert "tisue" in errors[0]
    assert "nothing" in errors[1]


def test_the_html_of_all_is_small_and_repr_is_one_line(shop):
    results = wsikd.infer(["s.svs", "gone.svs"], "runs/student", "out")
    shown = [
        wsikd.open_slide("s.svs"),
        wsikd.TileStore.open("stores/a.zarr"),
        wsikd.load_student("runs/student"),
        wsikd.load_student("runs/student").predict("s.svs"),
        results.grades("s"),
        wsikd.Run.open("runs/student"),
        wsikd.tile(["slides"], "new", patch_px=256),
        results,
        wsikd.open_slide("s.svs").describe(patch_px=256),
        wsikd.embed(["s.svs", "gone.svs"], "bags", encoder="runs/student"),
        wsikd.evaluate("runs/student"),
        wsikd.evaluate("runs/mil"),
        wsikd.attend("runs/mil", ["slides", "s.svs"], bags="slide-bags", out="attention"),
    ]
    for one in shown:
        assert len(repr(one).splitlines()) == 1
        assert 0 < len(one._repr_html_().encode()) < 200_000
    pictured = [one for one in shown if "data:image/jpeg" in one._repr_html_()]
    assert pictured == [shown[0], shown[1], shown[3], shown[4]]


def test_names_are_escaped(shop):
    (shop / "s.svs").rename(shop / "<b>.svs")
    assert "<b>.svs" not in wsikd.open_slide("<b>.svs")._repr_html_()


def test_a_read_region_is_that_of_its_level(shop):
    with wsikd.open_slide("s.svs") as slide:
        down = slide.level_downsamples[1][0]
        own = slide.read_level(1, (40, 20), (30, 10))
        at = (round(40 * down), round(20 * down))
        np.testing.assert_array_equal(slide.read_region(at, 1, (30, 10)), own)
        with pytest.raises(ConfigError, match="has no level 9"):
            slide.read_region((0, 0), 9, (1, 1))


def test_one_bad_slide_does_not_stop_the_others(shop):
    (shop / "bad.svs").write_bytes(b"not a slide")
    stores = wsikd.tile(["s.svs", "bad.svs"], "new", patch_px=256)
    assert list(stores.paths) == ["s"]
    assert list(stores.failures) == ["bad"]
    assert "bad" in (shop / "new/failures.csv").read_text()
    with pytest.raises(wsikd.WsikdError, match="bad"):
        wsikd.tile("bad.svs", "new", patch_px=256)


def test_tiling_resumes_and_refuses_other_settings(shop):
    wsikd.tile("s.svs", "new", patch_px=256)
    assert wsikd.tile(["s.svs"], "new", patch_px=256).summary == "0 made, 1 already there"
    with pytest.raises(StoreMismatchError, match="patch_px"):
        wsikd.tile("s.svs", "new", patch_px=128)
    with pytest.raises(ConfigError, match="did you mean"):
        wsikd.tile("s.svs", "new", patch_pxx=256)


def test_one_path_is_one_slide(shop):
    with pytest.raises(ConfigError, match=r"names 2 slides; give it in a list"):
        wsikd.tile("slides", "new")


def test_predict_gives_what_the_command_writes(shop):
    student = wsikd.load_student("runs/student", device="cpu", precision="fp32")
    grades = student.predict("s.svs")
    assert grades.temperature == student.temperature is not None
    results = wsikd.infer(["s.svs"], student, "out")
    kept = results.grades("s", slide="s.svs")
    np.testing.assert_array_equal(kept.probability_khw, grades.probability_khw)
    row, own = results["s"], grades.summary()
    assert {k: row[k] for k in own if k != "seconds"} == {k: own[k] for k in own if k != "seconds"}
    again = wsikd.infer(["s.svs"], student, "out")
    assert again.summary == "0 graded, 1 already there"
    assert again["s"] == results["s"]
    with wsikd.open_slide("s.svs") as slide:
        np.testing.assert_array_equal(student.predict(slide).probability_khw, kept.to_numpy())


def test_a_map_is_an_array_and_a_dask_array(shop):
    grades = wsikd.load_student("runs/student").predict("s.svs")
    np.testing.assert_array_equal(np.asarray(grades), grades.to_numpy())
    np.testing.assert_array_equal(grades.to_dask().compute(), grades.to_numpy())
    assert grades.to_numpy().dtype == np.float32


def command(*words):
    done = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_commands_print_what_the_objects_say(shop):
    with wsikd.open_slide("s.svs") as slide:
        assert slide.describe(patch_px=256).to_text() + "\n" == command(
            "info", "s.svs", "--patch-size", 256
        )
    for run in ("runs/student", "runs/mil"):
        scores = wsikd.evaluate(run, device="cpu")
        assert scores.to_text() + "\n" == command("evaluate", run, "--no-report", "--device", "cpu")
        assert set(scores) & {"kappa", "auc"}
    assert "balanced accuracy" in wsikd.evaluate("runs/mil").to_text()


def test_pictures_of_scores_are_drawn_when_asked(shop):
    assert wsikd.evaluate("runs/student").pictures is None
    assert not (shop / "runs/student/report").exists()
    scores = wsikd.evaluate("runs/student", pictures=True)
    assert list(scores.pictures.iterdir())
    assert "pictures: " in scores.to_text()


def test_bags_are_made_once_and_of_every_slide_that_can_be_read(shop):
    bags = wsikd.embed(["s.svs", "gone.svs"], "bags", encoder="runs/student", h5=True)
    assert (list(bags), list(bags.failures)) == (["s"], ["gone"])
    assert bags["s"].features().shape == (12, bags["s"].dim)
    assert (shop / "bags/s.h5").is_file()
    again = wsikd.embed("s.svs", "bags", encoder="runs/student")
    assert again.summary == "0 made, 1 already there"
    with pytest.raises(ConfigError, match="did you mean"):
        wsikd.embed("s.svs", "bags", encoder="runs/student", tisue="all")


def test_attention_is_a_map_of_its_slide(shop):
    found = wsikd.attend("runs/mil", ["slides"], bags="slide-bags", out="attention")
    assert sorted(found) == ["a", "b"]
    label, probability = found["a"]
    assert label in ("benign", "cancer")
    assert 0.5 <= probability <= 1
    share = found.map("a").to_numpy()[1]
    assert np.nanmax(share) == pytest.approx(1)


def test_save_replaces_nothing(shop):
    grades = wsikd.load_student("runs/student").predict("s.svs")
    grades.save("maps", formats=["geojson"])
    with pytest.raises(OutputError, match="exists already"):
        grades.save("maps", formats=["geojson"])


def test_regions_are_a_geodataframe(shop):
    geopandas = pytest.importorskip("geopandas")
    grades = wsikd.load_student("runs/student").predict("s.svs")
    frame = grades.to_geodataframe()
    assert isinstance(frame, geopandas.GeoDataFrame)
    assert set(frame["grade"]) <= set(grades.classes)
    mpp = grades.slide.mpp.x
    np.testing.assert_allclose(frame.area * mpp**2 / 1e6, frame["area_mm2"], rtol=1e-5)
    shares = frame[[f"prob_{name}" for name in grades.classes]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-5)
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        frame.to_file("regions.gpkg")
    again = geopandas.read_file("regions.gpkg")
    assert list(again["grade"]) == list(frame["grade"])
    assert again.geometry.geom_equals(frame.geometry).all()
    unread = replace(grades, valid_hw=np.zeros_like(grades.valid_hw))
    empty = unread.to_geodataframe()
    assert len(empty) == 0
    assert list(empty.columns) == list(frame.columns)


def test_without_geopandas_one_line_says_so(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "geopandas", None)
    grades = wsikd.load_student("runs/student").predict("s.svs")
    with pytest.raises(ConfigError, match=r"geopandas: is not installed; pip install 'wsikd\[geo"):
        grades.to_geodataframe()


def test_plots_take_axes_and_return_them(shop):
    from matplotlib.figure import Figure

    grades = wsikd.load_student("runs/student").predict("s.svs")
    for one in (wsikd.open_slide("s.svs"), grades, wsikd.Run.open("runs/student")):
        axes = Figure().subplots()
        assert one.plot(axes) is axes


def test_a_finished_run_is_not_trained_over(shop):
    with pytest.raises(OutputError, match="is not empty"):
        wsikd.distill("2_student.yaml", data="stores", teacher="runs/teacher")
