"""Cards are pydantic models: what 0.1.0 wrote is read and written again byte by byte."""

import json
import tarfile
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from wsikd.core.errors import BundleError
from wsikd.models.files.card import (
    CARD,
    AnyCard,
    BagCard,
    DetectorCard,
    EmbedderCard,
    GraderCard,
    RegionCard,
    card_schema,
    read_grader_card,
)
from wsikd.models.files.folder import read_network

EXAMPLES = Path(__file__).parents[2] / "examples" / "0_1_0"
KINDS = {
    "teacher": GraderCard, "student": GraderCard, "hdkd": GraderCard, "mil": BagCard,
    "slpd": RegionCard, "ts2g": EmbedderCard,
}  # fmt: skip
WITH_NETWORKS = [name for name, card in KINDS.items() if card is not GraderCard]
DETECTOR = {"network": {"arch": "retinanet"}, "classes": ["lesion"], "metrics": {"map": 0.5}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    with tarfile.open(EXAMPLES / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "runs"


def text_of(card):
    return json.dumps(card.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@pytest.mark.parametrize("name", KINDS)
def test_a_card_of_0_1_0_is_written_again_as_it_was(runs, name):
    text = (runs / name / "student" / CARD).read_text(encoding="utf-8")
    card = TypeAdapter(AnyCard).validate_python(json.loads(text))
    assert type(card) is KINDS[name]
    assert text_of(card) == text
    assert card.model_extra == {}  # the model knows every entry


@pytest.mark.parametrize("name", [*KINDS, "detector"])
def test_cards_fit_the_schema(runs, name):
    jsonschema = pytest.importorskip("jsonschema")
    if name == "detector":
        content = DetectorCard.made("0" * 64, DETECTOR).record()
    else:
        content = json.loads((runs / name / "student" / CARD).read_text())
    jsonschema.validate(content, card_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"format": 2}, card_schema())


def test_every_kind_of_card_is_in_the_schema():
    kinds = {card.__name__ for card in (*KINDS.values(), DetectorCard)}
    assert kinds <= card_schema()["$defs"].keys()
    assert {card.KIND for card in (*KINDS.values(), DetectorCard)} == {
        "grader", "mil", "region", "embedder", "detector",
    }  # fmt: skip


def rewritten(folder, change):
    content = json.loads((folder / CARD).read_text())
    change(content)
    (folder / CARD).write_text(json.dumps(content))


@pytest.fixture
def copy(runs, tmp_path):
    def copied(name):
        for file in (runs / name / "student").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        return tmp_path

    return copied


def test_unknown_entries_are_kept(copy):
    def more(content):
        content["later"] = {"x": [1, 2.5]}
        content["training"]["gpu"] = "h"
        content["network"]["later"] = 1

    folder = copy("student")
    rewritten(folder, more)
    card = read_grader_card(folder / CARD)
    assert card.training.best_epoch == 9
    assert card.record() == json.loads((folder / CARD).read_text())


@pytest.mark.parametrize("name", WITH_NETWORKS)
def test_unknown_entries_of_other_networks_are_kept(copy, name):
    folder = copy(name)
    rewritten(folder, lambda c: c.update(later=[1]))
    _, card, weights = read_network(folder, KINDS[name])
    assert card.record()["later"] == [1]
    assert weights


@pytest.mark.parametrize("name", WITH_NETWORKS)
@pytest.mark.parametrize("format_", [2, "1", None])
def test_another_format_is_refused(copy, name, format_):
    folder = copy(name)
    rewritten(folder, lambda c: c.update(format=format_))
    with pytest.raises(BundleError, match="is not known; use a newer wsikd"):
        read_network(folder, KINDS[name])


@pytest.mark.parametrize(
    ("entry", "value", "fault"),
    [
        ("temperature", 0.001, "temperature 0.001 is out of range, 0.01 to 100"),
        ("temperature", "1", "temperature must be a number"),
        ("teacher", {"sha256": 3}, "teacher.sha256: Input should be a valid string"),
        ("metrics", [1], "metrics: Input should be a valid dictionary"),
        ("sha256", None, "sha256: Input should be a valid string"),
    ],
)
def test_a_malformed_entry_is_named(copy, entry, value, fault):
    folder = copy("student")
    rewritten(folder, lambda c: c.update({entry: value}))
    with pytest.raises(BundleError, match="is not a card of wsikd") as caught:
        read_grader_card(folder / CARD)
    assert f"({fault}); export the student again" in str(caught.value)


def test_a_missing_entry_is_named(copy):
    folder = copy("student")
    rewritten(folder, lambda c: c["input"].pop("mpp"))
    with pytest.raises(BundleError, match=r"\(no 'input\.mpp'\)"):
        read_grader_card(folder / CARD)


def test_a_card_that_cannot_be_read_back_is_not_written():
    with pytest.raises(ValueError, match="classes"):
        DetectorCard.made("0" * 64, {"network": {}})
