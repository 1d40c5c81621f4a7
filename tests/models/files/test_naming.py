"""A network's name and version: only the card changes, and in it nothing else."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from wsikd.core.errors import BundleError, ConfigError, OutputError
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.files.card import CARD, DetectorCard, GraderCard
from wsikd.models.files.folder import write_network
from wsikd.models.files.naming import name_bundle
from wsikd.models.graders.pooled import build_grader

EXAMPLES = Path(__file__).parents[2] / "examples" / "0_1_0"
KINDS = ("teacher", "student", "hdkd", "mil", "slpd", "ts2g")
SPEC = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
HOSTILE = {
    "newline": "a\nb", "long": "x" * 10_000, "empty": "", "spaces": "  ", "escape": "a\x1b[31mb",
    "nul": "a\0b", "right to left": "a\u202eb", "ends": " a", "81": "x" * 81, "lone": "a\ud800",
}  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    with tarfile.open(EXAMPLES / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "runs"


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def name(*arguments):
    return CliRunner().invoke(main, ["name", *map(str, arguments)])


def test_networks_of_every_kind_get_a_name_and_nothing_else_changes(runs):
    before = contents(runs)
    for kind in KINDS:
        done = name(runs / kind, "Prostate μ <b>", "--version", "1.2")
        digits = json.loads((runs / kind / "student" / CARD).read_text())["sha256"][:12]
        assert done.output == f"{runs / kind}: Prostate μ <b> 1.2 ({digits})\n"
    after = contents(runs)
    assert before.keys() == after.keys()
    changed = {file for file in before if before[file] != after[file]}
    assert changed == {Path(kind, "student", CARD) for kind in KINDS}
    given = {"name": "Prostate μ <b>", "version": "1.2"}
    for file in changed:
        assert json.loads(after[file]) == json.loads(before[file]) | given
        assert after[file].endswith(b'"\n}\n')


def test_a_name_changes_no_key_and_the_last_name_counts(runs):
    before = load_bundle(runs / "student")
    first = (before.path / CARD).read_bytes()
    assert before.card.called == before.sha256[:12]
    name_bundle(before.path, "One", "1")
    name_bundle(before.path, "Two")
    named = load_bundle(runs / "student")
    assert (named.key, named.sha256) == (before.key, before.sha256)
    assert named.card.called == f"Two ({named.sha256[:12]})"
    entries = json.loads((named.path / CARD).read_text())
    assert entries.pop("name") == "Two"
    assert entries == json.loads(first)


def test_info_names_a_student(runs):
    before = CliRunner().invoke(main, ["info", str(runs / "student")]).output
    called = name_bundle(runs / "student", "Prostate", "1.2").called
    after = CliRunner().invoke(main, ["info", str(runs / "student")]).output
    first, *rest = before.splitlines()
    assert [line.split() for line in after.splitlines()] == [
        first.split(), ["name", *called.split()], *(line.split() for line in rest),
    ]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_are_refused(runs, text):
    before = contents(runs / "student")
    for arguments in ((text,), ("Fine", text)):
        with pytest.raises(ConfigError) as error:
            name_bundle(runs / "student", *arguments)
        assert len(str(error.value)) < 200
        assert str(error.value).isprintable()
    assert contents(runs / "student") == before


@pytest.mark.parametrize("entry", ["a\nb", "x" * 81, 5, ["a"]])
def test_a_card_with_a_hostile_name_is_one_line_and_can_be_named_again(runs, entry):
    file = runs / "student" / "student" / CARD
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name": entry}))
    with pytest.raises(BundleError, match="is not a card of wsikd"):
        load_bundle(runs / "student")
    name_bundle(runs / "student", "Fine")
    assert load_bundle(runs / "student").card.name == "Fine"


def test_what_is_no_network_is_refused_and_left_alone(runs, tmp_path):
    student = runs / "student" / "student"
    other = tmp_path / "other"
    other.mkdir()
    (other / CARD).write_text('{"name": "someone else\'s"}')
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / CARD).write_bytes((student / CARD).read_bytes())
    empty = tmp_path / "empty"
    empty.mkdir()
    before = contents(tmp_path)
    for place in (other, lone, empty, tmp_path / "gone", student / CARD):
        done = name(place, "Mine")
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
        assert str(place) in done.stderr
    (other / "model.safetensors").write_bytes(b"")
    assert name(other, "Mine").exit_code == 2
    (other / "model.safetensors").unlink()
    assert contents(tmp_path) == before


def test_a_card_behind_a_link_is_not_replaced(runs, tmp_path):
    file = runs / "student" / "student" / CARD
    kept = file.rename(tmp_path / "kept.json")
    file.symlink_to(kept)
    before = kept.read_bytes()
    with pytest.raises(OutputError, match="symbolic link"):
        name_bundle(runs / "student", "Mine")
    assert kept.read_bytes() == before


@pytest.mark.parametrize("kind", [GraderCard, DetectorCard])
def test_the_same_weights_written_again_keep_their_name_and_others_get_none(kind, tmp_path):
    """A finished run that is resumed writes its network again."""

    def written(bias):
        torch.manual_seed(0)
        network = build_grader("vgg_small", 4, width=0.25)
        with torch.no_grad():
            next(network.parameters()).add_(bias)
        if kind is GraderCard:
            save_bundle(tmp_path / "n", network, SPEC, arch="vgg_small", width=0.25)
        else:
            entries = {"network": {"arch": "x"}, "classes": ["lesion"]}
            write_network(tmp_path / "n", network.state_dict(), kind, entries)
        return json.loads((tmp_path / "n" / CARD).read_text())

    assert not {"name", "version"} & written(0.0).keys()
    name_bundle(tmp_path / "n", "Prostate", "1.2")
    again = written(0.0)
    assert (again["name"], again["version"]) == ("Prostate", "1.2")
    assert not {"name", "version"} & written(1.0).keys()


@pytest.mark.parametrize("more", [("--name", "a\nb"), ("--version-label", "1")])
def test_a_training_refuses_a_name_before_it_begins(more, tmp_path):
    line = ["distill", "-c", str(tmp_path / "gone.yaml"), "-o", str(tmp_path / "run"), *more]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2
    assert ("the new name: name must be" if "--name" in more else "needs --name") in done.stderr
    assert not any(tmp_path.iterdir())
