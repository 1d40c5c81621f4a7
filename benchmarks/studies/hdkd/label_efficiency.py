"""How a distilled student depends on the number of training slides.

The rows of a comparison (a teacher, the student alone, and distilled ones) are run on shares of the
training slides. A share is drawn anew for every seed and is the same for all rows of that seed, the
teacher among them, so that nothing comes from slides that were left out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.hdkd.plot import plot_shares
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.output.files import check_names
from wsikd.core.output.lock import locked
from wsikd.core.output.markdown import table_lines
from wsikd.core.output.markers import TABLE, TABLE_FILES
from wsikd.core.run import provenance, write_json_atomic, write_text_atomic
from wsikd.learn.data.patches import load_patches, with_share
from wsikd.learn.engine.on_machine import cache_of, threads_of
from wsikd.learn.reproduce.run_rows import (
    COLOUR,
    TEACHER,
    Predictions,
    data_key,
    join_folds,
    keep_colour,
    read_predictions,
    score_unit,
    train_unit,
)
from wsikd.learn.reproduce.table import difference_of, leave_out_of, point_of, span_of, summary_of
from wsikd.learn.score import test_record as scoring
from wsikd.models.device import pick_device

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.patch.settings import RunConfig
    from wsikd.learn.reproduce.run_rows import Plan, Row, Unit

    Key = tuple[int, int]
    Found = dict[str, dict[Key, Predictions]]

logger = logging.getLogger(__name__)
SHARES = (0.1, 0.25, 0.5, 1.0)
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Place:
    """Where the runs of one share and unit lie."""

    out: Path
    share: float
    unit: Unit

    def run(self, row: str) -> Path:
        """Folder of a row's run."""
        return self.out / "runs" / _percent(self.share) / row / self.unit.name

    @property
    def colour(self) -> Path:
        """Predictions of colour alone."""
        return self.out / "runs" / _percent(self.share) / COLOUR / f"{self.unit.name}.npz"


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def settings_of(row: Row, plan: Plan, place: Place) -> RunConfig:
    """A row's settings for one share and unit: its part of the slides and its teacher."""
    config, unit = row.config, place.unit
    split: dict[str, object] = {"share": place.share, "share_seed": unit.seed}
    if plan.folds is not None:
        seed = config.split.seed + unit.repeat
        split |= {"folds": plan.folds, "fold": unit.fold, "seed": seed}
    changes: dict[str, object] = {"split": config.split.model_copy(update=split)}
    if row.needs_teacher:
        changes["teacher"] = str(place.run(TEACHER))
    return config.model_copy(update=changes)


def run_shares(
    plan: Plan, out: Path, shares: tuple[float, ...] = SHARES, *, device: str = "auto"
) -> None:
    """Train and score what is not finished, one share after another.

    Args:
        plan: rows, the teacher first, and seeds; its folds count too.
        out: runs lie in ``runs/<share>/<row>/<seed>``.
        shares: of the training slides, above 0 to 1.
        device: "auto", "cpu" or "cuda:0".

    Raises:
        ConfigError: the rows differ in data or split.
        WsikdError: a run failed; what is finished stays for the next call.
    """
    whole: dict[str, PatchSet] = {}
    todo = [(s, u, r) for s in shares for u in plan.units() for r in plan.rows]
    for number, (share, unit, row) in enumerate(todo, start=1):
        place = Place(out, share, unit)
        config = settings_of(row, plan, place)
        all_slides = config.split.model_copy(update={"share": 1.0, "share_seed": 0})
        key = data_key(config.model_copy(update={"split": all_slides}))
        first = settings_of(plan.rows[0], plan, place)
        if data_key(first) != data_key(config):
            raise ConfigError(
                row.name, f"reads other data, or another split, than {plan.rows[0].name}",
                "give every row the same",
            )  # fmt: skip
        if key not in whole:
            whole.clear()
            whole[key] = load_patches(config.data, all_slides)
            if not len(whole[key].indices("test")):
                raise DataError(
                    "split", "leaves no test patches", "set split.test, or pass --folds"
                )
            everything = np.arange(len(whole[key]))
            whole[key].keep(
                everything, cache_of(config.data.cache_gb), threads_of(config.optim.threads)
            )
        patches = with_share(whole[key], config.split)
        keep_colour(place.colour, patches)
        logger.info(
            "%s of the training slides, %s, %s: %d of %d",
            _percent(share), row.name, unit.name, number, len(todo),
        )  # fmt: skip
        with locked(place.run(row.name)):
            train_unit(config, place.run(row.name), unit.seed, patches, device)
            score_unit(place.run(row.name), patches, place.colour, str(pick_device(device)))


