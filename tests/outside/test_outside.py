"""What a package outside wsikd adds works in the real commands as wsikd's own does.

The commands run in processes that find ``package/`` installed, and are given names, no more.
"""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from wsikd.cli.main import main

from tests.learn.conftest import write_set
from tests.outside.commands import PACKAGE, one_after_another, wsikd
from tests.slides.pixels import tissue_rgb

TILES = ("--mag", 10, "--patch-size", 64, "--jobs", 0)
CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A folder of four slides that only the package can read, and a manifest of two of them."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(4):
        rgb = tissue_rgb(512, 384, (64, 64, 320, 256), seed=number)
        np.savez(folder / f"s{number}.npz", rgb=rgb, mpp=1.0)
    manifest = folder.parent / "slides.csv"
    manifest.write_text("slide,patient\n" + "".join(f"{folder}/s{n}.npz,p{n}\n" for n in (0, 1)))
    return folder


@pytest.fixture(scope="module")
def made(slides, tmp_path_factory):
    """Folder of all that commands make with the package, in one process; ``told`` is what they say.

    Tile stores of the manifest's slides, their patches, a student, bags, and a slide classifier.
    """
    folder = tmp_path_factory.mktemp("made")
    labels = write_set(folder / "set", split=lambda s: "val" if s >= 6 else "train")
    (folder / "student.yaml").write_text(f"""
method: supervised
data: {{paths: [{labels}], mpp: 1.0}}
network: {{arch: outside, width: 0.5}}
optim: {{epochs: 2, batch_size: 18}}
""")
    lines = ["slide,label,split", "s0,NC,train", "s1,G4,train", "s2,NC,val", "s3,G4,val"]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "mil.yaml").write_text(f"""
method: mil
data: {{paths: [{folder / "bags"}], labels: {folder / "labels.csv"}}}
network: {{arch: outside, hidden: 8}}
optim: {{epochs: 2, batch_size: 2}}
""")
    manifest, infer = slides.parent / "slides.csv", infer_command(slides, folder)
    read = ("--reader", "outside", "--tissue", "outside")
    told = one_after_another(
        ["info", slides, *read, "--json"],
        ["tile", "-i", manifest, "-o", folder / "stores", *read, *TILES],
        ["export", folder / "stores", "--to", "outside", "-o", folder / "arrays"],
        ["embed", "-i", slides, "-o", folder / "bags", *read, "--encoder", "outside:2", *CPU],
        ["distill", "-c", folder / "mil.yaml", "-o", folder / "mil", *CPU],
        ["distill", "-c", folder / "student.yaml", "-o", folder / "run", *CPU, "--logger",
         "outside"],
        infer, infer, [*infer, "--overwrite"],
    )  # fmt: skip
    return SimpleNamespace(folder=folder, told=told)


def infer_command(slides, folder):
    return [
        "infer", "-i", slides / "s2.npz", "-m", folder / "run", "-o", folder / "out", "--reader",
        "outside", "--format", "csv,outside", "--engine", "outside", "--jobs", 0, *CPU,
    ]  # fmt: skip


def test_reader_and_masker_of_a_folder(made):
    found = json.loads(made.told[0])
    assert [one["file"] for one in found] == [f"s{n}.npz" for n in range(4)]
    assert found[0]["vendor"] == "numpy"
    assert found[0]["tissue_fraction"] == pytest.approx(320 * 256 / (512 * 384), abs=0.05)


def test_reader_and_masker_of_a_manifest(made):
    assert "2 made, 0 already there" in made.told[1]
    file = made.folder / "stores/s1.zarr/zarr.json"
    meta = json.loads(file.read_text())["attributes"]["wsikd"]
    assert (meta["slide"]["reader"], meta["slide"]["mpp"]) == ("outside", [1.0, 1.0])
    assert meta["settings"]["tissue"] == "outside"


def test_store_exporter(made):
    assert "2 exported" in made.told[2]
    with np.load(made.folder / "arrays/s0.npz") as file:
        assert file["patches"].shape[1:] == (64, 64, 3)
        assert len(file["xy"]) == len(file["patches"]) > 4


def test_encoder(made):
    bags = made.folder / "bags"
    assert {p.name for p in bags.glob("*.zarr")} == {f"s{n}.zarr" for n in range(4)}
    about = json.loads((bags / "s0.zarr/zarr.json").read_text())["attributes"]["wsikd_bag"]
    assert (about["encoder"]["id"], about["encoder"]["dim"]) == ("outside:2", 12)
    told = wsikd("embed", "-i", bags, "-o", bags, "--encoder", "outsid:2", code=2)
    assert "did you mean 'outside:2'? give a folder" in told


def test_aggregator(made):
    student = made.folder / "mil/student"
    card = json.loads((student / "card.json").read_text())
    assert (card["network"]["arch"], card["package"]) == ("outside", "wsikd-outside 1.0")
    assert load_file(student / "model.safetensors")["score.0.weight"].shape == (8, 12)


def test_backbone_and_logger(made):
    run = made.folder / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [f"epoch {row['epoch']}: loss {row['loss']:.6f}" for row in rows if "epoch" in row]
    assert (run / "lines.txt").read_text().splitlines() == lines
    assert len(lines) == 2
    card = json.loads((run / "student/card.json").read_text())
    assert (card["network"]["arch"], card["package"]) == ("outside", "wsikd-outside 1.0")


def test_exporter_and_engine(made):
    """The slide is graded, found done by a second run, and replaced by a third."""
    counts = ("1 graded, 0 already there", "0 graded, 1 already there", "1 graded, 0 already there")
    assert all(count in told for count, told in zip(counts, made.told[-3:], strict=True))
    folder = made.folder / "out/s2"
    assert {p.name for p in folder.iterdir()} == {"grades.json", "tiles.csv", "result.json"}
    record = json.loads((folder / "result.json").read_text())
    assert record["made_with"]["formats"] == ["csv", "outside"]
    assert (record["engine"], record["read"]["reader"]) == ("outside fp32", "outside")
    with (folder / "tiles.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    fields = json.loads((folder / "grades.json").read_text())["fields"]
    best = [max((float(v), k) for k, v in row.items() if k.startswith("prob_"))[1] for row in rows]
    assert [f"prob_{field['class']}" for field in fields] == best


def test_a_student_without_its_package_is_one_line(made, slide_file):
    """In this process, which does not find the package either."""
    asked = ("infer", "-i", slide_file, "-m", made.folder / "run", "-o", made.folder / "none")
    told = CliRunner().invoke(main, [*map(str, asked), "--jobs", "0"])
    assert told.exit_code == 2
    assert told.stderr.strip().endswith(
        "card.json: network 'outside': not among the known backbones; "
        "install the package wsikd-outside 1.0, which makes it"
    )


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["tile", "-i", "s", "-o", "o", "--reader", "outside"], "readers"),
        (["infer", "-i", "s", "-m", "m", "-o", "o", "--format", "all"], "exporters"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(arguments, kind, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "site")
    (tmp_path / "site/wsikd_outside/__init__.py").write_text("import nowhere_at_all\n")
    told = wsikd(*arguments, site=tmp_path / "site", code=2)
    assert told == (
        f"ConfigError: {kind} 'outside': cannot be imported from the package wsikd-outside 1.0 "
        "(ModuleNotFoundError: No module named 'nowhere_at_all'); "
        "install its dependencies or update it: pip install --upgrade wsikd-outside\n"
    )
