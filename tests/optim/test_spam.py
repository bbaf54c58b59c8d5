"""SPAM and Stable-SPAM against their formulas in numpy.

A spike is cut when it should be and not otherwise, also right after a reset.
"""

import copy
import math

import numpy as np
import pytest
import pytorch_optimizer
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved
from torch import nn

from clipbench.optim import SPAM, AdaClip, AdaGN, Chain, Norm, StableSPAM, clip_stats
from clipbench.optim.laws import CONTRACT
from clipbench.optim.memory import rule_memories


def trajectory(cls, shape, gradients, **settings):
    """The weights after each step, in float64, from zeros."""
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    optimizer, found = cls([p], **settings), []
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
        found.append(p.detach().numpy().copy())
    return found


def gradients(steps, shape, spikes):
    """Normal numbers; at each step of `spikes` the first entry is so many times as large."""
    rng = np.random.default_rng(0)
    found = [rng.standard_normal(shape) for _ in range(steps)]
    for step, size in spikes.items():
        found[step].flat[0] = size
    return found


def spam_by_hand(gs, *, lr, decay, threshold, every, warmup, pause, level):
    """Algorithm 1 of arXiv 2501.06842 with the norm clipped to `level` before."""
    w, found = np.zeros_like(gs[0]), []
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gs, start=1):
        g = g * min(1.0, level / np.linalg.norm(g))
        since = (t - 1) % every
        if t > 1 and since == 0:
            m, v = np.zeros_like(w), np.zeros_like(w)
        if since >= pause:
            spiky = g**2 > threshold * v
            g = np.where(spiky, np.sign(g) * np.sqrt(threshold * v), g)
        scale = 1.0
        if t > every and since < warmup:
            scale = 1 - 0.99 * 0.5 * (1 + math.cos(math.pi * since / (warmup + 1)))
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
        w = w * (1 - lr * scale * decay) - lr * scale * update
        found.append(w.copy())
    return found


@pytest.mark.parametrize("level", [math.inf, 3.0])
def test_spam_is_its_formula(level):
    gs = gradients(23, (3, 4), {3: 50.0, 6: 80.0, 10: 200.0, 11: -30.0, 21: 1e4})
    settings = {"threshold": 40.0, "warmup": 4, "pause": 2}
    expected = spam_by_hand(gs, lr=0.1, decay=0.2, every=7, level=level, **settings)
    clip = {} if level == math.inf else {"clipping_type": "norm", "clipping_level": level}
    found = trajectory(SPAM, (3, 4), gs, lr=0.1, weight_decay=0.2, reset_every=7, **settings, **clip)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def stable_by_hand(gs, *, lr, every, gamma1=0.7, gamma2=0.9, gamma3=0.999, eps=1e-8):
    """Algorithm 1 of arXiv 2502.17055."""
    found = []
    w = np.zeros_like(gs[0])
    m, v, adam = 0 * w, 0 * w, 0
    mu = a = b = 0.0
    for t, g in enumerate(gs, start=1):
        if t > 1 and (t - 1) % every == 0:
            m, v, adam = 0 * w, 0 * w, 0
        largest = np.abs(g).max()
        mu = gamma3 * mu + (1 - gamma3) * largest
        bound = mu / (1 - gamma3**t)
        g = np.where(np.abs(g) > bound, g / largest * bound, g)
        n = np.linalg.norm(g)
        a = gamma1 * a + (1 - gamma1) * n
        b = gamma2 * b + (1 - gamma2) * n**2
        mean, root = a / (1 - gamma1**t), math.sqrt(b / (1 - gamma2**t))
        g = g / n * mean / (root + eps)
        adam += 1
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        mean, root = m / (1 - 0.9**adam), np.sqrt(v / (1 - 0.999**adam))
        w = w - lr * mean / (root + eps)
        found.append(w.copy())
    return found


