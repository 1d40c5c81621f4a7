"""The table of a store's patches, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PatchTable:
    """The patches of a store, row by row; arrays of one length N.

    ``xy`` float64 (N, 2) level-0 corners; ``row``, ``column`` int32 place on the grid; ``tissue``
    float32 share of tissue; ``label`` int16, -1 unlabelled; ``cover`` float32 share of the field
    that the label's regions cover.
    """

    xy: NDArray[np.float64]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    tissue: NDArray[np.float32]
    label: NDArray[np.int16]
    cover: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)
