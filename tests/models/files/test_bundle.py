import hashlib
import json
import pickle
import re
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from wsikd.core.errors import BundleError
from wsikd.models.files.bundle import CARD, WEIGHTS, InputSpec, load_bundle, save_bundle
from wsikd.models.files.card import DetectorCard
from wsikd.models.files.folder import write_network
from wsikd.models.graders.pooled import build_grader

BARE = {"network": {}, "classes": ["lesion"]}
CLASSES = ("NC", "G3", "G4", "G5")
SPEC = InputSpec(4.0, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), CLASSES, "half", 2)


@pytest.fixture
def grader():
    torch.manual_seed(0)
    return build_grader("vgg_small", 4, width=0.25, input_norm="imagenet", upsample=2).eval()


@pytest.fixture
def folder(tmp_path, grader):
    return save_bundle(
        tmp_path / "run" / "student", grader, SPEC, arch="vgg_small", width=0.25, min_area_mm2=0.5
    )


def test_round_trip_gives_the_same_logits(folder, grader):
    x = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    for path in (folder, folder.parent):  # the bundle, and the run it lies in
        bundle = load_bundle(path)
        assert torch.equal(bundle.network()(x), grader(x))
        assert bundle.spec == SPEC
        assert bundle.spec.field_um == 128
        assert bundle.min_area_mm2 == 0.5
        assert not bundle.network().training
    assert sorted(p.name for p in folder.iterdir()) == [CARD, WEIGHTS]


def test_others_may_read_what_the_umask_lets_them(folder, grader, tmp_path):
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in (CARD, WEIGHTS)}
    (tmp_path / "plain").touch()
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}
    made = write_network(tmp_path / "other", grader.state_dict(), DetectorCard, BARE)
    assert (made / WEIGHTS).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_card_says_what_a_user_must_know(folder):
    card = json.loads((folder / CARD).read_text())
    assert card["use"] == "For research use only, not for diagnosis."
    assert card["input"]["classes"] == list(CLASSES)
    assert card["macs"] > 1e6
    assert card["sha256"] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def change_card(folder, **entries):
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | entries))


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


DAMAGE = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no model.safetensors"),
    "no card": (lambda f: (f / CARD).unlink(), "holds no card.json"),
    "card no JSON": (lambda f: (f / CARD).write_text("{"), "is not JSON"),
    "card a list": (lambda f: (f / CARD).write_text("[]"), "not a card"),
    "card of another format": (lambda f: change_card(f, format=9), "format 9 is not known"),
    "card without input": (lambda f: change_card(f, input={}), "not a card"),
    "unknown arch": (lambda f: change_card(f, network={"arch": "vgg99"}), "vgg99.*not among"),
    "another arch": (lambda f: change_card(f, network={"arch": "resnet18"}), "does not fit"),
    "another width": (
        lambda f: change_card(f, network={"arch": "vgg_small", "width": 1}),
        "does not fit 'vgg_small'.*shape",
    ),
    "width of text": (
        lambda f: change_card(f, network={"arch": "vgg_small", "width": "x"}),
        "not a card",
    ),
    "missing tensor": (lambda f: change_weights(f, lambda s: s.pop("head.bias")), "is missing"),
    "surplus tensor": (
        lambda f: change_weights(f, lambda s: s.update(x=torch.zeros(1))),
        "not part of",
    ),
    "NaN": (lambda f: change_weights(f, lambda s: s["head.bias"].fill_(torch.nan)), "NaN"),
    "other weights": (
        lambda f: change_weights(f, lambda s: s["head.bias"].add_(1)),
        "not the file that card.json describes",
    ),
    "pickle": (lambda f: (f / WEIGHTS).write_bytes(pickle.dumps(Evil())), "is not a safetensors"),
    "truncated": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
        "is not a safetensors",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(folder, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage, message = DAMAGE[name]
    damage(folder)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def reweigh(folder, change):
    """Store the weights in another type, and name the new file in the card."""
    save_file({k: change(v) for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    change_card(folder, sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_computed_in_float32(folder, grader, kind):
    reweigh(folder, lambda v: v.to(kind) if v.is_floating_point() else v)
    x = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    network = load_bundle(folder).network()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network(x), grader(x), rtol=0, atol=0.05)


def test_half_weights_of_another_normalisation_are_refused(folder):
    reweigh(folder, lambda v: v.half() if v.is_floating_point() else v)
    entries = json.loads((folder / CARD).read_text())["input"]
    change_card(folder, input={**entries, "mean": [0.5, 0.5, 0.5]})
    with pytest.raises(BundleError, match="'mean' is not that of the weights"):
        load_bundle(folder)


def test_whole_numbers_are_no_weights(folder):
    reweigh(folder, lambda v: v.to(torch.int8))
    with pytest.raises(BundleError, match="is of type I8, not float32"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("input.mpp", 1e-9, "mpp 1e-09 is out of range, 0.01 to 1000"),
        ("input.mpp", -1.0, "mpp -1 is out of range"),
        ("input.mpp", float("nan"), "input.mpp is not a finite number"),
        ("input.patch_px", 1, "patch_px 1 is out of range, 8 to 8192"),
        ("input.patch_px", 31.5, "patch_px must be a whole number"),
        ("input.classes", [], "classes must be two or more"),
        ("input.std", [0.0, 0.2, 0.2], "std 0 is out of range"),
        ("temperature", 0, "temperature 0 is out of range, 0.01 to 100"),
        ("temperature", float("inf"), "temperature is not a finite number"),
        ("temperature", "1", "temperature must be a number"),
        ("min_area_mm2", -1, "min_area_mm2 -1 is out of range"),
    ],
    ids=str,
)
def test_a_card_of_nonsense_names_the_entry(folder, place, value, fault):
    card = json.loads((folder / CARD).read_text())
    *above, name = place.split(".")
    (card[above[0]] if above else card)[name] = value
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(BundleError, match=re.escape(fault)):
        load_bundle(folder)


def test_missing_and_unfinished_runs_say_so(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        load_bundle(tmp_path / "none")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(BundleError, match="has not finished"):
        load_bundle(tmp_path / "run")
