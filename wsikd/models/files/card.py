"""The ``card.json`` of a bundle: one pydantic model for each kind of network.

The model writes and reads the card. Unknown entries, from another version of wsikd with the same
card format, are kept. This module needs no PyTorch.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import BundleError
from wsikd.core.reading import read_json
from wsikd.models.files.card_cancer import CancerShares  # noqa: TC001 (pydantic reads it)
from wsikd.models.files.card_origin import InitWeights, TaughtBy  # noqa: TC001 (pydantic)
from wsikd.models.files.card_part import CardPart, Real
from wsikd.models.files.card_shares import Shares  # noqa: TC001 (pydantic reads it)
from wsikd.models.files.limits import (
    ClassNames,
    GivenName,
    GivenVersion,
    NetworkName,
    Within,
    number,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from wsikd.core.shares import ShareErrors

FORMAT = 1
CARD = "card.json"
CARD_BYTES = 4 << 20
REMEDY = "copy the whole folder again, or train it again"


@dataclass(frozen=True)
class InputSpec:
    """The input that a network expects.

    Attributes:
        mpp: um per pixel of its patches.
        patch_px: side of a patch at that resolution.
        mean: mean of each channel, for values of 0 to 1.
        std: standard deviation of each channel, for values of 0 to 1.
        classes: names in the order of the logits.
        student_input: "native", "half", "x4" or "upsampled"; the network itself up-samples.
        upsample: factor of the up-sampling.
        corner_aligned: the up-sampling aligns corners.
        colour: "rgb", "grey" or "haematoxylin". The network itself removes the colour; mean and std
            are of the result.
    """

    mpp: float
    patch_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...]
    student_input: str = "native"
    upsample: int = 1
    corner_aligned: bool = False
    colour: str = "rgb"

    @property
    def field_um(self) -> float:
        """Side of the field of view in um."""
        return self.mpp * self.patch_px


class Training(CardPart):
    """How a network was trained."""

    seed: int | None = None
    init: str | None = None
    init_stream: str | None = None
    processes: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None


class Calibration(CardPart):
    """Errors of the probabilities on validation, before and after the temperature.

    "After" is cross-fitted by slide, except in cards of 0.1.0, which lack that entry.
    """

    temperature: Real | None = None
    cross_fitted: bool | None = None
    ece_before: Real | None = None
    nll_before: Real | None = None
    ece_after: Real | None = None
    nll_after: Real | None = None
    ece_by_class_before: list[Real] | None = None
    ece_by_class_after: list[Real] | None = None


class GuardEntry(CardPart):
    """The guard, which withholds grades of slides unlike the training, see ``wsikd.models.guard``.

    Attributes:
        version: version of the method (1: features, 2: texture); unknown ones are refused.
        sha256: digest of ``guard.safetensors``, which has the training fields' mean and axes.
        threshold: distance beyond which a slide differs from the training.
        train_slides: number of slides of the training fields.
        val_slides: number of slides that the threshold was chosen on.
        weak: whether ``val_slides`` is too small.
    """

    version: Literal[1, 2]
    sha256: str
    threshold: Annotated[float, Within("guard.threshold", least=0.0)]
    train_slides: int
    val_slides: int
    weak: bool


class Card(CardPart):
    """The entries of every card.

    Attributes:
        format: version of the card. It increases when older versions cannot read new cards.
        wsikd: version of the program that wrote it.
        use: permitted use of the network.
        sha256: digest of the weights file.
        name: what people call it, see ``wsikd name``. Neither name nor version decides any number.
        version: version of that name.
    """

    KIND: ClassVar[str]
    format: Literal[1]
    wsikd: str | None = None
    use: str | None = None
    sha256: str
    name: GivenName | None = None
    version: GivenVersion | None = None

    @property
    def called(self) -> str:
        """Name, version and first digits of the digest; without a name, these digits."""
        digits = self.sha256[:12]
        if self.name is None:
            return digits
        return f"{' '.join(filter(None, (self.name, self.version)))} ({digits})"

    @property
    def given(self) -> dict[str, str]:
        """Name and version, as far as there are any."""
        both = {"name": self.name, "version": self.version}
        return {key: text for key, text in both.items() if text is not None}

    @classmethod
    def made(cls, sha256: str, entries: Mapping[str, Any]) -> Self:
        """Make the card of a new network.

        Args:
            sha256: digest of the weights file.
            entries: JSON values.

        Raises:
            ValueError: an entry has the wrong type or is out of range.
        """
        kind = {"kind": cls.KIND} if "kind" in cls.model_fields else {}
        own = {"format": FORMAT, **kind, "wsikd": __version__, "use": RESEARCH_USE}
        return cls.model_validate(json.loads(json.dumps({**own, **entries, "sha256": sha256})))

    def record(self) -> dict[str, Any]:
        """The entries of ``card.json``: format and kind first, the digest last."""
        entries = super().record()
        first: dict[str, Any] = {k: entries.pop(k) for k in ("format", "kind") if k in entries}
        digest = {"sha256": entries.pop("sha256")}
        return {**first, **entries, **digest}


class GraderNetwork(CardPart):
    """The network of a grader."""

    arch: NetworkName
    width: Annotated[float, Within("width")] = 1.0
    drop_pools: Annotated[int, Within("drop_pools", integer=True)] = 0
    options: dict[str, Any] | None = None

    @field_validator("options")
    @classmethod
    def _in_range(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        for value in (options or {}).values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, int | float) and not isinstance(one, bool):
                    number(one, "options")
        return options

    def settings(self) -> dict[str, Any]:
        """Arguments for ``wsikd.models.graders.pooled.assemble``."""
        return {
            "arch": self.arch,
            "width": float(self.width),
            "drop_pools": int(self.drop_pools),
            "options": dict(self.options or {}),
        }


_Mean = Annotated[float, Within("mean")]
_Std = Annotated[float, Within("std")]


class GraderInput(CardPart):
    """The input that a grader expects, see :class:`InputSpec`."""

    mpp: Annotated[float, Within("mpp")]
    patch_px: Annotated[int, Within("patch_px", integer=True)]
    mean: Annotated[list[_Mean], Field(min_length=3, max_length=3)]
    std: Annotated[list[_Std], Field(min_length=3, max_length=3)]
    classes: ClassNames
    student_input: Literal["native", "half", "x4", "upsampled"] = "native"
    upsample: Annotated[int, Within("upsample", integer=True)] = 1
    corner_aligned: bool = False
    colour: Literal["rgb", "grey", "haematoxylin"] = "rgb"

    @classmethod
    def of(cls, spec: InputSpec) -> GraderInput:
        """Make the entry ``input`` of a card. Raises ValueError."""
        return cls.model_validate(json.loads(json.dumps(asdict(spec))))

    def spec(self) -> InputSpec:
        """The entries as an :class:`InputSpec`."""
        mean, std = (tuple(map(float, values)) for values in (self.mean, self.std))
        return InputSpec(
            mpp=float(self.mpp),
            patch_px=int(self.patch_px),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            classes=tuple(self.classes),
            student_input=self.student_input,
            upsample=int(self.upsample),
            corner_aligned=self.corner_aligned,
            colour=self.colour,
        )


class GraderCard(Card):
    """A student or teacher: patches in, one class each out.

    Attributes:
        licence: terms of the weights.
        not_assessed: parts of a pathologist's report that its Gleason score lacks.
        network: architecture of ``model.safetensors``.
        input: resolution, patch and classes.
        macs: multiply-accumulates of a patch.
        parameters: number of weights.
        package: package that makes the network; None if wsikd or timm does.
        method: training method.
        teacher: teacher that it was distilled from, of several the first.
        teachers: all of them, where there are several.
        init_weights: pretrained weights that its training started from; None: random ones.
        benign: classes that are not cancer.
        seen: keyed hashes of slides, patients and images that it learnt from; checked by
            ``wsikd.learn.engine.leakage``.
        data: digests of the data that it was trained on.
        metrics: figures on the validation part.
        colour_kappa: kappa of a classifier by colour histograms on the same patches.
        temperature: its logits are divided by it; None if it was not fitted.
        calibration: errors of the probabilities before and after.
        min_area_mm2: least area of cancer on a slide, all patterns together. Up to 0.1.0 it applied
            to each pattern alone.
        min_area_jaccard: agreement of slides with that area, in cards of 0.1.0.
        min_area_slides: number of validation slides for that area.
        cancer: shares of tissue that it classifies as cancer on validation slides; the threshold of
            cancer is computed from them.
        shares: errors of the shares of classes on validation slides; None in cards of 0.1.0, so
            that there are no intervals.
        escalation: share of fields that a teacher must read again for each agreement; checked by
            ``wsikd.grade.escalation.rule``.
        training: seed and epochs.
        appearance: stain and focus of the training; checked by ``wsikd.slides.appearance``.
        guard: the guard against slides unlike the training; None: all slides are graded.
    """

    KIND: ClassVar[str] = "grader"
    licence: str | None = None
    not_assessed: str | None = None
    network: GraderNetwork
    input: GraderInput
    macs: Real | None = None
    parameters: int | None = None
    package: str | None = None
    method: str | None = None
    teacher: TaughtBy | None = None
    teachers: list[TaughtBy] | None = None
    init_weights: InitWeights | None = None
    benign: list[str] | None = None
    seen: Any = None
    data: list[str] | None = None
    metrics: dict[str, Any] | None = None
    colour_kappa: Real | None = None
    temperature: Annotated[float, Within("temperature")] | None = None
    calibration: Calibration | None = None
    min_area_mm2: Annotated[float, Within("min_area_mm2", least=0.0)] | None = None
    min_area_jaccard: Real | None = None
    min_area_slides: int | None = None
    cancer: CancerShares | None = None
    shares: Shares | None = None
    escalation: Any = None
    training: Training | None = None
    appearance: Any = None
    guard: GuardEntry | None = None

    @property
    def share_errors(self) -> ShareErrors | None:
        """Errors of the shares of classes; None if the card has none."""
        return self.shares.errors(len(self.input.classes)) if self.shares else None


class BagNetworkSizes(CardPart):
    """The network of a bag classifier."""

    arch: str
    options: dict[str, Any]
    dim: Annotated[int, Within("dim", least=1, integer=True)]

    @field_validator("options")
    @classmethod
    def _in_range(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            number(value, name, least=0.0 if name == "dropout" else 1.0, most=1 << 20)
        return options


class BagCard(Card):
    """A bag network: the embeddings of a slide in, one class out.

    Attributes:
        kind: "mil".
        network: its entry in ``AGGREGATORS``, options, and width of the embeddings.
        classes: names in the order of the logits.
        encoder: the record of the encoder of its training bags.
        package: package that makes the network; None if wsikd does.
        threshold: least probability of the last class for a positive slide; None: not chosen.
        point: how the threshold was chosen.
        temperature: its logits are divided by it.
        data: digests of the bags.
        metrics: figures on the validation part.
        left_out: bags without a usable label.
        training: seed and epochs.
    """

    KIND: ClassVar[str] = "mil"
    kind: Literal["mil"]
    network: BagNetworkSizes
    classes: ClassNames
    encoder: dict[str, Any]
    package: str | None = None
    threshold: Annotated[float, Within("threshold", least=0.0, most=1.0)] | None = None
    point: dict[str, Any] | None = None
    temperature: Annotated[float, Within("temperature")] | None = None
    data: list[str] | None = None
    metrics: dict[str, Any] | None = None
    left_out: int | None = None
    training: Training | None = None


def _size(name: str, most: int) -> Within:
    return Within(name, least=1, most=most, integer=True)


class RegionSizes(CardPart):
    """The network of a region encoder; an unknown size is refused, since it changes the output."""

    model_config = ConfigDict(extra="forbid")
    dim: Annotated[int, _size("dim", 1 << 20)] = 384
    table: Annotated[int, _size("table", 1 << 10)] = 14
    width: Annotated[int, _size("width", 1 << 14)] = 192
    depth: Annotated[int, _size("depth", 1 << 8)] = 6
    heads: Annotated[int, _size("heads", 1 << 8)] = 6
    mlp_ratio: Annotated[float, Within("mlp_ratio", least=0.0, most=64.0)] = 4.0
    drop_path: Annotated[float, Within("drop_path", least=0.0, most=1.0)] = 0.1
    hidden: Annotated[int, _size("hidden", 1 << 16)] = 2048
    bottleneck: Annotated[int, _size("bottleneck", 1 << 14)] = 256
    outputs: Annotated[int, _size("outputs", 1 << 24)] = 65_536
    init_std: Annotated[float, Within("init_std", least=0.0, most=1e3)] = 0.02


class RegionCard(Card):
    """A region encoder: a grid of tile embeddings in, one vector out.

    Attributes:
        kind: "region".
        network: its sizes.
        encoder: the record of the encoder of the tiles.
        mpp: um per pixel of the tiles; None if the grids did not state it.
        grid: number of tiles along a side of a region.
        region_px: side of a region in px.
        variant: method of its training.
        data: digests of the grids.
        metrics: figures of its training.
        training: seed and epochs.
        seen: keyed hashes of slides and patients that it learnt from.
    """

    KIND: ClassVar[str] = "region"
    kind: Literal["region"]
    network: RegionSizes
    encoder: dict[str, Any]
    mpp: Annotated[float, Within("mpp")] | None = None
    grid: Annotated[int, Within("grid", least=1, integer=True)]
    region_px: int | None = None
    variant: str | None = None
    data: list[str] | None = None
    metrics: dict[str, Any] | None = None
    training: Training | None = None
    seen: Any = None


class EmbedderNetwork(CardPart):
    """The network of an embedder: a trunk and its adapter."""

    arch: str
    tap: str
    adapter: str
    dim: int
    channels: int


class EncoderRecord(CardPart):
    """Description of an encoder, see ``wsikd.models.encoders.base.EncoderSpec``."""

    id: str
    licence: str
    dim: int
    sha256: str
    input_px: int | None
    mean: list[Real]
    std: list[Real]
    mpp: Real | None = None
    patch_px: int | None = None


class EmbedderCard(Card):
    """An embedder: patches in, another encoder's embeddings out.

    Attributes:
        kind: "embedder".
        network: trunk and adapter.
        encoder: description of its input and output; its digest is that of the weights file.
        package: package that makes the trunk; None if wsikd or timm does.
        init_weights: pretrained weights of the trunk; None: a run's, or random ones.
        teacher: the encoder whose embeddings it learnt.
        targets: scaling of these embeddings.
        data: digests of the data that it was trained on.
        metrics: figures on the validation part.
        training: seed and epochs.
    """

    KIND: ClassVar[str] = "embedder"
    kind: Literal["embedder"]
    network: EmbedderNetwork
    encoder: EncoderRecord
    package: str | None = None
    init_weights: InitWeights | None = None
    teacher: TaughtBy | None = None
    targets: str | None = None
    data: list[str] | None = None
    metrics: dict[str, Any] | None = None
    training: Training | None = None


class DetectorCard(Card):
    """A detector: images in, boxes out.

    Attributes:
        kind: "detector".
        network: settings of ``wsikd.learn.ts2g.detect_method.DetectNetwork``.
        classes: names of the classes of boxes.
        data: digests of the images.
        metrics: figures on the validation part.
        training: seed and epochs.
    """

    KIND: ClassVar[str] = "detector"
    kind: Literal["detector"]
    network: dict[str, Any]
    classes: list[str]
    data: list[str] | None = None
    metrics: dict[str, Any] | None = None
    training: Training | None = None


def _kind(content: Any) -> str | None:
    if isinstance(content, Card):
        return content.KIND
    kind = content.get("kind", GraderCard.KIND) if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


AnyCard = Annotated[
    Annotated[GraderCard, Tag("grader")]
    | Annotated[BagCard, Tag("mil")]
    | Annotated[RegionCard, Tag("region")]
    | Annotated[EmbedderCard, Tag("embedder")]
    | Annotated[DetectorCard, Tag("detector")],
    Discriminator(_kind),
]


def card_schema() -> dict[str, Any]:
    """The JSON schema of ``card.json`` of every kind."""
    return TypeAdapter(AnyCard).json_schema()


def read_content(file: Path) -> dict[str, Any]:
    """Read the JSON object in a ``card.json``, before its entries are checked.

    Raises:
        BundleError: it is not a card, has another format, or holds NaN or infinity.
    """
    again = "copy the bundle again"
    try:
        if file.stat().st_size > CARD_BYTES:
            raise BundleError(file, f"is larger than {CARD_BYTES >> 20} MB", again)
        content = read_json(file)
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(file, "is not JSON", again) from error
    if not isinstance(content, dict):
        raise BundleError(file, "is not a card of wsikd", again)
    if content.get("format") != FORMAT:
        fault = f"format {content.get('format')!r:.40} is not known"
        raise BundleError(file, fault, "use a newer wsikd")
    if place := _not_finite(content):
        fault = f"{place:.100} is not a finite number"
        raise BundleError(file, fault, "export the student again")
    return content


def name_in(folder: Path, sha256: str) -> dict[str, str]:
    """Name and version in the card of a folder; empty if it describes other weights than these."""
    try:
        content = read_content(folder / CARD)
        card: Card = TypeAdapter[Card](AnyCard).validate_python(content)
    except (BundleError, ValueError):
        return {}
    return card.given if card.sha256 == sha256 else {}


def read_grader_card(file: Path) -> GraderCard:
    """Read the card of a student or teacher. Raises BundleError."""
    content = read_content(file)
    if "input" not in content and isinstance(content.get("kind"), str):
        raise BundleError(
            file, f"describes a network of kind '{content['kind']}', which does not grade patches",
            "give a run that grades patches",
        )  # fmt: skip
    try:
        return GraderCard.model_validate(content)
    except ValueError as error:
        fault = f"is not a card of wsikd ({reason(error):.200})"
        raise BundleError(file, fault, "export the student again") from error


def reason(error: Exception) -> str:
    """The first fault that pydantic found and its entry; for other errors, their text."""
    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"no '{place}'"
    own = first.get("ctx", {}).get("error")
    return str(own) if own is not None else f"{place}: {first['msg']}"


def _not_finite(value: Any) -> str | None:
    """Entry of the first number that is NaN or infinite, such as ``input.mpp``."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    inside = value.items() if isinstance(value, dict) else ()
    for name, part in enumerate(value) if isinstance(value, list) else inside:
        if (found := _not_finite(part)) is not None:
            return f"{name}.{found}".rstrip(".")
    return None
