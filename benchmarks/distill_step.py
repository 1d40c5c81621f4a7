"""One training step of AT+&FM against a step of FM alone, and against attention by autograd.

Teacher at 512 px and 10x, student at 128 px and 2.5x, the same untrained network on both sides.
The peer is a plain reading of the AT+ paper's loop (R. del Amor et al., EUSIPCO 2023): it
differentiates every class score twice and shares no code with ``wsikd.learn``. Beside it: the share
of an epoch that the loop spends waiting for patches, from memory and from files; and, where there
is a GPU, patches per second in bfloat16 at 512 and 128 px beside what the GPU gives a plain matrix
product in the same run.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Report, measure, options

# isort: split
import cv2
import numpy as np
import torch
from torch.nn import functional

from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.at_plus import AtPlus
from wsikd.learn.methods.base import Batch, Progress
from wsikd.models.backbones.base import macs
from wsikd.models.graders.pooled import build_grader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsikd.models.graders.pooled import Grader

CLASSES = 4
WEIGHTS = {"ce": 1.0, "fm": 0.1, "at_plus": 10.0}


@dataclass(frozen=True)
class Case:
    """A network, the patches of one step, and how many steps are timed together."""

    arch: str
    patch_px: int
    batch: int
    steps: int = 1


DEFAULT = [Case("vgg16", 512, 2), Case("resnet18", 512, 8), Case("vgg_small", 512, 8, 4)]
SMALLEST = [Case("vgg_small", 64, 2)]
WAITING_BAR = 0.05
GPU = [Case("vgg16", 512, 32, 4), Case("vgg16", 128, 256, 4), Case("resnet18", 512, 64, 4)]


def main() -> None:
    """Measure and report."""
    given = options("distill_step")
    report = Report(given)
    report.raw["torch threads"] = torch.get_num_threads()
    for case in SMALLEST if given.smallest else DEFAULT:
        run_case(report, case)
    run_loader(report, *((8, 64) if given.smallest else (512, 256)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" or given.smallest:
        for case in SMALLEST if given.smallest else GPU:
            run_throughput(report, case, device, 64 if given.smallest else 8192)
    else:
        report.raw["missing"]["images per second on a GPU"] = "no GPU here"
    report.finish()


def run_loader(report: Report, count: int, patch_px: int) -> None:
    """Share of an epoch's wall time that is spent waiting for the next batch."""
    with tempfile.TemporaryDirectory(prefix="wsikd-benchmark-") as name:
        file = write_patches(Path(name), count, patch_px)
        patches = load_patches(Data(paths=[str(file)]), Split())
        case = Case("vgg_small", patch_px, min(32, count // 2))
        order = np.arange(count)
        for source in ("files", "memory"):
            if source == "memory":
                patches.keep(order, 1.0, 2)
            shares = [waiting_share(case, patches.batches(order, case.batch)) for _ in range(2)]
            report.ratio(
                f"share of waiting for patches from {source}, {patch_px} px",
                min(shares), WAITING_BAR, "lower",
            )  # fmt: skip


def write_patches(folder: Path, count: int, patch_px: int) -> Path:
    """PNG files of smooth noise with a labels CSV, half of them for validation."""
    rng = np.random.default_rng(3)
    lines = ["image,slide,class,split"]
    for i in range(count):
        noise = rng.integers(0, 256, (patch_px // 4, patch_px // 4, 3), np.uint8)
        image = cv2.resize(noise, (patch_px, patch_px), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        half = "val" if i % 4 > 1 else "train"
        lines.append(f"{i}.png,{half}{i % 4},{'ab'[i % 2]},{half}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def waiting_share(case: Case, batches: Iterator[tuple[torch.Tensor, object]]) -> float:
    """Train on every batch once; wall time between asking for a batch and having it, of all."""
    method = AtPlus(*networks(case)).train()
    optimiser = torch.optim.AdamW(method.param_groups(), lr=1e-5)
    waited, started = 0.0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        images, _ = next(batches, (None, None))
        waited += time.perf_counter() - asked
        if images is None:
            return waited / (time.perf_counter() - started)
        views = {"high": images, "low": downsample(images, 4)}
        label = torch.arange(len(images)) % CLASSES
        batch = Batch(views, label, ("s",) * len(images), torch.arange(len(images)))
        advance(method, optimiser, batch)


def advance(method: AtPlus, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    """One step."""
    found = method(batch, Progress(0, 1))
    sum(WEIGHTS[name] * value for name, value in found.items()).backward()
    optimiser.step()
    optimiser.zero_grad()


def run_throughput(report: Report, case: Case, device: str, side: int) -> None:
    """Patches per second of AT+&FM in bfloat16, and the share of a matrix product's rate.

    The product is of matrices of ``side`` x ``side``.
    """
    batch = make_batch(case)
    views = {k: v.to(device, memory_format=torch.channels_last) for k, v in batch.views.items()}
    batch = Batch(views, batch.label.to(device), batch.slide, batch.box)
    method = AtPlus(*networks(case)).train().to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(method.param_groups(), lr=1e-5)

    def steps() -> None:
        with torch.autocast(device, torch.bfloat16):
            for _ in range(case.steps):
                advance(method, optimiser, batch)

    seconds = timed_on(device, steps) / (case.steps * case.batch)
    student, teacher = (macs(net, px) for net, px in zip(networks(case), sides(case), strict=True))
    flops = 2 * (teacher + 3 * student)  # a backward pass costs two forward passes
    share = flops / seconds / product_rate(device, side)
    name = f"{case.arch}, {case.patch_px} px, bfloat16 on {device}"
    report.raw.setdefault("throughput", {})[name] = {
        "patches per second": 1 / seconds, "TFLOP per second": flops / seconds / 1e12,
    }  # fmt: skip
    print(f"{name}: {1 / seconds:.4g} patches per wall-s")
    report.ratio(f"{name}: share of a matrix product's rate", share, 0.1)


def sides(case: Case) -> tuple[int, int]:
    """Pixels that the student and the teacher read."""
    return case.patch_px // 4, case.patch_px


def product_rate(device: str, side: int) -> float:
    """Floating-point operations per second of a square bfloat16 matrix product."""
    a = torch.ones(side, side, device=device, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(10):
            torch.mm(a, a)

    return 10 * 2 * side**3 / timed_on(device, products)


def timed_on(device: str, run: Callable[[], None]) -> float:
    """Wall seconds, the least of three after a warm-up, with the device's queue emptied."""
    least = float("inf")
    for turn in range(4):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn:
            least = min(least, time.perf_counter() - started)
    return least


def run_case(report: Report, case: Case) -> None:
    """Time the steps of one network in turn."""
    batch = make_batch(case)
    check_losses(report, case, batch)
    run: dict[str, Callable[[], float]] = {
        f"{case.arch}, FM": step_of(case, batch, ("ce", "fm")),
        f"{case.arch}, AT+&FM": step_of(case, batch, ("ce", "fm", "at_plus")),
        f"{case.arch}, AT+&FM by autograd": plain_step(case, batch),
    }
    timed = measure(run, report.options.rounds)
    report.timings(timed, "patches")
    fm, closed, autograd = run
    name = f"{case.arch}: cost of a step of AT+&FM / FM alone"
    report.cost(name, (closed, fm), 1.15, timed)
    name = f"{case.arch}: cost of attention by autograd / closed form"
    report.speed(name, (closed, autograd), 1.0, timed)


def make_batch(case: Case) -> Batch:
    """Random pixels, the low view an area average of the high one."""
    rng = np.random.default_rng(5)
    shape = (case.batch, 3, case.patch_px, case.patch_px)
    high = torch.from_numpy(rng.integers(0, 256, shape, np.uint8))
    label = torch.arange(case.batch) % CLASSES
    names = tuple(f"s{i}" for i in range(case.batch))
    views = {"high": high, "low": functional.avg_pool2d(high.float(), 4)}
    return Batch(views=views, label=label, slide=names, box=torch.arange(case.batch))


def networks(case: Case) -> tuple[Grader, Grader]:
    """Student and teacher, the same at every call."""
    torch.manual_seed(0)
    return build_grader(case.arch, CLASSES), build_grader(case.arch, CLASSES)


def step_of(case: Case, batch: Batch, terms: tuple[str, ...]) -> Callable[[], float]:
    """Training steps of wsikd's method."""
    method = AtPlus(*networks(case), terms=terms).train()
    optimiser = torch.optim.AdamW(method.param_groups(), lr=1e-5)

    def steps() -> float:
        for _ in range(case.steps):
            advance(method, optimiser, batch)
        return case.steps * case.batch

    return steps


def plain_step(case: Case, batch: Batch) -> Callable[[], float]:
    """Training steps of the peer."""
    student, teacher = networks(case)
    teacher.eval()
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-5)

    def steps() -> float:
        for _ in range(case.steps):
            plain_loss(student, teacher, batch).backward()
            optimiser.step()
            optimiser.zero_grad()
        return case.steps * case.batch

    return steps


def plain_loss(student: Grader, teacher: Grader, batch: Batch) -> torch.Tensor:
    """Cross-entropy + 0.1 FM + 10 AT+ by the words of the paper, attention by autograd."""
    deepest = student.backbone.deepest
    logits, taps = student.with_taps(batch.views["low"], [deepest])
    own = taps[deepest]
    high, taught = teacher.with_taps(batch.views["high"], [deepest])
    theirs = taught[deepest]
    shape = own.shape[-2:]
    maps = functional.adaptive_avg_pool2d(attention(high, theirs, graph=False).detach(), shape)
    difference = scaled(attention(logits, own, graph=True)) - scaled(maps)
    at_plus = difference.pow(2).flatten(1).mean(1).sqrt().mean()
    target = functional.adaptive_avg_pool2d(theirs.detach(), shape)
    fm = (own - target).pow(2).mean().sqrt()
    ce = functional.cross_entropy(logits, batch.label)
    return ce + WEIGHTS["fm"] * fm + WEIGHTS["at_plus"] * at_plus


def attention(logits: torch.Tensor, feature: torch.Tensor, *, graph: bool) -> torch.Tensor:
    """Per class: channels weighted by the mean slope of the class score, positive parts summed."""
    maps = []
    for c in range(logits.shape[1]):
        score = logits[:, c].sum()
        (slope,) = torch.autograd.grad(score, feature, retain_graph=True, create_graph=graph)
        maps.append(functional.relu(slope.mean((2, 3), keepdim=True) * feature).sum(1))
    return torch.stack(maps, 1)


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """Each patch's maps from 0 to 1."""
    flat = maps.flatten(1)
    low, high = flat.min(1).values, flat.max(1).values
    return (maps - low.view(-1, 1, 1, 1)) / (high - low + 1e-8).view(-1, 1, 1, 1)


def check_losses(report: Report, case: Case, batch: Batch) -> None:
    """Both must compute the same loss, or their times compare nothing."""
    method = AtPlus(*networks(case)).train()
    terms = method(batch, Progress(0, 1))
    own = sum(WEIGHTS[name] * value.item() for name, value in terms.items())
    student, teacher = networks(case)
    peer = plain_loss(student, teacher.eval(), batch).item()
    assert abs(own - peer) <= 1e-4 * abs(peer), f"{case.arch}: loss {own} here, {peer} in the peer"
    report.raw.setdefault("loss, wsikd and peer", {})[case.arch] = [own, peer]


if __name__ == "__main__":
    main()
