"""``wsikd doctor``: checks the installation, and the geometry of the pipeline."""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import LIBGL_REMEDY, is_libgl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wsikd.core.registry import Extension

_LIBRARIES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "openslide": "openslide-python",
    "zarr": "zarr",
    "dask": "dask",
    "cv2": "opencv-python",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "shapely": "shapely",
    "lightning": "lightning",
}
_GRADING = {
    "cv2": "opencv-python",
    "openslide": "openslide-python",
    "PIL": "pillow",
    "jinja2": "Jinja2",
    "rich": "rich",
    **{name: name for name in ("imagecodecs", "numba", "numpy", "openvino", "pydantic")},
    **{name: name for name in ("safetensors", "scipy", "shapely", "simplejpeg", "tifffile")},
    "zarr": "zarr",
}
_OTHER_NAMES = {"opencv-python": "opencv-python-headless"}
_REMEDIES = {
    "cv2": f"OpenCV links the system's libGL; {LIBGL_REMEDY}",
    "torchvision": "install torch and torchvision from the same index, see docs/install.md",
    "openslide": "pip install openslide-bin, or your system's libopenslide",
}


@click.command(short_help="Check libraries, devices, readers and geometry.")
@click.option("--all", "everything", is_flag=True, help="Import tiatoolbox too (half a minute).")
@click.option(
    "--profile",
    type=click.Choice(["full", "infer"]),
    default="full",
    show_default=True,
    help="infer: what grading, reports and viewer need, which is less than training.",
)
def doctor(everything: bool, profile: str) -> None:
    """Check libraries, devices, readers and the extensions of installed packages, and run a test
    square through the whole pipeline."""
    faults = 0
    if profile == "infer":
        parts = {"libraries": _libraries(_GRADING), "readers": _readers()}
    else:
        parts = {
            "libraries": _libraries(_LIBRARIES),
            "tiatoolbox": _tiatoolbox(everything),
            "devices": _devices(),
            "readers": _readers(),
            "extensions": _extensions(),
            "geometry": _geometry(),
        }
    checks = chain.from_iterable(_guarded(name, part) for name, part in parts.items())
    for name, fine, detail in checks:
        click.echo(f"{'ok   ' if fine else 'FAULT'} {name}: {detail}")
        faults += not fine
    click.echo("all well" if not faults else f"{faults} fault(s)")
    sys.exit(2 if faults else 0)


def _guarded(name: str, checks: Iterator[tuple[str, bool, str]]) -> Iterator[tuple[str, bool, str]]:
    """The checks, and a fault with a remedy if one of them fails."""
    from wsikd.core.errors import one_line

    try:
        yield from checks
    except Exception as error:  # noqa: BLE001 - whatever breaks here is what doctor is for
        cause = one_line(f"{type(error).__name__}: {error}")
        needs_libgl = isinstance(error, ImportError) and is_libgl(error)
        remedy = LIBGL_REMEDY if needs_libgl else "fix the faults above, or report this"
        yield name, False, f"{cause}; {remedy}"


def _libraries(wanted: Mapping[str, str]) -> Iterator[tuple[str, bool, str]]:
    """Packages by the module that is imported: name, whether it can be, version."""
    yield "python", sys.version_info >= (3, 11), sys.version.split()[0]
    for module, package in wanted.items():
        try:
            import_module(module)
            found = _version(package)
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield package, False, f"{reason}; {_REMEDIES.get(module, f'pip install {package}')}"
        else:
            yield package, True, found


def _version(package: str) -> str:
    """Its version, or that of the package that takes its place."""
    try:
        return version(package)
    except PackageNotFoundError:
        return version(_OTHER_NAMES.get(package, package))


def _tiatoolbox(load: bool) -> Iterator[tuple[str, bool, str]]:
    """The state of tiatoolbox, which is optional: slides are graded without it."""
    try:
        found = version("tiatoolbox")
    except PackageNotFoundError:
        yield "tiatoolbox", True, "absent; its tissue maskers, OME-TIFF, OME-Zarr and JP2 need it"
        return
    if load:
        try:
            import_module("wsikd.tia").check()
        except (ImportError, OSError, RuntimeError) as error:
            yield "tiatoolbox", False, f"{error}; pip install --force-reinstall tiatoolbox"
            return
    yield "tiatoolbox", True, found + ("" if load else " (not imported; --all does)")


def _devices() -> Iterator[tuple[str, bool, str]]:
    import os

    import torch

    cores = os.cpu_count()
    yield "cpu", True, f"{cores} cores, {torch.get_num_threads()} threads for PyTorch"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield f"cuda:{index}", True, torch.cuda.get_device_name(index)
    else:
        yield "cuda", True, "none; everything runs on the CPU"


def _readers() -> Iterator[tuple[str, bool, str]]:
    import openslide

    from wsikd.core.registry import resolve
    from wsikd.slides.base import READERS

    details = {
        "auto": "the first of the others that can read the slide",
        "openslide": f"library {openslide.__library_version__}",
        "direct": "tiled JPEG TIFF and SVS, checked against OpenSlide on opening",
        "tiatoolbox": "OME-TIFF, OME-Zarr, JP2; --all imports what it needs",
    }
    for name in READERS:
        resolve(READERS, name, kind="readers")
        yield f"reader {name}", True, details.get(name, "from another package")


def _extensions() -> Iterator[tuple[str, bool, str]]:
    """Extensions of installed packages: name, kind, package, version, and whether they import."""
    from wsikd.core.registry import KINDS, extensions, load_target, nearest

    for one in extensions():
        name = f"extension {one.kind} '{one.name}'"
        if one.kind not in KINDS:
            fault = f"{one.source} registers it under an unknown kind"
            yield name, False, f"{fault}; {nearest(one.kind, KINDS)}"
        elif one.name in load_target(KINDS[one.kind]):
            fault = f"{one.source} registers it, but wsikd's own of that name is used"
            yield name, False, f"{fault}; ask its authors to rename it"
        else:
            yield name, *_imports(one)


def _imports(one: Extension) -> tuple[bool, str]:
    from wsikd.core.errors import WsikdError
    from wsikd.core.registry import extension

    try:
        extension(one.name, one.kind)  # raises where several packages offer it
        one.load()
    except WsikdError as error:
        return False, f"{error.fault}; {error.remedy}"
    return True, one.source


def _geometry() -> Iterator[tuple[str, bool, str]]:
    from wsikd.grade.geometry_check import geometry_checks

    with tempfile.TemporaryDirectory() as folder:
        for check in geometry_checks(Path(folder)):
            result = f"off by {check.error_px:.2f} level-0 px (allowed {check.allowed_px:.2f})"
            yield f"geometry {check.name}", check.passed, result
