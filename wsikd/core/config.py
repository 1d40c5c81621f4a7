"""Settings: YAML files become checked, frozen models.

Every fault is one line that starts with the file and the key, such as
``2_student.yaml: weights.fmm: unknown key; did you mean 'fm'?``.
"""

from __future__ import annotations

import reprlib
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wsikd.core.errors import ConfigError
from wsikd.core.faults import similar
from wsikd.core.reading import parse_yaml
from wsikd.core.registry import nearest
from wsikd.core.run_places import RUN_CONFIG, RUN_RECORD, absolute_places, relative_places

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


BEST_CONFIG, SEARCH_RECORD = "best.yaml", "search.yaml"
_RECORDS = {RUN_CONFIG: RUN_RECORD, BEST_CONFIG: SEARCH_RECORD}
"""Files of settings that wsikd wrote, and what lies beside them: their places are relative."""


class Settings(BaseModel):
    """Base of all sections of a configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


Model = TypeVar("Model", bound=Settings)


class Dumped(Protocol):
    """The settings that a run keeps; every :class:`Settings` has it."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """Nested keys and values."""


def load_config(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file into ``model``; places in a run's or search's are relative to its folder.

    Args:
        model: the class to fill.
        path: the YAML file.
        overrides: ``"a.b=value"`` each, the value in YAML; they win over the file.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, or a key or value in it or in an
            override is wrong.
    """
    path = Path(path)
    content = read_mapping(path)
    record = _RECORDS.get(path.name)
    if record is not None and (path.parent / record).is_file():
        content = absolute_places(content, path.parent)
    overridden: set[str] = set()
    for override in overrides:
        overridden.add(_apply(content, override))
    return _build(model, content, path.name, overridden)


def peek(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a file and its overrides, unchecked.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping, or an override is none.
    """
    return overridden(read_mapping(Path(path)), overrides)


def overridden(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested keys and values with ``"a.b=value"`` entries set, unchecked."""
    changed = deepcopy(dict(content))
    for override in overrides:
        _apply(changed, override)
    return changed


def parse_config(
    model: type[Model],
    content: Mapping[str, Any],
    *,
    name: str | Callable[[Sequence[str]], str],
    overrides: Sequence[str] = (),
) -> Model:
    """Check a mapping that was read elsewhere; ``name`` opens every message.

    Args:
        model: the class to fill.
        content: nested keys and values; it is not changed.
        name: see above, or what gives it for the parts of the key at fault.
        overrides: as of :func:`load_config`.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    changed = deepcopy(dict(content))
    overridden = {_apply(changed, override) for override in overrides}
    return _build(model, changed, name, overridden)


def dump_config(config: Dumped, run: Path | None = None) -> str:
    """The settings as YAML, defaults filled in; ``load_config`` reads it back unchanged.

    Args:
        config: the settings.
        run: the folder of the run or search that they belong to; places become relative to it.
    """
    content = config.model_dump(mode="json")
    return yaml.safe_dump(relative_places(content, run) if run else content, sort_keys=False)


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Dotted path of the first key whose values differ, None if all are equal."""
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if a == b and (key in old) == (key in new):
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            return f"{key}.{first_difference(a, b)}"
        return str(key)
    return None


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, unchecked; none of an empty file.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            path,
            f"cannot be read ({error.strerror})",
            f"write one with wsikd init METHOD{similar(path)}",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path.name, "is not a text file", "give a YAML file") from error
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        fault = f"is not valid YAML: {problem}{place}"
        raise ConfigError(path.name, fault, "correct the file") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            path.name,
            f"holds a {type(content).__name__}, not a mapping",
            "write 'key: value' lines",
        )
    return content


def _apply(content: dict[str, Any], override: str) -> str:
    """Set one ``a.b=value`` in place; returns the dotted key."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"--set {override}", "is not key=value", "write, for example, --set weights.fm=0.1"
        )
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}", f"{text!r} is not a YAML value", "quote it") from error
    section = content
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(
                f"--set {key}", f"'{part}' is a value, not a section", "set that key itself"
            )
    section[parts[-1]] = value
    return ".".join(parts)


def _build(
    model: type[Model],
    content: Mapping[str, Any],
    name: str | Callable[[Sequence[str]], str],
    overridden: set[str],
) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # unknown keys first: a misspelt key often causes the other faults
        faults = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        places = [_place(content, fault) for fault in faults]
        fault, place, more = faults[0], places[0], len({tuple(p) for p in places}) - 1
        key = ".".join(place)
        file = name if isinstance(name, str) else name(place)
        subject = f"--set {key}" if key in overridden else f"{file}: {key}" if key else file
        what, remedy = _explain(model, fault, place)
        alike = [f for f, at in zip(faults[1:], places[1:], strict=True) if at == place]
        words = [f"or {f['ctx']['expected']}" for f in alike if f["type"] == "literal_error"]
        others = f" (and {more} more)" if more else ""
        raise ConfigError(subject, what, " ".join([remedy, *words]) + others) from None


def _place(content: Any, fault: Any) -> list[str]:
    """The keys that lead to a fault, without the names that pydantic gives the types of a union."""
    place, here = [], content
    for part in fault["loc"]:
        within = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if within or (isinstance(here, dict) and part in here):
            place.append(str(part))
            here = here[part]
    if fault["type"] == "missing":
        place.append(str(fault["loc"][-1]))
    return place or [str(part) for part in fault["loc"]]


def _explain(model: type[BaseModel], fault: Any, place: list[str]) -> tuple[str, str]:
    kind, context, given = fault["type"], fault.get("ctx", {}), fault.get("input")
    if kind == "extra_forbidden":
        section = _section(model, place[:-1])
        return "unknown key", nearest(place[-1], section.model_fields if section else ())
    if kind == "missing":
        return "is required", "add it"
    if kind == "literal_error":
        remedy = f"choose one of {context['expected']}"
        return f"{_shown(given)} is not known", remedy
    if kind == "value_error":
        what, _, remedy = str(context["error"]).partition("; ")
        return what, remedy or "change it"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{_shown(given)} is not valid", message


def _shown(value: Any) -> str:
    """A value as a message quotes it: short, whatever was read."""
    return reprlib.repr(value)[:60]


def _section(model: type[BaseModel], place: list[str]) -> type[BaseModel] | None:
    """The model of a nested section, found through the field annotations."""
    current: type[BaseModel] | None = model
    for part in place:
        if current is None:
            return None
        if part.isdigit() or part not in current.model_fields:
            continue
        current = _model_in(current.model_fields[part].annotation)
    return current


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
