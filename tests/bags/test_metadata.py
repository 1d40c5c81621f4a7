"""The record of a bag: today's and those of 0.1.0 fit one model and its schema."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsikd.bags.bag import ATTRIBUTE, BagInfo, open_bag, write_bag
from wsikd.bags.metadata import BagEncoder, BagMeta
from wsikd.core.errors import DataError
from wsikd.models.encoders.base import EncoderSpec

EXAMPLES = Path(__file__).parents[1] / "examples" / "0_1_0"
SPEC = EncoderSpec("e", "MIT", 4, "0f", 32, (0.0,) * 3, (1.0,) * 3, 1.0, 256)
INFO = BagInfo(
    "s", {**SPEC.record(), "patches": {"mpp": 1.0}}, 1.0, 256, (512.5, 512.5), "p", "train", "G3",
    "d",
)  # fmt: skip


@pytest.fixture
def bag(tmp_path):
    write_bag(
        tmp_path / "s.zarr", INFO, np.zeros((3, 4), np.float32), np.zeros((3, 2)), {"read": 1}
    )
    return tmp_path / "s.zarr"


def about(path):
    return dict(zarr.open_group(path, mode="r").attrs)[ATTRIBUTE]


def old_records():
    with tarfile.open(EXAMPLES / "bags.tar.xz", "r|xz") as archive:
        for one in archive:
            name = Path(one.name)
            if name.parent.suffix == ".zarr" and name.name == "zarr.json":
                yield one.name, json.load(archive.extractfile(one))["attributes"][ATTRIBUTE]


def test_the_model_knows_every_entry(bag):
    meta = BagMeta.of(about(bag))
    assert meta.model_extra == meta.encoder.model_extra == {}
    assert {*BagMeta.model_fields} == meta.model_fields_set
    assert {*BagEncoder.model_fields} - meta.encoder.model_fields_set == {"tiles"}


def test_bags_of_any_version_fit_the_schema(bag):
    jsonschema = pytest.importorskip("jsonschema")
    schema, old = BagMeta.model_json_schema(), dict(old_records())
    assert {name.split("/")[0] for name in old} >= {"bags", "regions", "vectors"}
    for record in (about(bag), *old.values()):
        assert BagMeta.of(record).model_extra == {}
        jsonschema.validate(record, schema)
        for wrong in ({"slide": ""}, {"mpp": -1}, {"field_px": [1]}, {"encoder": {"dim": "8"}}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(record | wrong, schema)


def test_a_bag_of_0_1_0_opens(tmp_path):
    with tarfile.open(EXAMPLES / "bags.tar.xz", "r:xz") as archive:
        archive.extractall(tmp_path, filter="data")
    for path in sorted(tmp_path.glob("*/s4.zarr")):
        found, record = open_bag(path), about(path)
        assert dict(found.info.encoder) == record["encoder"]
        assert (found.info.patient, found.info.mpp) == (record["patient"], record["mpp"])
        assert found.seconds == record["seconds"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"slide": 3}, "slide: "),
        ({"mpp": "1"}, "mpp: "),
        ({"patch_px": True}, "patch_px: "),
        ({"field_px": [1.0]}, "field_px: "),
        ({"encoder": {"id": 3}}, r"encoder\.id: "),
        ({"seconds": {"read": "1"}}, r"seconds\.read: "),
    ],
)
def test_a_record_of_other_types_is_refused(bag, change, fault):
    zarr.open_group(bag).attrs[ATTRIBUTE] = about(bag) | change
    with pytest.raises(DataError, match=rf"cannot be read \(ValueError: {fault}"):
        open_bag(bag)


def test_entries_of_a_later_version_are_kept_and_few_are_needed(bag):
    zarr.open_group(bag).attrs[ATTRIBUTE] = about(bag) | {"later": 1}
    assert open_bag(bag).info == INFO
    zarr.open_group(bag).attrs[ATTRIBUTE] = {"slide": "s", "complete": True}
    assert open_bag(bag).info == BagInfo("s")
