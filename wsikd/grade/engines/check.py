"""Check of bf16 or fp16: it is used if it gives the first fields the same classes as fp32."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsikd.grade.engines import started

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.grade.engines import Engine

log = logging.getLogger(__name__)

CHECK_FIELDS = 256
SAME_SHARE = 0.995


class Checked:
    """Runs an engine in low and in full precision on the first fields, then one of the two.

    The first fields get the logits in full precision. Full precision is kept if fewer than
    ``SAME_SHARE`` of these fields have the same class in both.
    """

    def __init__(
        self,
        low: Engine,
        full: Callable[[], Engine],
        *,
        on_pass: Callable[[], None] | None = None,
        fields: int = CHECK_FIELDS,
    ) -> None:
        """Start with the check.

        Args:
            low: the engine in low precision.
            full: opens the engine in full precision.
            on_pass: called once when the check is passed.
            fields: number of fields that are checked.
        """
        self._low, self._full = low, full()
        self._on_pass, self.fields = on_pass, fields
        self._seen = self._other = 0
        self._chosen: Engine | None = None

    @property
    def name(self) -> str:
        """Name of the engine."""
        return self._low.name

    @property
    def decided(self) -> bool:
        """Whether the check is over."""
        return self._chosen is not None

    @property
    def low_precision(self) -> str:
        """The precision that is checked."""
        return self._low.precision

    def alone(self, precision: str) -> Engine:
        """The one of the two that computes in ``precision``."""
        return self._full if precision == self._full.precision else self._low

    @property
    def precision(self) -> str:
        """The precision so far: fp32 until the check is passed."""
        return (self._chosen or self._full).precision

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs for uint8 (B, patch_px, patch_px, 3)."""
        if self._chosen:
            return self._chosen(patches)
        return self._compared(patches)

    @property
    def in_flight(self) -> int:
        """Batches that the engine may have at once."""
        return getattr(self._low, "in_flight", 1)

    def submit(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """The same, started; batches of the check are computed here."""
        if self._chosen:
            return started(self._chosen, patches)
        found = self._compared(patches)
        return lambda: found

    def _compared(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        full, low = self._full(patches), self._low(patches)
        self._seen += len(patches)
        self._other += int((full.argmax(1) != low.argmax(1)).sum())
        if self._other > (1 - SAME_SHARE) * self.fields:
            self._chosen = self._full
            log.warning(
                "%s: %d of %d fields get another class in %s than in fp32, so fp32 is used",
                self.name, self._other, self._seen, self._low.precision,
            )  # fmt: skip
        elif self._seen >= self.fields:
            self._chosen = self._low
            if self._on_pass:
                self._on_pass()
        return full
