"""Names of tables and of installed packages."""

import sys

import pytest

from wsikd.core.errors import ConfigError, UnforeseenError
from wsikd.core.faults import explain
from wsikd.core.registry import (
    KINDS,
    check_known,
    extensions,
    known_names,
    load_target,
    resolve,
    source_of,
)

TABLE = {"own": "math:sqrt", "other": "math:floor"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a package that offers entry points of the kind "things" and put it on the path."""

    def made(package, modules, version="1.5", **points):
        info = tmp_path / package / f"{package}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[wsikd.things]", *lines]))
        for name, text in modules.items():
            (tmp_path / package / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(tmp_path / package))

    return made


def test_a_package_adds_a_name(install):
    install("more", {"more_things": "ANSWER = 42"}, third="more_things:ANSWER")
    assert resolve(TABLE, "third", kind="things") == 42
    assert known_names(TABLE, "things") == ["own", "other", "third"]
    assert source_of(TABLE, "third", kind="things") == "more 1.5"
    assert source_of(TABLE, "own", kind="things") is None
    with pytest.raises(ConfigError, match="not among the known others"):
        resolve(TABLE, "third", kind="others")


def test_an_unknown_name_is_told_the_nearest_of_all(install):
    install("more", {}, third="more_things:ANSWER")
    for refuse in (resolve, check_known):
        with pytest.raises(ConfigError) as refused:
            refuse(TABLE, "thrid", kind="things")
        assert str(refused.value) == (
            "thrid: not among the known things; "
            "did you mean 'third'? choose one of own, other, third"
        )
    with pytest.raises(ConfigError, match="things; choose one of own, other, third"):
        resolve(TABLE, "zzz", kind="things")


def test_the_name_of_a_table_is_never_replaced(install):
    install("more", {"more_things": "ANSWER = 42"}, own="more_things:ANSWER")
    assert resolve(TABLE, "own", kind="things") is load_target("math:sqrt")
    assert known_names(TABLE, "things") == ["own", "other"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "AttributeError: module 'broken_things' has no attribute 'ANSWER'"),
    ],
)
def test_what_cannot_be_imported_is_one_line(install, text, fault):
    install("broken", {"broken_things": text}, third="broken_things:ANSWER")
    check_known(TABLE, "third", kind="things")
    with pytest.raises(ConfigError) as refused:
        resolve(TABLE, "third", kind="things")
    assert str(refused.value) == (
        f"things 'third': cannot be imported from the package broken 1.5 ({fault}); "
        "install its dependencies or update it: pip install --upgrade broken"
    )


def test_a_name_of_two_packages_is_refused(install):
    install("one", {"one_things": "ANSWER = 1"}, third="one_things:ANSWER")
    install("two", {"two_things": "ANSWER = 2"}, third="two_things:ANSWER")
    assert [one.package for one in extensions("things")] == ["one", "two"]
    with pytest.raises(ConfigError, match=r"several packages: one 1\.5, two 1\.5; uninstall"):
        resolve(TABLE, "third", kind="things")


def test_a_fault_in_the_code_of_a_package_names_it(install):
    text = "def work(f):\n    return f()\n\n\ndef fail():\n    return {}['lost']\n"
    install("faulty", {"faulty_things": text}, third="faulty_things:work")
    work = resolve(TABLE, "third", kind="things")
    for call in (sys.modules["faulty_things"].fail, lambda: work(lambda: 1 / 0)):
        with pytest.raises((KeyError, ZeroDivisionError)) as caught:
            call()
        error = explain("s.svs", caught.value)
        assert isinstance(error, UnforeseenError)
        assert error.fault.endswith(", in the package faulty 1.5")
        assert error.remedy == "report it to the authors of faulty"
    assert "in the package" not in str(explain("s.svs", ZeroDivisionError("x")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_table(kind):
    table = load_target(KINDS[kind])
    assert table
    assert all(":" in target for target in table.values())
