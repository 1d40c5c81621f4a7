"""Every public name has a docstring whose examples run."""

import doctest
import inspect

import matplotlib as mpl
import pytest

import wsikd

OWN = [n for n in wsikd.__all__ if n not in ("RESEARCH_USE", "__version__", "WsikdError")]


def docstrings():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in OWN:
        found = getattr(wsikd, name)
        for test in finder.find(found, name, globs={}):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(docstrings()))
def test_examples_run(test, shop):
    mpl.use("Agg")
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", OWN)
def test_every_name_has_an_example(name):
    text = inspect.getdoc(getattr(wsikd, name))
    assert text
    assert "Examples:" in text
    assert ">>> " in text


def members(kind):
    for name, member in vars(kind).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            yield name, member


@pytest.mark.parametrize("name", [n for n in OWN if inspect.isclass(getattr(wsikd, n))])
def test_public_methods_are_described(name):
    for own, member in members(getattr(wsikd, name)):
        assert inspect.getdoc(member), f"{name}.{own}"
