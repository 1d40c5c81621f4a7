"""Many small slides, end to end: what a user pays for a folder of biopsies.

See benchmarks/README.md. Every contender is a command in a process of its own, from its start to
its end, so imports, compiling and the summary count. The slides are drawn, the networks untrained.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from harness import LIMIT_S, Report, measure, options, rate_ratios, workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness import Sample

_CHILD_SUBREAPER = 36  # of Linux' prctl
DEFAULT, CSV, LOOP, ONE = "default formats", "csv alone", "hand-written loop", "one slide alone"
BARS = {"cpu": 0.15, "wall": 8.0, "loop": 0.8, "one": 1.0, "growth": 1.2}


@dataclass(frozen=True)
class Sizes:
    """How much is graded.

    ``many`` and ``few`` are results that a folder holds already, ``more`` the slides that are then
    added, in ``growth`` rounds; ``high`` the slides that both networks grade, once.
    """

    slides: int
    side_px: int
    few: int
    many: int
    more: int
    growth: int
    high: int


FULL, SMALLEST = Sizes(100, 6144, 50, 5000, 20, 3, 40), Sizes(1, 1536, 1, 2, 1, 1, 1)


@dataclass(frozen=True)
class Setting:
    """Slides, networks and a place for results."""

    slides: Path
    one: Path
    more: Path
    high: Path
    networks: dict[str, Path]
    scratch: Path
    sizes: Sizes

    def run(self, line: Sequence[str]) -> str:
        """Run a command; its output. Graphs and verdicts are kept for the time of the benchmark.

        At the smallest size it runs in this process, since its start takes longest.
        """
        cache = {"WSIKD_CACHE": str(self.scratch / "cache")}
        if self.sizes is SMALLEST:
            with patch.dict(os.environ, cache), redirect_stdout(StringIO()) as told:
                run_here(line)
            return told.getvalue()
        own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            line, check=False, capture_output=True, text=True, timeout=LIMIT_S,
            env={**own, **cache},
        )  # fmt: skip
        _await_left()
        if done.returncode:
            raise SystemExit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
        return done.stdout


def _adopt() -> None:
    """Become the parent of what a command leaves behind: workers' server ends after its command.

    Only the time of processes that were waited for counts.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)


def _await_left() -> None:
    """Wait for every process that a command has left behind."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def run_here(line: Sequence[str]) -> None:
    """A command of this benchmark in this process."""
    from wsikd.cli.main import main as wsikd

    if "--child" in line:
        print(json.dumps(child(*line[line.index("--child") + 1 :])))
    else:
        wsikd([*line[line.index("infer") :], "--jobs", "0"], standalone_mode=False)


def main() -> None:
    """Measure and report."""
    given = options("cohort")
    if given.child:
        print(json.dumps(child(*given.child)))
        return
    sizes = SMALLEST if given.smallest else FULL
    report = Report(given)
    if not given.smallest:
        _adopt()
    with workplace(given) as (folder, scratch):
        setting = prepare(folder, scratch, sizes)
        measure_student(report, setting)
        measure_growth(report, setting)
        measure_networks(report, setting)  # last, since it has no bar
    report.finish()


def child(what: str, *paths: str) -> float:
    """The hand-written loop, or a count of opened files, in this process."""
    from cohort_loop import count_opens, grade_by_hand

    work = {"loop": grade_by_hand, "opens": count_opens}[what]
    slides, model, out = map(Path, paths)
    return float(work(slides, model, out))


def prepare(folder: Path, scratch: Path, sizes: Sizes) -> Setting:
    """Draw the slides, make the networks, and folders of some of the slides."""
    from biopsies import draw_biopsies, save_networks  # with PyTorch, which the loop does without

    paths = draw_biopsies(folder, sizes.slides, sizes.side_px)
    spread = paths[:: max(1, sizes.slides // 12)]
    return Setting(
        linked(paths, scratch / "all"),
        linked(paths[:1], scratch / "one"),
        linked(paths[: sizes.more], scratch / "more"),
        linked(paths[: sizes.high], scratch / "high"),
        save_networks(scratch / "networks", spread),
        scratch,
        sizes,
    )


def linked(paths: Sequence[Path], folder: Path) -> Path:
    """A folder of links to slides."""
    folder.mkdir()
    for path in paths:
        (folder / path.name).symlink_to(path)
    return folder


class Infer:
    """``wsikd infer`` over a folder of slides, into an empty folder; returns how many slides."""

    def __init__(self, setting: Setting, slides: Path, network: str, *arguments: str) -> None:
        """Nothing is run yet."""
        self.setting, self.out = setting, setting.scratch / "out"
        self.work = float(len(list(slides.iterdir())))
        self.line = [
            sys.executable, "-m", "wsikd", "infer", "-i", str(slides), "-m",
            str(setting.networks[network]), *arguments, "-o", str(self.out),
        ]  # fmt: skip

    def prepare(self) -> None:
        """Remove what the contender before left."""
        shutil.rmtree(self.out, ignore_errors=True)

    def __call__(self) -> float:
        """Run the command."""
        self.setting.run(self.line)
        return self.work


class Once(Infer):
    """The same, warmed up by one slide alone, which makes the network's graph."""

    def warm_up(self) -> None:
        """Grade one slide."""
        line = list(self.line)
        line[line.index("-i") + 1] = str(self.setting.one)
        self.setting.run(line)


