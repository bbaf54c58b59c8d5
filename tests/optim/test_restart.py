"""Restarts: when, at which weights, with what of the optimizer; and exact when resumed."""

import copy

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved
from torch import nn

from clipbench.optim import (
    SPAM,
    ClippedAdam,
    ClippedSGD,
    ClippedSSTM,
    OptimizerProperties,
    Restarter,
    clip_stats,
)


def test_when():
    """Stretches of 4, 4·1.5 = 6, 9, 13.5 → 13 steps; 20.25 → 20 is above max, so there is none after that."""
    model = small_model()
    optimizer, restarter = ClippedSGD(model.parameters(), lr=0.1), Restarter(first=4, coeff=1.5, max=19)
    at = []
    for step in range(1, 81):
        set_gradients(model, step)
        optimizer.step()
        if restarter.step(optimizer):
            at.append(step)
    assert at == [4, 10, 19, 32]
    assert restarter.mean == []  # and no copy of the weights is kept for nothing


def test_a_stretch_is_rounded_down_from_its_exact_length():
    """50·1.4² is 98, and a little less in floating point."""
    restarter = Restarter(first=50, coeff=1.4)
    restarter.restarts = 2
    assert restarter.length == 98


def test_a_group_added_within_a_stretch_is_refused_and_after_a_restart_it_is_not():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer, restarter = ClippedSGD([a], lr=0.1), Restarter(first=2, coeff=1)
    a.grad, b.grad = torch.ones(1), torch.ones(1)

    def step():
        optimizer.step()
        return restarter.step(optimizer)

    assert [step(), step()] == [False, True]
    optimizer.add_param_group({"params": [b]})
    assert [step(), step(), step()] == [False, True, False]
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(
        RuntimeError,
        match=r"mean is over 2 parameters, and now there are 3\. Add groups right after a restart",
    ):
        step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_weights_become_the_mean_since_the_last_restart(dtype):
    """Two stretches, of 5 and 10 steps; what is frozen is left alone."""
    model = small_model().to(dtype)
    frozen = model[0].bias.requires_grad_(False)
    unmoved = frozen.clone()
    optimizer, restarter = (
        ClippedSGD(model.parameters(), lr=0.1, momentum=0.9),
        Restarter(first=5, coeff=2, max=99),
    )
    seen = []
    for step in range(15):
        set_gradients(model, step, dtype=dtype)
        frozen.grad = None
        optimizer.step()
        seen.append([w.double() for w in weights(model)])
        if restarter.step(optimizer):
            expected = [torch.stack(column).mean(0).to(dtype) for column in zip(*seen, strict=True)]
            torch.testing.assert_close(
                weights(model), expected, rtol=1e-6 if dtype != torch.bfloat16 else 1e-2, atol=1e-6
            )
            seen = []
    assert torch.equal(frozen, unmoved)
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in model.parameters() if p is not frozen)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (ClippedSGD, {"lr": 0.1, "momentum": 0.9}),
        (ClippedAdam, {"lr": 0.1}),
        (ClippedSSTM, {"lr": 0.1, "L": 1.0}),
        (SPAM, {"lr": 0.1, "reset_every": 3, "pause": 1}),
    ],
)
@pytest.mark.parametrize("name", ["norm", "auto"])
def test_the_optimizer_begins_anew(cls, settings, name):
    """From there on it makes the steps of one that is built at these weights.

    Skipped steps are still counted.
    """
    model = small_model()
    optimizer, restarter = cls(model.parameters(), clipping_type=name, **settings), Restarter(first=4)
    for step in range(4):
        set_gradients(model, step)
        if step == 1:
            next(model.parameters()).grad[0, 0] = float("nan")
        optimizer.step()
        restarted = restarter.step(optimizer)
    assert restarted
    fresh = copy.deepcopy(model)
    other = cls(fresh.parameters(), clipping_type=name, **settings)
    for step in range(4, 8):
        for m, o in ((model, optimizer), (fresh, other)):
            set_gradients(m, step)
            o.step()
        assert same(weights(model), weights(fresh))
    assert int(clip_stats(optimizer).skipped) == 1


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"initial_accumulator_value": 0.5}], ids=str)
def test_a_state_that_the_constructor_makes_is_made_again(settings):
    model = small_model()
    optimizer, restarter = torch.optim.Adagrad(model.parameters(), lr=0.1, **settings), Restarter(first=3)
    for step in range(3):
        set_gradients(model, step)
        optimizer.step()
        restarter.step(optimizer)
    fresh = copy.deepcopy(model)
    other = torch.optim.Adagrad(fresh.parameters(), lr=0.1, **settings)
    torch.testing.assert_close(optimizer.state_dict()["state"], other.state_dict()["state"], rtol=0, atol=0)
    for m, o in ((model, optimizer), (fresh, other)):
        set_gradients(m, 3)
        o.step()
    assert same(weights(model), weights(fresh))


