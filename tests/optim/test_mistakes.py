"""The mistakes of the prior art (torch-clip 0.0.6), one test each, with the numbers that are right."""

import inspect
import math

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model
from optim_helpers import moves
from torch import nn

from clipbench.optim import RULES, SPAM, ACClip, ClippedSGD, ClippedSSTM, StableSPAM, clip_stats, make_rule
from clipbench.optim.memory import rule_memories


def test_momentum_takes_the_clipped_gradient():
    # v1 = 1, v2 = .9·1 + .5, v3 = .9·1.4 + .5
    assert moves([100, 0.5, 0.5], momentum=0.9, clipping_level=1) == pytest.approx([1, 1.4, 1.76])


@pytest.mark.parametrize("name", ["layer_wise", "coordinate_wise"])
def test_a_gradient_below_the_level_is_not_clipped_whatever_the_buffer(name):
    # the buffer grows to 5·.5, far above the level
    expected = 0.5 * np.cumsum(0.9 ** np.arange(30))
    assert moves([0.5] * 30, momentum=0.9, clipping_type=name, clipping_level=1) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize(
    "name", ["linear_rand_norm", "quadratic_rand_norm", "linear_rand_auto", "quadratic_rand_auto"]
)
def test_one_draw_for_the_whole_gradient(name):
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), clipping_type=name, beta=0.5)
    for step in range(40):
        set_gradients(model, step, 10.0)
        before = torch.cat([p.grad.flatten() for p in model.parameters()])
        optimizer.step()
        after = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert torch.cosine_similarity(before, after, dim=0) > 1 - 1e-6


def test_the_random_rules_clip_by_default():
    clipped = np.count_nonzero(np.array(moves([100] * 300, clipping_type="linear_rand_norm")) < 99)
    rate = 0.85**0.01
    assert abs(clipped / 300 - rate) < 3 * math.sqrt(rate * (1 - rate) / 300) + 1 / 300


@pytest.mark.parametrize("level", [5, np.float64(5), np.int32(5)])
def test_a_level_that_is_not_a_python_float_is_the_level(level):
    for name in ("norm", "layer_wise", "coordinate_wise"):
        assert moves([100], clipping_type=name, clipping_level=level) == pytest.approx([5])


@pytest.mark.parametrize("p", [0.1, 0.75])
def test_auto_keeps_large_values_and_pushes_only_what_belongs(p):
    heavy = np.abs(np.random.default_rng(0).standard_cauchy(200)) + 0.1
    rising = np.arange(1.0, 101.0)
    for values in (heavy, rising):
        levels = [np.quantile(values[: t + 1], p) for t in range(len(values))]
        expected = np.minimum(values, levels)
        assert moves(values, clipping_type="auto", p_autoclip=p) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", RULES)
def test_the_memory_is_in_the_state_dict_and_as_large_as_it_must_be(name):
    model = small_model()  # four tensors, 83 entries
    window = {"window": 20} if "auto" in name else {}
    optimizer = ClippedSGD(model.parameters(), clipping_type=name, **window)
    for step in range(30):
        set_gradients(model, step)
        optimizer.step()
    memory = rule_memories(**optimizer.state_dict())
    size = 0
    for entry in memory.values():
        tensors = [entry] if isinstance(entry, torch.Tensor) else entry
        size += sum(t.numel() for t in tensors)
    expected = {"zclip": 3, "adagc": 4 + 1, "uclip": 83}
    assert size == (41 if "auto" in name else expected.get(name, 0))


def test_two_groups_are_normed_together():
    params = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = ClippedSGD([{"params": [p]} for p in params], lr=1.0, clipping_level=1)
    for p in params:
        p.grad = torch.full((1,), 100.0)
    optimizer.step()
    assert math.hypot(*(p.item() for p in params)) == pytest.approx(1.0)


def test_weight_decay_acts():
    p = nn.Parameter(torch.ones(1))
    optimizer = ClippedSGD([p], lr=0.1, weight_decay=0.5)
    p.grad = torch.zeros(1)
    optimizer.step()
    assert p.item() == pytest.approx(0.95)


def test_unknown_keywords_are_not_swallowed():
    with pytest.raises(ValueError, match="Unknown setting 'wieght_decay'"):
        ClippedSGD([nn.Parameter(torch.ones(1))], wieght_decay=0.5)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_entry_harms_neither_the_weights_nor_the_memory(name, bad):
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), clipping_type=name)
    for step in range(4):
        set_gradients(model, step)
        if step == 2:
            next(model.parameters()).grad[0, 0] = bad
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert int(clip_stats(optimizer).skipped) == 1
    memory = rule_memories(optimizer.param_groups, optimizer.state)
    if "count" in memory:
        assert int(memory["count"]) == 3
    if "norms" in memory:
        assert torch.isfinite(memory["norms"][:3]).all()


def test_step_returns_what_torch_returns():
    p = nn.Parameter(torch.ones(1))
    optimizer = ClippedSGD([p])
    p.grad = torch.ones(1)
    assert optimizer.step() is None
    assert optimizer.step(lambda: torch.tensor(2.0)) == 2.0


def test_defaults_are_those_of_the_table():
    levels = {name: getattr(make_rule(name), "clipping_level", None) for name in RULES}
    ones = ["norm", "linear_rand_norm", "quadratic_rand_norm", "layer_wise", "normalize", "uclip"]
    others = {"coordinate_wise": 0.1, "value": 0.1, "agc": 0.01}
    assert levels == {**dict.fromkeys(RULES), **dict.fromkeys(ones, 1.0), **others}
    assert (make_rule("quadratic_rand_auto").p_autoclip, make_rule("quadratic_rand_auto").beta) == (
        0.75,
        0.85,
    )
    zclip, adagc = make_rule("zclip"), make_rule("adagc")
    assert (zclip.decay, zclip.z_threshold, zclip.warmup_steps, zclip.max_norm) == (0.97, 2.5, 25, 1.0)
    assert (adagc.lambda_abs, adagc.lambda_rel, adagc.decay, adagc.warmup_steps) == (1.0, 1.05, 0.98, 100)
    assert make_rule("agc").eps == 1e-3
    assert make_rule("block_rms").clipping_level == 1.0


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (SPAM, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "threshold": 5000}),
        (SPAM, {"reset_every": 500, "warmup": 150, "pause": 20}),
        (StableSPAM, {"gamma1": 0.7, "gamma2": 0.9, "gamma3": 0.999}),
        (ACClip, {"betas": (0.9, 0.99), "power": 1}),
        (ClippedSSTM, {"nu": 1, "cap": 1, "clipping_type": "norm"}),
    ],
)
def test_defaults_of_optimizers_are_those_of_the_papers(cls, expected):
    signature = inspect.signature(cls).parameters
    assert {name: signature[name].default for name in expected} == expected


def test_stable_spam_resets_every_500_to_1000_steps():
    assert 500 <= inspect.signature(StableSPAM).parameters["reset_every"].default <= 1000
