"""Fixtures that several folders share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.slides.pixels import tissue_rgb
from wsikd.synthetic.cohort import write_pyramid

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: a core each, their children's too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Derandomized: the same examples every time, and nothing kept on disk between runs.
settings.register_profile("wsikd", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("wsikd")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the user's cache folder out of the tests, and the tests out of it."""
    before = os.environ.get("WSIKD_CACHE")
    os.environ["WSIKD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["WSIKD_CACHE"]
    else:
        os.environ["WSIKD_CACHE"] = before


@pytest.fixture(scope="session")
def real_slides():
    """Folder of real slides, named by WSIKD_TEST_DATA."""
    root = os.environ.get("WSIKD_TEST_DATA")
    if not root:
        pytest.skip("WSIKD_TEST_DATA names no folder of real slides")
    folder = Path(root) / "slides"
    if not folder.is_dir():
        pytest.skip(f"{folder} is no folder")
    return folder


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory):
    """A slide of odd size at 0.499 um/px, levels 1, 4, 16: glass with a block of tissue."""
    path = tmp_path_factory.mktemp("slide") / "odd.svs"
    write_pyramid(path, tissue_rgb(1301, 907, (300, 200, 700, 500)), mpp=0.499, power=20)
    return path