def test_the_generator_and_the_learning_rate_go_on():
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([p], lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    plain = ClippedSGD([q], lr=1.0, clipping_type="linear_rand_norm", beta=0.5)
    restarter = Restarter(first=10, coeff=1)
    outcomes = []
    for step in range(60):
        p.grad, q.grad = torch.full((1,), 10.0), torch.full((1,), 10.0)
        optimizer.param_groups[0]["lr"] = 1.0 / (step + 1)
        optimizer.step()
        plain.step()
        assert torch.equal(p.grad, q.grad) or optimizer.param_groups[0]["fused"]
        assert clip_stats(optimizer).clipped_norm == clip_stats(plain).clipped_norm
        outcomes.append(float(clip_stats(plain).clipped_norm))
        restarter.step(optimizer)
        assert optimizer.param_groups[0]["lr"] == 1.0 / (step + 1)
    assert len(set(outcomes)) == 2


def test_the_loop_of_torch_clips_readme():
    """Its names for classes, settings and calls, with model for `net` and optimizer for `optimizers`."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 4)
    y = x[:, :1] - 0.5 * x[:, 1:2]
    props = OptimizerProperties(
        ClippedSGD, lr=5e-2, momentum=0.9, clipping_type="layer_wise", clipping_level=1
    )
    restarter = Restarter(
        optimizer_properties=props, first_restart_steps_cnt=50, restart_coeff=1.25, max_steps_cnt=2000
    )
    optimizer = props.optimizer_class(model.parameters(), **props.optimizer_kwargs)
    losses, restarts = [], []
    for step in range(200):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        restarter.add_coords(model.parameters())
        optimizer = restarter.make_restart(model, optimizer)
        losses.append(loss.item())
        if not any("momentum_buffer" in optimizer.state[p] for p in model.parameters()):
            restarts.append(step + 1)
    assert restarts == [50, 112, 190]  # 50, 62, 78 steps
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("cut", [1, 4, 5, 9])
def test_resuming_is_exact(cut):
    """Optimizer and restarter saved and loaded at step `cut`, before, at and after a restart."""

    def build(model):
        rng = torch.Generator().manual_seed(3)
        return ClippedSGD(
            model.parameters(), lr=0.1, momentum=0.9, clipping_type="linear_rand_norm", rng=rng
        ), Restarter(4, 1.25)

    def go(model, optimizer, restarter, steps):
        for step in steps:
            set_gradients(model, step)
            optimizer.step()
            restarter.step(optimizer)

    straight = small_model()
    go(straight, *build(straight), range(15))
    model = small_model()
    optimizer, restarter = build(model)
    go(model, optimizer, restarter, range(cut))
    later = copy.deepcopy(model)
    resumed, second = build(later)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    second.load_state_dict(saved(restarter.state_dict()))
    go(later, resumed, second, range(cut, 15))
    assert same(weights(later), weights(straight))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": 0}, "first must be a whole number of at least 1"),
        ({"coeff": 0.5}, "coeff must be a number of at least 1, got 0.5"),
        ({"max": -1}, "max must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Restarter(**settings)
