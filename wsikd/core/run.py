"""A run folder: settings, provenance and results.

Layout: ``config.yaml  provenance.json  metrics.jsonl  log.txt  checkpoints/  student/``. Files are
written aside and renamed, so that none is ever half there under its own name.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.about import __version__, installed
from wsikd.core.errors import OutputError
from wsikd.core.output.files import aside as aside
from wsikd.core.output.files import drop_temporary, not_ours
from wsikd.core.output.json_text import json_text
from wsikd.core.reading import parse_json, parse_yaml, read_json
from wsikd.core.run_places import RUN_CONFIG, RUN_RECORD, relative_places

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsikd.core.config import Dumped
    from wsikd.core.output.markers import FileKind

RECORDED_PACKAGES = (
    "numpy", "torch", "torchvision", "lightning", "zarr", "openslide-bin",
    "openvino", "onnxruntime",
)  # fmt: skip
_CHECKPOINT_PART = r"[\w-]+\.ckpt(?:\.\d+){1,2}\.part"


def write_text_atomic(path: Path, text: str, kind: FileKind | None = None) -> None:
    """Write a whole UTF-8 text file or nothing; see :func:`aside`. Raises OutputError.

    Bytes of a file name that are not UTF-8 become escapes.
    """
    with aside(path, kind) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json_atomic(path: Path, content: Any, kind: FileKind | None = None) -> None:
    """Write a whole JSON file or nothing; NaN is refused. Raises OutputError, ValueError."""
    write_text_atomic(path, json_text(content) + "\n", kind)


def provenance(argv: Sequence[str] | None = None, **more: Any) -> dict[str, Any]:
    """What made a result: versions, arguments, platform; no host, no user, no folder names.

    Args:
        argv: the command line, default ``sys.argv``; paths in it are reduced to their last part.
        more: further entries, e.g. ``seed``.
    """
    return {
        "wsikd": __version__,
        "git": _own_state(),
        "argv": [_spelt(_last_part(a)) for a in (sys.argv if argv is None else argv)],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": dict(_packages()),
        **more,
    }


@cache
def _packages() -> dict[str, str]:
    """Versions of the packages that results depend on, as far as they are installed."""
    found = {name: installed(name) for name in RECORDED_PACKAGES}
    return {name: version for name, version in found.items() if version is not None}


@cache
def _own_state() -> str | None:
    """State of this package's checkout when the process first asked."""
    return git_state(Path(__file__).resolve().parents[2])


def _spelt(argument: str) -> str:
    r"""An argument as text: bytes that are not UTF-8 read ``\xNN``."""
    return os.fsencode(argument).decode("utf-8", "backslashreplace")


