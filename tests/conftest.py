"""Fixtures that several folders share."""

import gc
import logging
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.slides.pixels import tissue_rgb
from wsikd.core.workers.start import want
from wsikd.synthetic.cohort import write_pyramid

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: a core each, their children's too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A part of jsonschema that checks a format which no schema here has, and imports for seconds.
sys.modules.setdefault("rfc3987_syntax", None)

# Once a session, for the worker processes of all tests.
want(
    "torch",
    "dask.threaded",
    "wsikd.slides.readers.direct_tiff",
    "wsikd.tiles.jobs",
    "wsikd.tiles.runs.info",
    "wsikd.grade.runs.jobs",
)

# Derandomized: the same examples every time, and nothing kept on disk between runs.
settings.register_profile("wsikd", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("wsikd")

LONGEST = (
    "learn/patch/test_train.py", "learn/reproduce/test_run_rows.py", "fuzz/test_fuzz.py",
    "grade/engines/test_engines.py", "test_tile_run.py", "tiles/test_cluster.py",
    "test_infer_run.py", "test_tia.py", "learn/methods/test_contract.py",
    "learn/patch/test_tune.py", "learn/mil/test_train.py", "api/test_docstrings.py",
    "learn/patch/test_hdkd_run.py", "learn/engine/test_distributed.py", "test_end_to_end.py",
    "outside/test_outside.py", "docs/test_blocks.py", "learn/methods/test_processes.py",
    "learn/slpd/test_run.py", "api/test_front_door.py", "learn/mil/test_evaluate.py",
    "test_output_safety.py", "learn/ts2g/test_detect_train.py", "test_cli_early.py",
    "learn/ts2g/test_adapter_train.py", "test_cli.py", "test_cli_labels.py",
    "test_tile_faults.py", "synthetic/test_cohort.py",
)  # fmt: skip
"""Files that take long, the longest first. One that began last would run alone on its core."""


def pytest_configure(config):
    """Let processes of xdist, where there are any, take files in the order of below."""
    gc.disable()  # until all is collected: a tenth of the time goes into looking for no garbage
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    places = {Path(__file__).parent / name: n for n, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish():
    """Spare the collector what lives to the end: it takes a second to look through it."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)  # 700, Python's own, takes a twentieth of the time
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the user's cache and ledger out of the tests, and the tests out of them."""
    names = ("WSIKD_CACHE", "WSIKD_STATE")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= {name: str(tmp_path_factory.mktemp(name.lower())) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def own_log_level():
    """A command that is run in this process sets the level of wsikd's log; undo it."""
    logger = logging.getLogger("wsikd")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture(scope="session")
def real_slides():
    """Folder of real slides, named by WSIKD_TEST_DATA."""
    root = os.environ.get("WSIKD_TEST_DATA")
    if not root:
        pytest.skip("WSIKD_TEST_DATA names no folder of real slides")
    folder = Path(root) / "slides"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory):
    """A slide of odd size at 0.499 um/px, levels 1, 4, 16: glass with a block of tissue."""
    path = tmp_path_factory.mktemp("slide") / "odd.svs"
    write_pyramid(path, tissue_rgb(1301, 907, (300, 200, 700, 500)), mpp=0.499, power=20)
    return path
