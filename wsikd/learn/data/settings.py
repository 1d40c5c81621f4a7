"""Keys of the ``data`` and ``split`` sections: patches, and how they are divided.

Imports no torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from wsikd.core.config import Settings
from wsikd.learn.data.augment_settings import Positive, Share  # noqa: TC001 - pydantic reads them
from wsikd.learn.engine.settings import NonNegative  # noqa: TC001


class Data(Settings):
    """Where patches come from, and the resolution at which they are read."""

    source: Literal["auto", "stores", "folders", "csv", "sicapv2"] = "auto"
    """Tile stores, class folders, a labels CSV, or SICAPv2 as distributed; "auto" looks at each
    path."""
    fold: Literal["Val1", "Val2", "Val3", "Val4"] = "Val1"
    """Validation fold of SICAPv2."""
    paths: list[str] = Field(default_factory=list)
    """Folders and files; --data adds to them."""
    classes: list[str] | None = None
    """Names in order of grade; none: those of the data."""
    ordered: bool | None = None
    """Whether the classes are in order of severity, so that kappa has quadratic weights; none: two
    classes and Gleason patterns are."""
    benign: Annotated[list[str], Field(min_length=1)] | None = None
    """Classes that are not cancer, for the AUC of benign against cancer and for the least area of a
    pattern; none: those named NC, benign, normal, non-tumor, stroma or 0."""
    mpp: Positive = 1.0
    """um per pixel of the patches that are read; the teacher's resolution in a distillation."""
    patch_px: Annotated[int, Field(gt=0)] | None = None
    """Side of these patches in pixels; none: that of the data. Larger images are centre-cropped."""
    student_mpp: Positive | None = None
    """um per pixel of the network that is trained, a multiple of mpp; none: mpp itself."""
    low_source: Literal["area", "pyramid", "mixed"] = "area"
    """Input of the trained network in training: averages of the finer pixels, the slide's own level
    (stores tiled with --route pyramid), or either with equal probability. Validation always reads
    averages."""
    slide_pattern: str | None = None
    """Regular expression with one group, the slide, for the file stems of class folders; none:
    the text before "_Block_", case and block of "Case-3-A15-..." or "P9-B12-..." (the case is the
    patient), else the text before the first "_"."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Patches of a store with less tissue than this share are left out."""
    cache_gb: NonNegative | Literal["auto"] = "auto"
    """Decoded patches are kept in memory up to this size in GB; others are read at every use.
    "auto": two fifths of the available memory."""
    device_gb: NonNegative | Literal["auto"] = "auto"
    """Patches and the teacher's kept answers are held on the GPU up to this size in GB. "auto":
    half of its free memory. Without effect on a CPU."""
    unlabelled: bool = False
    """Distil on fields without a label too: every tissue field of the stores, rows of a CSV without
    a class, images in a class folder named "unlabelled". Those of slides and patients in the
    validation or test part are left out. With split.share, slides that are left out are used
    without their labels."""
    unlabelled_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the patches of a step that have no label."""
    smote: str | None = None
    """JSON file of class -> number of training patches. SMOTE adds synthetic patches between
    neighbours in pixel space up to this number (extra "smote"). None: off. Balanced drawing is the
    better choice."""

    @field_validator("slide_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"'{value}' is not a regular expression ({error}); escape what is meant literally"
            ) from None
        return value


class Split(Settings):
    """How slides are divided into training and validation."""

    by: Literal["auto", "patient", "slide"] = "auto"
    """Unit that is never divided; "auto": the patient where known, else the slide."""
    given: bool = True
    """Use the split of the data, if they have one; false: draw one."""
    val: Share = 0.25
    """Share of the patches for validation."""
    val_by: Literal["group", "slide"] = "group"
    """Unit in which validation is drawn, if the data give none: that of ``by``, or slides. Slides
    are for few patients with many slides each, who are then in training and validation; the test
    part never shares patients with either."""
    test: Share = 0.0
    """Share of the patches for the test part, never read in training."""
    seed: int = 0
    """Seed of the draw, independent of the seed of the training."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-fitting: groups are divided into this number of folds by ``seed``, whatever split the
    data have; one of them is the test part, and validation is drawn from the others."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Number of the fold that is the test part, from 0."""
    crossfit: Annotated[int, Field(ge=2)] | None = None
    """For teachers whose answers are cross-fitted (teacher_answers): the training part is divided
    into this number of folds, by patient where known, and one of them is left out."""
    leave_out: Annotated[int, Field(ge=0)] = 0
    """Number of the fold that is left out with crossfit, from 0."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training slides of each class that is used, at least one slide."""
    share_seed: int = 0
    """Seed of this choice; a smaller share is a subset of a larger one."""
    check_images: bool = True
    """Refuse identical images in two splits (in memory only)."""
    check_teacher: bool = True
    """Refuse a teacher that was trained on slides, patients or images of the validation or test
    part, or selected on those of the test part; false if only names coincide by chance."""
