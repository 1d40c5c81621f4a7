"""Embedders: an adapter on a frozen trunk learns another encoder's embeddings."""

import json

import numpy as np
import pytest
import torch

from tests.models.backbones.weights_package import renamed, timm_state, write_package
from tests.tiles.stores import settings_of, write_store
from wsikd.bags.bag import open_bag, write_h5
from wsikd.bags.embed import Embedder, settings_for
from wsikd.core.config import parse_config
from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.engine.train import train
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.preflight import check_run
from wsikd.learn.ts2g.adapter_train import EmbedTask, fit_of
from wsikd.learn.ts2g.method import Select, Ts2gConfig, embedding_terms
from wsikd.learn.ts2g.pairs import load_pairs
from wsikd.learn.ts2g.select_patches import choose
from wsikd.models.encoders.base import Encoder, EncoderSpec
from wsikd.models.encoders.open import open_encoder
from wsikd.tiles.store import TileStore

SLIDES, DIM = 6, 5


class Colours(torch.nn.Module):
    """A "foundation model": means and deviations of the channels, mixed."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(6, DIM, generator=generator))

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1) @ self.mix


def teacher():
    spec = EncoderSpec("colours", "CC0", DIM, "t", None, (0.5,) * 3, (0.25,) * 3)
    return Encoder(Colours(), spec)


def write_pairs(root):
    """Stores of six slides, and the teacher's bags of them at 1 um/px."""
    embedder = Embedder(teacher(), settings_for(teacher(), 1.0, 64))
    for k in range(SLIDES):
        path = root / "stores" / f"s{k}.zarr"
        rng = np.random.default_rng(k)
        full = rng.integers(0, 256, (3, 5, 3))
        pixels = np.kron(full, np.ones((64, 64, 1))) + rng.normal(0, 20, (192, 320, 3))
        pixels = np.clip(pixels, 0, 255).astype(np.uint8)
        small = pixels.reshape(48, 4, 80, 4, 3).mean((1, 3)).round().astype(np.uint8)
        write_store(path, settings_of(), levels=[pixels, small], name=f"s{k}", digest=f"d{k}",
                    split="val" if k == 5 else "train")  # fmt: skip
        embedder.embed_store(TileStore.open(path), root / "bags" / f"s{k}.zarr")
    return root


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("ts2g"))


def config(cohort, **changes):
    content = {
        "method": "ts2g",
        "data": {"paths": [str(cohort / "stores")], "targets": [str(cohort / "bags")], "mpp": 1.0},
        "trunk": {"arch": "vgg_small", "weights": "random", "tap": "F2"},
        "optim": {"epochs": 25, "batch_size": 10, "lr": 1e-2},
        "augment": {"flips": True, "brightness": 0, "contrast": 0, "saturation": 0},
    }
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    return parse_config(Ts2gConfig, content, name="test")


@pytest.mark.parametrize("adapter", ["p", "m", "mp", "mpa"])
def test_every_adapter_learns(cohort, tmp_path, adapter):
    short = config(cohort, adapter=adapter, optim={"epochs": 10, "lr": 3e-2})
    result = train(EmbedTask, short, tmp_path, device="cpu")
    assert result.metrics["r2"] > 0.3
    assert result.metrics["cosine"] > 0.5


@pytest.mark.parametrize("targets", ["plain", "standardise", "normalise"])
@pytest.mark.parametrize("term", ["mae", "mse", "cosine"])
def test_every_term_and_target(cohort, tmp_path, targets, term):
    changed = config(cohort, targets=targets, weights={term: 1.0}, optim={"epochs": 1})
    result = train(EmbedTask, changed, tmp_path, device="cpu")
    assert np.isfinite(list(result.metrics.values())).all()


