"""The walls of the house: who may import whom, read off the source."""

import ast
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOOR = {
    "core": 0,
    "slides": 1,
    "synthetic": 1,
    "tiles": 2,
    "models": 2,
    "bags": 3,
    "learn": 4,
    "grade": 4,
    "api": 5,
    "tia": 5,
    "cli": 6,
}
EVERYWHERE = {"numpy", "scipy"}
# Package -> the modules (or folders, with a dot at the end) that may import it.
OWNERS = {
    "tiatoolbox": ["wsikd.tia"],
    "openslide": ["wsikd.slides.readers.openslide", "wsikd.cli.doctor"],
    "distributed": ["wsikd.tiles.write", "wsikd.tiles.runs.cluster", "wsikd.cli."],
    "numba": ["wsikd.slides.resample.fractional"],
    "llvmlite": ["wsikd.slides.resample.llvm"],
    "simplejpeg": [
        "wsikd.slides.readers.direct_tiff",
        "wsikd.slides.checks.jpeg_check",
        "wsikd.slides.checks.image_check",
    ],
    "google_crc32c": ["wsikd.tiles.shards"],
    "dask": ["wsikd.tiles.write", "wsikd.tiles.store", "wsikd.api.grademap", "wsikd.cli."],
    "zarr": ["wsikd.tiles.", "wsikd.bags.", "wsikd.learn.", "wsikd.grade.", "wsikd.cli."],
    "torch": [
        "wsikd.models.",
        "wsikd.bags.",
        "wsikd.learn.",
        "wsikd.grade.",
        "wsikd.cli.",
        "wsikd.tia",
    ],
    "timm": ["wsikd.models."],
    "openvino": ["wsikd.grade.engines."],
    "onnxruntime": ["wsikd.grade.engines.", "wsikd.models.files.export"],
    "lightning": ["wsikd.learn.engine.distributed", "wsikd.cli.doctor"],
    "pydantic": [
        "wsikd.core.",
        "wsikd.tiles.arrays",
        "wsikd.bags.metadata",
        "wsikd.models.",
        "wsikd.learn.",
        "wsikd.grade.",
        "wsikd.cli.",
    ],
    "tifffile": ["wsikd.slides.", "wsikd.synthetic.", "wsikd.grade.exports.", "wsikd.cli.doctor"],
    "highdicom": ["wsikd.grade.exports.dicom_seg"],
    "pydicom": ["wsikd.grade.exports.dicom_seg", "wsikd.slides.dicom.frames"],
    "matplotlib": ["wsikd.grade.", "wsikd.learn.score.plots", "wsikd.api.", "wsikd.cli."],
    "optuna": ["wsikd.learn.patch.tune"],
    "openpyxl": ["wsikd.learn.data.sicap"],
    "imblearn": ["wsikd.learn.data.smote"],
    "jinja2": ["wsikd.slides.html_page"],
    "click": ["wsikd.cli."],
    "rich": ["wsikd.cli."],
}


