"""The generated folder that the examples of the API run in."""

import shutil

import pytest

from tests.api.shop import make_shop


@pytest.fixture(scope="session")
def made_shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder)
    return folder


@pytest.fixture
def shop(made_shop, tmp_path, monkeypatch):
    """A copy of the folder, which is the current folder."""
    folder = tmp_path / "shop"
    shutil.copytree(made_shop, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return folder
