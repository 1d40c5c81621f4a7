"""The region encoder: its sizes, its positions, its last layer."""

import numpy as np
import pytest
import torch

from wsikd.models.files.region_bundle import load_region_encoder, save_region_encoder
from wsikd.models.slide_level.region_vit import (
    DropPath,
    RegionEncoder,
    RegionShape,
    RegionStudent,
    RegionViT,
)

SMALL = RegionShape(dim=5, table=4, width=8, depth=2, heads=2, hidden=12, bottleneck=6, outputs=20)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_published_sizes():
    student = RegionStudent(RegionShape())
    assert count(student.vit) == 2_781_504
    assert count(student.head) == 5_116_160
    assert count(student.last) == 16_777_216


def test_positions_are_the_table_on_its_own_grid_and_bicubic_elsewhere():
    vit = RegionViT(SMALL)
    assert vit.positions(4, 4) is vit.pos
    for side in (2, 3, 6):
        found = vit.positions(side, side).detach()
        assert found.shape == (1, 1 + side * side, 8)
        assert torch.equal(found[:, 0], vit.pos[:, 0])
        grid = vit.pos[0, 1:].detach().double().numpy().reshape(4, 4, 8)
        weights = cubic(side, 4, (side + 0.1) / 4)
        expected = np.einsum("ip,jq,pqc->ijc", weights, weights, grid)
        np.testing.assert_allclose(found[0, 1:].numpy().reshape(side, side, 8), expected, atol=1e-6)


def cubic(out, size, scale, a=-0.75):
    """Weights (out, size) of a cubic convolution, half-pixel centred, the edge repeated."""
    weights = np.zeros((out, size))
    for i in range(out):
        x = (i + 0.5) / scale - 0.5
        for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
            d = abs(x - j)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(j, 0), size - 1)] += near if d <= 1 else far if d < 2 else 0
    return weights


def test_the_transformer_is_what_its_words_say():
    """Class token of pre-norm blocks, by hand in float64."""
    torch.manual_seed(0)
    vit = RegionViT(SMALL).double().eval()
    x = torch.randn(2, 5, 4, 4, dtype=torch.float64)
    w = {k: v.detach().numpy() for k, v in vit.named_parameters()}
    gelu = lambda v: 0.5 * v * (1 + torch.erf(torch.from_numpy(v) / 2**0.5).numpy())  # noqa: E731

    def norm(v, name):
        v = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-6)
        return v * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(v, name):
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    for grids, found in zip(x.numpy(), vit(x).detach().numpy(), strict=True):
        tiles = [grids[:, row, column] for row in range(4) for column in range(4)]
        tokens = np.stack([w["cls"][0, 0], *(gelu(linear(t, "phi.0")) for t in tiles)])
        tokens = tokens + w["pos"][0]
        for b in ("blocks.0", "blocks.1"):
            q, k, v = np.split(linear(norm(tokens, f"{b}.norm1"), f"{b}.attn.qkv"), 3, axis=1)
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                scores = np.exp(q[:, h] @ k[:, h].T / 2)
                heads.append(scores / scores.sum(1, keepdims=True) @ v[:, h])
            tokens = tokens + linear(np.concatenate(heads, 1), f"{b}.attn.proj")
            inner = gelu(linear(norm(tokens, f"{b}.norm2"), f"{b}.mlp.0"))
            tokens = tokens + linear(inner, f"{b}.mlp.2")
        np.testing.assert_allclose(found, norm(tokens, "norm")[0], atol=1e-10)


def test_the_last_layer_measures_cosines():
    torch.manual_seed(0)
    student = RegionStudent(SMALL).eval()
    x = torch.randn(3, 5, 4, 4)
    unit = student.bottleneck(x)
    assert torch.allclose(unit.norm(dim=1), torch.ones(3))
    before = student.scores(x)
    expected = torch.nn.functional.cosine_similarity(
        unit[:, None], student.last.weight[None], dim=2
    )
    torch.testing.assert_close(before, expected)
    with torch.no_grad():
        student.last.weight.mul_(3)
    torch.testing.assert_close(student.scores(x), before)


def test_drop_path_skips_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    found = drop.train()(x)
    each = found.reshape(4000, -1)
    assert torch.equal(each.amin(1), each.amax(1))
    assert sorted(set(each[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert float(found.mean()) == pytest.approx(1, abs=0.04)
    assert drop.eval()(x) is x
    chances = [block.drop.chance for block in RegionViT(RegionShape()).blocks]
    assert chances == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_an_encoder_comes_back_from_its_folder(tmp_path):
    torch.manual_seed(0)
    student = RegionStudent(SMALL).eval()
    save_region_encoder(tmp_path, student, encoder={"id": "x"}, mpp=None, grid=5)
    found = load_region_encoder(tmp_path)
    x = torch.randn(2, 5, 5, 5)
    with torch.inference_mode():
        torch.testing.assert_close(found(x), student(x))
        torch.testing.assert_close(found.bottleneck(x), student.bottleneck(x))
    own = student.state_dict()
    assert all(torch.equal(own[name], value) for name, value in found.state_dict().items())
    assert (found.encoder, found.mpp, found.grid) == ({"id": "x"}, None, 5)
    assert isinstance(found, RegionEncoder)
    assert not any(p.requires_grad for p in found.parameters())
