"""AT+ with feature matching, and every term it is compared with.

A frozen teacher reads the patch at high resolution, the student the same patch at low resolution.
The method is that of R. del Amor et al., EUSIPCO 2023, arXiv 2401.06010; its weights are published
for a student at 2.5x: fm 0.1, at_plus 10.

=============  ==============================================  ====================================
term           function of ``wsikd.learn``                     source
=============  ==============================================  ====================================
ce             losses.cross_entropy                            labels
fm             losses.feature_matching                         del Amor et al.
at_plus        losses.attention_distance of class_attention    del Amor et al., three readings
cos_pooled     losses.cosine_distance, pooled features         trained projection of the student
cos_dense      losses.cosine_distance, every place             trained projection of the student
kd             losses_logits.distillation                      Hinton et al. 2015; Sun et al. 2024
dkd            losses_logits.decoupled_distillation            Zhao et al. 2022, equation 7
sr_last        losses.softmax_regression, pooled features      Yang et al. 2021, as released
sr_spatial     losses.softmax_regression, every place          as intended in the released code
at             losses.activation_distance, summed over taps    Zagoruyko and Komodakis 2017, eq. 2
at_grad        losses.gradient_distance, at the input          Zagoruyko and Komodakis 2017, eq. 5
sp             losses_relations.similarity_preserving          Tung and Mori 2019, equation 4
rkd_distance   losses_relations.relational_distance            Park et al. 2019, equation 7
rkd_angle      losses_relations.relational_angle               Park et al. 2019, equation 9
=============  ==============================================  ====================================

Departures from the released code: the student may read its patches natively, where the code
enlarges them to the teacher's size; enlarging is half-pixel centred; the teacher's maps come down
to the student's grid by area averaging, unless the student's are to come up; attention is in closed
form where the head allows it; roots and the min-max have an epsilon; softmax normalisation keeps
its class axis; ``sr_spatial`` reads the tap whose grid is the teacher's, where the code's index
finds none; the teacher is frozen throughout; terms are summed outside.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from wsikd.core.config import Settings
from wsikd.core.errors import ConfigError
from wsikd.learn.data.augment_settings import Positive  # noqa: TC001 - pydantic reads it
from wsikd.learn.engine.settings import NonNegative  # noqa: TC001
from wsikd.learn.losses import logits as losses_logits
from wsikd.learn.losses import maps as losses
from wsikd.learn.losses import relations as losses_relations
from wsikd.learn.losses.maps import to_grid
from wsikd.learn.methods.base import Batch, KeptTeacher, Mixed, Progress, Taught, on_labels
from wsikd.learn.methods.ensemble import Ensemble, refuse_features
from wsikd.learn.methods.pairs import check_channels, matching_tap, tap_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from wsikd.learn.methods.base import Terms
    from wsikd.learn.methods.pairs import TapPair
    from wsikd.models.graders.pooled import Grader


class Attention(Settings):
    """Class attention of AT+."""

    form: Literal["relu_product", "positive_grad", "gradcam"] = "relu_product"
    """How channels are summed; see wsikd.learn.losses.maps.class_attention."""
    tap: str | None = None
    """Feature map in teacher and student, e.g. F4, or F3:F4 for the student's F3 and the teacher's
    F4; none: the deepest of each."""
    normalise: Literal["minmax", "softmax"] = "minmax"
    """"minmax" scales a patch's maps to 0 to 1; "softmax" makes each a distribution over places."""
    distance: Literal["l2", "kl", "bce"] = "l2"
    """Distance of normalised maps; see wsikd.learn.losses.maps.attention_distance."""


class Taps(Settings):
    """Feature maps of the other terms, named as attention.tap."""

    fm: str | None = None
    """Map for fm, sp, cos_pooled and cos_dense; none: that of attention.tap."""
    at: Annotated[list[str], Field(min_length=1)] | None = None
    """Maps for at; none: only that of attention.tap."""
    sr: str | None = None
    """The student's map for sr_spatial; none: the deepest with the teacher's grid."""
    project: bool = False
    """Map the student's channels to the teacher's with a trained 1x1 convolution if their numbers
    differ (fm, sr_last)."""


