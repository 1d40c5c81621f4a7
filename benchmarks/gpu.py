"""How near reading, training and inference come to a device's own limits, in one run.

First the tests that compare the device with the CPU. Then, in patches per second: reading files
against decoding alone; training a teacher at 10x and distilling a student at 2.5x against steps on
one batch that stays on the device; inference at both against forward passes on such a batch. It
needs no slide and draws its own patches.

``--device cpu`` tries it where there is no GPU; ``--small`` is ``--smallest``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness import Report, options

# isort: split
import cv2
import numpy as np
import torch

from wsikd.core.workers.machine import usable_cores
from wsikd.grade.engines import Network, started
from wsikd.grade.engines.choose import default_precision, open_engine
from wsikd.learn.data.patches import PatchSet, load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.engine.configurations import model_of
from wsikd.learn.engine.one_process import OneProcess
from wsikd.learn.methods.base import Batch, Progress
from wsikd.learn.patch.train import distill
from wsikd.models.device import computes_bf16, deterministic, pick_device
from wsikd.models.graders.pooled import build_grader

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsikd.learn.patch.settings import RunConfig

CLASSES, FACTOR = 3, 4
TESTS_S = 240
BAR = 0.8


@dataclass(frozen=True)
class Sizes:
    """Networks, patches on disk and in a step, and steps that are timed."""

    arch: str
    patches: int
    patch_px: int
    batch: dict[str, int]
    steps: int


DEFAULT = Sizes("resnet18", 2048, 512, {"10x": 64, "2.5x": 256}, 24)
SMALLEST = Sizes("vgg_small", 24, 64, {"10x": 4, "2.5x": 4}, 3)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", default="auto")
    own, rest = parser.parse_known_args()
    given = options("gpu", ["--smallest" if word == "--small" else word for word in rest])
    sizes, report = SMALLEST if given.smallest else DEFAULT, Report(given)
    device = pick_device(own.device)
    report.raw["device"] = name_of(device)
    if device.type == "cuda":
        run_tests(report)
    with tempfile.TemporaryDirectory(prefix="wsikd-benchmark-") as folder:
        place = Path(folder)
        file = write_patches(place, sizes)
        with deterministic(wanted=False):
            measure_reading(report, file)
            measure_training(report, file, place, sizes, device)
            measure_inference(report, sizes, device)
    report.finish()


def name_of(device: torch.device) -> str:
    """The device, in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def run_tests(report: Report) -> None:
    """The tests of the mark ``gpu``, in a process of their own."""
    root = Path(__file__).parent.parent
    asked = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n0", "tests/learn/test_cuda.py"]
    try:
        done = subprocess.run(
            asked, cwd=root, capture_output=True, text=True, timeout=TESTS_S, check=False
        )
        told = done.stdout.splitlines()[-1:] or done.stderr.splitlines()[-1:]
    except subprocess.TimeoutExpired:
        told = [f"not done after {TESTS_S} s"]
    report.raw["tests"] = told[0] if told else "no output"
    print(f"pytest -m gpu: {report.raw['tests']}", flush=True)


