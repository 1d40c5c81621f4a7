"""The ledger of looks: how often a test part has been used, and with how many networks.

A test part is identified by hashes of its slides' or images' content, so that a copy of a run or a
renamed data set does not reset the count. Looks are kept in the user's state folder and, if wsikd
wrote the data, in ``looks.json`` beside them; each ledger restores looks that the other has lost. A
ledger that cannot be read or written causes a warning, and never ends a command.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from wsikd.core.errors import OutputError
from wsikd.core.output.files import aside, check_file
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import LOOKS, LOOKS_KIND

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger(__name__)
FILE = "looks.json"
WAIT_S = 10.0
SKETCH = 256
"""Greatest number of hashes of a part; it keeps the smallest."""
_DIGITS = 12
_TEXTS = ("id", "time", "command", "part", "network")


@dataclass(frozen=True)
class Part:
    """A test part: the digest of its whole content, and hashes of its slides or images.

    Attributes:
        key: digest of the slides or images, independent of their order and names.
        items: hashes of 12 hexadecimal digits; the smallest 256 if there are more. Two parts that
            share many slides share some hashes.
    """

    key: str
    items: frozenset[str]

    @classmethod
    def of(cls, contents: Iterable[str]) -> Part:
        """The part of slides or images with these digests."""
        found = sorted({hashlib.sha256(c.encode()).hexdigest()[:_DIGITS] for c in contents})
        key = hashlib.sha256("".join(found).encode()).hexdigest()[:24]
        return cls(key, frozenset(found[:SKETCH]))


def state_folder() -> Path:
    """The folder of the user's ledger: ``WSIKD_STATE``, else the platform's state folder."""
    if own := os.environ.get("WSIKD_STATE"):
        return Path(own)
    named = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(named):  # noqa: PTH117 - the XDG standard ignores relative paths
        return Path(named) / "wsikd"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "wsikd"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "wsikd"
    return Path.home() / ".local" / "state" / "wsikd"


def note(
    part: Part, *, command: str, network: str, folders: Sequence[Path] = (), **more: Any
) -> list[dict[str, Any]]:
    """Add a look to every ledger, and return all looks at slides or images of this part.

    Args:
        part: the test part.
        command: the command that uses it.
        network: digest of the network's weights.
        folders: folders of wsikd with or above the data; those that cannot be written are skipped.
        more: further entries, JSON values.

    Returns:
        Looks at this part and at parts that share slides with it, oldest first, this one last.
    """
    look = {
        "id": uuid4().hex,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "part": part.key,
        "items": "".join(sorted(part.items)),
        "network": network,
        **more,
    }
    known = [*earlier(part, folders=folders), look]
    for file in _files(folders):
        _keep(file, known, state=file.parent not in folders)
    return known


def earlier(part: Part, *, folders: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """All looks in the ledgers at slides or images of a part, oldest first.

    Args:
        part: the test part.
        folders: see :func:`note`.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in _files(folders):
        try:
            looks = _read(file)
        except OutputError as error:
            log.warning("looks at test parts: %s", error)
            continue
        for look in looks:
            if not part.items.isdisjoint(_items(look)):
                found.setdefault(look["id"], look)
    return sorted(found.values(), key=lambda look: str(look["time"]))


@dataclass(frozen=True)
class Tally:
    """How often test parts have been used.

    Attributes:
        looks: number of looks at these parts.
        networks: number of different networks of these looks.
        others: number of looks at other parts that share slides or images with these.
    """

    looks: int
    networks: int
    others: int

    @property
    def text(self) -> str:
        """One sentence without full stop."""
        said = (
            f"this test part has been looked at {_times(self.looks)} by "
            f"{self.networks} run{'' if self.networks == 1 else 's'}"
        )
        if self.others:
            said += f", and parts that share slides with it {_times(self.others)}"
        return said

    def record(self) -> dict[str, int]:
        """The counts as JSON values."""
        return {"looks": self.looks, "runs": self.networks, "overlapping": self.others}


def tally(looks: Iterable[dict[str, Any]], parts: Iterable[str]) -> Tally:
    """Count looks.

    Args:
        looks: result of :func:`note` or :func:`earlier`.
        parts: keys of the test parts.
    """
    keys, every = set(parts), {look["id"]: look for look in looks}
    own = [look for look in every.values() if look["part"] in keys]
    return Tally(len(own), len({look["network"] for look in own}), len(every) - len(own))


def looks_text(record: Mapping[str, Any]) -> str:
    """The sentence of :meth:`Tally.text` for a record of :meth:`Tally.record`."""
    return Tally(record["looks"], record["runs"], record["overlapping"]).text


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _files(folders: Sequence[Path]) -> list[Path]:
    """The ledgers: the user's, if there is a state folder, then those beside the data."""
    try:
        own = [state_folder() / FILE]
    except RuntimeError as error:  # no home
        log.warning("looks at test parts are not kept in a state folder: %s", error)
        own = []
    return [*own, *(folder / FILE for folder in dict.fromkeys(folders))]


def _items(look: dict[str, Any]) -> set[str]:
    text = look["items"]
    return {text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS)}


def _sound(look: Any) -> bool:
    return (
        isinstance(look, dict)
        and all(isinstance(look.get(k), str) for k in (*_TEXTS, "items"))
        and re.fullmatch(rf"(?:[0-9a-f]{{{_DIGITS}}})*", look["items"]) is not None
    )


def _read(file: Path) -> list[dict[str, Any]]:
    """Read a ledger. Raises OutputError if it is damaged or another file."""
    if not os.path.lexists(file):
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["kind"] != LOOKS_KIND or not all(map(_sound, content["looks"])):
            raise ValueError("no ledger")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fault = "cannot be read as a ledger of looks at test parts"
        raise OutputError(file, fault, "restore it from a copy, or move it away") from error
    return list(content["looks"])


def _keep(file: Path, looks: Sequence[dict[str, Any]], *, state: bool) -> None:
    """Add looks to a ledger under its lock; a failure is a warning."""
    folder = file.parent
    if not state and not (folder.is_dir() and os.access(folder, os.W_OK)):
        log.debug("%s: not writable, no ledger is kept there", folder)
        return
    try:
        check_file(file, LOOKS)
        with locked(file, wait_s=WAIT_S):
            found = {look["id"]: look for look in _read(file)}
            merged = [*found.values(), *(one for one in looks if one["id"] not in found)]
            text = json.dumps({"kind": LOOKS_KIND, "format": 1, "looks": merged}, allow_nan=False)
            with aside(file, LOOKS) as part:
                part.write_text(text + "\n", encoding="utf-8")
    except (OSError, OutputError) as error:
        log.warning("the look at the test part is not kept: %s", error)
