"""Pages made of the pydantic models: settings and files."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import wsikd

Model = type[BaseModel]
_SKIPPED = {"wsikd.tia"}


def found_models() -> list[Model]:
    """Every public pydantic model of the package, in the order of modules and lines."""
    root = Path(wsikd.__file__).parent
    found = []
    for file in sorted(root.rglob("*.py")):
        name = ".".join(("wsikd", *file.relative_to(root).with_suffix("").parts))
        name = name.removesuffix(".__init__")
        if name in _SKIPPED or not _may_hold_models(file):
            continue
        module = importlib.import_module(name)
        for value in vars(module).values():
            found += [m for m in _with_inner(value) if m.__module__ == name]
    unique = dict.fromkeys(found)
    return [m for m in unique if not m.__name__.startswith("_")]


def _may_hold_models(file: Path) -> bool:
    text = file.read_text("utf-8")
    return "class " in text and any(word in text for word in ("Settings", "BaseModel", "pydantic"))


def _with_inner(value: Any) -> list[Model]:
    if not isinstance(value, type):
        return []
    own = [value] if issubclass(value, BaseModel) and value is not BaseModel else []
    inner = [v for v in vars(value).values() if isinstance(v, type) and v is not value]
    return own + [v for v in inner if issubclass(v, BaseModel)]


def configuration() -> str:
    """The page of all keys of a YAML file."""
    from wsikd.core.config import Settings

    settings = [m for m in found_models() if issubclass(m, Settings) and m is not Settings]
    roots = [m for m in settings if "method" in m.model_fields]
    sections = [m for m in settings if m not in roots]
    anchors = {m: _title(m, settings) for m in settings}
    lines = [
        "# Configuration",
        "",
        "Generated from the models that check a YAML file. A section of a file (`data:`, `optim:`)",
        "is a model of its own. Its keys are listed below under the model's name.",
        "`wsikd init METHOD` writes commented files, `wsikd config FILE` prints a file with every",
        "default, and `--set optim.epochs=5` changes one key for one run.",
        "",
    ]
    for model in [*roots, *sections]:
        lines += [f"## {anchors[model]}", "", _summary(model), "", *_table(model, anchors), ""]
    return "\n".join(lines)


def formats() -> tuple[str, dict[str, str]]:
    """The page of the JSON files that wsikd writes, and their schemas by file name."""
    from wsikd.core.config import Settings

    models = [m for m in found_models() if not issubclass(m, Settings)]
    used = {
        inner for m in models for f in m.model_fields.values() for inner in _inner(f.annotation)
    }
    bases = {base for m in models for base in m.__mro__[1:]}
    roots = [m for m in models if m not in used and m not in bases]
    parts = [m for m in models if m in used]
    anchors = {m: _title(m, models) for m in models}
    lines = [
        "# File formats",
        "",
        "The purpose of each file: see [what comes out](../files.md). This page lists the keys of",
        "the JSON files, generated from the models that read and write them. Each has a JSON",
        "schema. Unknown keys are kept when a file is read.",
        "",
    ]
    schemas = {}
    for model in [*roots, *parts]:
        lines += [f"## {anchors[model]}", "", _summary(model), ""]
        if model in roots:
            name = f"{anchors[model]}.json"
            schemas[name] = json.dumps(model.model_json_schema(), indent=2) + "\n"
            lines += [
                f":::{{dropdown}} JSON schema of {anchors[model]}",
                f"```{{literalinclude}} ../_static/schemas/{name}",
                ":language: json",
                "```",
                ":::",
                "",
            ]
        lines += [*_table(model, anchors), ""]
    return "\n".join(lines), schemas


def _title(model: Model, among: list[Model]) -> str:
    """A heading that no other model has."""
    name = model.__qualname__
    if sum(m.__qualname__ == name for m in among) > 1:
        name = f"{name} of {model.__module__.removeprefix('wsikd.')}"
    return name


def _summary(model: Model) -> str:
    doc = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return _plain(doc.split("\nAttributes:")[0].strip())


def _table(model: Model, anchors: dict[Model, str]) -> list[str]:
    """One row for each key."""
    texts = {}
    for base in reversed(model.__mro__):
        if isinstance(base, type) and issubclass(base, BaseModel) and base is not BaseModel:
            texts.update(_field_texts(base))
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        kind = _type(field.annotation, anchors) + _limits(field.metadata)
        text = field.description or texts.get(key, "")
        default = _default(field)
        if any(issubclass(m, BaseModel) for m in _inner(field.annotation)) and not text:
            text = "A section."
        cells = [f"`{field.alias or key}`", kind, default, _plain(text)]
        rows.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    return rows if len(rows) > 2 else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """A docstring as Markdown: roles and double backticks become code."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"(?<!`)([*<])(?![^`]*`)", r"\\\1", text)


def _field_texts(model: type) -> dict[str, str]:
    """The string under each field of a class, or its line under ``Attributes:``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    doc = inspect.cleandoc(ast.get_docstring(tree) or "")
    if "Attributes:" in doc:
        block = doc.split("Attributes:")[1]
        for match in re.finditer(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block, re.M):
            texts[match[1]] = match[2]
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            texts[node.target.id] = after.value.value
    return texts


def _inner(annotation: Any) -> list[Model]:
    """The models within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _inner(part)]


def _type(annotation: Any, anchors: dict[Model, str]) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], anchors) + _limits(parts[1:])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(p) if isinstance(p, bool) else p}`" for p in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(p, anchors) for p in parts)
    if origin in (list, tuple, set):
        inner = [_type(p, anchors) for p in parts if p is not Ellipsis]
        return f"list of {' and '.join(dict.fromkeys(inner))}" if inner else "list"
    if origin is dict:
        return f"{_type(parts[0], anchors)}: {_type(parts[1], anchors)}"
    if annotation is type(None):
        return "none"
    if isinstance(annotation, type) and annotation in anchors:
        return f"[{anchors[annotation]}](#{_slug(anchors[annotation])})"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _limits(metadata: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = []
    for one in metadata:
        for inner in getattr(one, "metadata", [one]) or [one]:
            found += [
                f"{sign} {getattr(inner, name):g}"
                for name, sign in signs.items()
                if isinstance(getattr(inner, name, None), int | float)
            ]
    return f" {', '.join(found)}" if found else ""


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default_factory() if field.default_factory else field.default
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if value is None:
        return "none"
    return f"`{json.dumps(value, default=str)}`"
