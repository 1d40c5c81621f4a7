"""The patches of a store in memory: the table of all, and a field with its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

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


@dataclass(frozen=True)
class Field:
    """A square of tissue: one patch at each resolution of its store.

    Attributes:
        index: its number in the store.
        xy: level-0 (x, y) of its upper left corner.
        tissue: share of it that is tissue, 0 to 1.
        label: name of its class; None where it has none.
        patches: um per pixel -> uint8 (patch_px, patch_px, 3), R, G, B.
    """

    index: int
    xy: tuple[float, float]
    tissue: float
    label: str | None
    patches: Mapping[float, NDArray[np.uint8]]

    def __getitem__(self, mpp: float) -> NDArray[np.uint8]:
        """The patch at a resolution; raises KeyError where there is none."""
        if mpp not in self.patches:
            raise KeyError(
                f"no patch at {mpp:g} um/px, only at {', '.join(map(str, self.patches))}"
            )
        return self.patches[mpp]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(p)} px at {mpp:g} um/px" for mpp, p in self.patches.items())
        label = "no label" if self.label is None else self.label
        return f"Field({self.index}, x {self.xy[0]:g}, y {self.xy[1]:g}, {label}, {sizes})"
