"""``wsikd.distill``: tile stores and a teacher become a student."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError
from wsikd.core.run import RunDir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from wsikd.api.many import Many, One
    from wsikd.api.student import Student


class Run:
    """A training run: its folder, its epochs and its network.

    Attributes:
        path: the folder: ``config.yaml``, ``metrics.csv``, ``checkpoints/``, ``student/``.
        line: what ``wsikd distill`` prints at the end; empty for a run opened again.

    Examples:
        >>> import wsikd
        >>> run = wsikd.Run.open("runs/student")
        >>> len(run.metrics)
        1
        >>> run.student.mpp
        4.0
    """

    def __init__(self, path: Path, line: str = "") -> None:
        """Use :func:`distill` or :meth:`open`."""
        self.path, self.line = path, line

    @classmethod
    def open(cls, path: One) -> Run:
        """Open the folder of a training, finished or not.

        Raises:
            OutputError: it holds no run of wsikd.
        """
        run = RunDir(Path(path))
        if not run.config_file.is_file() or "wsikd" not in run.read_provenance():
            raise OutputError(path, "holds no run of wsikd", "give a folder of wsikd distill")
        return cls(Path(path))

    @property
    def student(self) -> Student:
        """The network, a teacher's too.

        Raises:
            BundleError: the training has not finished.
            ConfigError: its method trains no grader of tissue.
        """
        from wsikd.api.student import load_student

        return load_student(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One row an epoch: epoch, loss, val (kappa, balanced_accuracy, loss), seconds and more.

        Raises:
            OutputError: ``metrics.jsonl`` is damaged.
        """
        return [row for row in RunDir(self.path).read_metrics() if "epoch" in row]

    def __fspath__(self) -> str:
        return str(self.path)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw loss and validation figures by epoch.

        Args:
            ax: matplotlib axes; new ones by default.

        Returns:
            The axes.

        Examples:
            >>> import wsikd
            >>> wsikd.Run.open("runs/student").plot().get_xlabel()
            'epoch'
        """
        from wsikd.api.plots import new_axes

        axes = ax or new_axes()
        rows = self.metrics
        numbers = [row["epoch"] for row in rows]
        axes.plot(numbers, [_number(row.get("loss")) for row in rows], "k--", label="training loss")
        names = dict.fromkeys(
            name
            for row in rows
            for name, value in (row.get("val") or {}).items()
            if isinstance(value, int | float)
        )
        for name in names:
            values = [_number((row.get("val") or {}).get(name)) for row in rows]
            axes.plot(numbers, values, marker=".", label=f"validation {name.replace('_', ' ')}")
        axes.set_xlabel("epoch")
        axes.set_title(self.path.name)
        axes.legend(fontsize=8)
        return axes

    def __repr__(self) -> str:
        return f"Run('{self.path}', {len(self.metrics)} epochs)"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import table

        rows = self.metrics[-5:]
        names = ("kappa", "balanced_accuracy", "loss")
        shown = [
            [row["epoch"], _short(row.get("loss"))]
            + [_short((row.get("val") or {}).get(name)) for name in names]
            for row in rows
        ]
        columns = ["epoch", "loss", *(f"validation {n.replace('_', ' ')}" for n in names)]
        return table(repr(self), columns, shown)


def distill(
    config: One,
    *,
    data: One | Many = (),
    teacher: One | Many | None = None,
    out: One | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    loggers: Sequence[str] = (),
) -> Run:
    """Train a teacher, a student, or another network that a configuration describes.

    Args:
        config: a YAML file; ``wsikd init at_plus`` writes ``1_teacher.yaml``, ``2_student.yaml``.
        data: tile stores (folders, or what :func:`tile` returned), class folders or a labels CSV,
            in addition to those in ``config``.
        teacher: run folder or bundle of the teacher, or the run itself; of several, in a list, the
            probabilities are averaged.
        out: folder of the run; default ``runs/<name of config without its number>``, so that
            ``2_student.yaml`` goes to ``runs/student``.
        settings: changes to the configuration, e.g. {"optim.epochs": 20}.
        seed: seed of initialisation, order and augmentation.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``.
        loggers: in addition to ``metrics.jsonl`` and ``metrics.csv``: "tensorboard".

    Returns:
        The finished run.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the data are missing, mislabelled, or leak between the parts.
        BundleError: the teacher is missing or damaged.
        OutputError: ``out`` holds something and ``resume`` is false.

    Examples:
        >>> import wsikd
        >>> run = wsikd.distill(
        ...     "2_student.yaml", data="stores", teacher="runs/teacher", out="runs/new"
        ... )
        >>> run.student.mpp, len(run.metrics)
        (4.0, 1)
    """
    from wsikd.api.many import names_of
    from wsikd.core.output.lock import locked
    from wsikd.learn.engine.loggers import check_loggers
    from wsikd.learn.engine.runs import load_run

    file = Path(config)
    place = Path("runs") / _name_of(file) if out is None else Path(out)
    changes = [f"{name}={json.dumps(value)}" for name, value in (settings or {}).items()]
    check_loggers(loggers)
    run = load_run(
        file,
        changes,
        data=[Path(name) for name in names_of(data)],
        teachers=[Path(name) for name in names_of(teacher or ())],
    )
    with locked(place):
        result = run.train(
            run.config, place, seed=seed, device=device, resume=resume, loggers=loggers
        )
    return Run(place, result.text())


def _name_of(config: Path) -> str:
    """A configuration's name without the number before it."""
    return re.sub(r"^\d+[_-]", "", config.stem) or config.stem


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _short(value: object) -> object:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else value
