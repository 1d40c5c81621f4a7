"""A run names no place above it, and finds its data again."""

import os

import pytest
import yaml
from pydantic import Field

from wsikd.core.config import Settings, load_config
from wsikd.core.errors import OutputError
from wsikd.core.run import RunDir


class Data(Settings):
    paths: list[str] = Field(default_factory=list)
    labels: str | None = None
    slide_pattern: str | None = None


class Config(Settings):
    method: str = "student"
    teacher: str | None = None
    data: Data = Data()


@pytest.fixture
def cohort(tmp_path):
    (tmp_path / "Jane Doe" / "stores").mkdir(parents=True)
    (tmp_path / "Jane Doe" / "labels.csv").touch()
    return tmp_path / "Jane Doe"


def settings(cohort, **more):
    data = {"paths": [str(cohort / "stores"), "s.zarr"], "labels": str(cohort / "labels.csv")}
    return Config(teacher=str(cohort / "no"), data=Data(**data, slide_pattern="/(.+)_"), **more)


def test_places_are_kept_relative_and_found_again(cohort):
    run = RunDir(cohort / "runs" / "a")
    run.start(settings(cohort))
    text = run.config_file.read_text()
    assert "Jane" not in text
    kept = yaml.safe_load(text)
    assert kept["data"]["paths"] == ["../../stores", "s.zarr"]
    assert kept["data"]["slide_pattern"] == "/(.+)_"
    assert kept["teacher"] == "../../no"
    found = load_config(Config, run.config_file)
    whole = settings(cohort)
    assert found.data == whole.data
    assert (found.teacher, found.method) == ("../../no", "student")  # where nothing is, as it is
    for again in (whole, found):
        assert run.check(again, resume=True)
    other = whole.data.model_copy(update={"labels": str(cohort / "others.csv")})
    with pytest.raises(OutputError, match=r"was started with another 'data\.labels'"):
        run.check(whole.model_copy(update={"data": other}), resume=True)


def test_a_run_of_before_keeps_its_places(cohort):
    run = RunDir(cohort / "runs" / "a")
    run.start(settings(cohort))
    before = yaml.safe_dump(settings(cohort).model_dump(mode="json"))
    run.config_file.write_text(before)
    assert load_config(Config, run.config_file) == settings(cohort)
    assert run.check(settings(cohort), resume=True)


def test_a_run_in_a_linked_folder_and_paths_as_typed(cohort, monkeypatch):
    (cohort / "far" / "away").mkdir(parents=True)
    (cohort / "runs").symlink_to(cohort / "far" / "away")
    monkeypatch.chdir(cohort)
    run = RunDir("runs/a")
    run.start(Config(teacher="./labels.csv", data=Data(paths=["./stores"])))
    found = load_config(Config, run.config_file)
    assert os.path.samefile(found.data.paths[0], cohort / "stores")  # noqa: PTH121
    assert os.path.samefile(found.teacher, cohort / "labels.csv")  # noqa: PTH121
    assert yaml.safe_load(run.config_file.read_text())["data"]["paths"] == ["../../../stores"]


def test_names_of_places_in_the_working_folder_are_found_from_any_other(cohort, monkeypatch):
    monkeypatch.chdir(cohort)
    typed = Config(method="stores", teacher="labels.csv", data=Data(paths=["stores", "gone"]))
    run = RunDir("runs/a")
    run.start(typed)
    kept = yaml.safe_load(run.config_file.read_text())
    assert (kept["method"], kept["teacher"]) == ("stores", "../../labels.csv")
    assert kept["data"]["paths"] == ["../../stores", "gone"]
    assert RunDir("runs/a").check(typed, resume=True)
    file = run.config_file.absolute()
    monkeypatch.chdir(cohort.parent)
    assert load_config(Config, file).data.paths == [str(cohort / "stores"), "gone"]


def test_another_file_named_config_is_read_as_it_is(cohort):
    file = cohort / "config.yaml"
    file.write_text("data: {paths: [./stores]}")
    assert load_config(Config, file).data.paths == ["./stores"]
