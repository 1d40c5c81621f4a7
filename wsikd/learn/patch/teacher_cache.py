"""A frozen teacher's answers, asked once for every patch and view and kept.

Where augmentation only mirrors and turns, a patch has eight views. The teacher's logits, its maps
averaged to the student's grids and its class attention are then a table, and a step of distillation
costs what a step on labels costs. The table is what the teacher would say in the step, but for
the last digits of sums in other batches.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import ConfigError, DataError
from wsikd.core.run import aside, write_json_atomic
from wsikd.learn.data.augment import turned
from wsikd.learn.data.views import is_enumerable
from wsikd.learn.engine.on_machine import cache_of, threads_of
from wsikd.learn.losses.maps import to_grid
from wsikd.learn.methods.base import KeptTeacher, Targets
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.methods.base import Method
    from wsikd.learn.patch.settings import RunConfig

logger = logging.getLogger(__name__)
FORMAT = 1


def why_not(config: RunConfig, method: KeptTeacher) -> tuple[str, str] | None:
    """Fault and remedy where the teacher's answers cannot be kept, None where they can."""
    if config.mix.used:
        return "mixtures of patches have no kept answers", "set mix.mixup and mix.cutmix to 0"
    if not is_enumerable(config):
        return (
            "the views of a patch cannot be counted",
            "turn off crop_px, rotate_deg and scale of augment, colours too or colour_of=student",
        )
    if round(config.factor) < 2:
        return "teacher and student read the same pixels", "set teacher_cache=off"
    return method.why_not_kept()


def open_targets(
    config: RunConfig,
    method: Method,
    patches: PatchSet,
    teacher_sha256: str | list[str] | None,
    *,
    team: Team,
    batch_size: int,
    run: Path,
) -> Targets | None:
    """The kept answers of a run's teacher, made where they are missing.

    Args:
        config: configuration of the run.
        method: on its device.
        patches: the teacher is asked about their training part.
        teacher_sha256: digest of the teacher's weights, or those of several.
        team: device and precision.
        batch_size: patches of a step, which are asked about at a time.
        run: the run folder; answers on disk lie in it unless ``teacher_cache_dir`` is set.

    Returns:
        None where the teacher is asked in every step: ``teacher_cache`` is off, or auto and keeping
        does not pay.

    Raises:
        ConfigError: ``teacher_cache`` is ram or disk, and the answers cannot be kept.
        DataError: a file of answers is damaged.
        OutputError: the folder cannot be written.
    """
    if not isinstance(method, KeptTeacher) and config.teacher_cache in ("ram", "disk"):
        raise ConfigError(
            f"teacher_cache {config.teacher_cache}",
            f"method {config.method} asks its teacher in every step", "set teacher_cache=auto",
        )  # fmt: skip
    if not isinstance(method, KeptTeacher) or config.teacher_cache == "off":
        return None
    if method.terms <= {"ce"}:
        return None
    fault = why_not(config, method)
    if config.teacher_cache != "auto" and fault:
        raise ConfigError(f"teacher_cache {config.teacher_cache}", *fault)
    if fault:
        if config.mix.used:
            logger.info("the teacher is asked in every step: %s", fault[0])
        return None
    views = 8 if config.augment.flips else 1
    try:
        asker = _Asker(config, method, patches, views, team=team, batch_size=batch_size)
    except ConfigError:
        if config.teacher_cache == "auto":
            return None
        raise
    if config.teacher_cache == "auto" and not asker.pays():
        return None
    identity = asker.identity(teacher_sha256)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    memo = patches.memo
    if memo.get("targets_key") == key:
        return memo["targets"]  # type: ignore[no-any-return]
    if config.teacher_cache == "disk":
        root = run / "targets"
        if config.teacher_cache_dir is not None:
            root = type(root)(config.teacher_cache_dir)
        tables = asker.on_disk(root / key, identity)
    else:
        tables = asker.in_memory()
    targets = Targets({int(i): n for n, i in enumerate(asker.indices)}, tables)
    memo.update(targets_key=key, targets=targets)
    return targets