def _last_part(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if equals:
        return f"{_last_part(option)}={_last_part(value)}"
    if "/" not in argument and "\\" not in argument:
        return argument
    return argument.replace("\\", "/").rstrip("/").rpartition("/")[2]


def git_state(root: Path) -> str | None:
    """Commit of a checkout, "-dirty" if changed; None outside of one. Takes no lock in it."""
    if not (root / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    asked = ["describe", "--always", "--abbrev=40", "--dirty"]
    try:
        found = subprocess.run(
            [*git, *asked], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


_PLACES = {"data": ("paths", "cache_gb", "device_gb"), "optim": ("threads",)}
"""Settings that name places, whose content is compared by digest, or the machine."""


class RunDir:
    """The folder of one run."""

    def __init__(self, path: str | Path) -> None:
        """Name the folder; :meth:`start` makes it."""
        self.path = Path(path)
        self.config_file = self.path / RUN_CONFIG
        self.provenance_file = self.path / RUN_RECORD
        self.metrics_file = self.path / "metrics.jsonl"
        self.log_file = self.path / "log.txt"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"

    def start(self, config: Dumped, *, resume: bool = False, **more: Any) -> None:
        """Make the folder, or take up the run in it.

        Args:
            config: settings of the run, kept as ``config.yaml``.
            resume: continue a run whose settings are the same.
            more: entries of ``provenance.json``, e.g. ``seed``; a resumed run keeps the seed.

        Raises:
            OutputError: the folder holds something and ``resume`` is false; or ``resume`` is true
                and its settings differ, or it holds no run.
        """
        from wsikd.core.config import dump_config

        if self.check(config, resume=resume, **more):
            return
        write_json_atomic(self.provenance_file, provenance(**more))
        write_text_atomic(self.config_file, dump_config(config, self.path))
        self.checkpoints.mkdir(exist_ok=True)

    def note_resume(self) -> None:
        """Add time and version of a resumption to ``provenance.json``. Raises OutputError.

        What a killed writer left half done in ``checkpoints/`` goes.
        """
        made = self.read_provenance()
        for left in self.checkpoints.glob("*.part"):
            with suppress(OSError):
                drop_temporary(left, _CHECKPOINT_PART)
        entry = {k: v for k, v in provenance().items() if k in ("wsikd", "git", "time")}
        write_json_atomic(
            self.provenance_file, made | {"resumed": [*made.get("resumed", []), entry]}
        )

    def read_provenance(self) -> dict[str, Any]:
        """What ``provenance.json`` holds; nothing if there is none, or it is torn."""
        try:
            made = read_json(self.provenance_file)
        except (OSError, ValueError):
            return {}
        return made if isinstance(made, dict) else {}

    def check(self, config: Dumped, *, resume: bool = False, **more: Any) -> bool:
        """Raise what :meth:`start` would, writing nothing; true if there is a run to resume."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(self.path, "is a file", "choose another -o")
        occupied = self.path.is_dir() and not self._unborn()
        if occupied and not resume:
            ours = self.config_file.exists() and "wsikd" in self.read_provenance()
            remedy = "give --resume to continue it, or choose another -o"
            raise OutputError(
                self.path,
                "is not empty" if ours else "is not empty and holds no run of wsikd",
                remedy if ours else "choose another -o",
            )
        if occupied:
            self._check_same(config, more)
        elif self.provenance_file.exists() and "wsikd" not in self.read_provenance():
            raise not_ours(self.provenance_file, "the record of a run")
        return occupied

    def _unborn(self) -> bool:
        """The folder holds only files that a killed :meth:`start` leaves."""
        names = {p.name for p in self.path.iterdir() if not self._is_part(p)}
        if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
            names.discard(self.checkpoints.name)
        return names <= {self.provenance_file.name}

    def _is_part(self, path: Path) -> bool:
        started = (f"{f.name}." for f in (self.provenance_file, self.config_file))
        return path.name.startswith(tuple(started)) and path.suffix == ".part"

    def _check_same(self, config: Dumped, more: Mapping[str, Any]) -> None:
        import yaml

        try:
            old = parse_yaml(self.config_file.read_text(encoding="utf-8")) or {}
            made = read_json(self.provenance_file)
            if not isinstance(old, dict) or not isinstance(made, dict):
                raise ValueError("no settings")
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise OutputError(
                self.path, "holds no run to resume", "choose another -o, or leave --resume out"
            ) from error
        new = config.model_dump(mode="json")
        key = self._difference(_as_precise(as_read_today(old, config), new), new)
        if key is None and "seed" in more and made.get("seed") != more["seed"]:
            key = "seed"
        if key is not None:
            raise OutputError(
                self.path,
                f"was started with another '{key}'",
                "resume with the same settings, or choose another -o",
            )

    def _difference(self, old: Any, new: Any) -> str | None:
        """The first setting that differs; paths may be as typed, as earlier versions kept them."""
        from wsikd.core.config import first_difference

        if first_difference(_placeless(old), _placeless(new)) is None:
            return None
        kept = relative_places(old, self.path, typed=False)
        return first_difference(_placeless(kept), _placeless(relative_places(new, self.path)))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``; numbers that are not finite become null."""
        line = json.dumps({k: _finite(v) for k, v in row.items()})
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; none if there is no such file.

        Raises:
            OutputError: it is damaged.
        """
        if not self.metrics_file.exists():
            return []
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").split("\n")[:-1]
            rows = [parse_json(line) for line in lines]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("a line is not a JSON object")
        except ValueError as error:
            raise OutputError(
                self.metrics_file, f"is damaged ({error})", "train again with another -o"
            ) from error
        return rows

    def keep_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite ``metrics.jsonl`` with these rows, without later ones of a killed run."""
        write_text_atomic(self.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))


def as_read_today(old: dict[str, Any], config: Dumped, exclude: Any = None) -> dict[str, Any]:
    """Settings that were kept, as the model of ``config`` reads them; as kept if it refuses them.

    Args:
        old: settings of a run or a search, which an earlier version may have written.
        config: what they are compared with.
        exclude: keys to leave out, as pydantic takes them.
    """
    from wsikd.core.config import Settings

    if not isinstance(config, Settings):
        return old
    try:
        return type(config).model_validate(old).model_dump(mode="json", exclude=exclude)
    except ValueError:  # a setting is wrong, and so another than that of the run to come
        return old


def _placeless(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the places of data and teacher, and without those of the machine."""
    rest = {k: v for k, v in config.items() if k != "teacher"}
    for name, keys in _PLACES.items():
        if isinstance(section := config.get(name), dict):
            rest[name] = {k: v for k, v in section.items() if k not in keys}
    return rest


def _as_precise(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that were kept, with "auto" for the precision of the run where it is asked for."""
    now, kept = new.get("optim"), old.get("optim")
    if isinstance(now, dict) and isinstance(kept, dict) and now.get("precision") == "auto":
        return {**old, "optim": {**kept, "precision": "auto"}}
    return old


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return value
