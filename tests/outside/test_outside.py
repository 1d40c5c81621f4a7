"""What a package outside wsikd adds works in the real commands as wsikd's own does."""

import json

import pytest

from tests.outside.commands import wsikd


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder that the commands write into."""
    return tmp_path_factory.mktemp("outside")


def test_masker(slide_file, made):
    told = wsikd("tile", "-i", slide_file, "-o", made / "dark", "--patch-size", 128, "--mag", 10,
                 "--tissue", "outside", "--jobs", 0)  # fmt: skip
    assert "odd: " in told
    settings = json.loads((made / "dark/odd.zarr/zarr.json").read_text())["attributes"]["wsikd"]
    assert settings["settings"]["tissue"] == "outside"
