"""The part of a grader's card on the thresholds of cancer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsikd.models.files.card_part import CardPart
from wsikd.models.files.limits import Within


class ShareOfSlides(CardPart):
    """A share over slides: mean, standard deviation between slides, and their number."""

    mean: Annotated[float, Within("mean", least=0.0, most=1.0)]
    sd: Annotated[float, Within("sd", least=0.0, most=1.0)]
    slides: Annotated[int, Field(ge=0)]


class SharesCalled(CardPart):
    """Share of tissue that is classified as cancer, and share that is expected to be cancer."""

    called: ShareOfSlides
    expected: ShareOfSlides | None = None


class CancerShares(CardPart):
    """Data for the thresholds of cancer, see ``wsikd.core.cancer_threshold``.

    Attributes:
        with_cancer: labelled tissue of validation slides with cancer.
        benign: benign tissue of all validation slides.
        wrong_pattern: share of the cancer that is classified as a pattern the slide does not have.
        kept: number of slides with cancer that reach the thresholds at 0.95 of the other slides.
        slides_with_cancer: number of validation slides with cancer.
        assured: 95 % lower bound of the share ``kept`` on further slides; optimistic.
        slides: number of validation slides.
    """

    with_cancer: SharesCalled
    benign: SharesCalled
    wrong_pattern: ShareOfSlides | None = None
    kept: int | None = None
    slides_with_cancer: int | None = None
    assured: float | None = None
    slides: int | None = None
