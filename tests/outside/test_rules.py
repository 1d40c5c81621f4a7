"""Rules for what packages add, checked without commands."""

import pytest
import torch

from tests.grade.maps import white_slide
from tests.outside.commands import PACKAGE
from wsikd.core.errors import BundleError, ConfigError
from wsikd.grade.engines import Network, choose
from wsikd.grade.exports import EXPORTERS, formats_for, write_all
from wsikd.models.encoders.open import open_encoder
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.models.names import check_grader, split_encoder

GRADER = """
from wsikd.models.backbones.open import build_backbone
from wsikd.models.graders.pooled import Grader

def double(classes, width, options, *, mean, std, upsample):
    return Grader(build_backbone("vgg_small", width=2 * width), classes, mean=mean, std=std)
"""
EXPORTER = """
from wsikd.grade.exports import Exporter

def write(grade_map, path, *, slide=None):
    path.write_text("second")

SAME = Exporter("grades.json", write)
NONE = write
"""


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make and install a package of one module."""

    def made(module, text, points):
        info = tmp_path / "site" / f"{module}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(points)
        (tmp_path / f"site/{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return made


def test_all_formats_are_those_of_packages_too(installed):
    own = [name for name in EXPORTERS if name not in ("dicom-seg", "png", "webp")]
    assert formats_for(["all"], white_slide()) == (*own, "outside")
    assert formats_for(["outside", "csv"], white_slide()) == ("csv", "outside")


def test_two_exporters_of_one_file_are_not_written_together(installed, install, tmp_path):
    points = "[wsikd.exporters]\nsame = same_file:SAME\nnone = same_file:NONE\n"
    install("same_file", EXPORTER, points)
    with pytest.raises(ConfigError, match=r"'same': writes grades\.json, as 'outside' does"):
        formats_for(["same", "outside"], white_slide())
    assert formats_for(["same"], white_slide()) == ("same",)
    with pytest.raises(
        ConfigError, match=r"'none': is function, not wsikd\.grade\.exports\.Exporter"
    ):
        write_all(None, tmp_path, ["none"])


def test_an_engine_that_says_nothing_of_bf16_is_asked_for_fp32(installed, monkeypatch):
    monkeypatch.setattr(choose, "_processor", lambda: ("some", frozenset({"avx512_bf16"})))
    network = Network(lambda: build_grader("vgg_small", 2, width=0.25), 16)
    engine = choose.open_engine(network, "outside", "auto", device="cpu")
    assert engine.precision == "fp32"
    monkeypatch.setattr(choose, "device_name", lambda name: name)
    with pytest.raises(ConfigError, match="runs on the CPU, not on cuda:0"):
        choose.open_engine(network, "outside", "fp32", device="cuda:0")


def test_a_prefix_of_an_encoder_is_one_only_where_it_is_known(installed, tmp_path):
    assert split_encoder("outside:a:b") == ("outside", "a:b")
    assert split_encoder("timm:resnet18") == ("timm", "resnet18")
    assert split_encoder("C:/runs/student") is None
    assert split_encoder("outside") is None
    assert open_encoder("outside:3", licence="MIT").spec.licence == "MIT"
    with pytest.raises(ConfigError, match="outside:x: is not a number"):
        open_encoder("outside:x")
    with pytest.raises(ConfigError, match="--weights: a bundle or file brings its own"):
        open_encoder("outside:3", weights="random")
    with pytest.raises(ConfigError, match="hipt:FILE, dino:FILE or outside:ARGUMENT"):
        open_encoder(str(tmp_path / "none"))


def test_a_grader_of_a_package(install, tmp_path, monkeypatch):
    install("double_grader", GRADER, "[wsikd.graders]\ndouble = double_grader:double\n")
    check_grader("double")
    torch.manual_seed(0)
    grader = build_grader("double", 2, width=0.25)
    spec = InputSpec(1.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3"))
    save_bundle(tmp_path / "b", grader, spec, arch="double", width=0.25)
    bundle = load_bundle(tmp_path / "b")
    assert bundle.card.package == "double_grader 0.1"
    x = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(bundle.network()(x), grader.eval()(x))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="choose one of vgg_small"):
        check_grader("double")
    with pytest.raises(
        BundleError, match=r"install the package double_grader 0\.1, which makes it"
    ):
        load_bundle(tmp_path / "b")