def test_a_student_at_a_sixteenth_of_the_pixels(cohort, tmp_path):
    low = config(cohort, data={"student_mpp": 4.0}, optim={"epochs": 15, "lr": 3e-2})
    result = train(EmbedTask, low, tmp_path / "run", device="cpu")
    encoder = open_encoder(str(tmp_path / "run"))
    assert (encoder.spec.mpp, encoder.spec.patch_px, encoder.spec.dim) == (4.0, 16, DIM)
    assert "colours" in encoder.spec.id
    assert "CC0" in encoder.spec.licence
    store = TileStore.open(cohort / "stores" / "s5.zarr")
    Embedder(encoder, settings_for(encoder, None, None)).embed_store(store, tmp_path / "b.zarr")
    own = open_bag(tmp_path / "b.zarr").features()
    theirs = open_bag(cohort / "bags" / "s5.zarr").features()
    trained = load_pairs(low.data, low.split)
    assert len(trained.indices("val")) == len(own)
    rest = ((own - theirs) ** 2).sum() / ((theirs - theirs.mean(0)) ** 2).sum()
    assert rest < 0.8, "what it gives is in the teacher's own scale"
    assert result.metrics["r2"] > 0.2


def test_the_epoch_of_lowest_loss_is_kept(cohort, tmp_path, monkeypatch):
    """Not that of best cosine, which does not see the length of an embedding."""
    rows = [(1.0, 0.9), (0.5, 0.4), (0.7, 0.8)]
    told = iter([{"loss": loss, "cosine": cosine, "r2": -loss} for loss, cosine in rows])
    monkeypatch.setattr(EmbedTask, "validate", lambda self, logits: next(told))
    result = train(EmbedTask, config(cohort, optim={"epochs": 3}), tmp_path, device="cpu")
    assert result.best_epoch == 2


def test_variance_around_another_centre():
    found, target = np.float32([[1, 0], [0, 2]]), np.float32([[1, 1], [1, 2]])
    around = fit_of(found, target, np.float32([3, 1]))["r2"]
    assert around == pytest.approx(1 - (1 + 1) / (4 + 4 + 1))
    assert fit_of(found, target)["r2"] == pytest.approx(1 - 2 / 0.5)