def test_stable_spam_is_its_formula():
    gs = gradients(23, (3, 4), {3: 50.0, 7: 80.0, 14: 200.0, 15: -30.0})
    found = trajectory(StableSPAM, (3, 4), gs, lr=0.1, reset_every=7)
    np.testing.assert_allclose(found, stable_by_hand(gs, lr=0.1, every=7), rtol=1e-6, atol=1e-9)


def theirs(oracle, p, gs, before_step):
    found = []
    for step, g in enumerate(gs):
        before_step(oracle, step)
        p.grad = torch.tensor(g)
        oracle.step()
        found.append(p.detach().numpy().copy())
    return found


@pytest.mark.parametrize("shape", [(12,), (3, 4)])
def test_spam_is_pytorch_optimizers(shape):
    """Without its warm-up, which scales by another k.

    It resets a step earlier, and takes ε before the bias correction.
    """
    gs = gradients(26, shape, {3: 50.0, 6: 80.0, 8: 60.0, 10: 200.0, 11: -30.0, 21: 1e4, 24: -70.0})
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    settings = {"lr": 0.1, "threshold": 40, "eps": 1e-30}
    oracle = pytorch_optimizer.SPAM([p], grad_accu_steps=2, update_proj_gap=7, warmup_epoch=0, **settings)
    oracle.state["total_step"] = -1
    expected = theirs(oracle, p, [g.copy() for g in gs], lambda *_: None)
    found = trajectory(SPAM, shape, gs, pause=2, reset_every=7, warmup=0, **settings)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_stable_spam_is_pytorch_optimizers():
    """Which resets a step earlier at first: here its gap is set so that both reset at the same steps."""
    gs = gradients(26, (3, 4), {3: 50.0, 7: 80.0, 14: 200.0, 15: -30.0, 22: 1e3})
    p = nn.Parameter(torch.zeros((3, 4), dtype=torch.float64))

    def reset_here(oracle, step):
        oracle.update_proj_gap = step + 1 if step and step % 7 == 0 else 10**9

    expected = theirs(pytorch_optimizer.StableSPAM([p], lr=0.1), p, [g.copy() for g in gs], reset_here)
    np.testing.assert_allclose(
        trajectory(StableSPAM, (3, 4), gs, lr=0.1, reset_every=7), expected, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(("k", "expected"), [(0, 0.01), (75, 0.499851), (149, 0.999572), (150, 1.0)])
def test_the_warm_up_by_hand(k, expected):
    """s(k) = 1 − .495·(1 + cos(πk/151)): cos 0 = 1; cos(75π/151) = sin(π/302) = .0104024.

    Cos(149π/151) = −cos(2π/151) = −.9991344.
    """
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, rates = SPAM([p], lr=2.0, reset_every=200), []
    optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"] / 2.0)
    )  # after SPAM's own
    for _ in range(200 + k + 1):
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert rates[-1] == pytest.approx(expected, abs=1e-6)
    assert rates[:200] == [1.0] * 200


def seen(optimizer, p, sizes):
    """What Adam sees of a gradient of ones whose first entry is of the given size, step by step.

    (steps, entries)
    """
    rows = []
    for size in sizes:
        p.grad = torch.ones(4, dtype=torch.float64)
        p.grad[0] = size
        optimizer.step()
        rows.append(p.grad.tolist())
    return np.array(rows)


@pytest.mark.parametrize("start", [0, 100, 200])
def test_spam_cuts_a_spike_to_its_threshold_and_not_in_the_pause(start):
    """Of ones alone, v = 1 − 0.999^k after k steps since the reset.

    The limit is √(5000·v), 12.2 at k = 30.
    """
    for k, size, expected in (
        (10, 1000.0, 1000.0),
        (19, 1000.0, 1000.0),
        (30, 12.0, 12.0),
        (30, -1000.0, -math.sqrt(5000 * (1 - 0.999**30))),
    ):
        p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        row = seen(SPAM([p], reset_every=100), p, [1.0] * (start + k) + [size])[-1]
        assert row == pytest.approx([expected, 1, 1, 1], rel=1e-6)