def collect_share(plan: Plan, out: Path, share: float) -> Found:
    """Predictions of every row by (seed, repeat); seeds that lack a run are left out.

    Args:
        plan: what was run.
        out: folder of the study.
        share: of the training slides.

    Returns:
        Row -> (seed, repeat) -> predictions; the colour baseline is the last row.
    """
    names = (*(row.name for row in plan.rows), COLOUR)
    found: Found = {name: {} for name in names}
    for seed, repeat in sorted({(u.seed, u.repeat) for u in plan.units()}):
        units = [u for u in plan.units() if (u.seed, u.repeat) == (seed, repeat)]
        files = {name: [_file(Place(out, share, u), name) for u in units] for name in names}
        if not all(file.is_file() for of in files.values() for file in of):
            continue
        for name, of in files.items():
            parts = [read_predictions(f, u.fold or 0) for f, u in zip(of, units, strict=True)]
            found[name][seed, repeat] = join_folds(parts)
    return found


def _file(place: Place, name: str) -> Path:
    return place.colour if name == COLOUR else place.run(name) / scoring.PREDICTIONS


def make_study(plan: Plan, out: Path, shares: tuple[float, ...] = SHARES) -> dict[str, Any]:
    """Sum up what ``run_shares`` made, share by share.

    Args:
        plan: what was run, with a row of method supervised beside the teacher: the student alone.
        out: folder of the study.
        shares: of the training slides.

    Returns:
        JSON values: ``points`` (share, row, runs, mean, deviation, interval of each figure),
        ``gains`` over the student alone, paired by seed, ``missing`` shares, ``plan`` and
        ``provenance``. A share appears where every row has the same seeds, three at least.

    Raises:
        DataError: predictions cannot be read.
    """
    points: list[dict[str, Any]] = []
    gains: list[dict[str, Any]] = []
    missing = []
    alone = next((r.name for r in plan.rows if _is_alone(r)), None)
    for share in shares:
        found = collect_share(plan, out, share)
        if len({seed for seed, _ in found[COLOUR]}) < min(FEWEST_SEEDS, len(plan.seeds)):
            missing.append(share)
            continue
        groups = sorted({g for units in found.values() for p in units.values() for g in p.group})
        without = {name: leave_out_of(units, groups) for name, units in found.items()}
        each = {n: {key: point_of(p) for key, p in u.items()} for n, u in found.items()}
        points += [
            {"share": share, "row": name} | summary_of(each[name], without[name]) for name in found
        ]
        for row in plan.rows if alone else ():
            if row.name not in (alone, TEACHER):
                for figure in ("kappa", "balanced_accuracy"):
                    gain = difference_of(row.name, str(alone), figure, each, without)
                    gains.append({"share": share} | gain)
    told = {"seeds": list(plan.seeds), "folds": plan.folds, "repeats": plan.repeats}
    return {
        "points": points, "gains": gains, "missing": missing,
        "plan": told | {"rows": [r.name for r in plan.rows], "shares": list(shares)},
        "provenance": provenance(),
    }  # fmt: skip


def _is_alone(row: Row) -> bool:
    return row.config.method == "supervised" and row.name != TEACHER


def write_study(study: dict[str, Any], out: Path) -> str:
    """Write ``table.md``, ``table.json`` and ``kappa.png``; returns the Markdown.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = to_markdown(study)
    check_names(out, TABLE_FILES, TABLE)
    write_json_atomic(out / "table.json", study)
    write_text_atomic(out / "table.md", text)
    if study["points"]:
        plot_shares(study["points"], out / "kappa.png")
    return text


def to_markdown(study: dict[str, Any]) -> str:
    """The study as Markdown: mean, deviation over seeds, interval over slides, and gains."""
    heads = ["training slides", "row", "runs", "quadratic kappa", "balanced accuracy"]
    points = [
        [_percent(point["share"]), point["row"], str(point["units"]),
         *(_cell(point, figure) for figure in ("kappa", "balanced_accuracy"))]
        for point in study["points"]
    ]  # fmt: skip
    note = (
        "Mean ± deviation over seeds (n - 1; each draws its own slides), then the 95 % interval "
        "over test slides or patients. Every row of a seed, the teacher too, has the same training "
        "slides."
    )
    lines = [*table_lines(heads, points), "", note]
    gains = [
        [
            _percent(gain["share"]), gain["row"], gain["over"], gain["metric"].replace("_", " "),
            "-" if gain["mean"] is None else f"{gain['mean']:+.3f}",
            span_of(gain["interval_slides"]), span_of(gain["interval_seeds"]),
        ]
        for gain in study["gains"]
    ]  # fmt: skip
    if gains:
        heads = ["training slides", "row", "over", "figure", "gain", "over slides", "over seeds"]
        lines += ["", *table_lines(heads, gains)]
    if study["missing"]:
        shares = ", ".join(map(_percent, study["missing"]))
        lines += ["", f"Not finished with {FEWEST_SEEDS} seeds, so left out: {shares}."]
    return "\n".join(lines) + "\n"


def _cell(point: dict[str, Any], figure: str) -> str:
    mean, deviation = point["mean"][figure], point["deviation"][figure]
    if mean is None:
        return "-"
    apart = "-" if deviation is None else f"{deviation:.3f}"
    return f"{mean:.3f} ± {apart} {span_of(point['interval'][figure])}"
