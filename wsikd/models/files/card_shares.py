"""The part of a grader's card on errors of shares of classes."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from wsikd.core.shares import MIN_SLIDES, Ratio, ShareErrors, too_few
from wsikd.models.files.card_part import CardPart, Real
from wsikd.models.files.limits import Within


class RatioEntry(CardPart):
    """Errors of the part that one class has of some, see :class:`wsikd.core.shares.Ratio`."""

    of: Annotated[int, Field(ge=0)]
    among: list[Annotated[int, Field(ge=0)]]
    slides: Annotated[int, Field(ge=0)]
    quantile: Annotated[float, Within("quantile")] | None = None


class Shares(CardPart):
    """Errors of the shares of classes on validation slides, see :mod:`wsikd.core.shares`.

    Attributes:
        format: version of this part; 1 had no term of fields and no ratio.
        slides: number of validation slides; if it is too small, there are no other entries.
        level: level of the intervals.
        prior: mix of the classes.
        mix: weights of three estimates.
        scale: scale of the variance of an error.
        quantile: half width of an interval in standard deviations.
        fields: number of labelled fields of the validation slide with the most.
        ratio: errors of the share of pattern 4 in the cancer.
    """

    format: Literal[1, 2] = 1
    slides: Annotated[int, Field(ge=0)]
    level: Real | None = None
    prior: list[Real] | None = None
    mix: Annotated[list[Real], Field(min_length=3, max_length=3)] | None = None
    scale: Annotated[list[Real], Field(min_length=2, max_length=3)] | None = None
    quantile: Annotated[float, Within("quantile")] | None = None
    fields: Annotated[int, Field(ge=1)] = 1
    ratio: RatioEntry | None = None

    def errors(self, classes: int) -> ShareErrors | None:
        """The errors as arrays; None if entries are missing or the number of classes differs."""
        if self.slides < MIN_SLIDES:
            return too_few(self.slides)
        if self.prior is None or self.mix is None or self.scale is None or self.quantile is None:
            return None
        prior, mix, scale = (np.array(v, np.float64) for v in (self.prior, self.mix, self.scale))
        if len(prior) != classes or min(prior.min(), mix.min(), scale.min()) < 0 or not scale[0]:
            return None
        scale = np.append(scale, np.zeros(3 - len(scale)))
        ratio = self._ratio(classes)
        return ShareErrors(self.slides, prior, mix, scale, float(self.quantile), self.fields, ratio)

    def _ratio(self, classes: int) -> Ratio | None:
        own = self.ratio
        if own is None or own.quantile is None or own.of not in own.among:
            return None
        if max(own.among) >= classes:
            return None
        return Ratio(own.of, tuple(own.among), own.slides, float(own.quantile))