@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_an_exempt_group_is_neither_cut_nor_made_even(cls):
    a, b = (nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2))
    optimizer = cls([{"params": [a]}, {"params": [b], "clipping_level": math.inf}])
    for step in range(40):
        for p in (a, b):
            p.grad = torch.ones(4, dtype=torch.float64)
            p.grad[0] = 1000.0 if step == 30 else 1.0
        optimizer.step()
        assert b.grad.tolist() == [1000.0 if step == 30 else 1.0, 1, 1, 1]
        assert float(a.grad[0]) < 20


def test_an_infinite_threshold_cuts_nothing_also_where_v_is_zero():
    p = nn.Parameter(torch.zeros(2))
    optimizer = SPAM([p], lr=0.1, threshold=math.inf, pause=1)
    for value in (0.0, 5.0, 1e4):
        p.grad = torch.tensor([value, 1.0])
        optimizer.step()
        assert p.grad.tolist() == [value, 1.0]
    assert torch.isfinite(p).all()


@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_a_reset_forgets_amsgrads_largest_moment_too(cls):
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = cls([p], amsgrad=True, reset_every=3)
    for value in (1e3, 1e3, 1e3, 1.0):
        p.grad = torch.full((2,), value, dtype=torch.float64)
        optimizer.step()
    state = optimizer.state[p]
    assert torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])


@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_a_state_that_somebody_only_looked_at_is_no_moment(cls):
    p = nn.Parameter(torch.zeros(2))
    optimizer = cls([p], reset_every=2, **({"pause": 1} if cls is SPAM else {}))
    for _ in range(3):  # no gradient yet at the first reset
        assert not optimizer.state[p]
        optimizer.step()
    p.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.state[p]


@pytest.mark.parametrize("k", [5, 49, 50, 51, 60])
def test_adaclips_counter_goes_on_over_a_reset(k):
    """μ̂ after k ones and a spike of M = 1000 is 1 + 999·(1−γ3)/(1−γ3^(k+1)).

    Adam's counter, begun anew at 50, would give far more.
    """
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    row = seen(StableSPAM([p], reset_every=50), p, [1.0] * k + [1000.0])[-1]
    bound = 1 + 999 * 0.001 / (1 - 0.999 ** (k + 1))
    assert row / row[1] == pytest.approx([bound, 1, 1, 1], rel=1e-6)


def test_a_steady_gradient_keeps_its_direction_at_norm_one():
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    rows = seen(StableSPAM([p], reset_every=50), p, [1.0] * 120)
    assert rows == pytest.approx(np.full_like(rows, 0.5), rel=1e-6)  # â = 2 and √b̂ = 2


def chain_of_three(**settings):
    return Chain((AdaClip(), AdaGN(), Norm(0.5)))


@pytest.mark.parametrize("law", CONTRACT)
@pytest.mark.parametrize(
    "make",
    [AdaClip, AdaGN, chain_of_three],
    ids=["AdaClip", "AdaGN", "Chain"],
)
def test_its_rules_keep_the_contract(make, law):
    CONTRACT[law](make)