def modules():
    """Every module of the package: {dotted name: path}."""
    found = {}
    for folder, package in (("wsikd", "wsikd"), ("cli", "wsikd.cli")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports(name, path):
    """Dotted names a module imports, under TYPE_CHECKING or within functions too."""
    return tuple(_imports(name, path))


def _imports(name, path):
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def module_of(target):
    """The module of ours that holds a dotted name; empty where there is none."""
    while target and target not in MODULES:
        target = target.rpartition(".")[0]
    return target


def circles(graph):
    """Sets of modules that import each other, directly or through others."""

    def reach(start):
        found, todo = set(), [start]
        while todo:
            new = graph[todo.pop()] - found
            found |= new
            todo += new
        return found

    ahead = {name: reach(name) for name in graph}
    alike = {frozenset(o for o in ahead[n] if n in ahead[o]) for n in graph if n in ahead[n]}
    return sorted(alike, key=sorted)


def wing(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "wsikd" and len(parts) > 1 and parts[1] in FLOOR else None


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    own = wing(name)
    for target in imports(name, MODULES[name]):
        other = wing(target)
        if own and other and own != other:
            assert FLOOR[other] < FLOOR[own], f"{name} imports {target}"
        top = target.split(".")[0]
        if top in OWNERS and own:
            allowed = any(f"{name}.".startswith(owner.rstrip(".") + ".") for owner in OWNERS[top])
            assert allowed, f"{name} imports {target}"
        if own == "core":
            known = {*sys.stdlib_module_names, *EVERYWHERE, "pydantic", "yaml", "wsikd"}
            assert top in known, f"{name} imports {target}"


def is_method(name):
    return name.startswith("wsikd.learn.methods") or name.endswith(".method")


@pytest.mark.parametrize("name", [n for n in MODULES if is_method(n)])
def test_methods_know_no_data_and_no_trainer(name):
    own = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    near = ("learn.methods.base", "learn.losses", "learn.engine.schedules", "models", "core")
    near += ("learn.engine.settings", "learn.engine.configurations", "learn.data.settings")
    near += ("learn.data.augment_settings", "slides.what_is")
    for target in imports(name, MODULES[name]):
        if target.startswith(("wsikd.", "lightning")):
            assert target.startswith((own, *(f"wsikd.{n}" for n in near))), f"{name}: {target}"


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("wsikd.learn.engine")])
def test_the_engine_knows_no_task(name):
    tasks = tuple(f"wsikd.learn.{n}" for n in ("patch", "mil", "slpd", "ts2g", "score"))
    for target in imports(name, MODULES[name]):
        assert not target.startswith(tasks), f"{name} imports {target}"


@pytest.mark.parametrize("name", MODULES)
def test_files_stay_short(name):
    assert len(MODULES[name].read_text().splitlines()) <= 600


def test_folders_stay_small():
    files = Counter(path.parent for path in (ROOT / "wsikd").rglob("*.py"))
    assert {str(folder): n for folder, n in files.items() if n > 20} == {}
    learn = ROOT / "wsikd/learn"
    assert len({path.relative_to(learn).parts[0] for path in learn.rglob("*.py")}) <= 12


def test_no_modules_import_each_other_in_a_circle():
    """Imports under TYPE_CHECKING and within functions count."""
    graph = {n: {module_of(t) for t in imports(n, p)} - {n, ""} for n, p in MODULES.items()}
    assert [sorted(circle) for circle in circles(graph)] == []


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert circles(graph) == [{"a", "b", "c"}, {"e", "f"}]


def test_the_checks_see_something():
    assert {wing(name) for name in MODULES} >= {"core", "slides", "tiles", "models", "cli"}
    seen = set(imports("wsikd.tiles.write", MODULES["wsikd.tiles.write"]))
    assert {"dask.base.compute", "wsikd.slides.base.Slide", "wsikd.tiles.blocks.fill_block"} <= seen
    assert "wsikd.cli.common.Batch" in set(imports("wsikd.cli.tile", MODULES["wsikd.cli.tile"]))


def test_every_folder_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {n if MODULES[n].name == "__init__.py" else n.rpartition(".")[0] for n in MODULES}
    assert packages | {"wsikd.configs"} == set(listed["packages"])
    assert listed["package-dir"] == {"wsikd.cli": "cli", "wsikd.configs": "configs"}
    assert all((ROOT / folder / "__init__.py").exists() for folder in ("cli", "configs"))


def test_studies_import_the_package_and_not_the_other_way():
    for name, path in MODULES.items():
        assert "benchmarks" not in {target.split(".")[0] for target in imports(name, path)}, name


def test_nobody_names_tia_but_the_tables():
    for name, path in MODULES.items():
        if name != "wsikd.tia":
            assert "wsikd.tia" not in set(imports(name, path)), name
