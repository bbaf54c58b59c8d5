"""Clipping goes with everything that people do to a torch optimizer."""

import math
from functools import partial

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import CLASSES, Operators, same
from torch import nn

from clipbench.optim import (
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    Norm,
    clip_gradients,
    clip_stats,
    make_rule,
)


def test_the_norm_is_over_all_groups_and_a_group_with_its_own_level_is_normed_alone():
    a, b, c = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = ClippedSGD(
        [{"params": [a]}, {"params": [b], "lr": 2.0}, {"params": [c], "clipping_level": 0.5}],
        lr=1.0,
        clipping_level=1,
    )
    for p, value in ((a, 3.0), (b, 4.0), (c, 7.0)):
        p.grad = torch.full((1,), value)
    optimizer.step()
    assert [round(p.item(), 5) for p in (a, b, c)] == [-0.6, -1.6, -0.5]
    stats = clip_stats(optimizer)
    assert float(stats.grad_norm) == pytest.approx(math.sqrt(9 + 16 + 49))
    assert float(stats.clipped_norm) == pytest.approx(math.sqrt(1 + 0.25))


def test_a_group_that_misspells_its_level_is_refused():
    with pytest.raises(ValueError, match="Unknown key 'cliping_level' in a parameter group"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "cliping_level": 1}])
    with pytest.raises(ValueError, match="Auto has none"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "clipping_level": 1}], clipping_type="auto")
    with pytest.raises(ValueError, match="must be above 0"):
        ClippedSGD([{"params": [nn.Parameter(torch.zeros(1))], "clipping_level": 0}])


def test_one_draw_per_step_whatever_the_groups():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(6)]
    groups = [{"params": [p], "clip_separately": True} for p in params]
    optimizer = ClippedSGD(groups, lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    outcomes = set()
    for _ in range(50):
        for p in params:
            p.grad = torch.full((1,), 10.0)
        optimizer.step()
        clipped = {round(p.grad.item(), 4) for p in params}
        assert len(clipped) == 1
        outcomes |= clipped
    assert outcomes == {1.0, 10.0}


@pytest.mark.parametrize("last", [math.inf, 0.5])
def test_an_exempt_group_does_not_hold_the_generator_still(last):
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [a]}, {"params": [b], "clipping_level": last}]
    optimizer = ClippedSGD(groups, lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    outcomes = []
    for _ in range(60):
        a.grad, b.grad = torch.full((1,), 10.0), torch.full((1,), 10.0)
        optimizer.step()
        outcomes.append(round(a.grad.item(), 4))
    assert set(outcomes) == {1.0, 10.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [((None, None), (math.inf, None)), ((0.5, None), (None, None)), ((None,), (0.5,))],
    ids=str,
)
def test_a_parameter_keeps_its_memory_where_its_group_gets_or_loses_a_level(before, after):
    params = [nn.Parameter(torch.zeros(2)) for _ in before]
    groups = []
    for p, level in zip(params, before, strict=True):
        own = {} if level is None else {"clipping_level": level}
        groups.append({"params": [p], **own})
    optimizer = ClippedSGD(groups, lr=0.1, clipping_type="uclip", clipping_level=0.1)
    for number, p in enumerate(params):
        p.grad = torch.full((2,), 1.0 + number)
    optimizer.step()
    carried = [optimizer.state[p]["clipping_memory_carry"] for p in params]
    for group, level in zip(optimizer.param_groups, after, strict=True):
        group["clipping_level"] = level
    for p in params:
        p.grad = torch.zeros(2)
    params[-1].grad = torch.ones(2)
    optimizer.step()
    left = carried[-1] + 1 - params[-1].grad
    torch.testing.assert_close(optimizer.state[params[-1]]["clipping_memory_carry"], left)


@pytest.mark.parametrize("cls", [ClippedSGD, ClippedAdam])
def test_who_asks_for_no_foreach_gets_torchs_loop(cls):
    for choice, expected in (({}, True), ({"foreach": False}, False), ({"fused": True}, True)):
        p = nn.Parameter(torch.zeros(1))
        optimizer = cls([p], **choice)
        p.grad = torch.ones(1)
        with Operators() as launched:
            optimizer.step()
        assert any("fused" in name for name in launched.names) == expected
        assert optimizer.param_groups[0]["fused"] == choice.get("fused")


def test_a_closures_gradient_is_clipped():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_level=0.01)
    before = weights(model)

    def closure():
        optimizer.zero_grad()
        loss = 100 * model(torch.ones(4, 6)).square().mean()
        loss.backward()
        return loss

    for call in (partial(optimizer.step, closure), partial(optimizer.step, closure=closure)):
        assert call().item() > 0
        after = weights(model)
        moved = torch.nn.utils.get_total_norm([a - b for a, b in zip(before, after, strict=True)])
        assert float(moved) == pytest.approx(0.1 * 0.01, rel=1e-3)
        before = after


