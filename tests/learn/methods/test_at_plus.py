"""AT+ against an independent reading: the terms of a whole batch in slow NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.learn.methods.pair import AT, batch, grader
from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.learn.methods import METHODS
from wsikd.learn.methods.at_plus import AtPlus
from wsikd.learn.methods.supervised import Supervised
from wsikd.models.backbones.base import Backbone
from wsikd.models.graders.pooled import Grader


def pooled(feature, factor):
    b, k, h, w = feature.shape
    return feature.reshape(b, k, h // factor, factor, w // factor, factor).mean((3, 5))


def attention(feature, head):
    """M_bcij = sum_k ReLU(alpha_kc F_bkij), alpha = W / hw."""
    product = head[None, :, :, None, None] * feature[:, None] / feature[0, 0].size
    return np.maximum(product, 0).sum(2)


def minmax(maps):
    return np.stack([(m - m.min()) / (m.max() - m.min() + 1e-8) for m in maps])


def features(net, x):
    """The deepest map, stage by stage, without the code under test."""
    x = (x / 255 - net.mean) / net.std
    for stage in net.backbone.stages.values():
        x = stage(x)
    return x.detach().numpy()


def test_terms_equal_a_slow_reading():
    student, teacher, given = grader(0), grader(1), batch(3)
    method = AtPlus(student, teacher).eval()
    terms = method(given, AT)
    own, target = features(student, given.views["low"]), features(teacher, given.views["high"])
    head_s, head_t = (n.head.weight.detach().numpy() for n in (student, teacher))
    logits = own.mean((2, 3)) @ head_s.T + student.head.bias.detach().numpy()
    chosen = np.exp(logits)[np.arange(3), given.label] / np.exp(logits).sum(1)
    assert terms["ce"].item() == pytest.approx(-np.log(chosen).mean(), rel=1e-9)
    rmse = np.sqrt(np.mean((own - pooled(target, 2)) ** 2))
    assert terms["fm"].item() == pytest.approx(rmse, rel=1e-6)
    mine, theirs = minmax(attention(own, head_s)), minmax(pooled(attention(target, head_t), 2))
    distance = np.sqrt(((mine - theirs) ** 2).mean((1, 2, 3))).mean()
    assert terms["at_plus"].item() == pytest.approx(distance, rel=1e-5)


def test_teacher_is_frozen_and_stays_in_eval():
    student, teacher = grader(0), grader(1)
    method = AtPlus(student, teacher)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    method.train()
    assert student.training
    assert not any(m.training for m in teacher.modules())
    sum(method(batch(2), AT).values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert len(method.param_groups()[0]["params"]) == len(list(student.parameters()))


def test_every_term_reaches_trunk_and_attention_reaches_the_head():
    for name in ("fm", "at_plus"):
        student = grader(0)
        AtPlus(student, grader(1)).train()(batch(2), AT)[name].backward()
        trunk = next(student.backbone.parameters()).grad
        assert torch.isfinite(trunk).all()
        assert trunk.abs().sum() > 0
        assert (student.head.weight.grad is not None) == (name == "at_plus")


def lengthened(net):
    """The same function, whose F4 is not the pooled tap any more: attention goes by autograd."""
    backbone = net.backbone
    stages = [(n, m, backbone.taps[n]) for n, m in backbone.stages.items()]
    longer = Grader(Backbone([*stages, ("F5", nn.Identity(), backbone.taps["F4"])]), 4).double()
    longer.head.load_state_dict(net.head.state_dict())
    return longer


@pytest.mark.parametrize("form", ["relu_product", "positive_grad", "gradcam"])
def test_closed_form_equals_autograd_within_the_method(form):
    given, losses, slopes = batch(2), [], []
    for change in (lambda net: net, lengthened):
        student, teacher = change(grader(0)), change(grader(1))
        method = AtPlus(student, teacher, form=form, tap="F4").eval()
        loss = method(given, AT)["at_plus"]
        loss.backward()
        losses.append(loss.item())
        slopes.append([next(student.backbone.parameters()).grad, student.head.weight.grad])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for closed, generic in zip(*slopes, strict=True):
        assert torch.allclose(closed, generic, rtol=1e-6, atol=1e-12)
        assert closed.abs().sum() > 0


def test_an_earlier_tap_trains_through_autograd():
    student = grader(0)
    method = AtPlus(student, grader(1), tap="F3").train()
    terms = method(batch(2), AT)
    terms["at_plus"].backward()
    assert torch.isfinite(terms["at_plus"])
    assert next(student.backbone.parameters()).grad.abs().sum() > 0


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    teacher = grader(1)
    student = grader(1)
    method = AtPlus(student, teacher).eval()
    terms = method(batch(2, factor=1), AT)
    (terms["fm"] + terms["at_plus"]).backward()
    assert terms["fm"].item() == pytest.approx(0, abs=1e-7)
    assert terms["at_plus"].item() == pytest.approx(0, abs=1e-7)
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


# The others take networks or data of their own: see test_contract.py.
@pytest.mark.parametrize("name", ["supervised", "at_plus"])
@pytest.mark.parametrize("count", [1, 3])
def test_contract(name, count):
    make = resolve(METHODS, name, kind="methods")
    method = make(grader(0)) if name == "supervised" else make(grader(0), grader(1))
    method.train()
    given = batch(count)
    terms = method(given, AT)
    assert "ce" in terms
    assert all(v.ndim == 0 and torch.isfinite(v) for v in terms.values())
    assert method.predict(given).shape == (count, 4)
    assert set(method.views) <= set(given.views)
    method.after_step(AT)


@pytest.mark.parametrize("upsample", [1, 2])
def test_enlarged_students_match_the_teacher_s_grid(upsample):
    method = AtPlus(grader(0, upsample=upsample), grader(1)).eval()
    assert all(torch.isfinite(v) for v in method(batch(2), AT).values())


def test_terms_of_no_weight_cost_nothing():
    method = AtPlus(grader(0), grader(1), terms=["ce"])
    given = batch(2)
    given.views.pop("high")
    assert set(method(given, AT)) == {"ce"}
    same = Supervised(method.student).eval()
    assert torch.equal(method.eval()(given, AT)["ce"], same(given, AT)["ce"])


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="32 channels do not match the teacher's 64"):
        AtPlus(grader(0), grader(1, width=0.5))
    with pytest.raises(ConfigError, match="no such tap"):
        AtPlus(grader(0), grader(1), tap="F9")
    terms = AtPlus(grader(0), grader(1, width=0.5), terms=["ce", "at_plus"])(batch(2), AT)
    assert set(terms) == {"ce", "at_plus"}
