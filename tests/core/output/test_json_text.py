import json
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikd.core.output.json_text import json_text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.none() | st.booleans(), inner)
    ),
)


def of_python(value):
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def outcome(write, value):
    try:
        return write(value)
    except (ValueError, TypeError, RecursionError) as error:
        return type(error)


@given(VALUES)
def test_it_is_the_text_of_pythons_encoder(value):
    assert outcome(json_text, value) == outcome(of_python, value)


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        (),
        [{}, []],
        {"a": [float("nan")]},
        {"a": {1, 2}},
        Number.ONE,
        [Text("é\u2028")],
        b"",
    ],
)
def test_so_are_empty_unusual_and_impossible_values(value):
    assert outcome(json_text, value) == outcome(of_python, value)


def test_what_contains_itself_is_refused():
    value = []
    value.append(value)
    assert outcome(json_text, value) is outcome(of_python, value) is ValueError
