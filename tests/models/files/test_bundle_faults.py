"""Whatever a bundle holds, loading it gives a network or one line; nothing in it is run."""

import json
import math
import os
import pickle
import struct

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsikd.cli.main import main

from wsikd.core.errors import BundleError
from wsikd.models.files.bundle import CARD, WEIGHTS, InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader

SPEC = InputSpec(4.0, 32, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
NUMBERS = [0, -1, 10**9, 10**400, math.nan, math.inf, 1e-300, True, "3", None, [], {}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25)
    folder = save_bundle(
        tmp_path_factory.mktemp("b") / "b", grader, SPEC, arch="vgg_small", width=0.25
    )
    return json.loads((folder / CARD).read_text()), (folder / WEIGHTS).read_bytes()


@pytest.fixture
def make(whole, tmp_path):
    """Write a bundle of a changed card and weights."""

    def write(card=None, weights=None):
        folder = tmp_path / "student"
        folder.mkdir(exist_ok=True)
        (folder / CARD).write_text(json.dumps(whole[0]) if card is None else card)
        (folder / WEIGHTS).write_bytes(whole[1] if weights is None else weights)
        return folder

    return write


def refused(folder, match=None):
    with pytest.raises(BundleError, match=match) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def edited(card, **entries):
    return json.dumps(card | {"input": card["input"] | entries})


FITS = {
    "mpp": 8.0, "patch_px": 64, "upsample": 2, "student_input": "half", "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5], "classes": ["G5", "G4", "G3", "NC"],
}  # fmt: skip


@pytest.mark.parametrize("key", FITS)
def test_a_plausible_card_that_the_weights_were_not_saved_with_is_refused(whole, make, key):
    assert load_bundle(make()).spec == SPEC
    refused(make(edited(whole[0], **{key: FITS[key]})), "than the weights were saved with")


@pytest.mark.parametrize("value", NUMBERS, ids=str)
@pytest.mark.parametrize("key", ["mpp", "patch_px", "upsample"])
def test_absurd_sizes_are_refused(whole, make, key, value):
    refused(make(edited(whole[0], **{key: value})))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (k, v)
        for k in ("width", "drop_pools", "arch")
        for v in NUMBERS
        if (k, v) != ("drop_pools", 0)
    ],
    ids=str,
)
def test_absurd_networks_are_refused(whole, make, key, value):
    refused(make(json.dumps(whole[0] | {"network": whole[0]["network"] | {key: value}})))


@pytest.mark.parametrize(
    "classes",
    [
        "NCG3", ["NC"], [], ["NC", "NC", "G4", "G5"], [1, 2, 3, 4],
        ["NC", "a\nb", "G4", "G5"], ["NC", "x" * 999, "G4", "G5"],
        ["NC", "G3", "G4"], ["NC", "G3", "G4", "G5", "more"], ["NC", "", "G4", "G5"],
    ],
    ids=str,
)  # fmt: skip
def test_classes_that_cannot_be_are_refused(whole, make, classes):
    refused(make(edited(whole[0], classes=classes)))


@pytest.mark.parametrize(
    "arch",
    [
        "../../etc/passwd",
        "timm:../x",
        "timm:local-dir:/tmp",
        "timm:hf-hub:a/b",
        "os:system",
        "a\nb",
    ],
)
def test_an_architecture_is_a_name_and_no_path(whole, make, arch):
    refused(make(json.dumps(whole[0] | {"network": {"arch": arch}})))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def header(length, text=b"{}"):
    return struct.pack("<Q", length) + text


VAST = b'{"a":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,0]}}' % (2**60, 2**60)
WEIGHT_FAULTS = {
    "pickle": lambda _: pickle.dumps(Evil()),
    "empty": lambda _: b"",
    "header beyond the file": lambda _: header(2**62),
    "header of 2 GB": lambda _: header(2**31),
    "header no JSON": lambda _: header(2, b"xx"),
    "tensor beyond the file": lambda _: header(
        64, b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64)
    ),
    "tensor of 2^120 bytes": lambda _: header(len(VAST), VAST),
    "half": lambda w: w[: len(w) // 2],
    "surplus": lambda w: w + b"x",
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHT_FAULTS)
def test_weights_that_are_none_are_refused_and_not_run(whole, make, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(make(weights=WEIGHT_FAULTS[name](whole[1])), "model.safetensors")
    assert not (tmp_path / "pwned").exists()


def test_a_torch_file_under_another_name_is_refused_and_not_run(make, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / "x.pt")
    refused(make(weights=(tmp_path / "x.pt").read_bytes()), "not a safetensors")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"format": 1}', "\x00", "null", "1" * 5000, "x" * (5 << 20)]
)
def test_cards_that_are_none_are_refused(make, text):
    refused(make(text), "card.json")


def test_what_is_no_folder_of_a_bundle_is_one_line_of_infer(make, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.svs").write_text("")
    faults = {
        "card": make(edited(whole[0], mpp=8.0)),
        "none": tmp_path / "none",
    }
    asked = ["infer", "-i", "a.svs", "-o", "out", "--jobs", "0"]
    for folder in faults.values():
        done = CliRunner().invoke(main, [*asked, "-m", str(folder)])
        assert done.exit_code == 2
        assert done.stderr.startswith("BundleError: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = [
    ("format",), ("network",), ("input",), ("sha256",), ("min_area_mm2",), ("network", "arch"),
    ("network", "width"), ("network", "drop_pools"), ("input", "mpp"), ("input", "patch_px"),
    ("input", "mean"), ("input", "std"), ("input", "classes"), ("input", "student_input"),
    ("input", "upsample"),
]  # fmt: skip
once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@once
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_in_a_card_is_a_fault_in_one_line_or_changes_nothing(whole, make, place, value):
    card = json.loads(json.dumps(whole[0]))
    inner = card if len(place) == 1 else card[place[0]]
    inner[place[-1]] = value
    folder = make(json.dumps(card))
    told = ""
    try:
        assert load_bundle(folder).spec == SPEC
    except BundleError as error:
        told = str(error)
    assert "\n" not in told


@once
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_of_the_weights_changed_is_found(whole, make, at, bit):
    raw = bytearray(whole[1])
    raw[int(at * len(raw))] ^= 1 << bit
    refused(make(weights=bytes(raw)))
