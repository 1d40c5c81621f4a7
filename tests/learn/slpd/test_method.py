"""The terms of ``slpd`` against double loops, its centres, its teacher, and who teaches whom."""

import numpy as np
import pytest
import torch

from tests.learn.methods.slpd_parts import draw, held, region_batch, slpd_method
from wsikd.learn.losses.dino import dino_loss, moved_centre, prototype_loss, sharpened
from wsikd.learn.methods.base import Progress
from wsikd.learn.slpd.data import centre, crop
from wsikd.learn.slpd.method import Slpd

AT = Progress(1, 4, 2, 5)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def entropy(target, student, tau):
    """H(target, softmax(student / tau)), number by number."""
    p = softmax(student / tau)
    return -sum(t * np.log(q) for t, q in zip(target, p, strict=True))


def test_dino_is_the_mean_over_pairs_of_different_views():
    student, taught, c = draw(5, 3, 7), draw(2, 3, 7, seed=1), draw(7, seed=2)
    found = dino_loss([student[:2], student[2:]], taught, c)
    total, pairs = 0.0, 0
    for g in range(2):
        for v in range(5):
            if v == g:
                continue
            pairs += 1
            for b in range(3):
                q = softmax((taught[g, b].numpy().astype(float) - c.numpy()) / 0.04)
                total += entropy(q, student[v, b].numpy().astype(float), 0.1) / 3
    assert pairs == 8
    assert float(found) == pytest.approx(total / pairs, rel=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
def test_prototypes_teach_the_kept_samples_through_every_view(skip, targets):
    student, scores = draw(5, 4, 7), draw(targets, 4, 7, seed=1)
    keep = torch.tensor([[True, False, True, True]] * targets)
    keep[-1, 2] = False
    q = sharpened(scores, draw(7, seed=2), 0.04)
    found = prototype_loss([student[:2], student[2:]], q, keep, skip_first_view=skip)
    values = []
    for t in range(targets):
        for b in np.flatnonzero(keep[t]):
            of_views = [
                entropy(q[t, b].numpy().astype(float), student[v, b].numpy().astype(float), 0.1)
                for v in range(5)
                if not (skip and v == t)
            ]
            values.append(np.mean(of_views))
    assert float(found) == pytest.approx(np.mean(values), rel=1e-5)


def test_nothing_kept_teaches_nothing_and_is_no_nan():
    student = draw(2, 3, 7).requires_grad_()
    none = torch.zeros(1, 3, dtype=torch.bool)
    found = prototype_loss([student], sharpened(draw(1, 3, 7), draw(7), 0.04), none)
    found.backward()
    assert float(found.detach()) == 0
    assert not student.grad.any()
    before = draw(7)
    assert torch.equal(moved_centre(before, torch.zeros(7), torch.zeros(())), before)


def test_a_sample_that_is_not_kept_has_no_slope():
    student = draw(2, 3, 7).requires_grad_()
    keep = torch.tensor([[True, False, True]])
    prototype_loss([student], sharpened(draw(1, 3, 7), draw(7), 0.04), keep).backward()
    assert not student.grad[:, 1].any()
    assert student.grad[:, [0, 2]].any()


@pytest.mark.parametrize("shared", [False, True])
def test_terms_and_centres_of_a_step(shared):
    method, given = slpd_method(shared_centre=shared), region_batch([0, 2, 4, 1])
    bank = held()
    method.bank.put(bank)
    found = {name: float(term.detach()) for name, term in method(given, AT).items()}
    teacher, student = method.teacher, method.student
    with torch.no_grad():
        taught = torch.stack([teacher.scores(view) for view in given.views["global"]])
        own = [torch.stack([student.scores(v) for v in given.views[k]]) for k in method.views]
        zero = torch.zeros(20)
        assert found["dino"] == pytest.approx(float(dino_loss(own, taught, zero)), rel=1e-5)
        np.testing.assert_allclose(method.centres.dino, 0.1 * taught.mean((0, 1)), atol=1e-6)
        centre = zero
        for name, rows in (
            ("intra", {0: (0, 0), 1: (1, 1), 3: (0, 1)}),  # place -> slide and prototype
            ("inter", {0: (1, 1), 1: (0, 0), 3: (1, 0)}),
        ):
            scores = torch.stack([teacher.last(bank["prototypes"][p]) for p in rows.values()])
            q = sharpened(scores, centre if shared else zero, 0.04)[None]
            views = [group[:, list(rows)] for group in own]
            expected = prototype_loss(views, q, torch.ones(1, 3, dtype=torch.bool))
            assert found[name] == pytest.approx(float(expected), rel=1e-5)
            centre = 0.9 * centre * shared + 0.1 * scores.mean(0)
            if not shared:
                np.testing.assert_allclose(method.centres.get(name), centre, atol=1e-6)
        if shared:
            np.testing.assert_allclose(method.centres.intra, centre, atol=1e-6)
            assert not method.centres.inter.any()


def test_a_batch_of_ignored_slides_learns_from_views_alone():
    method, given = slpd_method(), region_batch([4, 5])
    method.bank.put(held())
    found = method(given, AT)
    assert float(found["intra"].detach()) == float(found["inter"].detach()) == 0
    sum(found.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.student.parameters())
    assert not method.centres.intra.any()
    assert not method.centres.inter.any()


def test_without_prototypes_their_terms_are_0():
    found = slpd_method()(region_batch([0, 1]), AT)
    assert set(found) == {"dino", "intra", "inter"}
    assert float(found["intra"]) == float(found["inter"]) == 0
    assert set(slpd_method(terms=("dino", "inter"))(region_batch([0, 1]), AT)) == {"dino", "inter"}


def test_only_the_student_is_trained_and_the_teacher_is_in_eval_mode():
    method = slpd_method()
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert trained == {id(p) for p in method.student.parameters()}
    assert method.student.training
    assert not method.teacher.training
    for a, b in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_the_teacher_follows_from_not_at_all_to_at_once(momentum, monkeypatch):
    method = slpd_method()
    before = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(torch.randn_like(p))
    monkeypatch.setattr(Slpd, "momentum", lambda self, at: momentum)
    method.after_step(AT)
    for old, new, own in zip(
        before, method.teacher.parameters(), method.student.parameters(), strict=True
    ):
        if momentum in (0.0, 1.0):
            assert torch.equal(new, own if momentum == 0 else old)
        else:
            torch.testing.assert_close(new, 0.5 * old + 0.5 * own)


def test_the_momentum_rises_from_its_start_to_1():
    method = slpd_method()
    steps = [method.momentum(Progress(e, 4, s, 5)) for e in range(4) for s in range(5)]
    expected = [1 - 0.002 * (1 + np.cos(np.pi * t / 20)) for t in range(20)]
    np.testing.assert_allclose(steps, expected)
    assert steps[0] == pytest.approx(0.996)
    assert method.momentum(Progress(4, 4, 0, 5)) == 1


def test_crops_are_those_of_slow_indexing():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(3, 2, 6, 6)))
    top, left = (torch.from_numpy(rng.integers(0, 3, (4, 3))) for _ in "xy")
    turned = torch.from_numpy(rng.random((3, 4, 3)) < 0.5)
    found = crop(x, top, left, 4, turned)
    assert found.shape == (4, 3, 2, 4, 4)
    for v in range(4):
        for b in range(3):
            i, j = int(top[v, b]), int(left[v, b])
            expected = x[b, :, i : i + 4, j : j + 4].numpy()
            if turned[0, v, b]:
                expected = expected[:, :, ::-1]
            if turned[1, v, b]:
                expected = expected[:, ::-1]
            if turned[2, v, b]:
                expected = expected.transpose(0, 2, 1)
            np.testing.assert_array_equal(found[v, b], expected)
    np.testing.assert_array_equal(centre(x, 4), x[:, :, 1:5, 1:5])
