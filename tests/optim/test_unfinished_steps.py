"""A step that raised leaves nothing; levels and learning rates that were set meanwhile hold."""

import copy
import math

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved
from torch import nn

from clipbench.optim import SPAM, ClippedAdamW, ClippedSGD, Norm, clip_stats, set_clipping_level


def refusing(optimizer):
    """After this, steps raise when clipping is done, before the update."""

    def refuse(*_):
        raise KeyboardInterrupt

    return optimizer.register_step_pre_hook(refuse)


@pytest.mark.parametrize("name", ["uclip", "auto", "adagc", "zclip"])
def test_a_step_that_raised_is_not_remembered(name):
    found = []
    for raises in (True, False):
        model = small_model()
        optimizer = ClippedSGD(model.parameters(), lr=0.1, momentum=0.9, clipping_type=name)
        for step in range(3):
            set_gradients(model, step, 3.0)
            optimizer.step()
        if raises:
            hook = refusing(optimizer)
            set_gradients(model, 50, 100.0)
            with pytest.raises(KeyboardInterrupt):
                optimizer.step()
            hook.remove()
            assert optimizer.state_dict()["param_groups"][0]["fused"] is None
            optimizer.load_state_dict(saved(optimizer.state_dict()))
        for step in range(3, 8):
            set_gradients(model, step, 3.0)
            optimizer.step()
        found.append(weights(model))
    assert same(*found)


@pytest.mark.parametrize("carry", [lambda o: o, copy.deepcopy], ids=["as it is", "deepcopy"])
def test_spam_gives_back_its_learning_rate_after_a_step_that_raised(carry):
    model = small_model()
    optimizer = SPAM(model.parameters(), lr=0.1, reset_every=3, pause=1, warmup=2)
    for step in range(4):
        set_gradients(model, step)
        optimizer.step()
    refusing(optimizer)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert carry(optimizer).state_dict()["param_groups"][0]["lr"] == 0.1


def test_a_learning_rate_that_was_lowered_after_a_step_that_raised_stays():
    p = nn.Parameter(torch.ones(3))
    optimizer = SPAM([p], lr=0.1, reset_every=1, warmup=5, pause=1, nonfinite="raise")
    p.grad = torch.ones(3)
    optimizer.step()
    p.grad = torch.full((3,), math.nan)
    with pytest.raises(FloatingPointError):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.001
    p.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.001


def test_a_checkpoints_level_is_the_common_one():
    a = ClippedAdamW(small_model().parameters(), clipping_level=5.0)
    b = ClippedAdamW(small_model().parameters(), clipping_level=1.0)
    b.load_state_dict(saved(a.state_dict()))
    assert "Norm(clipping_level=5.0)" in repr(b)
    set_clipping_level(b, 0.1)
    assert [group["clipping_level"] for group in b.param_groups] == [0.1]
    b.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert [group["clipping_level"] for group in b.param_groups] == [0.1, 0.1]


def test_a_roll_back_brings_the_level_back():
    optimizer = ClippedSGD(small_model().parameters(), clipping_level=1.0)
    before = copy.deepcopy(optimizer.state_dict())
    set_clipping_level(optimizer, 0.1)
    optimizer.load_state_dict(before)
    set_clipping_level(optimizer, 0.3)
    assert optimizer.param_groups[0]["clipping_level"] == 0.3


def test_defaults_of_a_rule_follow_its_level():
    optimizer = ClippedSGD(small_model().parameters(), clipping_type=Norm(0.5))
    set_clipping_level(optimizer, 0.2)
    again = ClippedSGD(small_model().parameters(), **optimizer.defaults)
    assert again.clipping.rule == Norm(0.2)


def test_a_conjugation_or_negation_that_is_still_to_be_made_is_made():
    w = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = ClippedSGD([w], lr=1.0, clipping_level=1e9)
    (w.conj() * (1 + 2j)).real.sum().backward()
    expected = (w - w.grad).detach().clone()
    optimizer.step()
    torch.testing.assert_close(w.detach(), expected)
    a, b = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
    optimizer = ClippedSGD([a, b], lr=1.0, clipping_level=1e9)
    torch.complex(a, b).conj().mul(1 + 2j).real.backward()
    moved = [p.detach() - p.grad for p in (a, b)]
    optimizer.step()
    torch.testing.assert_close([a.detach(), b.detach()], moved)


@pytest.mark.parametrize("name", ["auto", "zclip", "adagc", "norm", "none"])
def test_stats_of_an_optimizer_without_parameters_and_of_a_huge_level(name):
    repr(clip_stats(ClippedSGD([{"params": []}], clipping_type=name)))
    repr(clip_stats(ClippedSGD(small_model().parameters(), clipping_level=1e39)))


def test_a_level_of_four_hundred_digits_is_refused_in_words():
    with pytest.raises(ValueError, match="clipping_level must be a number below"):
        ClippedSGD(small_model().parameters(), clipping_level=10**400)
