"""``wsikd doctor`` lists what installed packages add, and what of it does not work."""

import sys
from configparser import ConfigParser

import pytest
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.outside.commands import PACKAGE

BROKEN = """
[wsikd.reader]
typo = broken_package:anything

[wsikd.readers]
auto = broken_package:anything
lost = broken_package:anything

[wsikd.maskers]
outside = broken_package:anything
"""


@pytest.fixture
def doctor(tmp_path, monkeypatch):
    """Lines of the report on extensions, with the package and a broken one installed."""
    info = tmp_path / "broken-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(BROKEN)
    for part in ("libraries", "tiatoolbox", "devices", "readers", "geometry"):
        monkeypatch.setattr(sys.modules["wsikd.cli.doctor"], f"_{part}", lambda *_: iter(()))

    def run(*places):
        for place in places:
            monkeypatch.syspath_prepend(str(place))
        done = CliRunner().invoke(main, ["doctor"])
        return done.exit_code, done.output.splitlines()

    return run


def test_every_extension_is_listed(doctor):
    code, lines = doctor(PACKAGE)
    assert (code, lines[-1]) == (0, "all well")
    points = ConfigParser()
    points.read(PACKAGE / "wsikd_outside-1.0.dist-info/entry_points.txt")
    names = [(group.removeprefix("wsikd."), name) for group in points for name in points[group]]
    expected = [f"ok    extension {k} '{name}': wsikd-outside 1.0" for k, name in sorted(names)]
    assert lines[:-1] == expected
    assert len(expected) >= 9


def test_without_extensions_there_is_no_line(doctor):
    assert doctor() == (0, ["all well"])


def test_what_cannot_be_used_is_a_fault(doctor, tmp_path):
    code, lines = doctor(PACKAGE, tmp_path)
    assert code == 2
    assert [line for line in lines if line.startswith("FAULT")] == [
        (
            "FAULT extension maskers 'outside': is offered by several packages: broken 0.3, "
            "wsikd-outside 1.0; uninstall all but one"
        ),
        (
            "FAULT extension maskers 'outside': is offered by several packages: broken 0.3, "
            "wsikd-outside 1.0; uninstall all but one"
        ),
        (
            "FAULT extension reader 'typo': broken 0.3 registers it under an unknown kind; "
            "did you mean 'readers'?"
        ),
        (
            "FAULT extension readers 'auto': broken 0.3 registers it, but wsikd's own of that "
            "name is used; ask its authors to rename it"
        ),
        (
            "FAULT extension readers 'lost': cannot be imported from the package broken 0.3 "
            "(ModuleNotFoundError: No module named 'broken_package'); "
            "install its dependencies or update it: pip install --upgrade broken"
        ),
    ]
