"""The hybrid networks: published sizes, shapes, and what each block computes, read slowly."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import nn

from wsikd.core.errors import BundleError, ConfigError
from wsikd.models.backbones.base import macs
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.hdkd import Attention, Block, ChannelSpatialAttention, TokenHead
from wsikd.models.graders.hdkd_options import Hybrid
from wsikd.models.graders.pooled import GRADERS, build_grader

SMALL = {"dim": 16, "heads": 2, "depth": 1, "positions": 4, "units": [2, 1, 1]}


def small(arch="hdkd_student", classes=3, seed=0, width=0.125, **options):
    torch.manual_seed(seed)
    return build_grader(arch, classes, width=width, options=SMALL | options)


@pytest.mark.parametrize(
    ("arch", "classes", "options", "expected"),
    [
        ("hdkd_student", 7, {}, 3_727_288),
        ("hdkd_student", 4, {}, 3_725_746),
        ("hdkd_student", 7, {"distillation": False}, 3_724_977),
        ("hdkd_teacher", 7, {}, 3_948_677),
        ("hdkd_teacher", 4, {}, 3_948_290),
    ],
)
def test_parameters_are_the_published_networks(arch, classes, options, expected):
    with torch.device("meta"):
        net = build_grader(arch, classes, options=options)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(("arch", "giga"), [("hdkd_student", 1.965), ("hdkd_teacher", 5.700)])
def test_multiply_accumulates_of_convolutions_and_linear_layers(arch, giga):
    with torch.device("meta"):
        net = build_grader(arch, 7).eval()
    whole, total = macs(net, 224), 0

    def count(module, _, out):
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    net(torch.zeros(1, 3, 224, 224, device="meta"))
    assert total / 1e9 == pytest.approx(giga, abs=5e-4)
    attending = 3 * 2 * 198**2 * 256 if arch == "hdkd_student" else 0
    assert whole == total + attending


@pytest.mark.parametrize(
    ("side", "stem_stride", "grid"), [(224, 2, 112), (448, 4, 112), (64, 1, 64), (256, 4, 64)]
)
@pytest.mark.parametrize("arch", GRADERS)
def test_stage_shapes(arch, side, stem_stride, grid):
    with torch.device("meta"):
        net = build_grader(arch, 4, options={"stem_stride": stem_stride})
        taps = net.backbone.forward_taps(torch.zeros(2, 3, side, side), net.backbone.taps)
    expected = {"F1": (64, grid), "F2": (96, grid // 2), "F3": (192, grid // 4)}
    assert {k: tuple(v.shape) for k, v in taps.items()} == {
        k: (2, c, s, s) for k, (c, s) in expected.items()
    }
    for name, tap in net.backbone.taps.items():
        assert (tap.channels, side // tap.stride) == expected[name]


def gelu(x):
    return 0.5 * x * (1 + special.erf(x / math.sqrt(2)))


def norm(x, module):
    """Batch norm by the batch's own statistics: float64 (B, C, h, w)."""
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    weight, bias = (p.detach().numpy()[:, None, None] for p in (module.weight, module.bias))
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def pointwise(x, conv):
    return np.einsum("oc,bchw->bohw", conv.weight.detach().numpy()[:, :, 0, 0], x)


def attended(x, module):
    """The channel and spatial attention with its outer residual."""
    first, _, second = module.perceptron

    def perceptron(v):
        return pointwise(gelu(pointwise(v[:, :, None, None], first)), second)

    gate = special.expit(perceptron(x.mean((2, 3))) + perceptron(x.max((2, 3))))
    y = gate * x
    kernel = module.place.weight.detach().numpy()[0]
    seen = np.stack([y.mean(1), y.max(1)], 1)
    place = np.stack(
        [
            sum(ndimage.correlate(m, k, mode="constant") for m, k in zip(maps, kernel, strict=True))
            for maps in seen
        ]
    )
    return special.expit(place)[:, None] * y + x


def depthwise(x, conv, stride):
    kernels = conv.weight.detach().numpy()[:, 0]
    out = [
        [ndimage.correlate(m, k, mode="constant") for m, k in zip(maps, kernels, strict=True)]
        for maps in x
    ]
    return np.array(out)[:, :, ::stride, ::stride]


