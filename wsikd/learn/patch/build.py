"""Build a training from its configuration: networks, teacher, method, spec of the bundle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from wsikd.core.errors import CheckpointError, ConfigError
from wsikd.learn.preflight import peek_teachers
from wsikd.models.backbones.base import macs
from wsikd.models.backbones.freeze import freeze
from wsikd.models.backbones.pretrained import open_weights
from wsikd.models.backbones.timm import PREFIX as TIMM
from wsikd.models.backbones.timm import timm_norm
from wsikd.models.files.bundle import InputSpec, StudentBundle, load_bundle
from wsikd.models.graders.hdkd import PATCH, TokenGrader
from wsikd.models.graders.pooled import NORMS, build_grader
from wsikd.models.names import is_grader

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.methods.base import Method
    from wsikd.learn.patch.settings import Network, RunConfig
    from wsikd.models.graders.pooled import Grader

logger = logging.getLogger(__name__)


def open_teachers(config: RunConfig) -> tuple[StudentBundle, ...]:
    """The teachers that a method needs; none for one without.

    Raises:
        ConfigError: none is named, or one reads another resolution than ``data.mpp``.
        BundleError: one cannot be used.
    """
    if not peek_teachers(config):
        return ()
    return tuple(load_bundle(name) for name in config.teachers)


def digests_of(teachers: Sequence[StudentBundle]) -> str | list[str] | None:
    """What a run keeps of its teachers: the digest of one, those of several, None of none."""
    found = [teacher.sha256 for teacher in teachers]
    return found if len(found) > 1 else found[0] if found else None


def build_student(config: RunConfig, patches: PatchSet, teacher: StudentBundle | None) -> Grader:
    """The network that is trained, initialised as asked.

    Raises:
        ConfigError: unknown network, weights that do not fit, or a teacher of another shape.
    """
    network = config.network
    pretrained = None
    if network.init == "imagenet":
        licence = network.weights_licence
        pretrained = open_weights(network.arch, network.source, licence=licence)
        _warn_norm(network)
    student = build_grader(
        network.arch,
        len(patches.classes),
        width=network.width,
        input_norm=network.input_norm,
        upsample=config.upsample,
        weights=None if pretrained is None else pretrained.state,
        drop_pools=network.drop_pools,
        colour=network.colour,
        options=network.hybrid.model_dump(),
    )
    student.corner_aligned = config.corner_aligned
    student.origin = None if pretrained is None else pretrained.origin
    if network.init == "teacher" and teacher is not None:
        if (teacher.arch, teacher.width) != (network.arch, network.width):
            raise ConfigError(
                "network.init: teacher",
                f"the teacher is {teacher.arch} of width {teacher.width:g}",
                "use the same network and width, or another init",
            )
        if teacher.spec.classes != patches.classes:
            raise ConfigError(
                "network.init: teacher",
                f"the teacher's classes are {', '.join(teacher.spec.classes)}, the patches have "
                f"{', '.join(patches.classes)}",
                "use a teacher of these classes, or another init",
            )
        state = {k: v for k, v in teacher.weights.items() if k not in ("mean", "std")}
        student.load_state_dict(state, strict=False)
        student.origin = teacher.card.init_weights
    if network.freeze and is_grader(network.arch):
        raise ConfigError(
            f"network.freeze {network.freeze}", f"{network.arch} is trained as a whole",
            "set it to 0, or use another network",
        )  # fmt: skip
    freeze(student.backbone, network.freeze)
    return student


def _warn_norm(network: Network) -> None:
    """Warn where pretrained weights were trained on an input in another range."""
    if not network.arch.startswith(TIMM) or network.colour != "rgb":
        return
    trained = timm_norm(network.arch.removeprefix(TIMM))
    known = [name for name, norm in NORMS.items() if norm == trained]
    if known and known[0] != network.input_norm:
        logger.warning(
            "network.input_norm is %s, but the weights of %s were trained with %s",
            network.input_norm, network.arch, known[0],
        )  # fmt: skip


def build_method(
    config: RunConfig,
    student: Grader,
    teachers: Sequence[StudentBundle],
    classes: tuple[str, ...],
    answering: NDArray[np.bool_] | None = None,
) -> Method:
    """The method around a student.

    Args:
        config: of the run.
        student: network to train.
        teachers: none for a method without one.
        classes: of the data.
        answering: bool (N, K), which teachers answer for each patch of the data; None: all.

    Raises:
        ConfigError: teacher and data disagree on the classes, a tap is unknown, or a term is not
            for several teachers.
    """
    method = config.learner
    if not teachers:
        return method.build(config, student, None)
    teacher, *others = teachers
    if teacher.spec.classes != classes:
        ours, theirs = ", ".join(classes), ", ".join(teacher.spec.classes)
        raise ConfigError(
            "data.classes", f"are {ours}; the teacher's are {theirs}", "set them as the teacher's"
        )
    made = method.build(config, student, teacher.network())
    if others:
        mask = None if answering is None else torch.from_numpy(answering)
        made.add_teachers([one.network() for one in others], mask)
    return made


def input_spec(config: RunConfig, student: Grader, patches: PatchSet) -> InputSpec:
    """The input of the trained network.

    Raises:
        ConfigError: the patches do not divide into the network's pixels, or are too small for it.
        DataError: ``data.low_source`` wants pixels that the data do not hold.
    """
    factor = round(config.factor)
    if patches.patch_px % factor:
        best = patches.patch_px // factor * factor
        raise ConfigError(
            "data.student_mpp",
            f"patches of {patches.patch_px} px do not divide by {factor}",
            f"set data.patch_px={best}" if best else "read finer patches",
        )
    if config.data.low_source != "area":
        patches.check_low(config.low_mpp)
    crop = config.augment.crop_px
    if crop is not None and crop > patches.patch_px:
        raise ConfigError(
            f"augment.crop_px {crop}",
            f"is more than the {patches.patch_px} px of a patch",
            "lower it",
        )
    _check_size(student, (crop or patches.patch_px) // factor)
    _warn_of_positions(student, (crop or patches.patch_px) // factor)
    mean, std = (tuple(t.flatten().tolist()) for t in (student.mean, student.std))
    return InputSpec(
        mpp=config.low_mpp,
        patch_px=patches.patch_px // factor,
        mean=mean,
        std=std,
        classes=patches.classes,
        student_input=config.student_input,
        upsample=config.upsample,
        corner_aligned=config.corner_aligned,
        colour=config.network.colour,
    )


def _check_size(student: Grader, patch_px: int) -> None:
    try:
        macs(student, patch_px)
    except RuntimeError as error:  # how torch says that nothing is left of a map
        raise ConfigError(
            "data.student_mpp",
            f"leaves {patch_px} px of a patch, too few for this network",
            "lower it, take larger patches, or raise network.drop_pools",
        ) from error


def _warn_of_positions(student: Grader, patch_px: int) -> None:
    """Warn where a table of positions is of another size than the patches' grid of tokens."""
    if not isinstance(student, TokenGrader):
        return
    deepest = student.backbone.taps[student.backbone.deepest]
    side, table = patch_px * student.upsample // (PATCH * deepest.stride), student.head.side
    if side != table:
        logger.warning(
            "%d x %d positions are interpolated to %d x %d tokens: set network.hybrid.positions=%d",
            table, table, side, side, side,
        )  # fmt: skip