class Kd(Settings):
    """Distillation of logits."""

    temperature: Positive = 4.0
    """Divides the logits."""
    form: Literal["hinton", "code"] = "hinton"
    """"hinton": T^2 KL; "code": the released code of AT+, where T divides the teacher's only."""
    standardise: bool = False
    """First scale the logits of each patch to mean 0 and standard deviation 1 (Sun et al. 2024,
    with T = 2)."""


class Dkd(Settings):
    """Decoupled distillation of logits."""

    temperature: Positive = 4.0
    """Divides the logits."""
    alpha: NonNegative = 1.0
    """Weight of the label's class against the rest."""
    beta: NonNegative = 8.0
    """Weight of the other classes among each other."""


class At(Settings):
    """Activation attention (Zagoruyko and Komodakis 2017)."""

    form: Literal["mean_square", "l2"] = "mean_square"
    """"mean_square" needs weights.at of about 1000; "l2" is the paper's equation 2."""
    power: Positive = 2.0
    """Exponent of the activations."""


class AtPlusConfig(Settings):
    """Settings of AT+, in addition to network, data and schedule."""

    attention: Attention = Attention()
    taps: Taps = Taps()
    grid: Literal["teacher_down", "student_up"] = "teacher_down"
    """Grid on which maps are compared: the student's, or the teacher's."""
    kd: Kd = Kd()
    dkd: Dkd = Dkd()
    at: At = At()

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.kd.form == "code" and self.kd.standardise:
            raise ValueError("kd.standardise needs kd.form 'hinton'; choose one of the two")
        return self


OWN_GRID = frozenset({"sp", "rkd_distance", "rkd_angle", "sr_spatial", "at_grad"})
"""Terms that read the teacher's maps on its own grid."""


class Seen(NamedTuple):
    """Outputs of both networks for a batch; the teacher's part is constant.

    ``low`` is the student's input, and ``slope`` where the teacher's loss hangs on its own, (B, 1,
    H, W) on the teacher's grid; both for at_grad alone.
    """

    label: Tensor
    own_logits: Tensor
    own: dict[str, Tensor]
    logits: Tensor
    taught: dict[str, Tensor]
    attention: Tensor | None
    low: Tensor | None = None
    slope: Tensor | None = None
    mixed: Mixed | None = None


