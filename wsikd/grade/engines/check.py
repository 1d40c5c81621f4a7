"""bf16 is used where it takes the same decisions as fp32, which the first fields must show."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.grade.engines import Engine

log = logging.getLogger(__name__)

CHECK_FIELDS = 256
SAME_SHARE = 0.995


class Checked:
    """Runs two engines in parallel on the first fields, then one of them alone.

    The fields of the check have the logits of the second, in full precision. Where fewer than
    ``SAME_SHARE`` of them have the same greatest logit in both, it stays with the second.
    """

    def __init__(
        self,
        low: Engine,
        full: Callable[[], Engine],
        *,
        on_pass: Callable[[], None] | None = None,
        fields: int = CHECK_FIELDS,
        logits: int | None = None,
    ) -> None:
        """Start with the check.

        Args:
            low: in low precision.
            full: opens the same in full precision.
            on_pass: called once when the check is passed.
            fields: how many are checked.
            logits: how many of the outputs are logits; None: all.
        """
        self._low, self._full = low, full()
        self._on_pass, self.fields, self._logits = on_pass, fields, logits
        self._seen = self._other = 0
        self._chosen: Engine | None = None

    @property
    def name(self) -> str:
        """Of the engine."""
        return self._low.name

    @property
    def decided(self) -> bool:
        """Whether it has seen enough."""
        return self._chosen is not None

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
        full, low = self._full(patches), self._low(patches)
        self._seen += len(patches)
        decided = [one[:, : self._logits].argmax(1) for one in (full, low)]
        self._other += int((decided[0] != decided[1]).sum())
        if self._other > (1 - SAME_SHARE) * self.fields:
            self._chosen = self._full
            log.warning(
                "%s: %d of %d fields get another class in bf16 than in fp32, so fp32 is used",
                self.name, self._other, self._seen,
            )  # fmt: skip
        elif self._seen >= self.fields:
            self._chosen = self._low
            if self._on_pass:
                self._on_pass()
        return full
