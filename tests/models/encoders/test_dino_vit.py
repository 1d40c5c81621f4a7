"""DINO's transformers against a slow reading in NumPy; files in every form that they come in."""

import argparse

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from scipy.special import erf
from wsikd.cli.main import main

from wsikd.bags.region_table import open_regions
from wsikd.core.errors import ConfigError
from wsikd.models.encoders.dino_vit import DinoViT
from wsikd.models.encoders.open import open_encoder

WIDTH, DEPTH, TOKEN, TABLE = 128, 2, 8, 3


@pytest.fixture(scope="module")
def state():
    """Weights of a small one, large enough that nothing in it is without effect."""
    torch.manual_seed(0)
    net = DinoViT(width=WIDTH, depth=DEPTH, token_px=TOKEN, table=TABLE).net
    return {
        k: torch.randn_like(v) * 0.3 + (k.endswith("norm.weight"))
        for k, v in net.state_dict().items()
    }


def norm(x, weights, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def keys(t):
    """Bicubic weights of four neighbours at a distance t behind the second, a = -0.75."""
    d = np.abs(np.array([1 + t, t, 1 - t, 2 - t]))
    a = -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, far)


def positions(table, side):
    """DINO's: pixel i of the grid lies at (i + 0.5) * table / (side + 0.1) - 0.5."""
    first, grid = table[0, :1], table[0, 1:].reshape(TABLE, TABLE, -1)
    if side == TABLE:
        return table[0]
    out = np.zeros((side, side, grid.shape[-1]))
    for row in range(side):
        for column in range(side):
            at = [(i + 0.5) * TABLE / (side + 0.1) - 0.5 for i in (row, column)]
            base = [int(np.floor(v)) for v in at]
            down, across = (keys(v - b) for v, b in zip(at, base, strict=True))
            for i in range(4):
                for j in range(4):
                    y, x = (
                        np.clip(b - 1 + k, 0, TABLE - 1) for b, k in zip(base, (i, j), strict=True)
                    )
                    out[row, column] += down[i] * across[j] * grid[y, x]
    return np.concatenate([first, out.reshape(side * side, -1)])


