"""A network as an ONNX graph, and a cache of graphs: a run with a cached graph needs no PyTorch.

A bundle may hold its graph too. These files, and those in the user's cache folder, start with a
digest of their name and content. Files that are damaged, renamed, or of another version, are made
again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, OutputError, one_line
from wsikd.core.output.files import aside, keep_newest

if TYPE_CHECKING:
    from wsikd.grade.engines import Network

log = logging.getLogger(__name__)

INPUT, OUTPUT = "patches", "logits"
_OPSET = 17
_KEPT = 16
_FORMAT = 1


def graph_of(network: Network) -> bytes:
    """ONNX of a network: uint8 (B, patch_px, patch_px, 3) -> float32 logits (B, classes).

    Raises:
        ConfigError: the network uses an operation that ONNX does not have.
    """
    if (kept := _kept(network)) is not None:
        return kept
    data = _export(network)
    if path := _place(network):
        keep(path, data)
    return data


def is_kept(network: Network) -> bool:
    """Whether the network's graph is in its bundle or in the cache, undamaged."""
    return _kept(network) is not None


def can_make(network: Network) -> None:
    """Refuse a network that needs PyTorch, where it is not installed. Raises ConfigError."""
    if find_spec("torch") is None:
        if is_kept(network):
            raise ConfigError(
                "--engine",
                "this engine needs PyTorch, which is not installed",
                "give --engine openvino, or install wsikd with all its dependencies",
            )
        raise ConfigError(
            network.folder or "-m",
            "holds no graph, and PyTorch, which makes it, is not installed",
            "where it is, run wsikd export-model STUDENT --to bundle -o DIR, and copy DIR here",
        )


def write_graph(network: Network, folder: Path) -> None:
    """Write a network's graph into the folder of its bundle, for machines without PyTorch.

    Raises:
        ConfigError: see :func:`graph_of`.
        OSError: the file cannot be written.
    """
    name = _name(network)
    (folder / name).write_bytes(_seal(name, graph_of(network)))


def cache_folder() -> Path:
    """The folder of the cache: ``WSIKD_CACHE``, else ``wsikd`` in the user's cache folder."""
    own = os.environ.get("WSIKD_CACHE")
    if own:
        return Path(own) / "graphs"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsikd" / "graphs"


def read_sealed(path: Path) -> bytes | None:
    """The content of a cached file; None if it is missing or was changed or renamed."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    content = data[32:]
    return content if _seal(path.name, content) == data else None


def keep(path: Path, content: bytes) -> None:
    """Cache a file, after its digest, and drop the oldest beyond a few. Never raises."""
    try:
        with aside(path) as part:
            part.write_bytes(_seal(path.name, content))
        keep_newest(path.parent, rf"[0-9a-f]{{40}}-[\w.-]+{re.escape(path.suffix)}", _KEPT)
    except (OSError, OutputError) as error:
        log.debug("not kept: %s", error)


def _seal(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest() + content


def _kept(network: Network) -> bytes | None:
    folder = network.folder if network.key else None
    places = (folder and folder / _name(network), _place(network))
    found = (read_sealed(place) for place in places if place)
    return next((content for content in found if content is not None), None)


def _name(network: Network) -> str:
    return f"{network.key[:40]}-{network.patch_px}-{_FORMAT}.onnx"


def _place(network: Network) -> Path | None:
    if not network.key:
        return None
    with suppress(RuntimeError):  # raised without a home folder
        return cache_folder() / _name(network)
    return None


def _export(network: Network) -> bytes:
    import torch

    class Interleaved(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return self.inner(patches.permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    stream: Any = io.BytesIO()
    module = Interleaved(network.build().cpu()).eval()  # the exporter restores this mode
    example = torch.zeros(2, network.patch_px, network.patch_px, 3, dtype=torch.uint8)
    axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation: tracing takes 0.3 s, its successor 7 s
            torch.onnx.export(
                module, (example,), stream, dynamo=False, input_names=[INPUT],
                output_names=[OUTPUT], dynamic_axes=axes, opset_version=_OPSET,
            )  # fmt: skip
    except Exception as error:
        raise ConfigError(
            "--engine", f"the network has no ONNX form ({one_line(str(error))[:200]})",
            "give --engine torch",
        ) from error  # fmt: skip
    return bytes(stream.getvalue())
