"""YAML from outside: whatever is wrong with it raises one kind of error."""

from __future__ import annotations

from typing import Any

import yaml

from wsikd.core.errors import MALFORMED

_MOST_NODES = 1_000_000


class _Unique(yaml.constructor.BaseConstructor):
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


class _SafeLoader(_Unique, yaml.SafeLoader):
    pass


class _TextLoader(_Unique, yaml.BaseLoader):
    pass


def parse_yaml(text: str, *, as_text: bool = False) -> Any:
    """Read YAML.

    Args:
        text: one document.
        as_text: keep every scalar as text.

    Raises:
        yaml.YAMLError: it is none, a key is given twice, a value is impossible, it is nested too
            deep, or its aliases stand for more than a million values.
    """
    try:
        found = yaml.load(text, Loader=_TextLoader if as_text else _SafeLoader)
        _count(found)
    except MALFORMED as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error
    return found


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