def halved_peaks(x):
    peaks = ndimage.maximum_filter(x, (1, 1, 3, 3), mode="constant", cval=-np.inf)
    return peaks[:, :, ::2, ::2]


@pytest.mark.parametrize("halve_in", ["pointwise", "depthwise"])
@pytest.mark.parametrize("down", [False, True])
def test_a_block_equals_a_slow_reading(down, halve_in):
    torch.manual_seed(1)
    block = Block(8, 12 if down else 8, Hybrid(halve_in=halve_in), down=down).double().train()
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    bn1, conv1, bn2, _, conv2, bn3, _, gate, conv3, bn4 = block.main
    strides = (2, 1) if halve_in == "pointwise" else (1, 2)
    first, second = strides if down else (1, 1)
    y = pointwise(norm(x.numpy(), bn1)[:, :, ::first, ::first], conv1)
    y = gelu(norm(depthwise(gelu(norm(y, bn2)), conv2, second), bn3))
    y = norm(pointwise(attended(y, gate), conv3), bn4)
    skip = pointwise(halved_peaks(x.numpy()), block.skip[1]) if down else x.numpy()
    assert np.allclose(block(x).detach().numpy(), skip + y, rtol=1e-9, atol=1e-9)
    assert (gate.perceptron[0].in_channels, gate.perceptron[0].out_channels) == (32, 2)


def test_squeeze_and_excitation_instead():
    torch.manual_seed(1)
    gate = Block(8, 8, Hybrid(gate="se"), down=False).main[7].double()
    x = torch.randn(2, 32, 3, 3, dtype=torch.float64)
    squeeze, excite = (m.weight.detach().numpy() for m in (gate.squeeze, gate.excite))
    weight = special.expit(gelu(x.numpy().mean((2, 3)) @ squeeze.T) @ excite.T)
    assert squeeze.shape == (2, 32)
    assert np.allclose(gate(x).detach().numpy(), x.numpy() * weight[:, :, None, None])


def layer_norm(x, module):
    weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def linear(x, module):
    y = x @ module.weight.detach().numpy().T
    return y if module.bias is None else y + module.bias.detach().numpy()


def self_attention(x, module, heads):
    dim = x.shape[-1] // heads
    query, key, value = np.split(linear(x, module.qkv), 3, -1)
    parts = []
    for h in range(heads):
        own = slice(h * dim, (h + 1) * dim)
        scores = query[:, own] @ key[:, own].T * dim**-0.5
        parts.append(special.softmax(scores, 1) @ value[:, own])
    return linear(np.concatenate(parts, 1), module.out)


@pytest.mark.parametrize("prenorm", [False, True])
def test_the_transformer_equals_a_slow_reading(prenorm):
    torch.manual_seed(2)
    options = Hybrid(dim=16, heads=2, depth=2, positions=3, ff_prenorm=prenorm)
    head = TokenHead(5, 3, options).double()
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    found = [z.detach().numpy() for z in head(x)]
    for image, logits in enumerate(zip(*found, strict=True)):
        tokens = [  # rows of patches; within one: row, column, channel
            np.concatenate([x[image, :, 2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)])
            for r in range(3)
            for c in range(3)
        ]
        y = layer_norm(np.array(tokens), head.embed[0])
        y = layer_norm(linear(y, head.embed[1]), head.embed[2])
        y = np.concatenate([head.tokens.detach().numpy()[0], y]) + head.position.detach().numpy()
        for block in head.blocks:
            y = y + self_attention(layer_norm(y, block.norm), block.attention, 2)
            inner = layer_norm(y, block.ff_norm) if prenorm else y
            y = y + linear(gelu(linear(inner, block.ff[0])), block.ff[2])
        y = layer_norm(y, head.norm)
        assert np.allclose(logits[0], linear(y[0], head.class_head), rtol=1e-9)
        assert np.allclose(logits[1], linear(y[1], head.distillation_head), rtol=1e-9)
    assert np.abs(found[0] - found[1]).min() > 0