def write_patches(folder: Path, sizes: Sizes) -> Path:
    """JPEG files of smooth noise with a labels CSV, a quarter of them for validation."""

    def write(number: int) -> str:
        rng, side = np.random.default_rng(number), sizes.patch_px
        noise = rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        image = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
        part = "val" if number % 4 == 0 else "train"
        return f"{number}.jpg,{part}{number % 8},{'abc'[number % CLASSES]},{part}"

    with ThreadPoolExecutor(usable_cores()) as pool:
        lines = ["image,slide,class,split", *pool.map(write, range(sizes.patches))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def compare(report: Report, name: str, found: float, limit: float) -> None:
    """Keep both rates, and the share of the limit that was reached."""
    report.raw.setdefault("patches per second", {})[name] = {"found": found, "limit": limit}
    print(f"{name:<28} {found:10.5g} patches/s   limit {limit:10.5g} patches/s", flush=True)
    report.ratio(f"{name}: share of its limit", found / limit, BAR)


def rate(count: int, run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Patches per wall second, the median after a warm-up, with the device's queue emptied."""
    found = []
    for turn in range(rounds + 1):
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn:
            found.append(count / (time.perf_counter() - begun))
    return median(found)


def measure_reading(report: Report, file: Path) -> None:
    """Batches that are read ahead, against decoding the same files in as many threads."""
    patches: PatchSet = load_patches(Data(paths=[str(file)]), Split(check_images=False))
    threads, order = usable_cores(), np.arange(len(patches))
    cpu = torch.device("cpu")

    def batches() -> None:
        for _ in patches.batches(order, 64, threads=threads):
            pass

    def decode() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(patches.read, order.tolist()):
                pass

    rounds = min(3, report.options.rounds)
    limit, found = (rate(len(order), run, cpu, rounds) for run in (decode, batches))
    compare(report, "reading", found, limit)


def measure_training(
    report: Report, file: Path, place: Path, sizes: Sizes, device: torch.device
) -> None:
    """A teacher at 10x, then a student at 2.5x, by the command's own loop."""
    teacher = str(place / "teacher")
    for route, method, more in (
        ("10x", "supervised", {}),
        ("2.5x", "at_plus", {"teacher": teacher, "student_mpp": FACTOR * 1.0}),
    ):
        config = settings(file, method, sizes, sizes.batch[route], **more)
        out = place / ("teacher" if route == "10x" else "student")
        found = trained_rate(config, out, sizes, device)
        limit = step_rate(config, sizes, route, device, min(3, report.options.rounds))
        compare(report, f"training, {route}", found, limit)


def settings(file: Path, method: str, sizes: Sizes, batch: int, **more: Any) -> RunConfig:
    """A run of two epochs, with the defaults but for its size."""
    data = {"paths": [str(file)], "mpp": 1.0}
    if "student_mpp" in more:
        data["student_mpp"] = more.pop("student_mpp")
    optim = {"epochs": 2, "batch_size": batch, "epoch_patches": batch * sizes.steps}
    content = {"method": method, "network": {"arch": sizes.arch}, "data": data, "optim": optim,
               "split": {"check_images": False, "check_teacher": False}, **more}  # fmt: skip
    return model_of(method).model_validate(content)  # type: ignore[return-value]


def trained_rate(config: RunConfig, out: Path, sizes: Sizes, device: torch.device) -> float:
    """Patches per second of the second epoch's steps but the first."""
    times: dict[int, float] = {}

    def on_step(done: int, _: int) -> None:
        times[done] = time.perf_counter()

    distill(config, out, device=str(device), on_step=on_step)
    first, last = sizes.steps + 1, 2 * sizes.steps
    return (last - first) * config.optim.batch_size / (times[last] - times[first])


def step_rate(
    config: RunConfig, sizes: Sizes, route: str, device: torch.device, rounds: int
) -> float:
    """Patches per second of steps on one batch that the device holds, in the same precision."""
    count, side = sizes.batch[route], sizes.patch_px
    precision = "bf16-mixed" if computes_bf16(device) else "32-true"
    process, generator = OneProcess(precision, device), torch.Generator().manual_seed(0)
    process.launch()
    high = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    views = {"low": high.float() if route == "10x" else PIXELS(high.float())}
    if route == "2.5x":
        views["high"] = high.float()
    views = {k: v.to(device, memory_format=torch.channels_last) for k, v in views.items()}
    label = (torch.arange(count) % CLASSES).to(device)
    batch = Batch(views, label, ("s",) * count, torch.arange(count))
    nets = [build_grader(sizes.arch, CLASSES) for _ in range(1 if route == "10x" else 2)]
    method = config.learner.build(config, nets[0], nets[1] if len(nets) > 1 else None).train()
    method.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        method.param_groups(), lr=1e-5, fused=True if device.type == "cuda" else None
    )
    wrapped, _ = process.setup(method, optimizer)

    def steps() -> None:
        for step in range(sizes.steps):
            optimizer.zero_grad(set_to_none=True)
            terms = wrapped(batch, Progress(0, 1, step, sizes.steps))
            weighted = [config.weights[k] * v for k, v in terms.items()]
            process.backward(torch.stack(weighted).sum())
            optimizer.step()

    return rate(count * sizes.steps, steps, device, rounds)


PIXELS = torch.nn.AvgPool2d(FACTOR)


def measure_inference(report: Report, sizes: Sizes, device: torch.device) -> None:
    """Batches from memory through the engine of ``infer``, against forward passes alone."""
    rounds, rates = min(3, report.options.rounds), {}
    precision = default_precision("torch", str(device))
    for route, side in (("10x", sizes.patch_px), ("2.5x", sizes.patch_px // FACTOR)):
        net, count = build_grader(sizes.arch, CLASSES).eval(), 2 * sizes.batch[route]
        engine = open_engine(
            Network(lambda net=net: net, side), "torch", precision,
            device=str(device), threads=usable_cores(), check=False,
        )  # fmt: skip
        rng = np.random.default_rng(1)
        batches = [rng.integers(0, 256, (count, side, side, 3), np.uint8) for _ in range(2)]
        held: Any = torch.from_numpy(batches[0]).to(device)

        def through(engine: Any = engine, batches: Any = batches) -> None:
            waiting = []
            for number in range(sizes.steps):
                waiting.append(started(engine, batches[number % 2]))
                if len(waiting) >= engine.in_flight:
                    waiting.pop(0)()
            for wait in waiting:
                wait()

        @torch.inference_mode()
        def forward(engine: Any = engine, held: Any = held) -> None:
            for _ in range(sizes.steps):
                engine._logits(held)

        limit = rate(count * sizes.steps, forward, device, rounds)
        rates[route] = rate(count * sizes.steps, through, device, rounds)
        compare(report, f"inference, {route}, {precision}", rates[route], limit)
    report.raw["fields per second, 2.5x / 10x"] = rates["2.5x"] / rates["10x"]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
