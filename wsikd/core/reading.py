"""JSON, YAML and CSV from outside: whatever is wrong with a file raises one kind of error."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MALFORMED

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_CELL = 100_000
"""Characters; what is longer is a lost quotation mark."""
_MOST_NODES = 1_000_000


def read_json(file: Path, *, finite: bool = False) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: as :func:`parse_json`.
    """
    return parse_json(file.read_text(encoding="utf-8"), finite=finite)


def parse_json(text: str, *, finite: bool = False) -> Any:
    """Read JSON.

    Args:
        text: one value.
        finite: refuse NaN and Infinity, which Python writes and JSON does not have.

    Raises:
        ValueError: it is not JSON, nested too deep, or holds half of a character.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant if finite else None)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate fits into no file
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@cache
def _loaders() -> dict[bool, Any]:
    """Loaders of YAML, by whether scalars stay texts; the package is imported when it is needed."""
    import yaml

    class Unique(yaml.constructor.BaseConstructor):
        """Refuses a key that a mapping gives twice; YAML readers silently take the last."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 (yaml's signature)
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        fault = f"key '{key.value}' is given twice"
                        raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
                    seen.add((key.tag, key.value))
            return super().construct_mapping(node, deep)

    class SafeLoader(Unique, yaml.SafeLoader):
        pass

    class TextLoader(Unique, yaml.BaseLoader):
        pass

    return {False: SafeLoader, True: TextLoader}


def parse_yaml(text: str, *, as_text: bool = False) -> Any:
    """Read YAML.

    Args:
        text: one document.
        as_text: keep every scalar as text.

    Raises:
        yaml.YAMLError: it is none, a key is given twice, a value is impossible, it is nested too
            deep, or its aliases stand for more than a million values.
    """
    import yaml

    try:
        found = yaml.load(text, Loader=_loaders()[as_text])
        _count(found)
    except MALFORMED as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error
    return found


def parse_csv(text: str, delimiter: str = ",") -> csv.DictReader[str]:
    """A reader of CSV with a header line, whose cells may hold line breaks.

    Raises:
        ValueError: it is not CSV, as a NUL in it or a cell without an end shows.
    """
    _check_csv(text, delimiter)
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _check_csv(text: str, delimiter: str) -> None:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if max(map(len, row), default=0) > LONGEST_CELL:
                raise ValueError(f"a cell has more than {LONGEST_CELL} characters")
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _count(value: Any) -> None:
    """Raise ValueError where a value has too many parts, those that come again counted again."""
    sizes: dict[int, int] = {}

    def size(part: Any, above: tuple[int, ...]) -> int:
        if not isinstance(part, dict | list | tuple | set):
            return 1
        key = id(part)
        if key in above:
            raise ValueError("an alias contains itself")
        if key not in sizes:
            inner = part.values() if isinstance(part, dict) else part
            sizes[key] = 1 + sum(size(one, (*above, key)) for one in inner)
            if sizes[key] > _MOST_NODES:
                raise ValueError("its aliases expand to too many values")
        return sizes[key]

    size(value, ())
