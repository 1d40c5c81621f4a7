"""Exported students, read back by programs that know nothing of wsikd."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision import transforms

from wsikd.core.errors import BundleError, ConfigError, OutputError
from wsikd.models.files import export as portable
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.files.export import export_model
from wsikd.models.graders.pooled import assemble, build_grader

CLASSES = ("NC", "G3", "G4", "G5")
SPEC = InputSpec(4.0, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), CLASSES, "half", 2)
# WSInfer's published schema of a configuration, by hand: what must be there, and what may.
REQUIRED = {
    "spec_version", "architecture", "num_classes", "patch_size_pixels", "spacing_um_px",
    "class_names", "transform",
}  # fmt: skip
TRANSFORMS = {
    "Resize": transforms.Resize,
    "ToTensor": transforms.ToTensor,
    "Normalize": transforms.Normalize,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25, input_norm="imagenet", upsample=2).eval()
    folder = tmp_path_factory.mktemp("s") / "student"
    more = {"width": 0.25, "temperature": 1.6}
    return load_bundle(save_bundle(folder, grader, SPEC, arch="vgg_small", **more))


@pytest.fixture(scope="module")
def patches():
    rng = np.random.default_rng(7)
    smooth = np.cumsum(rng.normal(0, 9, (5, 32, 32, 3)), 1) + 150
    return np.clip(smooth, 0, 255).astype(np.uint8)


def logits(bundle, patches):
    with torch.no_grad():
        x = torch.from_numpy(patches).permute(0, 3, 1, 2)
        return bundle.network()(x).numpy() / 1.6  # calibrated, as wsikd infer has it


def close(found, bundle, patches):
    np.testing.assert_allclose(found, logits(bundle, patches), rtol=0, atol=1e-4)


def test_onnx_says_what_it_takes_and_gives_the_same(bundle, patches, tmp_path):
    record = export_model(bundle, "onnx", tmp_path / "x", patches=patches)
    model = onnx.load(tmp_path / "x" / "model.onnx")
    facts = {p.key: p.value for p in model.metadata_props}
    assert json.loads(facts["classes"]) == list(CLASSES)
    assert json.loads(facts["mpp"]) == 4.0
    assert facts["patches"].startswith("uint8 RGB, 0 to 255")
    assert facts["student"] == bundle.sha256
    session = onnxruntime.InferenceSession(tmp_path / "x" / "model.onnx")
    taken = session.get_inputs()[0]
    assert (taken.type, taken.shape[1:]) == ("tensor(uint8)", [3, 32, 32])
    for count in (1, 5):
        x = patches[:count].transpose(0, 3, 1, 2)
        close(session.run(None, {"patches": x})[0], bundle, patches[:count])
    assert 0 <= record["parity"]["max_difference"] <= 1e-4
    assert record["parity"]["slide_patches"] == 5
    assert json.loads((tmp_path / "x" / "export.json").read_text()) == record


def test_a_name_is_in_the_record_and_in_the_properties_of_onnx(bundle, tmp_path):
    named = replace(bundle, card=bundle.card.model_copy(update={"name": "P <b>", "version": "2"}))
    before = export_model(bundle, "onnx", tmp_path / "before")
    after = export_model(named, "onnx", tmp_path / "after")
    assert not {"name", "version"} & before.keys()
    assert (after["name"], after["version"]) == ("P <b>", "2")
    old, new = (onnx.load(tmp_path / place / "model.onnx") for place in ("before", "after"))
    props = [{p.key: p.value for p in model.metadata_props} for model in (old, new)]
    assert props[1] == props[0] | {"name": "P <b>", "version": "2"}
    assert old.graph == new.graph


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_torchscript_gives_the_same(bundle, patches, tmp_path):
    export_model(bundle, "torchscript", tmp_path / "x")
    loaded = torch.jit.load(tmp_path / "x" / "model.pt")
    with torch.no_grad():
        for kind in (torch.uint8, torch.float32):
            x = torch.from_numpy(patches).permute(0, 3, 1, 2).to(kind)
            close(loaded(x).numpy(), bundle, patches)


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_wsinfer_applies_its_transforms_and_gets_the_same(bundle, patches, tmp_path):
    export_model(bundle, "wsinfer", tmp_path / "x")
    names = {p.name for p in (tmp_path / "x").iterdir()}
    assert names == {"config.json", "torchscript_model.pt", "export.json"}
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert set(config) == REQUIRED
    assert config["spec_version"] == "1.0"
    assert config["num_classes"] == len(config["class_names"]) == 4
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (32, 4.0)
    assert all(set(step) <= {"name", "arguments"} for step in config["transform"])
    chain = transforms.Compose(
        [TRANSFORMS[step["name"]](**step.get("arguments", {})) for step in config["transform"]]
    )
    x = torch.stack([chain(Image.fromarray(patch)) for patch in patches])
    with torch.no_grad():
        close(torch.jit.load(tmp_path / "x" / "torchscript_model.pt")(x).numpy(), bundle, patches)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "wsinfer"])
def test_a_copy_that_differs_is_not_left(bundle, tmp_path, monkeypatch, kind):
    name = "_write_onnx" if kind == "onnx" else "_write_torchscript"
    right = getattr(portable, name)

    def off(*args):
        run = right(*args)
        return lambda x: run(x) + np.float32(0.01)

    monkeypatch.setattr(portable, name, off)
    with pytest.raises(BundleError, match=r"differs from it by 0\.01 in a logit"):
        export_model(bundle, kind, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_one_batch_size_is_not_left(bundle, tmp_path, monkeypatch):
    write = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, dynamic_axes, **more: write(*a, **more))
    with pytest.raises(BundleError, match="does not run"):
        export_model(bundle, "onnx", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_only_when_asked(bundle, tmp_path):
    export_model(bundle, "torchscript", tmp_path / "x")
    with pytest.raises(OutputError, match="--overwrite"):
        export_model(bundle, "onnx", tmp_path / "x")
    export_model(bundle, "onnx", tmp_path / "x", overwrite=True)
    assert {p.name for p in (tmp_path / "x").iterdir()} == {"model.onnx", "export.json"}
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="was not written by wsikd as an exported network"):
        export_model(bundle, "onnx", tmp_path / "y", overwrite=True)
    assert (tmp_path / "y" / "mine.txt").exists()


def test_an_unknown_kind_is_named(bundle, tmp_path):
    with pytest.raises(ConfigError, match="--to tflite: is not known"):
        export_model(bundle, "tflite", tmp_path / "x")


@pytest.mark.slow
def test_a_transformer_has_an_onnx_form_of_any_batch(patches, tmp_path):
    spec = InputSpec(4.0, 32, (0.5,) * 3, (0.2,) * 3, CLASSES)
    arch = "timm:vit_tiny_patch16_224"
    grader = assemble(arch, 4, mean=spec.mean, std=spec.std).eval()
    made = load_bundle(save_bundle(tmp_path / "s", grader, spec, arch=arch))
    record = export_model(made, "onnx", tmp_path / "x", patches=patches)
    assert record["parity"]["max_difference"] <= 1e-4
    assert {p.name for p in (tmp_path / "x").iterdir()} == {"model.onnx", "export.json"}
