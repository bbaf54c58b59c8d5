"""The core rules against what is not ours.

Torch's own clipping, numpy's quantile, the formula of the draw, plain loops.
"""

import math

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import IMPLEMENTATIONS

from clipbench.optim import (
    RULES,
    Auto,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    Gradients,
    clip_stats,
    make_rule,
)

OPTIMIZERS = {
    "sgd": (ClippedSGD, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (
        ClippedSGD,
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": (ClippedAdam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (ClippedAdamW, torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
}


def clip_norm(params):
    torch.nn.utils.clip_grad_norm_(params, 1.0)


def clip_value(params):
    torch.nn.utils.clip_grad_value_(params, 0.1)


def clip_each(params):
    for p in params:
        torch.nn.utils.clip_grad_norm_([p], 1.0)


ORACLES = {
    "none": lambda params: None,
    "norm": clip_norm,
    "coordinate_wise": clip_value,
    "layer_wise": clip_each,
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ORACLES)
def test_same_trajectory_as_torch_clipping_before_torch_steps(name, kind, implementation):
    ours_class, torch_class, keywords = OPTIMIZERS[kind]
    ours, theirs = small_model(), small_model()
    optimizer = ours_class(
        ours.parameters(), clipping_type=name, **keywords, **IMPLEMENTATIONS[implementation]
    )
    oracle = torch_class(theirs.parameters(), **keywords)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        ORACLES[name](list(theirs.parameters()))
        optimizer.step()
        oracle.step()
    # torch divides by norm + 1e-6, so the two agree to about 1e-6 of a step
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=2e-5)


def test_none_is_torchs_own_step_to_the_last_bit():
    ours, theirs = small_model(), small_model()
    optimizer = ClippedSGD(ours.parameters(), lr=0.1, momentum=0.9, clipping_type="none")
    oracle = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, fused=True)
    for step in range(10):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["norm", "layer_wise", "auto"])
def test_same_trajectory_as_a_plain_loop(name):
    ours, plain = small_model(), small_model()
    optimizer = ClippedSGD(ours.parameters(), lr=0.1, clipping_type=name)
    norms = []
    for step in range(30):
        set_gradients(ours, step)
        set_gradients(plain, step)
        grads = [p.grad.double() for p in plain.parameters()]
        whole = math.sqrt(sum(float((g**2).sum()) for g in grads))
        norms.append(whole)
        level = np.quantile(norms, 0.75) if name == "auto" else 1.0
        for p, g in zip(plain.parameters(), grads, strict=True):
            size = float(g.norm()) if name == "layer_wise" else whole
            p.data -= 0.1 * min(1.0, level / size) * p.grad
        optimizer.step()
    torch.testing.assert_close(weights(ours), weights(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("window", [1, 7, 50, 1000])
def test_autos_level_is_numpys_quantile_at_every_step(p, window):
    rule, rng = Auto(p, window), np.random.default_rng(0)
    norms = rng.lognormal(0, 2, 300).astype(np.float32)
    norms[40:60] = norms[39]  # ties
    norms[60:80] = 0
    norms[100:140] = np.sort(norms[100:140])
    state = rule.init([torch.zeros(1)])
    for t, value in enumerate(norms):
        level, state = rule.level(torch.tensor(value), state)
        expected = np.quantile(norms[max(0, t + 1 - window) : t + 1], p)
        assert float(level) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_autos_memory_never_takes_in_a_norm_that_is_not_finite():
    p, clean = torch.nn.Parameter(torch.zeros(1)), []
    optimizer = ClippedSGD([p], lr=1.0, clipping_type=Auto(0.5, 5))
    for value in [math.inf, 3.0, math.nan, 1.0, 2.0, math.inf, 8.0, 9.0, math.nan, 7.0, 4.0]:
        before = p.item()
        p.grad = torch.tensor([value])
        optimizer.step()
        expected = 0.0
        if math.isfinite(value):
            clean.append(value)
            expected = min(value, np.quantile(clean[-5:], 0.5))
        assert before - p.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "power"), [("linear_rand_norm", 1), ("quadratic_rand_norm", 2)])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.85])
@pytest.mark.parametrize("norm", [1.5, 4.0, 100.0])
def test_the_random_rules_clip_at_the_rate_of_their_formula(name, power, beta, norm):
    rule, rng, n = make_rule(name, beta=beta), torch.Generator().manual_seed(1), 4000
    grads = Gradients([torch.tensor([norm])])
    clipped = 0
    for _ in range(n):
        factor, _ = rule(grads, grads, {}, rng)
        assert float(factor) in (1.0, pytest.approx(1 / norm))
        clipped += float(factor) < 1
    rate = beta ** ((1 / norm) ** power)
    assert abs(clipped / n - rate) < 3 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("name", ["linear_rand_norm", "quadratic_rand_norm"])
@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0])
def test_the_random_rules_leave_a_norm_at_or_below_the_level_alone_whatever_is_drawn(name, norm):
    rule, rng = make_rule(name, clipping_level=3.0, beta=0.999), torch.Generator().manual_seed(1)
    grads = Gradients([torch.tensor([norm])])
    assert {float(rule(grads, grads, {}, rng)[0]) for _ in range(500)} == {1.0}


@pytest.mark.parametrize("name", ["linear_rand_auto", "quadratic_rand_auto"])
def test_falling_norms_lie_below_autos_level_so_no_draw_clips_them(name):
    rule, rng = make_rule(name, p_autoclip=0.5, beta=0.999), torch.Generator().manual_seed(1)
    state, factors = rule.init([torch.zeros(1)]), set()
    for norm in range(300, 0, -1):
        grads = Gradients([torch.tensor([float(norm)])])
        factor, state = rule(grads, grads, state, rng)
        factors.add(float(factor))
    assert factors == {1.0}
    grads = Gradients([torch.tensor([1e4])])
    assert any(float(rule(grads, grads, state, rng)[0]) < 1 for _ in range(20))


@pytest.mark.parametrize(("name", "power"), [("linear_rand_auto", 1), ("quadratic_rand_auto", 2)])
def test_the_random_auto_rules_draw_alike_at_autos_level(name, power):
    rule, rng, n = make_rule(name, p_autoclip=0.5, window=3, beta=0.5), torch.Generator().manual_seed(1), 3000
    clipped = 0
    for _ in range(n):
        state = rule.init([torch.zeros(1)])
        for value in (1.0, 2.0):
            _, state = rule.level(torch.tensor(value), state)
        grads = Gradients([torch.tensor([5.0])])
        factor, _ = rule(grads, grads, state, rng)  # the median of 1, 2, 5 is 2
        assert float(factor) in (1.0, pytest.approx(0.4))
        clipped += float(factor) < 1
    rate = 0.5 ** (0.4**power)
    assert abs(clipped / n - rate) < 3 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_stats_are_the_norms_before_and_after(name, kind, implementation):
    ours_class, _, keywords = OPTIMIZERS[kind]
    model = small_model()
    optimizer = ours_class(
        model.parameters(), clipping_type=name, **keywords, **IMPLEMENTATIONS[implementation]
    )
    for step in range(3):
        set_gradients(model, step)
        before = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        # the step leaves clip(g) in .grad
        after = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
        stats = clip_stats(optimizer)
        found = [stats.grad_norm, stats.clipped_norm]
        torch.testing.assert_close(found, [before, after], rtol=1e-5, atol=1e-7)