@pytest.mark.parametrize(
    "implementation", [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_resuming_is_exact_across_resets(cls, dtype, implementation):
    """Saved and loaded before, at and after a reset."""
    own = {"threshold": 4.0, "pause": 1, "warmup": 2} if cls is SPAM else {}
    settings = {"lr": 0.01, "reset_every": 4, "clipping_type": "linear_rand_norm", **own, **implementation}

    def go(model, optimizer, steps):
        for step in steps:
            set_gradients(model, step, dtype=dtype)
            optimizer.step()

    straight = small_model().to(dtype)
    go(straight, cls(straight.parameters(), **settings), range(14))
    for cut in (3, 4, 5, 9):
        model = small_model().to(dtype)
        torch.manual_seed(0)
        optimizer = cls(model.parameters(), **settings)
        go(model, optimizer, range(cut))
        later = copy.deepcopy(model)
        resumed = cls(later.parameters(), **settings)
        resumed.load_state_dict(saved(optimizer.state_dict()))
        go(later, resumed, range(cut, 14))
        assert same(weights(later), weights(straight)), cut


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_memory_takes_in_nothing_that_is_not_finite(bad):
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = StableSPAM([p], lr=0.1)
    seen(optimizer, p, [1.0, 2.0, bad])
    before = p.detach().clone()
    memory = copy.deepcopy(rule_memories(optimizer.param_groups, optimizer.state))
    seen(optimizer, p, [bad])
    assert torch.equal(p, before)
    assert rule_memories(optimizer.param_groups, optimizer.state) == memory
    assert [value.tolist() for value in memory["0_count"]] == [2.0]
    assert int(clip_stats(optimizer).skipped) == 2
    for value in (1e200, 1e30, 1.0):  # beyond float32, so skipped; and its square beyond it
        seen(optimizer, p, [value])
    assert torch.isfinite(p).all()


def test_a_tensor_without_a_gradient_keeps_its_own_memory():
    """Two tensors, the second with a gradient at every other step.

    It moves as it does alone on those steps.
    """
    gs = gradients(12, (3,), {6: 100.0})
    a, b = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    optimizer = StableSPAM([frozen, a, b], lr=0.1)
    for step, g in enumerate(gs):
        a.grad, b.grad = torch.tensor(g), torch.tensor(g) if step % 2 else None
        optimizer.step()
        if step == 5:
            state = saved(optimizer.state_dict())
            optimizer = StableSPAM([frozen, a, b], lr=0.1)
            optimizer.load_state_dict(state)
    np.testing.assert_allclose(a.detach().numpy(), trajectory(StableSPAM, (3,), gs, lr=0.1)[-1], rtol=1e-12)
    np.testing.assert_allclose(
        b.detach().numpy(), trajectory(StableSPAM, (3,), gs[1::2], lr=0.1)[-1], rtol=1e-12
    )


def test_the_learning_rate_is_given_back_also_by_a_step_that_raises():
    p = nn.Parameter(torch.zeros(4))
    optimizer = SPAM([p], lr=0.5, reset_every=2)

    def fail():
        raise KeyError("no batch")

    for _ in range(3):
        p.grad = torch.ones(4)
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(KeyError):
        optimizer.step(fail)
    before = p.detach().clone()
    p.grad = torch.zeros(4)
    optimizer.step()  # the fifth: a reset, so nothing moves
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert torch.equal(p, before)


@pytest.mark.parametrize("cls", [SPAM, StableSPAM])
def test_what_adam_sees_is_what_is_recorded(cls):
    p = nn.Parameter(torch.zeros(4))
    optimizer = cls([p])
    for step in range(40):
        p.grad = torch.ones(4)
        p.grad[0] = 1000.0 if step == 30 else 1.0
        before = float(p.grad.norm())
        optimizer.step()
        stats = clip_stats(optimizer)
        assert (float(stats.grad_norm), float(stats.clipped_norm)) == pytest.approx(
            (before, float(p.grad.norm()))
        )
    assert float(stats.skipped) == 0


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (SPAM, {"threshold": 0}, "threshold must be above 0"),
        (SPAM, {"reset_every": 0}, "reset_every must be a whole number of at least 1"),
        (SPAM, {"pause": 0.5}, "pause must be a whole number"),
        (SPAM, {"treshold": 3}, "Unknown setting 'treshold'"),
        (
            StableSPAM,
            {"clipping_type": "block_rms"},
            "BlockRMS acts on the optimizer's update, so it cannot be one of several rules",
        ),
        (StableSPAM, {"gamma1": 1.0}, "gamma1 must be at least 0 and below 1, got 1.0"),
        (StableSPAM, {"gamma3": True}, "gamma3 must be a number, got True"),
    ],
)
def test_wrong_settings_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls([nn.Parameter(torch.zeros(1))], **settings)
