import math
import os
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from wsikd.core import config as config_module
from wsikd.core import run as run_module
from wsikd.core.config import (
    Settings,
    dump_config,
    first_difference,
    load_config,
    read_mapping,
)
from wsikd.core.errors import ConfigError, OutputError
from wsikd.core.run import RunDir, aside, provenance, write_json_atomic, write_text_atomic


class Attention(Settings):
    form: Literal["relu_product", "gradcam"] = "relu_product"
    temperature: float = 1.0


class Options(Settings):
    attention: Attention = Attention()
    maybe: Attention | None = None


class Example(Settings):
    lr: float = 1e-3
    epochs: int = 2
    method_options: Options = Options()
    weights: dict[str, float] = Field(default_factory=dict)


def write(tmp_path, text, name="2_student.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_exponent_without_point_is_a_float(tmp_path):
    assert yaml.safe_load("1e-4") == "1e-4"
    assert load_config(Example, write(tmp_path, "lr: 1e-4")).lr == 1e-4
    assert load_config(Example, write(tmp_path, "")).lr == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "method_options: {atention: {}}",
            "method_options.atention: unknown key; did you mean 'attention'?",
        ),
        (
            "method_options: {attention: {frm: x}}",
            "method_options.attention.frm: unknown key; did you mean 'form'?",
        ),
        (
            "method_options: {maybe: {frm: x}}",
            "method_options.maybe.frm: unknown key; did you mean 'form'?",
        ),
        ("zzzz: 1", "zzzz: unknown key; known: epochs, lr, method_options, weights"),
        (
            "method_options: {attention: {form: x}}",
            "method_options.attention.form: 'x' is not known; choose one of 'relu_product' or",
        ),
        ("- 1", "holds a list, not a mapping; write 'key: value' lines"),
        ("epochs: two", "epochs: 'two' is not valid; input should be a valid integer"),
        ("lr: .nan", "lr: nan is not valid; input should be a finite number"),
    ],
)
def test_faults_name_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(Example, write(tmp_path, text))
    assert str(caught.value).startswith(f"2_student.yaml: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", 3),
        ("optim:\n  lr: 1\n  seed: 2\n  lr: 3\n", 4),
        ("w: {x: 1, x: 1}\n", 1),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_line(text, line, tmp_path):
    """YAML readers take the last, so that the first would silently not count."""
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"is given twice \(line {line}\)"):
        read_mapping(tmp_path / "run.yaml")


