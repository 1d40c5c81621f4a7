"""Two gloo processes, half a batch each, against one process with the whole batch."""

import pytest
import torch

from tests.learn.methods import processes
from wsikd.core.workers.start import context


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    both = context().Process(target=processes.run, args=(folder,))
    both.start()
    both.join(timeout=120)
    assert both.exitcode == 0
    return folder


@pytest.mark.parametrize("name", processes.METHODS)
def test_two_processes_give_the_gradient_of_one(name, two_processes):
    made = processes.METHODS[name]()
    terms, slopes, _ = processes.gradients(made, made, processes.part(0, 1, name))
    halves = [torch.load(two_processes / f"{name} {rank}.pt") for rank in (0, 1)]
    for rank in (0, 1):
        assert set(halves[rank][1]) == set(slopes)
        for key, value in slopes.items():
            scale = value.abs().max()
            assert scale > 0
            assert (halves[rank][1][key] - value).abs().max() <= 1e-6 * scale, key
    for key, value in terms.items():
        own = [half[0][key] for half in halves]
        assert torch.allclose(sum(own) / 2, value, rtol=1e-9, atol=0), key
        if key in ("fm", "sr_last", "sr_spatial"):  # the root is taken of all processes' mean
            assert torch.allclose(own[0], own[1], rtol=1e-12, atol=0)


def test_a_root_in_each_process_would_be_off(two_processes):
    """What the reduction before the root mends, shown on the same halves."""
    whole = processes.method(None)(processes.part(0, 1), processes.AT)["fm"].item()
    alone = [processes.method(None)(processes.part(r, 2), processes.AT)["fm"] for r in (0, 1)]
    shared = torch.load(two_processes / "closed form 0.pt")[0]["fm"].item()
    assert shared == pytest.approx(whole, rel=1e-9)
    assert abs(sum(v.item() for v in alone) / 2 - whole) > 1e-4 * whole


def test_centres_are_of_all_regions_that_any_process_keeps(two_processes):
    """The first process keeps one region, the second two: a mean of their means would be off."""
    made = processes.METHODS["slpd"]()
    whole = processes.gradients(made, made, processes.part(0, 1, "slpd"))[2]
    assert len(whole) == 3
    for rank in (0, 1):
        found = torch.load(two_processes / f"slpd {rank}.pt")[2]
        for key, value in whole.items():
            assert value.any()
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-12)
    kept = [processes.METHODS["slpd"]() for _ in (0, 1)]
    for rank, alone in enumerate(kept):
        alone(processes.part(rank, 2, "slpd"), processes.AT)
    for name in ("intra", "inter"):
        mean = sum(alone.centres.get(name) for alone in kept) / 2
        off = (mean - whole[f"helpers.centres.{name}"]).abs().max()
        assert off > 1e-2 * whole[f"helpers.centres.{name}"].abs().max()