class Loop(Infer):
    """The hand-written loop over the same slides."""

    def __init__(self, setting: Setting, slides: Path) -> None:
        """Nothing is run yet."""
        super().__init__(setting, slides, "student")
        self.line = child_line("loop", slides, setting.networks["student"], self.out)


class Grown(Infer):
    """``wsikd infer`` of some slides into a folder that holds results of others."""

    def __init__(self, setting: Setting, results: int) -> None:
        """Make the folder, from the result of one slide under many names."""
        super().__init__(setting, setting.more, "student", "--format", "csv")
        self.base = setting.scratch / f"base-{results}"
        self.out = setting.scratch / f"out-{results}"
        self.line[-1] = str(self.out)
        made = setting.scratch / "out" / "b000"
        record = json.loads((made / "result.json").read_text())
        for number in range(results):
            name = f"a{number:04d}"
            record["summary"]["slide"], record["made_with"]["slide"] = name, f"{number:016x}"
            own = self.out / name
            own.mkdir(parents=True)
            (own / "result.json").write_text(json.dumps(record))
            shutil.copy(made / "tiles.csv", own)

    def prepare(self) -> None:
        """Remove the slides that were graded, and no other."""
        for slide in self.work_names():
            shutil.rmtree(self.out / slide, ignore_errors=True)

    def work_names(self) -> list[str]:
        """Names of the slides that are graded."""
        return [path.stem for path in Path(self.line[self.line.index("-i") + 1]).iterdir()]


def child_line(*arguments: object) -> list[str]:
    """This script in a process of its own."""
    return [sys.executable, str(Path(__file__).resolve()), "--child", *map(str, arguments)]


def measure_student(report: Report, setting: Setting) -> None:
    """The student with default formats, with CSV alone, on one slide, and the loop."""
    contenders = {
        DEFAULT: Infer(setting, setting.slides, "student"),
        CSV: Infer(setting, setting.slides, "student", "--format", "csv"),
        LOOP: Loop(setting, setting.slides),
        ONE: Infer(setting, setting.one, "student"),
    }
    timed = measure(dict(contenders), report.options.rounds, keeper(report))
    report.timings(timed, "slides")
    report.ratio("student, default formats: CPU seconds a slide", each(timed[DEFAULT], "cpu"),
                 BARS["cpu"], "lower")  # fmt: skip
    report.ratio("student, default formats: slides a second", 1 / each(timed[DEFAULT], "wall"),
                 BARS["wall"])  # fmt: skip
    report.speed(f"{CSV} / {LOOP}, per CPU second", (CSV, LOOP), BARS["loop"], timed)
    walls = [(b.wall / b.work) / (a.wall / a.work) for a, b in zip(timed[CSV], timed[LOOP],
                                                                   strict=True)]  # fmt: skip
    report.ratio(f"{CSV} / {LOOP}, per second", median(walls), BARS["loop"])
    report.ratio("one slide alone: CPU seconds", each(timed[ONE], "cpu"), BARS["one"], "lower")
    report.raw["result"] = about(setting)