def test_resume_is_bit_for_bit(cohort, tmp_path, monkeypatch):
    short = config(cohort, optim={"epochs": 5})
    train(EmbedTask, short, tmp_path / "whole", device="cpu")
    fit = Trainer._train_epoch

    def dies(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        return fit(self)

    monkeypatch.setattr(Trainer, "_train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train(EmbedTask, short, tmp_path / "killed", device="cpu")
    monkeypatch.setattr(Trainer, "_train_epoch", fit)
    train(EmbedTask, short, tmp_path / "killed", device="cpu", resume=True)
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        whole, killed = (open_encoder(str(tmp_path / n))(x) for n in ("whole", "killed"))
    assert torch.equal(whole, killed)


def test_terms_against_slow_readings():
    rng = np.random.default_rng(0)
    v, t = rng.normal(size=(2, 4, 3))
    found = embedding_terms(torch.from_numpy(v), torch.from_numpy(t))
    mae = np.mean([abs(a - b) for a, b in zip(v.ravel(), t.ravel(), strict=True)])
    mse = np.mean([(a - b) ** 2 for a, b in zip(v.ravel(), t.ravel(), strict=True)])
    angles = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(v, t, strict=True)]
    assert found["mae"].item() == pytest.approx(mae)
    assert found["mse"].item() == pytest.approx(mse)
    assert found["cosine"].item() == pytest.approx(1 - np.mean(angles))


def test_h5_bags_serve_as_teachers(cohort, tmp_path):
    """Whole coordinates find the patches of a fractional grid."""
    for k in range(SLIDES):
        write_h5(tmp_path / f"s{k}.h5", open_bag(cohort / "bags" / f"s{k}.zarr"))
    own = load_pairs(config(cohort).data, config(cohort).split)
    h5 = config(cohort, data={"targets": [str(tmp_path)]})
    other = load_pairs(h5.data, h5.split)
    assert own.slide == other.slide
    np.testing.assert_array_equal(own.targets, other.targets)


def test_one_unreadable_bag_among_many(cohort, tmp_path, caplog):
    for k in range(SLIDES):
        write_h5(tmp_path / f"s{k}.h5", open_bag(cohort / "bags" / f"s{k}.zarr"))
    (tmp_path / "s2.h5").write_bytes(b"torn")
    h5 = config(cohort, data={"targets": [str(tmp_path)]})
    patches = load_pairs(h5.data, h5.split)
    assert set(patches.slide) == {f"s{k}" for k in range(SLIDES) if k != 2}
    assert "s2.h5: cannot be read" in caplog.text
    assert "no bag of slide 's2'" in caplog.text


def test_bags_of_other_patches_are_refused(cohort, tmp_path):
    bag = open_bag(cohort / "bags" / "s0.zarr")
    from wsikd.bags.bag import BagInfo, write_bag

    write_bag(tmp_path / "s0.zarr", BagInfo("s0"), bag.features(), bag.coords() + 40)
    moved = config(cohort, data={"targets": [str(tmp_path)]})
    with pytest.raises(DataError, match="has no patch where s0"):
        load_pairs(moved.data, moved.split)


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"trunk": {"tap": "F9"}}, "is not a tap of the trunk"),
     ({"trunk": {"weights": "none.pth"}}, "cannot be read")],
)  # fmt: skip
def test_trunks_that_will_not_do(cohort, tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        train(EmbedTask, config(cohort, **changes), tmp_path, device="cpu")


def test_a_trunk_from_an_installed_package(cohort, tmp_path, monkeypatch):
    """Its weights, its normalisation, and where they are from."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    state = timm_state("test_efficientnet")
    write_package(site, renamed(state))
    trunk = {"arch": "timm:test_efficientnet", "weights": "package:tiny-lite-model", "tap": "F2",
             "input_norm": "half"}  # fmt: skip
    own = config(cohort, trunk=trunk, optim={"epochs": 1})
    check_run(own)
    train(EmbedTask, own, tmp_path / "run", device="cpu")
    encoder = open_encoder(str(tmp_path / "run"))
    assert tuple(encoder.spec.mean) == tuple(encoder.spec.std) == (0.5,) * 3
    kept = encoder.network.trunk.state_dict()
    assert kept
    assert all(torch.equal(v, state[k.removeprefix("stages.net.")]) for k, v in kept.items())
    card = json.loads((tmp_path / "run/student/card.json").read_text())
    assert card["init_weights"]["source"] == "package:tiny-lite-model 0.1.0"
    assert card["init_weights"]["licence"] == "Apache-2.0"
    with pytest.raises(ConfigError, match=r"trunk\.weights package:none-such: is not installed"):
        check_run(config(cohort, trunk=trunk | {"weights": "package:none-such"}))
    with pytest.raises(ConfigError, match="do not match this network"):
        train(EmbedTask, config(cohort, trunk=trunk | {"arch": "timm:test_resnet"}),
              tmp_path / "other", device="cpu")  # fmt: skip


def score(features):
    return features[:, 0]


@pytest.mark.parametrize(("mode", "count"), [("top", 3), ("random", 3), ("mixed", 4), ("all", 3)])
def test_selection(mode, count):
    features = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    how = Select(mode=mode, count=count)
    chosen = choose(features, how, score=score, entropy=(0, 1))
    best = set(np.argsort(-features[:, 0]).tolist())
    top = set(np.argsort(-features[:, 0])[: {"top": 3, "mixed": 2}.get(mode, 0)].tolist())
    assert len(chosen) == (10 if mode == "all" else count)
    assert top <= set(chosen.tolist()) <= best
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose(features, how, score=score, entropy=(0, 1)))
    few = choose(features[:2], how, score=score, entropy=(0, 1))
    assert few.tolist() == [0, 1]
