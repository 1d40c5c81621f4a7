"""What the benchmarks share: interleaved timing, peak memory, the record, the synthetic slide.

Import this before numpy or torch: it sets, where the caller has not, the same thread settings as
the ``wsikd`` command, which those libraries read when they load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
for _name, _value in THREADS.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PACKAGES = (
    "numpy", "opencv-python", "imagecodecs", "tifffile", "openslide-python", "openslide-bin",
    "pillow", "simplejpeg", "numba", "llvmlite", "zarr", "dask", "torch", "torchvision",
    "openvino", "onnxruntime", "tiatoolbox", "cucim-cu13", "fastslide", "tiffslide", "hs2p",
    "wsistream", "pytessera", "lazyslide",
)  # fmt: skip
LIMIT_S = 600


@dataclass(frozen=True)
class Options:
    """The command line of a benchmark."""

    theme: str
    json: Path | None
    smallest: bool
    rounds: int
    child: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One timed call: CPU seconds (user + system, all threads and ended children) and the work."""

    cpu: float
    wall: float
    work: float


@dataclass
class Report:
    """Ratios and raw figures of one run; see :meth:`finish`."""

    options: Options
    ratios: list[dict[str, Any]] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=lambda: {"missing": {}})
    started: float = field(default_factory=time.time)
    load: tuple[float, ...] = field(default_factory=lambda: _load())

    def ratio(self, name: str, value: float, bar: float, better: str = "higher") -> None:
        """Add one figure that has a bar, and print it."""
        assert math.isfinite(value), name
        self._add(name, float(f"{value:.6g}"), bar, better)

    def missing(self, name: str, reason: str, bar: float, better: str = "higher") -> None:
        """Add a figure whose peer is not there: no value, and the bar counts as failed."""
        self.raw["missing"][name] = reason
        self._add(name, None, bar, better)

    def speed(self, name: str, pair: tuple[str, str], bar: float, timed: Timed) -> None:
        """Add the rate of ``pair[0]`` over that of ``pair[1]``, with its spread over the rounds."""
        self._by_round(name, rate_ratios(timed[pair[0]], timed[pair[1]]), bar, "higher")

    def cost(self, name: str, pair: tuple[str, str], bar: float, timed: Timed) -> None:
        """Add the CPU time of ``pair[0]`` over that of ``pair[1]``, for equal work."""
        self._by_round(name, rate_ratios(timed[pair[1]], timed[pair[0]]), bar, "lower")

    def timings(self, timed: Timed, unit: str) -> None:
        """Keep and print what was timed: ``unit`` names the work."""
        table = self.raw.setdefault("timings", {})
        for name, samples in timed.items():
            row = summary(samples)
            table[name] = {"unit": unit, **row}
            cpu, wall = row[f"{CPU} per unit"], row["wall seconds per unit"]
            print(
                f"{name:<44} {1 / cpu['median']:10.4g} {unit} per CPU-s   "
                f"{1 / wall['median']:10.4g} per wall-s   "
                f"CPU spread {cpu['min'] / cpu['median']:.2f}-{cpu['max'] / cpu['median']:.2f}"
            )

    def keep(self, timed: Timed, unit: str) -> None:
        """Write FILE with the rounds so far, so that an interrupted run keeps its record."""
        finished = dict(self.raw)
        self.raw["unfinished"] = {
            name: {"unit": unit, **summary(samples)} for name, samples in timed.items() if samples
        }
        self._write()
        self.raw = finished

    def finish(self) -> None:
        """Write FILE, whole or not at all, if the command line names one."""
        print(f"{len(self.ratios)} ratios in {time.time() - self.started:.0f} s")
        self._write()

    def _write(self) -> None:
        record = {"ratios": self.ratios, "environment": self._environment(), "raw": self.raw}
        if self.options.json is None:
            return
        path = self.options.json
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)

    def _by_round(self, name: str, values: list[float], bar: float, better: str) -> None:
        spread = {"median": median(values), "min": min(values), "max": max(values)}
        self.raw.setdefault("ratios by round", {})[name] = spread
        self.ratio(name, spread["median"], bar, better)

    def _add(self, name: str, value: float | None, bar: float, better: str) -> None:
        self.ratios.append({"name": name, "value": value, "bar": bar, "better": better})
        print(describe(self.ratios[-1], self.raw["missing"].get(name)), flush=True)

    def _environment(self) -> dict[str, Any]:
        return {
            "theme": self.options.theme,
            "command": command(self.options),
            "rounds": self.options.rounds,
            "smallest": self.options.smallest,
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": _versions(),
            "threads": {name: os.environ[name] for name in THREADS}
            | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "unset")},
            "git": _git(),
            "date": time.strftime("%Y-%m-%d", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "load average": {"start": self.load, "end": _load()},
            "cache state": "page cache warm: every contender ran once, untimed, beforehand",
            "timing": "CPU seconds of all threads; medians of interleaved rounds; a ratio is the "
            "median of the ratios round by round",
        }