class _Asker:
    """Asks a teacher about every training patch in every view, with a label or without."""

    def __init__(
        self,
        config: RunConfig,
        method: KeptTeacher,
        patches: PatchSet,
        views: int,
        *,
        team: Team,
        batch_size: int,
    ) -> None:
        self.config, self.method, self.patches, self.views = config, method, patches, views
        self.team, self.batch_size = team, batch_size
        self.indices = patches.trained_on
        self.grids = self._grids()
        self.sizes = self._sizes()

    @torch.no_grad()
    def _grids(self) -> dict[str, tuple[int, int]]:
        """The student's grid for each of the teacher's taps, and for "attention"."""
        method, px = self.method, self.patches.patch_px // round(self.config.factor)
        empty = torch.zeros(1, 3, px, px, device=self.team.device)
        training, student = method.training, method.student.eval()
        pairs = method.kept_taps()
        _, taps = student.with_taps(empty, {own for own, _ in pairs})
        method.train(training)
        if not pairs:
            return {}
        found: dict[str, tuple[int, int]] = {}
        for own, theirs in pairs:
            height, width = taps[own].shape[-2:]
            if found.setdefault(theirs, (height, width)) != (height, width):
                raise ConfigError(
                    f"taps: {theirs} of the teacher",
                    "is compared on two grids of the student",
                    "set teacher_cache=off",
                )
        return {**found, "attention": found[pairs[0][1]]}

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one answer of each table."""
        one = self.patches.images(self.indices[:1]).to(self.team.device)
        found = self._ask(one.float(), self.indices[:1])
        return {name: tuple(t.shape[1:]) for name, t in found.items()}

    def pays(self) -> bool:
        """Whether a run asks more often than there are views, and memory suffices."""
        optim = self.config.optim
        asked = optim.epochs * (optim.epoch_patches or len(self.indices))
        values = self.views * len(self.indices) * sum(map(np.prod, self.sizes.values()))
        fits = values * 4 <= cache_of(self.config.data.cache_gb) * 1e9
        return bool(asked > self.views * len(self.indices) and fits)

    def identity(self, teacher_sha256: str | list[str] | None) -> dict[str, Any]:
        """Everything that the answers depend on."""
        patches, method = self.patches, self.method
        return {
            "format": FORMAT, "teacher": teacher_sha256, "data": list(patches.digests),
            "patches": hashlib.sha256(self.indices.tobytes()).hexdigest(),
            "patch_px": patches.patch_px, "views": self.views,
            "tables": {k: list(v) for k, v in self.sizes.items()},
            "attention": method.identity(),
            "precision": self.config.optim.precision,
        }  # fmt: skip

    def _ask(self, patches: Tensor, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """The tables' rows for float patches (B, 3, side, side) of these indices."""
        patches = patches.contiguous(memory_format=torch.channels_last)
        with self.team.fabric.autocast():
            taught = self.method.teach(patches, box=torch.from_numpy(indices), always=True)
        found = {"logits": taught.logits.float()}
        for name, tap in taught.taps.items():
            found[f"tap {name}"] = to_grid(tap.float(), self.grids[name])
        if taught.attention is not None:
            found["attention"] = to_grid(taught.attention.float(), self.grids["attention"])
        return found

    def _answers(self, view: int) -> Iterator[tuple[slice, dict[str, NDArray[np.float32]]]]:
        start, device = 0, self.team.device
        flags = torch.tensor([bool(view & bit) for bit in (1, 2, 4)])[:, None]
        for images, part in self.patches.batches(
            self.indices, self.batch_size, threads=threads_of(self.config.optim.threads)
        ):
            turns = flags.expand(3, len(part))
            found = self._ask(turned(upload(images, device), turns).float(), part)
            yield (
                slice(start, start + len(part)),
                {name: value.cpu().numpy() for name, value in found.items()},
            )
            start += len(part)

    def in_memory(self) -> dict[str, list[NDArray[np.float32]]]:
        """Ask, and hold the answers."""
        logger.info("asking the teacher: %d patches, %d views", len(self.indices), self.views)
        count = len(self.indices)
        tables = {
            name: [np.empty((count, *size), np.float32) for _ in range(self.views)]
            for name, size in self.sizes.items()
        }
        for view in range(self.views):
            for rows, found in self._answers(view):
                for name, values in found.items():
                    tables[name][view][rows] = values
        return tables

    def on_disk(
        self, folder: Path, identity: dict[str, Any]
    ) -> dict[str, list[NDArray[np.float32]]]:
        """Ask for the views whose files are missing; the files are mapped, not loaded."""
        write_json_atomic(folder / "identity.json", identity)
        for view in range(self.views):
            files = {name: _file(folder, name, view) for name in self.sizes}
            if all(file.is_file() for file in files.values()):
                continue
            logger.info("asking the teacher: view %d of %d", view + 1, self.views)
            tables = {
                name: np.empty((len(self.indices), *size), np.float32)
                for name, size in self.sizes.items()
            }
            for rows, found in self._answers(view):
                for name, values in found.items():
                    tables[name][rows] = values
            for name, file in files.items():
                with aside(file) as part, part.open("wb") as stream:
                    np.save(stream, tables[name], allow_pickle=False)
        return {
            name: [
                _mapped(_file(folder, name, view), (len(self.indices), *size))
                for view in range(self.views)
            ]
            for name, size in self.sizes.items()
        }


def _mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        table = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(file, "cannot be read", "remove it; it is made again") from error
    if table.shape != shape or table.dtype != np.float32:
        raise DataError(file, "does not hold these answers", "remove it; it is made again")
    return np.asanyarray(table)


def _file(folder: Path, table: str, view: int) -> Path:
    return folder / f"{table.replace(' ', '-')}-{view}.npy"
