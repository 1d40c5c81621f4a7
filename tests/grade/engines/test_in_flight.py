"""Two batches in flight: the same map, in the same order, and weights that are rounded once."""

import numpy as np
import pytest
import torch

from tests.grade.engines.test_engines import ARCHS, grader, patches
from tests.grade.maps import FakeSlide
from tests.grade.test_predict import picture, predictor
from wsikd.grade.engines import Network, Place, started
from wsikd.grade.engines.check import Checked
from wsikd.grade.engines.with_openvino import OpenVinoEngine
from wsikd.grade.engines.with_torch import TorchEngine, cast_once
from wsikd.grade.predict import PredictSettings


class Delayed:
    """Computes a batch when its result is asked for, from a copy of the pixels."""

    name, precision = "torch", "fp32"

    def __init__(self, engine, in_flight=2):
        self.engine, self.in_flight, self.open, self.most = engine, in_flight, 0, 0

    def __call__(self, batch):
        return self.engine(batch)

    def submit(self, batch):
        kept = batch.copy()
        self.open += 1
        self.most = max(self.most, self.open)

        def wait():
            self.open -= 1
            return self.engine(kept)

        return wait


def test_a_map_is_the_same_with_two_in_flight():
    found = []
    for in_flight in (1, 2):
        made = predictor(PredictSettings(tissue="all", batch_size=7))
        made.engine = Delayed(made.ready(), in_flight)
        seen, shown = [], []
        found.append(
            made.predict(
                FakeSlide(picture(3)), on_progress=lambda done, _, seen=seen: seen.append(done),
                watch=lambda index, *_, shown=shown: shown.extend(index.tolist()),
            ).probability_khw
        )  # fmt: skip
        assert seen == sorted(seen)
        assert shown == [*range(len(shown))]
        assert made.engine.most == in_flight
        assert made.engine.open == 0
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("arch", ARCHS)
def test_weights_rounded_once_give_what_autocast_gives(arch):
    module, x = grader(arch), torch.from_numpy(patches(2)).permute(0, 3, 1, 2)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return module(x).float()

    wanted = run()
    cast_once(module)
    assert module.head.weight.dtype == torch.bfloat16
    assert torch.equal(run(), wanted)


def test_an_engine_on_a_cpu_computes_at_once():
    made = grader("vgg_small")
    engine, x = TorchEngine(Network(lambda: made, 64), Place()), patches(5)
    wanted, wait = engine(x), started(engine, x)
    x[:] = 0
    np.testing.assert_array_equal(wait(), wanted)
    assert engine.in_flight == 1


def test_a_checked_engine_computes_what_it_compares():
    made = grader("vgg_small")
    engine = TorchEngine(Network(lambda: made, 64), Place())
    delayed = Delayed(engine)
    checked, x = Checked(delayed, lambda: engine, fields=8), patches(6)
    for _ in range(2):
        np.testing.assert_array_equal(started(checked, x)(), engine(x))
    assert (checked.decided, delayed.most, checked.in_flight) == (True, 0, 2)
    wait = started(checked, x)
    assert delayed.open == 1
    np.testing.assert_array_equal(wait(), engine(x))


def test_openvino_computes_several_batches_at_once_and_none_is_mixed_up():
    """Batches of one part and of several, answered in any order, with their memory reused."""
    pytest.importorskip("openvino")
    made = grader("vgg_small")
    engine = OpenVinoEngine(Network(lambda: made, 64), Place(threads=2))
    rng = np.random.default_rng(5)
    batches = [rng.integers(0, 256, (n, 64, 64, 3), np.uint8) for n in (32, 5, 90, 32, 1)]
    wanted = [engine(batch) for batch in batches]
    shown = [batch.copy() for batch in batches]
    waiting = []
    for batch in shown:
        waiting.append(started(engine, batch))
        batch[:] = 0
    found = {n: waiting[n]() for n in (3, 0, 4, 2, 1)}
    for number, logits in enumerate(wanted):
        np.testing.assert_array_equal(found[number], logits)