def log_cost(spec: InputSpec, student: Grader, teacher: StudentBundle | None) -> None:
    """Log the multiply-accumulates of a patch for student and teacher."""
    own = macs(student, spec.patch_px)
    how = f"{spec.patch_px} px, {spec.student_input}"
    if teacher is None:
        logger.info("%.3g G multiply-accumulates a patch (%s)", own / 1e9, how)
        return
    theirs = teacher.card.macs
    if not isinstance(theirs, int):
        theirs = macs(teacher.network(), teacher.spec.patch_px)
    logger.info(
        "%.3g G multiply-accumulates a patch (%s), %.3g times the teacher's %.3g G",
        own / 1e9, how, own / theirs, theirs / 1e9,
    )  # fmt: skip


def init_stream(config: RunConfig) -> str:
    """Which chance initialises the network: "teacher" for labels at ``data.mpp``, else "student".

    Were they one, a teacher and a student of the same seed would start from the same weights, and
    terms that compare their maps would have it easier than with a teacher met by chance. Students
    of one seed share theirs, distilled or not, so that they can be compared in pairs.
    """
    alone = not config.needs_teacher and round(config.factor) == 1
    return "teacher" if alone else "student"


def check_teachers(run: RunDir, teachers: Sequence[StudentBundle]) -> None:
    """Refuse to resume with other teachers, whose losses and digests the run has not seen.

    Raises:
        CheckpointError: it is another one.
    """
    made = run.read_provenance()
    if "teacher_sha256" in made and made["teacher_sha256"] != digests_of(teachers):
        several = isinstance(made["teacher_sha256"], list)
        raise CheckpointError(
            run.path,
            "was started with another list of teachers" if several or len(teachers) > 1
            else "was started with another teacher",
            "give the same --teacher or another -o",
        )  # fmt: skip