def test_lbfgs_makes_the_steps_that_it_makes_when_the_closure_clips_by_itself():
    def minimise(clip, joined):
        x = nn.Parameter(torch.tensor([-1.5, 2.0]))
        optimizer = torch.optim.LBFGS([x], lr=0.5, max_iter=3)
        optimizer = clip_gradients(optimizer, Norm(1.0)) if joined else optimizer

        def closure():
            optimizer.zero_grad()
            loss = (torch.tensor([1.0, 3.0]) * (x - torch.tensor([3.0, -1.0])).square()).sum()
            loss.backward()
            clip([x])
            return loss

        optimizer.step(closure)
        return x.detach()

    theirs = minimise(lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0), joined=False)
    torch.testing.assert_close(minimise(lambda params: None, joined=True), theirs, rtol=1e-3, atol=1e-3)
    assert not torch.equal(minimise(lambda params: None, joined=False), theirs)


def test_learning_rate_schedulers_act_and_do_not_warn():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    rates = []
    for step in range(4):
        set_gradients(model, step)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_bf16_parameters_are_clipped():
    model = small_model().to(torch.bfloat16)
    optimizer = ClippedAdamW(model.parameters(), lr=0.01)
    set_gradients(model, 0, 1e4, torch.bfloat16)
    optimizer.step()
    after = torch.nn.utils.get_total_norm([p.grad.double() for p in model.parameters()])
    assert float(after) == pytest.approx(1.0, rel=0.01)


def test_complex_parameters_are_clipped():
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = ClippedSGD([p], lr=1.0)
    p.grad = torch.tensor([3.0 + 0j, 0 + 4j], dtype=torch.complex64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.6 + 0j, -0.8j], dtype=torch.complex64))


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = ClippedSGD(embedding.parameters(), fused=False)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"dense gradients\. Use sparse=False"):
        optimizer.step()


def test_unknown_keywords_fail_at_construction_with_what_is_known():
    model = small_model()
    for cls, _ in CLASSES.values():
        with pytest.raises(
            ValueError, match=r"Unknown setting 'cliping_level'.* Did you mean 'clipping_level'"
        ):
            cls(model.parameters(), cliping_level=1)


def test_generators_of_parameters_named_parameters_and_groups_are_taken():
    model = small_model()
    for params in (
        model.parameters(),
        model.named_parameters(),
        [{"params": model[0].parameters()}, {"params": model[2].named_parameters()}][:1],
        [{"params": model[0].parameters()}, {"params": model[2].parameters()}],
    ):
        optimizer = ClippedSGD(params, lr=0.1)
        set_gradients(model, 0)
        optimizer.step()
        assert len(optimizer.state_dict()["param_groups"]) == len(optimizer.param_groups)


def test_a_parameter_without_a_gradient_and_a_step_without_any_are_left_alone():
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type="auto")
    before = weights(model)
    optimizer.step()
    assert same(weights(model), before)
    next(model.parameters()).grad = torch.ones(8, 6)
    optimizer.step()
    assert torch.equal(weights(model)[1], before[1])


def test_an_optimizer_is_joined_once():
    optimizer = clip_gradients(torch.optim.SGD(small_model().parameters()), Norm(1.0))
    with pytest.raises(RuntimeError, match="clips already"):
        clip_gradients(optimizer, Norm(2.0))
    with pytest.raises(ValueError, match=r"such as Norm\(1\.0\)"):
        clip_gradients(torch.optim.SGD(small_model().parameters()), "norm")


@pytest.mark.parametrize(
    "cls",
    [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam, torch.optim.Adamax, torch.optim.RAdam],
)
def test_any_torch_optimizer_can_be_joined(cls):
    ours, theirs = small_model(), small_model()
    optimizer, oracle = clip_gradients(cls(ours.parameters()), make_rule("norm")), cls(theirs.parameters())
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=2e-5)
