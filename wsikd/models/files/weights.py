"""Weights as a safetensors file, with the usual permissions of a new file; their digest."""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def write_weights(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file that others may read if the umask permits it.

    Files of safetensors itself can be read only by their owner.

    Args:
        path: the file.
        state: contiguous tensors on the CPU, by name.
        metadata: for the file's header.

    Raises:
        OSError: it cannot be written.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(state), path, metadata=dict(metadata) if metadata else None)
    path.chmod(mode)


def digest_of(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict, by name."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