class AtPlus(KeptTeacher):
    """Any mixture of ``TERMS``; the weights are those of del Amor et al. at 2.5x."""

    Config = AtPlusConfig
    TERMS: ClassVar[Terms] = {
        "ce": 1.0, "fm": 0.1, "at_plus": 10.0, "cos_pooled": None, "cos_dense": None, "kd": None,
        "dkd": None, "sr_last": None, "sr_spatial": None, "at": None, "at_grad": None,
        "sp": None, "rkd_distance": None, "rkd_angle": None,
    }  # fmt: skip
    views: tuple[str, ...] = ("high", "low")
    takes_low_teacher = True
    takes_several = True
    takes_mixed = True
    takes_unlabelled = True

    def __init__(
        self,
        student: Grader,
        teacher: Grader,
        *,
        terms: Collection[str] = ("ce", "fm", "at_plus"),
        form: str = "relu_product",
        normalise: str = "minmax",
        distance: str = "l2",
        tap: str | None = None,
        fm_tap: str | None = None,
        at_taps: Sequence[str] | None = None,
        sr_tap: str | None = None,
        project: bool = False,
        grid: str = "teacher_down",
        kd: Mapping[str, Any] | None = None,
        dkd: Mapping[str, Any] | None = None,
        at: Mapping[str, Any] | None = None,
        ratio: float = 1.0,
        partly: bool = False,
        reads: str = "high",
    ) -> None:
        """Distil ``teacher``, which is frozen, into ``student``.

        A tap is named as both networks name it, or as "student's:teacher's"; None: the deepest of
        each.

        Args:
            student: reads ``views["low"]``.
            teacher: reads ``views["high"]``.
            terms: which to compute, of ``TERMS``.
            form: reading of class attention, see ``losses.class_attention``.
            normalise: normalisation of class attention, see ``losses.attention_distance``.
            distance: distance of class attention, see ``losses.attention_distance``.
            tap: map that ``at_plus`` compares.
            fm_tap: map that ``fm``, ``sp`` and the cosines compare; None: as ``tap``.
            at_taps: maps that ``at`` compares; None: ``tap`` alone.
            sr_tap: the student's map for ``sr_spatial``; None: the deepest one whose grid is that
                of the teacher's deepest.
            project: bring the student's channels to the teacher's by a trained 1x1 convolution
                where they differ (fm, sr_last).
            grid: "teacher_down" compares maps on the student's grid, "student_up" on the teacher's.
            kd: options of ``losses_logits.distillation``.
            dkd: options of ``losses_logits.decoupled_distillation``.
            at: options of ``losses.activation_distance``.
            ratio: side of what the teacher's backbone reads over the student's, in pixels.
            partly: some patches have no label; ``ce`` and ``dkd`` are means over the others.
            reads: the view that the teacher reads.

        Raises:
            ConfigError: a tap is unknown, or channels differ where they must not.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(requires_grad=False).eval()
        self.terms, self.partly, self.reads = frozenset(terms), partly, reads
        if reads == "low":
            self.views = ("low",)
        self.form, self.normalise, self.distance, self.grid = form, normalise, distance, grid
        self.kd, self.dkd, self.at = dict(kd or {}), dict(dkd or {}), dict(at or {})
        self.tap = tap_pair(tap, student, teacher, "attention.tap")
        self.fm_tap = tap_pair(fm_tap, student, teacher, "taps.fm") if fm_tap else self.tap
        self.at_taps = [tap_pair(t, student, teacher, "taps.at") for t in at_taps or ()]
        self.at_taps = self.at_taps or [self.tap]
        self.deepest = tap_pair(None, student, teacher, "taps")
        self.sr_tap = matching_tap(sr_tap, student, teacher, ratio)
        frozen = self.tap.student in student.backbone.frozen
        if frozen and "at_plus" in self.terms and not _is_closed(student, self.tap.student):
            raise ConfigError(
                f"attention.tap {self.tap.student}", "is in a frozen stage",
                "name a later one, or lower network.freeze",
            )  # fmt: skip
        self._add_helpers(project=project)

    @classmethod
    def build(cls, config: Any, student: Grader, teacher: Grader) -> Self:
        """As ``AtPlusConfig`` sets it. Raises ConfigError: the networks do not go together."""
        return cls(
            student,
            teacher,
            terms=config.terms,
            **config.attention.model_dump(),
            fm_tap=config.taps.fm,
            at_taps=config.taps.at,
            sr_tap=config.taps.sr,
            project=config.taps.project,
            grid=config.grid,
            kd=config.kd.model_dump(),
            dkd=config.dkd.model_dump(),
            at=config.at.model_dump(),
            ratio=config.ratio,
            partly=config.data.unlabelled,
            reads=config.teacher_reads,
        )

    def add_teachers(self, others: Sequence[nn.Module], answering: Tensor | None) -> None:
        """Average their answers for kd and dkd; features are those of the first.

        Raises:
            ConfigError: a term is not for several, or kd and dkd have two temperatures.
        """
        unseen = answering is not None
        refuse_features(self.terms, ("ce", "kd", "dkd"), unseen=unseen, alone=("sr_last",))
        soft = self.kd.get("temperature", 4.0), self.dkd.get("temperature", 4.0)
        if {"kd", "dkd"} <= self.terms and soft[0] != soft[1]:
            raise ConfigError(
                f"dkd.temperature {soft[1]:g}",
                f"differs from kd.temperature {soft[0]:g}, at which teachers are averaged",
                "set both alike, or give one teacher",
            )
        temperature = soft[0] if "kd" in self.terms else soft[1]
        if "kd" in self.terms and self.kd.get("standardise"):
            temperature = 1.0
        self.ensemble = Ensemble(others, temperature, answering)

    def _add_helpers(self, *, project: bool) -> None:
        """Convolutions trained with the student, for the terms that need them."""
        if not self.teacher.pooled and (
            borrowing := sorted(self.terms & {"sr_last", "sr_spatial"})
        ):
            raise ConfigError(
                f"weights.{borrowing[0]}", "the teacher's head takes tokens, not pooled maps",
                f"set weights.{borrowing[0]} to 0, or use another teacher",
            )  # fmt: skip
        if "fm" in self.terms:
            self._project("fm", *self.fm_tap.channels, wanted=project)
        for term in sorted(self.terms & {"cos_pooled", "cos_dense"}):
            own, target = self.fm_tap.channels
            projection = nn.Conv2d(own, target, 1, bias=False)
            nn.init.dirac_(projection.weight)  # starts as the identity
            self.helpers[term] = projection
        if "sr_last" in self.terms:
            self._project("sr_last", *self.deepest.channels, wanted=project)
        if "sr_spatial" in self.terms:
            inside, middle = self.sr_tap.channels
            classes = self.teacher.head.out_features
            self.helpers["sr_spatial"] = nn.Sequential(
                nn.Conv2d(inside, middle, 1), nn.Conv2d(middle, classes, 1)
            )
        self.helpers.to(self.student.mean.dtype)

    def _project(self, term: str, own: int, target: int, *, wanted: bool) -> None:
        if wanted and own != target:
            self.helpers[term] = nn.Conv2d(own, target, 1, bias=False)
        else:
            check_channels(term, own, target)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the student's mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Scalar terms; see the module's head."""
        names = self._own_taps()
        low, slope = batch.views["low"], None
        if "at_grad" in self.terms:
            low, slope = _tracked(low), self._slope(batch)
        logits, own = self.student.with_taps(low, names)
        if self.terms <= {"ce"}:
            taught = Taught(logits, {}, None)
        else:
            taught = batch.taught or self.teach(batch.views[self.reads], box=batch.box)
        seen = Seen(batch.label, logits, own, *taught, low, slope, batch.mixed)
        return {
            name: getattr(self, f"term_{name}")(seen) for name in self.TERMS if name in self.terms
        }

    def taps_read(self) -> Sequence[str]:
        """Those of the terms; all with ``at_grad``, which reads the patches themselves."""
        return super().taps_read() if "at_grad" in self.terms else tuple(self._own_taps())

    def _own_taps(self) -> set[str]:
        """The student's maps that the terms compare."""
        read = {
            "fm": [self.fm_tap], "cos_pooled": [self.fm_tap], "cos_dense": [self.fm_tap],
            "sp": [self.fm_tap], "at_plus": [self.tap], "at": self.at_taps,
            "sr_spatial": [self.sr_tap], "sr_last": [self.deepest],
            "rkd_distance": [self.deepest], "rkd_angle": [self.deepest],
        }  # fmt: skip
        return {pair.student for term in self.terms for pair in read.get(term, ())}

    @property
    def differentiates_twice(self) -> bool:  # type: ignore[override]
        """With attention at inner taps, and slopes at the input."""
        inner = "at_plus" in self.terms and not _is_closed(self.student, self.tap.student)
        return inner or "at_grad" in self.terms

    @property
    def pairs(self) -> tuple[TapPair, ...]:
        """Every pair of taps that a term may compare."""
        return (self.tap, self.fm_tap, self.sr_tap, self.deepest, *self.at_taps)

    def teach(self, patches: Tensor, *, box: Tensor | None = None, always: bool = False) -> Taught:
        """The teacher's logits, maps on its own grids, and its attention where a term asks for it.

        Args:
            patches: uint8 or float (B, 3, H, W), 0 to 255.
            box: int64 (B,), index of each patch, where teachers answer for some patches each; there
                are then logits alone.
            always: give attention in closed form unasked too; it costs next to nothing.
        """
        several = self.ensemble
        if several is not None and several.answering is not None:
            assert box is not None
            return Taught(several.of_those_answering(self.teacher, patches, box), {}, None)
        names = {pair.teacher for pair in self.pairs}
        closed = _is_closed(self.teacher, self.tap.teacher)
        attending = "at_plus" in self.terms or (always and closed)
        needs_slope = attending and not closed
        attention = None
        with torch.set_grad_enabled(needs_slope):
            if needs_slope:  # frozen weights: the graph starts at the input
                patches = _tracked(patches)
            logits, taps = self.teacher.with_taps(patches, names)
            if attending:
                attention = self._attention(
                    self.teacher, logits, taps[self.tap.teacher], self.tap.teacher,
                    create_graph=False,
                ).detach()  # fmt: skip
        logits = logits.detach()
        if several is not None:
            logits = several.mean_with(logits, patches)
        return Taught(logits, {k: v.detach() for k, v in taps.items()}, attention)

    def why_not_kept(self) -> tuple[str, str] | None:
        """Fault and remedy where a term reads the teacher on its own grid."""
        if self.reads == "low":
            return "the teacher reads what the student reads", "set teacher_reads=high"
        if own := sorted(self.terms & OWN_GRID):
            return f"term {own[0]} reads the teacher on its own grid", f"set weights.{own[0]} to 0"
        if self.grid == "student_up":
            return "maps are compared on the teacher's grid", "set grid=teacher_down"
        if "at_plus" in self.terms and self.normalise == "softmax":
            return "attention.normalise softmax reads the teacher's grid", "use minmax"
        return None

    def kept_taps(self) -> list[tuple[str, str]]:
        """Taps of all pairs except that of ``sr_spatial``; none where only answers are read."""
        if self.ensemble is not None and self.ensemble.answering is not None:
            return []
        pairs = (self.tap, self.fm_tap, self.deepest, *self.at_taps)
        return [(pair.student, pair.teacher) for pair in pairs]

    def identity(self) -> list[str]:
        """Reading of class attention, and how several teachers are averaged."""
        several = [] if self.ensemble is None else self.ensemble.identity()
        return [self.tap.teacher, self.form, *several]

    @torch.enable_grad()
    def _slope(self, batch: Batch) -> Tensor:
        """How much the teacher's loss hangs on each place of its input: (B, 1, H, W)."""
        patches = _tracked(batch.views[self.reads])
        loss = len(patches) * losses.cross_entropy(self.teacher(patches), batch.label)
        (slope,) = torch.autograd.grad(loss, patches)
        return slope.abs().sum(1, keepdim=True)

    def _attention(
        self, net: Grader, logits: Tensor, feature: Tensor, tap: str, *, create_graph: bool = True
    ) -> Tensor:
        if _is_closed(net, tap):
            return losses.class_attention(feature, net.head.weight, self.form)
        return losses.class_attention_autograd(
            logits, feature, self.form, create_graph=create_graph
        )

    def _meet(self, own: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps on one grid, in single precision at least."""
        own, taught = _wide(own), _wide(taught)
        if self.grid == "student_up":
            return to_grid(own, _size(taught)), taught
        return own, to_grid(taught, _size(own))

    def term_ce(self, seen: Seen) -> Tensor:
        """Cross-entropy of the student."""
        return self._on_labels(losses.cross_entropy, seen, seen.own_logits)

    def _on_labels(self, term: Callable[..., Tensor], seen: Seen, *given: Tensor) -> Tensor:
        """A term of ``given`` and labels: of those that there are, and of both of a mixture."""

        def of(label: Tensor) -> Tensor:
            if self.partly:
                return losses.on_labelled(term, label, *given)
            return term(*given, label)

        return on_labels(of, seen.label, seen.mixed)

    def term_fm(self, seen: Seen) -> Tensor:
        """Feature matching at one tap."""
        own = seen.own[self.fm_tap.student]
        if "fm" in self.helpers:
            own = self.helpers["fm"](own)
        return losses.feature_matching(*self._meet(own, seen.taught[self.fm_tap.teacher]))

    def term_at_plus(self, seen: Seen) -> Tensor:
        """Distance of class attention at one tap."""
        assert seen.attention is not None
        feature = seen.own[self.tap.student]
        own = self._attention(self.student, seen.own_logits, feature, self.tap.student)
        if self.normalise == "softmax":  # both as sharp as attention on the teacher's grid
            cells = seen.attention.shape[-2] * seen.attention.shape[-1]
            own = own * (own.shape[-2] * own.shape[-1] / cells)
        own, taught = self._meet(own, seen.attention)
        return losses.attention_distance(
            own, taught, normalise=self.normalise, distance=self.distance
        )

    def term_cos_pooled(self, seen: Seen) -> Tensor:
        """Direction of the pooled features at one tap."""
        own = self.helpers["cos_pooled"](seen.own[self.fm_tap.student].mean((2, 3), keepdim=True))
        taught = seen.taught[self.fm_tap.teacher].mean((2, 3))
        return losses.cosine_distance(_wide(own).flatten(1), _wide(taught))

    def term_cos_dense(self, seen: Seen) -> Tensor:
        """Direction of the features at every place of one tap."""
        own = self.helpers["cos_dense"](seen.own[self.fm_tap.student])
        return losses.cosine_distance(*self._meet(own, seen.taught[self.fm_tap.teacher]))

    def term_kd(self, seen: Seen) -> Tensor:
        """Distillation of logits."""
        return losses_logits.distillation(_wide(seen.own_logits), _wide(seen.logits), **self.kd)

    def term_dkd(self, seen: Seen) -> Tensor:
        """Decoupled distillation of logits."""
        term: Callable[..., Tensor] = partial(losses_logits.decoupled_distillation, **self.dkd)
        return self._on_labels(term, seen, _wide(seen.own_logits), _wide(seen.logits))

    def term_sr_last(self, seen: Seen) -> Tensor:
        """The teacher's head on the student's pooled features."""
        own = seen.own[self.deepest.student].mean((2, 3))
        if "sr_last" in self.helpers:
            own = self.helpers["sr_last"](own[:, :, None, None]).flatten(1)
        head = self.teacher.head
        own = losses.classify(own, head.weight, head.bias)
        return losses.softmax_regression(_wide(own), _wide(seen.logits))

    def term_sr_spatial(self, seen: Seen) -> Tensor:
        """The teacher's head at every place, from an earlier tap of the student."""
        own = self.helpers["sr_spatial"](seen.own[self.sr_tap.student])
        head = self.teacher.head
        taught = losses.classify(seen.taught[self.sr_tap.teacher], head.weight, head.bias)
        return losses.softmax_regression(*self._meet(own, taught))

    def term_at(self, seen: Seen) -> Tensor:
        """Distance of activation attention, summed over taps."""
        parts = []
        for pair in self.at_taps:
            own, taught = self._meet(seen.own[pair.student], seen.taught[pair.teacher])
            parts.append(losses.activation_distance(own, taught, **self.at))
        return torch.stack(parts).sum()

    def term_at_grad(self, seen: Seen) -> Tensor:
        """Distance of gradient attention at the input."""
        assert seen.low is not None
        assert seen.slope is not None
        loss = len(seen.label) * losses.cross_entropy(seen.own_logits, seen.label)
        (own,) = torch.autograd.grad(loss, seen.low, create_graph=True)
        return losses.gradient_distance(_wide(own), to_grid(_wide(seen.slope), _size(own)))

    def term_sp(self, seen: Seen) -> Tensor:
        """Similarities between patches, each network on its own grid."""
        own, taught = seen.own[self.fm_tap.student], seen.taught[self.fm_tap.teacher]
        return self._relate(losses_relations.similarity_preserving, own, taught)

    def term_rkd_distance(self, seen: Seen) -> Tensor:
        """Distances between pooled patches."""
        return self._relate(losses_relations.relational_distance, *self._pooled(seen))

    def term_rkd_angle(self, seen: Seen) -> Tensor:
        """Angles between pooled patches."""
        return self._relate(losses_relations.relational_angle, *self._pooled(seen))

    def _relate(self, term: Callable[..., Tensor], own: Tensor, taught: Tensor) -> Tensor:
        with torch.autocast(own.device.type, enabled=False):  # differences of near neighbours
            return term(_wide(own), _wide(taught))

    def _pooled(self, seen: Seen) -> tuple[Tensor, Tensor]:
        own, taught = seen.own[self.deepest.student], seen.taught[self.deepest.teacher]
        return own.mean((2, 3)), taught.mean((2, 3))


def _is_closed(net: Grader, tap: str) -> bool:
    """Whether ``tap`` is pooled into a linear head, which gives attention its closed form."""
    return tap == net.backbone.deepest and isinstance(net.head, nn.Linear)


def _tracked(patches: Tensor) -> Tensor:
    """The same patches as a place to differentiate with respect to."""
    patches = patches if patches.is_floating_point() else patches.float()
    return patches.detach().requires_grad_()


def _wide(x: Tensor) -> Tensor:
    """Half precision to single; anything else as it is."""
    return x.float() if x.element_size() < 4 else x


def _size(feature: Tensor) -> tuple[int, int]:
    return feature.shape[-2], feature.shape[-1]
