"""Tile stores, bags, grids of regions, and folders of results."""

import json
from contextlib import suppress

import numpy as np

from tests.fuzz.model_targets import ENCODER
from tests.fuzz.runner import Target

STORE = "s.zarr"


def _files(folder, suffixes=(), every=()):
    """Files of these names, and every file in these folders, relative to ``folder``."""
    found = [
        p.relative_to(folder).as_posix()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and (p.name in suffixes or any(part in every for part in p.parts))
    ]
    assert found
    return found


def build_store(folder):
    from tests.tiles.stores import settings_of, write_store

    write_store(folder / STORE, settings_of(codec="zstd"))
    return _files(folder, ("zarr.json",), ("patches", "c"))


def build_raw_store(folder):
    from tests.tiles.stores import settings_of, write_store

    write_store(folder / STORE, settings_of(codec="none"))
    return _files(folder, ("zarr.json",), ("c",))


def build_old_store(folder):
    from tests.tiles.stores import settings_of, write_store

    write_store(folder / STORE, settings_of(codec="zstd", ome_version="0.4"))
    return _files(folder, (".zattrs", ".zarray", ".zgroup"), ("patches",))


def use_store(folder):
    from wsikd.learn.data.sources import StoreSource
    from wsikd.tiles.exports.h5 import clam_attributes, trident_attributes, whole_coords
    from wsikd.tiles.store import TileStore, read_meta

    path = folder / STORE
    read_meta(path)
    store = TileStore.open(path)
    for mpp in store.mpps:
        for index in range(min(2, len(store.patches))):
            pixels = store.read_patch(index, mpp)
            assert pixels.shape[2] == 3
    source = StoreSource(path, store.mpps[0])
    assert len(source.listing.label) == len(source.listing.row)
    whole_coords(store)
    clam_attributes(store, store.mpps[0])
    trident_attributes(store, store.mpps[0])


def _info(**more):
    from wsikd.bags.bag import BagInfo

    return BagInfo(slide="s", encoder=ENCODER, mpp=0.5, patch_px=40, patient="p", split="val",
                   label="NC", source="d", field_px=(40.0, 40.0), **more)  # fmt: skip


def build_bag(folder):
    from wsikd.bags.bag import write_bag

    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 6)).astype(np.float32)
    write_bag(folder / STORE, _info(), features, rng.uniform(0, 99, (7, 2)), {"read": 0.5})
    return _files(folder, ("zarr.json",), ("c",))


def build_h5(folder):
    from wsikd.bags.bag import open_bag, write_h5

    build_bag(folder)
    write_h5(folder / "s.h5", open_bag(folder / STORE))
    return ["s.h5"]


def use_bag(folder):
    from wsikd.bags.bag import open_bag
    from wsikd.core.errors import DataError
    from wsikd.learn.data.settings import Split
    from wsikd.learn.mil.data import load_bags
    from wsikd.learn.mil.method import BagData

    path = next(p for p in (folder / "s.h5", folder / STORE) if p.exists())
    bag = open_bag(path)
    assert bag.features().shape == bag.shape
    bag.coords()
    with suppress(DataError):  # one slide cannot be divided
        load_bags(BagData(paths=[str(path)], classes=["NC", "G3"]), Split())


def build_regions(folder):
    from wsikd.bags.bag import write_bag

    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 6, 3, 3)).astype(np.float32)
    write_bag(folder / STORE, _info(), features, rng.uniform(0, 99, (4, 2)))
    return _files(folder, ("zarr.json",), ("c",))


def use_regions(folder):
    from wsikd.bags.region_table import open_regions

    table = open_regions([folder / STORE])
    assert table.digest
    table.read(np.arange(len(table))[:3])