Timed = dict[str, list[Sample]]
CPU = "CPU seconds"


def options(theme: str, argv: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{theme}.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--smallest", action="store_true", help="tiny sizes, for the test suite")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--child", nargs="+", default=(), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    return Options(theme, given.json, given.smallest, given.rounds, tuple(given.child))


def command(given: Options) -> str:
    """The command line that repeats this run."""
    more = " --smallest" if given.smallest else ""
    if given.rounds != 5:
        more += f" --rounds {given.rounds}"
    if given.json is not None:
        more += f" --json {given.json.name if given.json.is_absolute() else given.json}"
    return f"python benchmarks/{given.theme}.py{more}"


def measure(
    contenders: dict[str, Callable[[], float]],
    rounds: int,
    after: Callable[[Timed], None] | None = None,
) -> Timed:
    """Run every contender once untimed, then all of them in turn, ``rounds`` times.

    Args:
        contenders: name -> function that does the work and returns its amount (megapixels,
            fields, steps): rates are compared, so contenders may do different amounts. What its
            attribute ``prepare``, if it has one, does beforehand is not timed.
        rounds: how often.
        after: called after each round with what was timed so far.
    """
    for name, run in contenders.items():
        _progress(f"warm-up: {name}")
        getattr(run, "prepare", _nothing)()
        getattr(run, "warm_up", run)()
    timed: Timed = {name: [] for name in contenders}
    for number in range(rounds):
        _progress(f"round {number + 1} of {rounds}")
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            getattr(contenders[name], "prepare", _nothing)()
            cpu, wall = _cpu_seconds(), time.perf_counter()
            work = contenders[name]()
            sample = Sample(_cpu_seconds() - cpu, time.perf_counter() - wall, work)
            timed[name].append(sample)
        if after:
            after(timed)
    return timed


def _nothing() -> None:
    pass


def rate_ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> list[float]:
    """Work per CPU second of ``ours`` over that of ``theirs``, round by round."""
    return [(a.work / a.cpu) / (b.work / b.cpu) for a, b in zip(ours, theirs, strict=True)]


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Median, least and most of CPU and wall seconds per unit of work."""
    per_unit = {
        f"{CPU} per unit": [s.cpu / s.work for s in samples],
        "wall seconds per unit": [s.wall / s.work for s in samples],
    }
    rows = {
        name: {"median": median(values), "min": min(values), "max": max(values)}
        for name, values in per_unit.items()
    }
    return {"work per round": samples[0].work, "rounds": len(samples), **rows}


def describe(ratio: dict[str, Any], missing: str | None = None) -> str:
    """One printed line of a ratio."""
    value, bar = ratio["value"], ratio["bar"]
    sign = ">=" if ratio["better"] == "higher" else "<="
    if value is None:
        return f"{ratio['name']}: not measured ({missing}); bar {sign} {bar:g}: not met"
    met = value >= bar if ratio["better"] == "higher" else value <= bar
    return f"{ratio['name']}: {value:.4g}; bar {sign} {bar:g}: {'met' if met else 'not met'}"


def child_memory(*arguments: str) -> dict[str, float]:
    """What this script, run again with ``--child arguments``, printed with own_peak_mb last."""
    script = Path(sys.argv[0]).resolve()
    line = [sys.executable, str(script), "--child", *arguments]
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    return {name: float(mb) for name, mb in json.loads(done.stdout.splitlines()[-1]).items()}


def own_peak_mb() -> float:
    """Peak resident memory of this process so far, in MB; no parent's memory counts in it."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return round(float(lines["VmHWM"].split()[0]) * 1024 / 1e6, 1)
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


@contextmanager
def workplace(given: Options) -> Iterator[tuple[Path, Path]]:
    """Folders for (synthetic slides, scratch): the slides are kept, except at the smallest size."""
    with tempfile.TemporaryDirectory(prefix="wsikd-benchmark-") as scratch:
        if given.smallest:
            yield Path(scratch), Path(scratch)
            return
        default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wsikd"
        cache = Path(os.environ.get("WSIKD_CACHE", default))
        cache.mkdir(parents=True, exist_ok=True)
        yield cache, Path(scratch)


def _progress(text: str) -> None:
    """Tell the terminal, if there is one, what is being done."""
    if sys.stderr.isatty() or "WSIKD_BENCHMARK_PROGRESS" in os.environ:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _load() -> tuple[float, ...]:
    return tuple(round(v, 2) for v in os.getloadavg())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("wsikd", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> str | None:
    from wsikd.core.run import git_state  # here, since threads are set before NumPy comes in

    return git_state(Path(__file__).resolve().parents[1])