def cubic(old, new, a=-0.75):
    """Weights (new, old) of cubic convolution (R. Keys 1981), half-pixel centred, clamped."""
    weights = np.zeros((new, old))
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            d = abs(place - k)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(k, 0), old - 1)] += near if d <= 1 else far
    return weights


def test_positions_are_kept_or_interpolated():
    torch.manual_seed(3)
    head = TokenHead(4, 3, Hybrid(dim=8, heads=2, depth=1, positions=4)).double()
    assert head.positions(4, 4) is head.position
    larger = head.positions(6, 8).detach()
    assert torch.equal(larger[:2], head.position[:2])  # both tokens keep theirs
    table = head.position.detach().numpy()[2:].reshape(4, 4, 8)
    expected = np.einsum("ip,jq,pqc->ijc", cubic(4, 6), cubic(4, 8), table)
    assert np.allclose(larger[2:].numpy(), expected.reshape(48, 8), atol=1e-12)
    net = small()
    assert net(torch.rand(2, 3, 96, 96)).shape == (2, 3)


def test_prediction_weighs_the_tokens():
    net = small(token_weight=0.7).eval()
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    own, distilled, taps = net.with_tokens(x, ["F1"])
    assert torch.allclose(net(x), 0.3 * own + 0.7 * distilled, atol=1e-6)
    assert torch.equal(net.with_taps(x, ["F1"])[1]["F1"], taps["F1"])
    alone = small(distillation=False).eval()
    own, distilled, _ = alone.with_tokens(x, [])
    assert distilled is None
    assert torch.equal(alone(x), own)


def test_the_teachers_head_is_one_linear_layer():
    net = small("hdkd_teacher").eval()
    x = torch.rand(2, 3, 64, 64)
    logits, taps = net.with_taps(x, ["F3"])
    pooled = taps["F3"].mean((2, 3))
    assert torch.allclose(logits, pooled @ net.head.weight.T + net.head.bias, atol=1e-5)


@pytest.mark.parametrize("arch", GRADERS)
def test_a_bundle_carries_the_shape_of_its_network(arch, tmp_path):
    net = small(arch, stem_stride=4, gate="se", token_weight=0.7).eval()
    spec = InputSpec(1.0, 128, (0.0,) * 3, (1.0,) * 3, ("a", "b", "c"))
    save_bundle(tmp_path, net, spec, arch=arch, width=0.125)
    bundle = load_bundle(tmp_path)
    assert bundle.options["token_weight"] == 0.7
    x = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    assert torch.equal(bundle.network()(x), net(x))
    card = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(card.replace('"gate": "se"', '"gate": "csa"'))
    with pytest.raises(BundleError, match="does not fit"):
        load_bundle(tmp_path)
    (tmp_path / "card.json").write_text(card.replace('"gate": "se"', '"gates": "se"'))
    with pytest.raises(BundleError, match=f"network '{arch}': unknown key"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("arch", "change", "message"),
    [
        ("hdkd_student", {"options": {"stem_stride": 8}}, "takes 3 units in the stem, which has 2"),
        ("hdkd_student", {"options": {"heads": 3}}, "heads 3 do not divide dim 256"),
        ("hdkd_student", {"options": {"depht": 3}}, "did you mean 'depth'"),
        ("hdkd_student", {"drop_pools": 1}, "stem_stride"),
        ("hdkd_teacher", {"weights": {}}, "no ImageNet weights"),
    ],
)
def test_what_cannot_be_made_is_refused(arch, change, message):
    with pytest.raises(ConfigError, match=message):
        build_grader(arch, 3, **change)


def test_a_map_of_odd_side_is_refused():
    with pytest.raises(ConfigError, match=r"9 x 9 cells, an odd number.*divides by 8 times"):
        small()(torch.rand(1, 3, 72, 72))


def test_attention_has_no_bias_in_its_queries():
    attention = Attention(16, 2)
    assert attention.qkv.bias is None
    assert attention.out.bias is not None
    assert ChannelSpatialAttention(64).perceptron[0].out_channels == 4


def test_the_narrowest_network_has_four_channels():
    assert {t.channels for t in small(width=1e-3).backbone.taps.values()} == {4}
