"""A student in TIAToolbox's own engine gives what ``wsikd infer`` gives."""

import importlib
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from wsikd.core.errors import BundleError, ConfigError
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tia import student_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that TIAToolbox calls
CLASSES = ("NC", "G3", "G4", "G5")
SIDE, MPP = 32, 4.0


@pytest.fixture(scope="module", autouse=True)
def engines():
    """Import them once, which takes half a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tiatoolbox.models.engine.patch_predictor")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25, input_norm="imagenet").eval()
    spec = InputSpec(MPP, SIDE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), CLASSES)
    with torch.no_grad():
        grader.head.weight.mul_(5)  # so that fields differ
    folder = tmp_path_factory.mktemp("s") / "s"
    more = {"width": 0.25, "temperature": 1.6}
    return save_bundle(folder, grader, spec, arch="vgg_small", **more)


@pytest.fixture(scope="module")
def slide_at_mpp(tmp_path_factory):
    """A slide of 8 x 6 fields with a stored level at the student's resolution."""
    rng = np.random.default_rng(3)
    colours = rng.integers(40, 200, (6, 8, 3)).repeat(256, 0).repeat(256, 1)
    rgb = (colours + rng.integers(0, 50, colours.shape)).astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "stored.svs"
    write_pyramid(path, rgb, mpp=0.5, power=20, downsamples=(1, 8))
    return path


def test_the_predictor_gives_the_same_fields_and_probabilities(
    engines, bundle, slide_at_mpp, tmp_path
):
    model, ioconfig = student_model(bundle)
    assert model.class_dict == dict(enumerate(CLASSES))
    predictor = engines.PatchPredictor(model=model, batch_size=7, verbose=False)
    made = predictor.run(
        images=[slide_at_mpp], ioconfig=ioconfig, patch_mode=False, save_dir=tmp_path / "out",
        output_type="zarr", return_probabilities=True, auto_get_mask=False,
    )  # fmt: skip
    found = zarr.open_group(next(iter(made.values())), mode="r")
    theirs = dict(
        zip(map(tuple, np.asarray(found["coordinates"])), found["probabilities"], strict=True)
    )
    own_bundle = load_bundle(bundle)
    own = SlidePredictor(
        own_bundle.network(), own_bundle.spec, device="cpu",
        settings=PredictSettings(tissue="all", min_tissue=0),
    )  # fmt: skip
    with open_slide(slide_at_mpp) as slide:
        grade_map = own.predict(slide).calibrated(own_bundle.temperature)
    boxes = grade_map.boxes() / (MPP / 0.5)
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    ours = dict(
        zip(
            map(tuple, corners.round().astype(int).tolist()),
            grade_map.probability_khw[:, grade_map.valid_hw].T,
            strict=True,
        )
    )
    assert len(ours) == 48
    assert {tuple(map(int, k)) for k in theirs} == set(ours)
    for place, probabilities in theirs.items():
        np.testing.assert_allclose(probabilities, ours[tuple(map(int, place))], atol=1e-3)
    assert np.ptp(np.stack(list(ours.values())), 0).max() > 0.1
    grades = np.asarray(found["predictions"])
    np.testing.assert_array_equal(grades, np.asarray(found["probabilities"]).argmax(1))


def test_fields_lie_as_far_apart_as_asked(bundle):
    _, ioconfig = student_model(bundle, stride_px=16)
    assert tuple(ioconfig.patch_input_shape) == (SIDE, SIDE)
    assert tuple(ioconfig.stride_shape) == (16, 16)
    assert ioconfig.input_resolutions == [{"units": "mpp", "resolution": MPP}]
    for stride in (0, SIDE + 1):
        with pytest.raises(ConfigError, match="not within the patch"):
            student_model(bundle, stride_px=stride)


def test_a_bundle_that_is_none_is_refused(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        student_model(tmp_path / "none")


def test_the_block_in_the_docs_runs(engines, bundle, slide_at_mpp, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "docs/other-programs.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/student").symlink_to(bundle)
    (tmp_path / "slide.svs").symlink_to(slide_at_mpp)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert list((tmp_path / "out").glob("*.zarr"))
