"""From the ``method`` of a YAML file to the model of its settings. Imports no torch by itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import create_model

from wsikd.core.config import Settings, load_config, overridden, parse_config, peek
from wsikd.core.errors import ConfigError
from wsikd.core.registry import check_known, load_target, nearest
from wsikd.learn.methods import METHODS, find_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wsikd.learn.methods.base import Method

BASE, ROWS = "base.yaml", "rows.yaml"  # of a comparison
KEY = "method"


class MethodConfig(Settings):
    """The common first settings of every method."""

    method: str
    """Entry of wsikd.learn.methods.METHODS, or a method of another package."""

    @property
    def learner(self) -> type[Method]:
        """The method's class."""
        return find_method(self.method)


@cache
def model_of(method: str) -> type[MethodConfig]:
    """The settings of a method: those that it shares with others, and its own ``Config``.

    Raises:
        ConfigError: the method is unknown, or another package's and at fault.
    """
    found = find_method(method)
    own = found.Config
    if issubclass(own, MethodConfig):
        return own
    shared: type[MethodConfig] = load_target(found.settings)
    if own is Settings:
        return shared
    name = f"{own.__name__}Of{shared.__name__}"
    bases: Any = (own, shared)
    joined: type[MethodConfig] = create_model(name, __base__=bases, __doc__=shared.__doc__)
    return joined


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a training configuration of any method. Raises ConfigError."""
    path = Path(path)
    refuse_rows(path)
    return load_config(_model(peek(path, overrides), path.name), path, overrides)


def parse_settings(
    content: Mapping[str, Any],
    *,
    name: str | Callable[[Sequence[str]], str],
    overrides: Sequence[str] = (),
) -> Any:
    """Check a training configuration that was read elsewhere; see ``core.config.parse_config``."""
    file = name if isinstance(name, str) else name([KEY])
    model = _model(overridden(content, overrides), file)
    return parse_config(model, content, name=name, overrides=overrides)


def _model(content: Mapping[str, Any], file: str) -> type[MethodConfig]:
    """The model of the settings for the method in a file. Raises ConfigError."""
    method = content.get(KEY)
    if method is None:
        meant = [str(key) for key in content if f"'{KEY}'" in nearest(str(key), [KEY])]
        if meant and KEY not in content:
            raise ConfigError(f"{file}: {meant[0]}", "unknown key", f"did you mean '{KEY}'?")
        raise ConfigError(f"{file}: {KEY}", "is required", "add it")
    if not isinstance(method, str):
        raise ConfigError(f"{file}: {KEY}", f"{str(method)[:60]} is not valid", "name a method")
    try:
        check_known(METHODS, method, kind="methods")
    except ConfigError as error:
        raise ConfigError(f"{file}: {KEY} {error.subject}", error.fault, error.remedy) from None
    return model_of(method)


def refuse_rows(path: Path) -> None:
    """Refuse the rows of a comparison where one training is asked for. Raises ConfigError."""
    if path.name == ROWS and (path.parent / BASE).is_file():
        raise ConfigError(
            path, "holds the rows of a comparison, not one training",
            f"run wsikd reproduce at_plus --config-dir {path.parent}, or give one training's file",
        )  # fmt: skip
