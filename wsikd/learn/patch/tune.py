"""Choose settings on validation: every combination of a grid is a run.

Optuna keeps the account (SQLite by default), so that several processes share a grid and a stopped
search continues. T. Akiba et al., "Optuna: a next-generation hyperparameter optimization
framework", KDD 2019.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from wsikd.core.config import BEST_CONFIG, SEARCH_RECORD, dump_config
from wsikd.core.errors import NonFiniteLossError, OutputError
from wsikd.core.output.cells import csv_text
from wsikd.core.output.files import not_ours
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir, as_read_today, write_text_atomic
from wsikd.core.run_places import relative_places
from wsikd.learn.data.sources import open_sources
from wsikd.learn.patch.build import digests_of, open_teachers
from wsikd.learn.patch.train import distill
from wsikd.learn.patch.tune_plan import METRICS as METRICS
from wsikd.learn.patch.tune_plan import Tuning as Tuning  # noqa: TC001 - for those who import it here
from wsikd.learn.patch.tune_plan import parse_grid as parse_grid
from wsikd.learn.score.cost_curve import PICTURE, Costed, cost_lines, has_curve
from wsikd.learn.score.plots import plot_cost
from wsikd.models.files.bundle import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import optuna

    from wsikd.learn.patch.settings import RunConfig

logger = logging.getLogger(__name__)
STUDY = "wsikd"
DIVERGED = "diverged.txt"
WAIT_S = 60


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes:
        best: values of the best trial; None where none has finished.
        value: its figure on validation.
        finished: trials that have a figure or diverged.
        total: combinations of the grid.
        best_file: the settings to train with; None while trials are missing.
        trials_file: table of all trials.
        curve: cost against the figure, as the lines of a table; empty where all cost the same.
    """

    best: Mapping[str, Any] | None
    value: float | None
    finished: int
    total: int
    best_file: Path | None
    trials_file: Path
    curve: tuple[str, ...] = ()


def tune(
    tuning: Tuning, out: Path, *, storage: str | None = None, device: str = "auto"
) -> TuneResult:
    """Run the missing trials of a grid, and write ``trials.csv`` and, at the end, ``best.yaml``.

    Where trials differ in cost, such as by ``student_input``, ``cost.png`` shows the figure over
    the multiply-accumulates of a patch.

    Args:
        tuning: what is searched.
        out: folder of the search; trials lie in ``trials/<values>``.
        storage: Optuna's, e.g. ``sqlite:///tune.db``; None: ``tune.db`` in ``out``.
        device: "auto", "cpu" or "cuda:0".

    Raises:
        ConfigError: a combination is not a valid configuration.
        OutputError: ``out`` holds another search, or cannot be written.
        WsikdError: a trial cannot be run; one that merely diverges counts as lost.
    """
    points = tuning.points()
    configs = [tuning.config(point) for point in points]  # all faults before the first trial
    _check_same(tuning, configs[0], out)
    with _study(storage or f"sqlite:///{out.resolve() / 'tune.db'}", tuning, out) as study:
        sampler: Any = study.sampler
        if not sampler.is_exhausted(study):
            study.optimize(
                lambda trial: _objective(trial, tuning, out, device), catch=(NonFiniteLossError,)
            )
        _finish_left(study, tuning, points, out, device)
        return _result(study, tuning, points, out)


def _check_same(tuning: Tuning, config: RunConfig, out: Path) -> None:
    """Refuse a folder that holds a search of other settings; the trials check themselves too."""
    made, teachers = RunDir(out), open_teachers(config)
    out.mkdir(parents=True, exist_ok=True)
    left_out: Any = {"data": {"paths"}, "teacher": True}
    settings = {
        "grid": {k: list(v) for k, v in tuning.grid.items()},
        "metric": tuning.metric,
        "seed": tuning.seed,
        "first": config.model_dump(mode="json", exclude=left_out),
        "teacher_sha256": digests_of(teachers),
        "data": [source.digest for source in open_sources(config.data)],
    }
    kept = relative_places(settings, out)
    text = yaml.safe_dump(kept, sort_keys=False)
    file = made.path / SEARCH_RECORD
    if not file.exists():
        for result in (out / "trials.csv", out / BEST_CONFIG, out / PICTURE):
            if result.exists():
                raise not_ours(result, "the result of a search")
        write_text_atomic(file, text)
        return
    old = yaml.safe_load(file.read_text(encoding="utf-8"))
    if isinstance(old, dict) and isinstance(old.get("first"), dict):
        old["first"] = as_read_today(old["first"], config, exclude=left_out)
    if old not in (kept, settings):
        raise OutputError(
            out, "holds a search with other settings", "give the same ones or another -o"
        )