def build_results(folder):
    from tests.grade.cards import whole_card
    from tests.grade.reports.test_folder_report import result

    made = {"student": "0123456789ab", "slide": "0" * 16, "slide_mpp": [0.5, 0.5], "stride_px": 64,
            "specimen": "biopsy", "min_area_mm2": 0.0, "temperature": None, "engine": "auto",
            "precision": "auto", "formats": ["png"]}  # fmt: skip
    for name in ("s1", "s2"):
        result(folder, name, ("zarr", "geojson", "csv"), NC_share_low=0.5, NC_share_high=0.7,
               cancer_expected=0.4, engine="torch fp32", mpp=4.0, min_area_mm2=0.0)  # fmt: skip
        file = folder / name / "result.json"
        record = json.loads(file.read_text()) | {"made_with": made, "mpp_source": "file"}
        file.write_text(json.dumps(record))
    card = whole_card(
        method="at_plus", seen=[{"salt": "a", "fingerprints": ["0" * 16]}],
        metrics={"val": {"kappa": 0.7}}, macs=5, parameters=7,
    )  # fmt: skip
    (folder / "student-0123456789ab.json").write_text(json.dumps(card))
    rows = "slide,error,fault,remedy\ns3,SlideError,cut short,copy it again\n"
    (folder / "failures.csv").write_text(rows)
    return [
        "s1/result.json", "s1/result.json", "s1/result.json", "student-0123456789ab.json",
        "failures.csv",
    ]  # fmt: skip


def use_results(folder):
    from wsikd.core.errors import StoreMismatchError
    from wsikd.core.output.markers import RESULT
    from wsikd.core.output.place import Place
    from wsikd.grade.predict import PredictSettings
    from wsikd.grade.reports.folder_report import write_results_report
    from wsikd.grade.runs.compare_labels import SlideLabel, read_results, score_slides
    from wsikd.grade.runs.results import _made
    from wsikd.grade.runs.resume_engine import started_with
    from wsikd.grade.runs.summary_file import Summary
    from wsikd.grade.viewer.session import Viewing

    Summary(folder).write()
    write_results_report(folder)
    try:
        found = read_results(folder)
        score_slides(found, [SlideLabel("s1", 4), SlideLabel("s2", 3)])
    finally:
        viewing = Viewing(folder)
        for number in range(len(viewing.names())):
            viewing.about(number)
        asked = PredictSettings()
        started_with(folder, "0123456789ab", None, asked)
        with suppress(StoreMismatchError):
            _made(Place(folder / "s1", RESULT, folder), {"student": "0" * 12})


def build_map(folder):
    from tests.grade.reports.test_folder_report import result

    result(folder, "s", ("zarr",))
    return _files(folder, ("zarr.json",), ("c",))


def use_map(folder):
    from wsikd.grade.viewer.session import Viewing

    viewing = Viewing(folder)
    about = viewing.about(0)
    for level in about["levels"]:
        viewing.map_tile(0, level, 0, 0, 0)
    viewing.at(0, 100.0, 100.0)


def build_run(folder):
    from wsikd.core.run import RunDir
    from wsikd.learn.patch.settings import RunConfig

    run = RunDir(folder / "run")
    run.start(RunConfig(method="supervised"), seed=3)
    run.append_metrics({"epoch": 0, "loss": 0.5})
    run.append_metrics({"epoch": 1, "loss": 0.4})
    return ["run/config.yaml", "run/provenance.json", "run/metrics.jsonl"]


def use_run(folder):
    from wsikd.core.run import RunDir
    from wsikd.learn.patch.settings import RunConfig

    run = RunDir(folder / "run")
    run.check(RunConfig(method="supervised"), resume=True, seed=3)
    run.read_provenance()
    for row in run.read_metrics():
        assert isinstance(row, dict)


STORES = (
    Target("store", build_store, use_store),
    Target("raw_store", build_raw_store, use_store),
    Target("store_04", build_old_store, use_store),
    Target("bag", build_bag, use_bag),
    Target("h5", build_h5, use_bag),
    Target("regions", build_regions, use_regions),
    Target("results", build_results, use_results),
    Target("grade_map", build_map, use_map),
    Target("run", build_run, use_run),
)