def keeper(report: Report) -> Callable[[dict[str, list[Sample]]], None]:
    """Writes what was timed so far."""
    return lambda timed: report.keep(timed, "slides")


def each(samples: Sequence[Sample], what: str) -> float:
    """Median seconds a slide."""
    return median(getattr(s, what) / s.work for s in samples)


def about(setting: Setting) -> dict[str, Any]:
    """Engine, fields and files of the last slide graded."""
    record: dict[str, Any] = {}
    for file in (setting.scratch / "out").glob("*/result.json"):
        record = json.loads(file.read_text())
    return {
        "engine": record["engine"],
        "fields": record["summary"]["fields"],
        "seconds by stage": record["seconds"],
        "intervals": record["summary"]["intervals"],
    }


def measure_networks(report: Report, setting: Setting) -> None:
    """The teacher at 10x against the student at 2.5x, default formats and CSV alone: no bar.

    One round over some of the slides: the teacher takes as long as all else together.
    """
    contenders = {
        f"{name}, {what}, {setting.sizes.high} slides": Once(
            setting, setting.high, name, *arguments
        )
        for what, arguments in ((DEFAULT, ()), (CSV, ("--format", "csv")))
        for name in ("student", "teacher")
    }
    timed = measure(dict(contenders), 1, keeper(report))
    report.timings(timed, "slides")
    without = report.raw.setdefault("without a bar", {})
    for what in (DEFAULT, CSV):
        slides = f"{what}, {setting.sizes.high} slides"
        pair = timed[f"student, {slides}"], timed[f"teacher, {slides}"]
        for unit, values in (("CPU", rate_ratios(*pair)), ("wall", walls(*pair))):
            name = f"10x / 2.5x, {what}, {unit} time"
            without[name] = median(values)
            print(f"{name}: {without[name]:.3g}; no bar", flush=True)


def walls(fast: Sequence[Sample], slow: Sequence[Sample]) -> list[float]:
    """Wall time of the slow over that of the fast, round by round, for equal work."""
    return [b.wall / a.wall for a, b in zip(fast, slow, strict=True)]


def measure_growth(report: Report, setting: Setting) -> None:
    """The same slides into a folder of few and of many results."""
    sizes = setting.sizes
    first = Infer(setting, setting.one, "student", "--format", "csv")
    first.prepare()
    first()
    grown = {n: Grown(setting, n) for n in (sizes.few, sizes.many)}
    names = {n: f"{sizes.more} slides into a folder of {n}" for n in grown}
    rounds = min(report.options.rounds, sizes.growth)
    timed = measure({names[n]: own for n, own in grown.items()}, rounds, keeper(report))
    report.timings(timed, "slides")
    pair = names[sizes.many], names[sizes.few]
    title = f"time at {sizes.many} results / at {sizes.few}"
    report.cost(f"{title}, CPU", pair, BARS["growth"], timed)
    ratio = median(walls(timed[pair[1]], timed[pair[0]]))
    report.ratio(f"{title}, wall", ratio, BARS["growth"], "lower")
    opens = {n: opened(own, setting) for n, own in grown.items()}
    report.raw["files opened a slide"] = {str(n): v / sizes.more for n, v in opens.items()}
    report.ratio(f"files opened at {sizes.many} results / at {sizes.few}",
                 opens[sizes.many] / max(1.0, opens[sizes.few]), 1.05, "lower")  # fmt: skip


def opened(own: Grown, setting: Setting) -> float:
    """Files opened in a folder of results while some slides are graded into it."""
    own.prepare()
    told = setting.run(child_line("opens", setting.more, setting.networks["student"], own.out))
    return float(told.splitlines()[-1])


if __name__ == "__main__":
    main()