def test_a_key_may_stand_in_two_sections_and_override_a_merge(tmp_path):
    (tmp_path / "run.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_mapping(tmp_path / "run.yaml")["b"] == {"x": 3, "y": 2}


def test_invalid_yaml_and_missing_file_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"not valid YAML.*line 2"):
        load_config(Example, write(tmp_path, "a: 1\nb: [1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Example, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(Example, tmp_path / "binary.yaml")


class Reading(Settings):
    threads: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    parts: dict[str, int | list[int]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("threads=0", "--set threads: 0 is not valid; input should be greater than 0 or 'auto'"),
        ("parts={a: [1, x]}", "c.yaml: parts.a: "),
        ("parts={a: x, b: 1, c: y}", "(and 1 more)"),
    ],
)
def test_a_value_of_several_types_is_named_by_its_key_alone(tmp_path, told, expected):
    (tmp_path / "c.yaml").write_text("{}")
    with pytest.raises(ConfigError) as raised:
        load_config(Reading, tmp_path / "c.yaml", [told])
    message = str(raised.value)
    assert expected in message
    assert "constrained" not in message
    assert ".int" not in message


def test_overrides_win_and_name_themselves(tmp_path):
    path = write(tmp_path, "epochs: 3\nweights: {fm: 1}")
    changes = ["weights.fm=1e-1", "method_options.attention.form=gradcam", "epochs=5"]
    config = load_config(Example, path, changes)
    assert config.weights == {"fm": 0.1}
    assert (config.epochs, config.method_options.attention.form) == (5, "gradcam")
    with pytest.raises(ConfigError, match=r"^--set epochs: 'x' is not valid"):
        load_config(Example, path, ["epochs=x"])
    with pytest.raises(ConfigError, match="is not key=value"):
        load_config(Example, path, ["epochs"])
    with pytest.raises(ConfigError, match="'epochs' is a value"):
        load_config(Example, path, ["epochs.more=1"])


@settings(max_examples=40, deadline=None)
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_dump_reads_back(tmp_path_factory, lr, epochs, weights):
    config = Example(lr=lr, epochs=epochs, weights=weights)
    path = tmp_path_factory.mktemp("dump") / "c.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(Example, path) == config


def test_first_difference_is_dotted():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c"
    assert first_difference({}, {"a": None}) == "a"


def test_run_dir_refuses_what_is_there(tmp_path):
    run = RunDir(tmp_path / "run")
    run.start(Example(), seed=1)
    with pytest.raises(OutputError, match="--resume"):
        run.start(Example(), seed=1)
    run.start(Example(), seed=1, resume=True)
    with pytest.raises(OutputError, match=r"'weights\.fm'|'weights'"):
        run.start(Example(weights={"fm": 1}), seed=1, resume=True)
    with pytest.raises(OutputError, match="'seed'"):
        run.start(Example(), seed=2, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="holds no run"):
        RunDir(tmp_path / "other").start(Example(), resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        RunDir(tmp_path / "file").start(Example())


def test_metrics_are_json_and_survive_a_torn_line(tmp_path):
    run = RunDir(tmp_path / "run")
    run.start(Example())
    run.append_metrics({"loss": math.nan, "terms": {"ce": math.inf, "fm": 1.0}})
    run.append_metrics({"loss": 1.0})
    with run.metrics_file.open("a") as file:
        file.write('{"loss": 2')
    assert run.read_metrics() == [{"loss": None, "terms": {"ce": None, "fm": 1.0}}, {"loss": 1.0}]


def test_provenance_keeps_no_folders():
    argv = [
        "/home/someone/bin/wsikd",
        "distill",
        "--data=/secret/a.csv",
        "weights.fm=0.1",
        "-o",
        "/x/y/",
    ]
    made = provenance(argv, seed=3)
    assert made["argv"] == ["wsikd", "distill", "--data=a.csv", "weights.fm=0.1", "-o", "y"]
    assert made["seed"] == 3
    assert "someone" not in str(made)


def test_atomic_writes_leave_nothing_half_done(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json_atomic(path, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"x": math.nan})
    assert path.read_text() == '{\n  "x": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_text_atomic(path / "c", "x")


def test_aside_replaces_the_whole_or_nothing(tmp_path):
    path = tmp_path / "result"

    def fail():
        with aside(path) as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    for text in ("first", "second"):
        with aside(path) as part:
            assert str(os.getpid()) in part.name
            part.write_text(text)
    with pytest.raises(OutputError, match="No space left"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    assert path.read_text() == "second"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("killed", ["write_text_atomic", "dump_config", "provenance"])
def test_a_kill_while_starting_leaves_a_folder_to_start_in(tmp_path, monkeypatch, killed, resume):
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    (run.path / "config.yaml.77.part").write_text("half")

    def dying(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module if hasattr(run_module, killed) else config_module, killed, dying)
        with pytest.raises(KeyboardInterrupt):
            run.start(Example(), seed=1)
    assert not run.config_file.exists()
    assert not run.check(Example(), resume=resume, seed=2)
    run.start(Example(), resume=resume, seed=2)
    assert run.read_provenance()["seed"] == 2
    with pytest.raises(OutputError, match="--resume"):
        run.start(Example(), seed=2)


def test_a_checkpoint_without_settings_is_no_new_run(tmp_path):
    run = RunDir(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    assert not run.check(Example())
    (run.checkpoints / "last.ckpt").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        run.check(Example())


def test_resumptions_are_listed(tmp_path):
    run = RunDir(tmp_path / "run")
    run.start(Example(), seed=1)
    run.note_resume()
    run.note_resume()
    made = run.read_provenance()
    assert made["seed"] == 1
    assert len(made["resumed"]) == 2
    assert {"wsikd", "time"} <= set(made["resumed"][0])
