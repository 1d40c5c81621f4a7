"""Adapters against slow readings; embedders and encoders on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsikd.core.errors import BundleError, ConfigError
from wsikd.models.backbones.open import build_backbone
from wsikd.models.encoders.adapter import (
    ADAPTERS,
    Adapter,
    Embedder,
    masked_mean,
    save_embedder,
)
from wsikd.models.encoders.base import EncoderSpec
from wsikd.models.encoders.open import open_encoder
from wsikd.models.files.bundle import CARD, WEIGHTS, InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader


def params(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("kind", "dim", "expected"),
    [("mpa", 512, 1_050_368), ("mp", 512, 1_050_368), ("mpa", 768, 1_312_768),
     ("mp", 1536, 2_099_968), ("p", 512, 524_800), ("m", 512, 393_984)],
)  # fmt: skip
def test_sizes(kind, dim, expected):
    assert params(Adapter(kind, 1024, dim)) == expected


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_against_slow_readings(kind):
    torch.manual_seed(0)
    adapter = Adapter(kind, 8, 5)
    x = torch.randn(3, 8)
    w = {k: v.detach().double().numpy() for k, v in adapter.named_parameters()}
    r = lambda v: np.maximum(v, 0)  # noqa: E731
    for row, found in zip(x.double().numpy(), adapter(x).detach().numpy(), strict=True):
        if kind == "p":
            expected = w["out.weight"] @ r(row) + w["out.bias"]
        else:
            hidden = r(w["first.weight"] @ r(row) + w["first.bias"])
            inner = w["second.weight"] @ hidden + w["second.bias"]
            if kind == "m":
                expected = inner
            else:
                inner = inner + row if kind == "mpa" else inner
                expected = w["out.weight"] @ r(inner) + w["out.bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_adapter():
    with pytest.raises(ConfigError, match="did you mean 'mpa'"):
        Adapter("mpaa", 8, 5)


def test_masked_mean():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 1:3, 2:] = True
    expected = maps[0].numpy()[:, 1:3, 2:].mean((1, 2))
    np.testing.assert_allclose(masked_mean(maps, mask)[0], expected, rtol=1e-5)
    assert (masked_mean(maps, mask)[1] == 0).all()
    torch.testing.assert_close(masked_mean(maps), maps.mean((2, 3)))


def test_resnet50_is_that_of_torchvision():
    backbone = build_backbone("resnet50")
    assert [(t.channels, t.stride) for t in backbone.taps.values()] == [
        (64, 4), (256, 4), (512, 8), (1024, 16), (2048, 32),
    ]  # fmt: skip
    assert params(backbone) == 23_508_032
    found = backbone.forward_taps(torch.zeros(1, 3, 64, 64), ["F2", "F3"])
    assert found["F2"].shape == (1, 512, 8, 8)
    assert found["F3"].shape == (1, 1024, 4, 4)


def small(tap="F3", kind="mpa", dim=6):
    torch.manual_seed(0)
    trunk = build_backbone("vgg_small", width=1.0)
    channels = trunk.taps[tap].channels if tap in trunk.taps else 8
    return Embedder(trunk, tap, Adapter(kind, channels, dim), dim)


def test_the_trunk_is_frozen_and_cut():
    embedder = small().train()
    assert list(embedder.trunk.taps) == ["F1", "F2", "F3"]
    assert not embedder.trunk.training
    before = {k: v.clone() for k, v in embedder.trunk.state_dict().items()}
    embedder.standardised(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is None for p in embedder.trunk.parameters())
    assert all(p.grad is not None for p in embedder.adapter.parameters())
    assert all(torch.equal(v, before[k]) for k, v in embedder.trunk.state_dict().items())
    with pytest.raises(ConfigError, match="did you mean 'F3'"):
        small(tap="F33")


SPEC = EncoderSpec(
    "timm:x by mpa", "MIT", 6, "", None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 4.0, 32
)


def saved(folder):
    embedder = small()
    embedder.shift.copy_(torch.arange(6.0))
    embedder.scale.copy_(torch.arange(1.0, 7.0))
    save_embedder(folder, embedder, SPEC, arch="vgg_small", teacher={"id": "x"})
    return embedder.eval()


def test_an_embedder_is_an_encoder(tmp_path):
    embedder = saved(tmp_path / "run" / "student")
    encoder = open_encoder(str(tmp_path / "run"))
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normal = (patches / 255 - 0.5) / 0.25
    expected = embedder.standardised(normal) * torch.arange(1.0, 7.0) + torch.arange(6.0)
    with torch.no_grad():
        torch.testing.assert_close(encoder(patches), expected)
    assert (encoder.spec.licence, encoder.spec.mpp) == ("MIT", 4.0)
    assert len(encoder.spec.sha256) == 64


def test_a_student_is_an_encoder(tmp_path):
    grader = build_grader("vgg_small", 3, width=0.5).eval()
    spec = InputSpec(4.0, 64, (0.0,) * 3, (1.0,) * 3, ("a", "b", "c"))
    save_bundle(tmp_path, grader, spec, arch="vgg_small", width=0.5)
    encoder = open_encoder(str(tmp_path))
    patches = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        logits = grader.head(encoder(patches))
        torch.testing.assert_close(logits, grader(patches))
    assert (encoder.spec.dim, encoder.spec.patch_px) == (64, 64)


@pytest.mark.parametrize("distillation", [True, False])
def test_a_student_of_hdkd_gives_its_tokens(tmp_path, distillation):
    """They are what its logits are linear in; the map in front of the transformer is not."""
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 1, "heads": 2, "distillation": distillation}
    grader = build_grader("hdkd_student", 3, width=0.125, options=options).eval()
    spec = InputSpec(4.0, 32, (0.0,) * 3, (1.0,) * 3, ("a", "b", "c"))
    save_bundle(tmp_path, grader, spec, arch="hdkd_student", width=0.125)
    encoder = open_encoder(str(tmp_path))
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        found = encoder(patches)
        logits = grader.head.class_head(found[:, :16])
        if distillation:
            logits = (logits + grader.head.distillation_head(found[:, 16:])) / 2
        torch.testing.assert_close(logits, grader(patches))
    assert encoder.spec.dim == found.shape[1] == (32 if distillation else 16)
    assert encoder.spec.id == "hdkd_student of wsikd, tokens"


def test_the_width_is_that_of_what_comes_out():
    """MobileNetV3 widens its features behind the pooling."""
    encoder = open_encoder("timm:mobilenetv3_small_050", weights="random")
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.spec.dim)


def test_timm_with_local_weights(tmp_path):
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}},
               tmp_path / "w.pth")  # fmt: skip
    patches = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    found = []
    for name in ("w.safetensors", "w.pth"):
        encoder = open_encoder("timm:resnet10t", weights=str(tmp_path / name), licence="CC0")
        with torch.no_grad():
            found.append(encoder(patches))
    assert encoder.spec.licence == "CC0"
    config = timm.data.resolve_model_data_config(net)
    mean, std = (torch.tensor(config[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    side = config["input_size"][-1]
    x = torch.nn.functional.interpolate(
        (patches / 255 - mean) / std, size=(side, side), mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("timm:resnet10t", {"weights": "none.pth"}, "cannot be read"),
        ("timm:no_such_net", {"weights": "random"}, "timm does not offer it"),
        ("nowhere", {}, "neither a bundle, a timm network"),
    ],
)
def test_what_is_not_to_be_had(name, options, told):
    with pytest.raises(ConfigError, match=told):
        open_encoder(name, **options)


def test_weights_of_another_network(tmp_path):
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="does not fit"):
        open_encoder("timm:resnet10t", weights=str(tmp_path / "w.safetensors"))
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        open_encoder("timm:resnet10t", weights=str(tmp_path / "w.pth"))


def drop(card):
    del card["network"]["tap"]


def rename(card):
    card["network"]["arch"] = "vgg99"


def resize(card):
    card["network"]["dim"] = 7


@pytest.mark.parametrize("plant", [drop, rename, resize])
def test_a_card_that_does_not_fit(tmp_path, plant):
    saved(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    plant(card)
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(BundleError, match=r"card\.json: does not match its weights"):
        open_encoder(str(tmp_path))


def test_weights_that_are_not_the_cards(tmp_path):
    saved(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(BundleError, match="is not the file"):
        open_encoder(str(tmp_path))
    (tmp_path / WEIGHTS).write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match="not a safetensors file"):
        open_encoder(str(tmp_path))
