"""Colour taken away, against plain NumPy, in the network, its card and on a slide."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.grade.maps import MPP, FakeSlide
from wsikd.core.errors import BundleError
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import CARD, WEIGHTS, InputSpec, load_bundle, save_bundle
from wsikd.models.files.export import export_model
from wsikd.models.graders.colour_input import without_colour
from wsikd.models.graders.pooled import build_grader

HAEMATOXYLIN, EOSIN, REST = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776)


def patches(count=3, side=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side)).astype(np.uint8)


def by_hand(x, colour):
    """One channel of each patch at mean 0 and deviation 1, pixel by pixel in double precision."""
    found = []
    for patch in x.astype(np.float64):
        if colour == "grey":
            one = 0.299 * patch[0] + 0.587 * patch[1] + 0.114 * patch[2]
        else:
            stains = np.array(
                [np.array(s) / np.linalg.norm(s) for s in (HAEMATOXYLIN, EOSIN, REST)]
            )
            density = -np.log10((patch + 1) / 256).reshape(3, -1)
            one = np.linalg.solve(stains.T, density)[0].reshape(patch.shape[1:])
        found.append((one - one.mean()) / one.std())
    return np.stack(found)


@pytest.mark.parametrize("colour", ["grey", "haematoxylin"])
def test_one_channel_by_hand(colour):
    x = patches()
    found = without_colour(torch.from_numpy(x).float(), colour)
    assert found.shape == (3, 3, 16, 16)
    for channel in range(3):
        np.testing.assert_allclose(found[:, channel], by_hand(x, colour), atol=1e-4)


def test_haematoxylin_sees_that_stain_alone():
    """Two stains painted at random: only the first one's pattern is left."""
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 32, 32))
    stains = [np.array(s) / np.linalg.norm(s) for s in (HAEMATOXYLIN, EOSIN)]
    density = sum(s[:, None, None] * a for s, a in zip(stains, (first, second), strict=True))
    x = torch.from_numpy(256 * 10**-density - 1)[None]
    found = without_colour(x, "haematoxylin")[0, 0].numpy()
    assert np.corrcoef(found.ravel(), first.ravel())[0, 1] > 0.9999
    assert abs(np.corrcoef(found.ravel(), second.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(("gain", "shift"), [(0.5, 0), (0.5, 60)])
def test_brightness_and_contrast_of_a_slide_do_not_count(gain, shift):
    x = torch.from_numpy(patches()).double()
    torch.testing.assert_close(
        without_colour(gain * x + shift, "grey"), without_colour(x, "grey"), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("colour", ["grey", "haematoxylin"])
def test_empty_patches_stay_empty(colour):
    flat = torch.full((2, 3, 8, 8), 243.0)
    assert without_colour(flat, colour).abs().max() < 1e-2
    nearly = flat.clone()
    nearly[0, :, 0, 0] += 0.5
    assert without_colour(nearly, colour).abs().max() < 1


def test_unknown_is_refused():
    with pytest.raises(ValueError, match="mauve"):
        without_colour(torch.zeros(1, 3, 4, 4), "mauve")


def net(colour):
    torch.manual_seed(0)
    made = build_grader("strided_small", 3, width=0.5, input_norm="imagenet", colour=colour)
    made.train()
    made(torch.from_numpy(patches(8, 32)).float())  # batch norm sees something
    return made.eval()


def card_of(tmp_path, colour="grey"):
    made = net(colour)
    mean, std = (tuple(t.flatten().tolist()) for t in (made.mean, made.std))
    spec = InputSpec(4.0, 32, mean, std, ("NC", "G3", "G4"), colour=colour)
    return made, save_bundle(tmp_path / colour, made, spec, arch="strided_small", width=0.5)


@pytest.mark.parametrize("colour", ["grey", "haematoxylin"])
def test_the_card_tells_and_the_network_does_it(tmp_path, colour):
    made, folder = card_of(tmp_path, colour)
    assert json.loads((folder / CARD).read_text())["input"]["colour"] == colour
    again = load_bundle(folder).network()
    x = patches(4, 32, seed=2)
    bare = build_grader("strided_small", 3, width=0.5)
    bare.load_state_dict(made.state_dict())
    hand = np.repeat(by_hand(x, colour)[:, None], 3, 1) * 255  # the bare one divides by 255
    expected = bare.eval()(torch.from_numpy(hand).float())
    torch.testing.assert_close(again(torch.from_numpy(x)), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(net("rgb")(torch.from_numpy(x)), expected, atol=1e-2)


def test_cards_of_before_are_of_colour(tmp_path):
    """Neither the card nor the weights of an older bundle say anything of colour."""
    _, folder = card_of(tmp_path, "rgb")
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
    card = json.loads((folder / CARD).read_text())
    card["sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    del card["input"]["colour"]
    (folder / CARD).write_text(json.dumps(card))
    assert load_bundle(folder).network().colour == "rgb"
    card["input"]["colour"] = "mauve"
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(BundleError, match=r"input\.colour: Input should be 'rgb', 'grey' or"):
        load_bundle(folder)


def test_on_a_slide_it_is_the_transform_of_training(tmp_path):
    """Fields of a slide at the network's resolution against its logits for the same pixels."""
    _, folder = card_of(tmp_path)
    bundle = load_bundle(folder)
    spec = replace(bundle.spec, mpp=MPP)  # level 0 as it is
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (128, 192, 3)).astype(np.uint8)
    settings = PredictSettings(tissue="all", batch_size=4)
    predictor = SlidePredictor(bundle.network(), spec, device="cpu", settings=settings)
    found = predictor.predict(FakeSlide(rgb)).probability_khw
    for row, column in np.ndindex(4, 6):
        patch = rgb[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].transpose(2, 0, 1)
        with torch.no_grad():
            logits = bundle.network()(torch.from_numpy(patch.copy())[None])
        np.testing.assert_allclose(found[:, row, column], logits.softmax(1)[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "wsinfer"])
@pytest.mark.parametrize("colour", ["grey", "haematoxylin"])
def test_copies_for_other_programs_take_colour_away_too(tmp_path, colour, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    _, folder = card_of(tmp_path, colour)
    record = export_model(load_bundle(folder), kind, tmp_path / "copy")
    assert record["input"]["colour"] == colour
    assert record["parity"]["max_difference"] < 1e-4