def slowly(image, state):
    """Class token of one normalised image (3, s, s)."""
    w = {k: v.double().numpy() for k, v in state.items()}
    side = image.shape[1] // TOKEN
    tokens = [w["cls_token"][0, 0]]
    for row in range(side):
        for column in range(side):
            cut = image[:, row * TOKEN :, column * TOKEN :][:, :TOKEN, :TOKEN]
            kernel = w["patch_embed.proj.weight"]
            tokens.append((kernel * cut).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    x = np.stack(tokens) + positions(w["pos_embed"], side)
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        q, k, v = np.split(linear(norm(x, w, f"{block}.norm1"), w, f"{block}.attn.qkv"), 3, 1)
        heads = []
        for h in range(WIDTH // 64):
            part = slice(64 * h, 64 * h + 64)
            score = q[:, part] @ k[:, part].T / 8
            score = np.exp(score - score.max(1, keepdims=True))
            heads.append(score / score.sum(1, keepdims=True) @ v[:, part])
        x = x + linear(np.concatenate(heads, 1), w, f"{block}.attn.proj")
        inner = linear(norm(x, w, f"{block}.norm2"), w, f"{block}.mlp.fc1")
        x = x + linear(inner * 0.5 * (1 + erf(inner / np.sqrt(2))), w, f"{block}.mlp.fc2")
    return norm(x, w, "norm")[0]


@pytest.mark.parametrize("side", [TABLE, 2, 5])
def test_it_is_the_slow_reading(state, tmp_path, side):
    save_file(state, tmp_path / "vit.safetensors")
    encoder = open_encoder(f"hipt:{tmp_path / 'vit.safetensors'}")
    patches = np.random.default_rng(0).integers(0, 256, (2, 3, side * TOKEN, side * TOKEN))
    with torch.inference_mode():
        found = encoder(torch.from_numpy(patches.astype(np.uint8))).numpy()
    expected = [slowly((patch / 255 - 0.5) / 0.5, state) for patch in patches]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def plain(state, file):
    torch.save(state, file)


def checkpoint(state, file):
    """As DINO saves it: teacher and student in wrappers, with heads, and how it was called."""
    teacher = {f"backbone.{k}": v for k, v in state.items()} | {"head.mlp.0.weight": torch.ones(3)}
    student = {f"module.backbone.{k}": v + 1 for k, v in state.items()}
    called = argparse.Namespace(arch="vit_small", patch_size=16, lr=0.0005)
    torch.save({"student": student, "teacher": teacher, "epoch": 100, "args": called}, file)


def parallel(state, file):
    torch.save({"teacher": {f"module.backbone.{k}": v for k, v in state.items()}}, file)


@pytest.mark.parametrize("form", [plain, checkpoint, parallel])
def test_every_form_of_the_file_is_the_same_network(state, tmp_path, form):
    form(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    one, other = (open_encoder(f"hipt:{tmp_path / n}") for n in ("w.pth", "w.safetensors"))
    assert one.spec.sha256 == other.spec.sha256


def test_the_transform_is_that_of_its_maker(state, tmp_path, caplog):
    plain(state, tmp_path / "w.pth")
    caplog.set_level("INFO", logger="wsikd")
    for name in (f"hipt:{tmp_path / 'w.pth'}", str(tmp_path / "w.pth")):
        hipt = open_encoder(name, licence="theirs").spec
        assert (hipt.id, hipt.dim, hipt.licence) == ("hipt:w.pth", WIDTH, "theirs")
        assert (hipt.mean, hipt.std) == ((0.5,) * 3, (0.5,) * 3)
        assert (hipt.input_px, hipt.patch_px) == (None, 256)
    assert "deviation (0.5, 0.5, 0.5), as in HIPT" in caplog.text
    dino = open_encoder(f"dino:{tmp_path / 'w.pth'}").spec
    assert (dino.mean, dino.input_px, dino.patch_px) == ((0.485, 0.456, 0.406), 224, None)


def test_what_is_no_such_network_is_told(state, tmp_path):
    cases = {
        "missing": {k: v for k, v in state.items() if k != "norm.bias"},
        "gap": {k: v for k, v in state.items() if not k.startswith("blocks.0")},
        "table": {**state, "pos_embed": state["pos_embed"][:, :-1]},
        "other": {"conv.weight": torch.ones(3, 3)},
    }
    for name, weights in cases.items():
        plain(weights, tmp_path / f"{name}.pth")
        with pytest.raises(ConfigError, match=f"{name}.pth") as error:
            open_encoder(f"hipt:{tmp_path / name}.pth")
        assert ("norm.bias is missing" in str(error.value)) == (name == "missing")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_encoder(f"dino:{tmp_path / 'none.pth'}")
    with pytest.raises(ConfigError, match="brings its own"):
        open_encoder(f"dino:{tmp_path / 'other.pth'}", weights="random")


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path, capsys):
    torch.save({"teacher": {"x": torch.ones(1)}, "args": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="not a plain state dict"):
        open_encoder(f"hipt:{tmp_path / 'w.pth'}")
    assert capsys.readouterr().out == ""


def test_regions_keep_the_transform(state, tmp_path, slide_file):
    plain(state, tmp_path / "w.pth")
    command = ["embed", "-i", str(slide_file), "--encoder", str(tmp_path / "w.pth"), "-o",
               str(tmp_path / "out"), "--regions", "128", "--mpp", "2"]  # fmt: skip
    done = CliRunner().invoke(main, [*command, "--patch-size", "32"])
    assert done.exit_code == 0, done.output
    table = open_regions([tmp_path / "out"])
    assert table.shape == (WIDTH, 4, 4)
    assert (table.encoder["id"], table.encoder["mean"]) == ("hipt:w.pth", [0.5] * 3)
    odd = CliRunner().invoke(main, [*command[:-3], "60", "--mpp", "2", "--patch-size", "30",
                                    "--overwrite"])  # fmt: skip
    assert odd.exit_code == 3
    assert "--patch-size 30: is not a multiple of the network's 8 px" in odd.output