@contextmanager
def _study(storage: str, tuning: Tuning, out: Path) -> Iterator[optuna.Study]:
    """Open or make the study, one process at a time; its connections are closed afterwards."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _patiently(out / "study"):
        kept = optuna.storages.RDBStorage(storage)
        study = optuna.create_study(
            storage=kept,
            study_name=STUDY,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.GridSampler({k: list(v) for k, v in tuning.grid.items()}),
        )
    try:
        yield study
    finally:
        kept.remove_session()
        kept.engine.dispose()


@contextmanager
def _patiently(path: Path) -> Iterator[None]:
    """As ``locked``, but waits up to a minute for another process."""
    with ExitStack() as stack:
        for attempt in range(WAIT_S * 5 + 1):
            try:
                stack.enter_context(locked(path))
                break
            except OutputError as busy:
                if not _is_busy(busy) or attempt == WAIT_S * 5:
                    raise
                time.sleep(0.2)
        yield


def _is_busy(error: OutputError) -> bool:
    return "another process" in error.fault


def _objective(trial: optuna.Trial, tuning: Tuning, out: Path, device: str) -> float:
    import optuna

    point = {k: trial.suggest_categorical(k, list(v)) for k, v in tuning.grid.items()}
    folder = trial_folder(out, point)
    try:
        with locked(folder):
            return _run(tuning, point, folder, device)
    except OutputError as busy:
        if not _is_busy(busy):
            raise
        raise optuna.TrialPruned from busy  # it reports its own score


def _run(tuning: Tuning, point: Mapping[str, Any], folder: Path, device: str) -> float:
    """Train one combination, or resume it; -1 if its score is undefined."""
    logger.info("trial %s", folder.name)
    try:
        result = distill(tuning.config(point), folder, seed=tuning.seed, device=device, resume=True)
    except NonFiniteLossError as error:
        write_text_atomic(folder / DIVERGED, f"{error}\n")
        raise
    value = result.metrics[tuning.metric]
    return -1.0 if value is None else float(value)


def trial_folder(out: Path, point: Mapping[str, Any]) -> Path:
    """Where a combination is trained: ``trials/weights.fm=0.1,weights.at_plus=10``."""
    name = ",".join(f"{k}={v}" for k, v in point.items())
    return out / "trials" / name.replace("/", "_").replace("\\", "_")


def _finish_left(
    study: optuna.Study, tuning: Tuning, points: list[dict[str, Any]], out: Path, device: str
) -> None:
    """Run the trials that a killed or failed process left without a figure."""
    import optuna

    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        k: optuna.distributions.CategoricalDistribution(list(v)) for k, v in tuning.grid.items()
    }
    for point in points:
        if _outcome(study, point) is not None or (trial_folder(out, point) / DIVERGED).is_file():
            continue
        try:
            with locked(trial_folder(out, point)):
                value = _run(tuning, point, trial_folder(out, point), device)
        except OutputError as busy:
            if not _is_busy(busy):
                raise
            logger.info("another process runs %s", trial_folder(out, point).name)
            continue
        except NonFiniteLossError as error:
            logger.warning("%s", error)
            continue
        study.add_trial(
            optuna.trial.create_trial(params=point, distributions=distributions, value=value)
        )


def _outcome(study: optuna.Study, point: Mapping[str, Any]) -> float | None:
    """Figure of a combination; None where no trial of it has finished."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((t.value for t in done if t.params == dict(point)), None)


def _macs(folder: Path) -> str:
    """Multiply-accumulates of a patch, from the card of a finished trial; empty without one."""
    file = RunDir(folder).student / CARD
    return str(json.loads(file.read_text(encoding="utf-8"))["macs"]) if file.is_file() else ""


def _result(
    study: optuna.Study, tuning: Tuning, points: list[dict[str, Any]], out: Path
) -> TuneResult:
    outcomes = [_outcome(study, point) for point in points]
    lost = [(trial_folder(out, point) / DIVERGED).is_file() for point in points]
    known = [(o, -i) for i, o in enumerate(outcomes) if o is not None]
    rows = []
    for point, outcome, gone in zip(points, outcomes, lost, strict=True):
        state = "diverged" if gone else "missing" if outcome is None else "finished"
        value = "" if outcome is None else outcome
        cells = (value, _macs(trial_folder(out, point)), state, trial_folder(out, point).name)
        rows.append([*point.values(), *cells])
    columns = [*tuning.grid, tuning.metric, "macs", "state", "run"]
    write_text_atomic(out / "trials.csv", csv_text(columns, rows))
    finished = len(known) + sum(lost)
    best = -max(known)[1] if known else None
    file = None
    if best is not None and finished == len(points):
        file = out / BEST_CONFIG
        write_text_atomic(file, dump_config(tuning.config(points[best]), out))
    return TuneResult(
        None if best is None else points[best],
        None if best is None else outcomes[best],
        finished, len(points), file, out / "trials.csv", _curve(tuning, points, outcomes, out),
    )  # fmt: skip


def _curve(
    tuning: Tuning, points: list[dict[str, Any]], outcomes: list[float | None], out: Path
) -> tuple[str, ...]:
    """Cost against the figure, drawn and as lines; nothing where all trials cost the same."""
    found = []
    for point, outcome in zip(points, outcomes, strict=True):
        macs = _macs(trial_folder(out, point))
        if outcome is not None and macs:
            name = ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in point.items())
            found.append(Costed(name, float(macs), outcome))
    if not has_curve(found):
        return ()
    plot_cost(found, f"{tuning.metric} on validation", out / PICTURE)
    return tuple(cost_lines(found, tuning.metric, "trial"))
