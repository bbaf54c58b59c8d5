"""What clipping remembers: copied, pickled, saved, loaded, and with groups that come or change later."""

import copy
import pickle

import pytest
import torch
from conftest import set_gradients, small_model
from optim_helpers import CLASSES, same, saved, steps
from torch import nn

from clipbench.optim import (
    ClippedSGD,
)
from clipbench.optim.memory import rule_memories


def through_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("name", ["norm", "auto", "linear_rand_norm", "layer_wise"])
@pytest.mark.parametrize("twin", [copy.deepcopy, through_pickle], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_copied_optimizer_still_clips(name, twin, kind):
    cls, keywords = CLASSES[kind]
    model = small_model()
    optimizer = cls(model.parameters(), clipping_type=name, **keywords)
    steps(model, optimizer, range(5))
    model_2, optimizer_2 = twin((model, optimizer))
    expected = steps(model, optimizer, range(5, 10), 10.0)
    assert same(steps(model_2, optimizer_2, range(5, 10), 10.0), expected)


def test_a_checkpoint_loads_where_the_first_group_is_empty():
    def build(p):
        return ClippedSGD([{"params": []}, {"params": [p]}], lr=0.1, clipping_type="auto")

    optimizer = build(p := nn.Parameter(torch.zeros(2)))
    p.grad = torch.ones(2)
    optimizer.step()
    other = build(nn.Parameter(torch.zeros(2)))
    other.load_state_dict(saved(optimizer.state_dict()))
    assert int(rule_memories(other.param_groups, other.state)["count"]) == 1


def test_a_group_that_is_added_later_starts_with_a_fresh_memory():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = ClippedSGD([a], lr=0.1, clipping_type="uclip", clipping_level=0.1)
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    optimizer.add_param_group({"params": [b]})
    carry = rule_memories(optimizer.param_groups, optimizer.state)["carry"][0].clone()
    optimizer.step()
    both = rule_memories(optimizer.param_groups, optimizer.state)["carry"]
    assert (both[0] > carry).all()
    assert (both[1] < 1).all()


def test_a_plain_checkpoint_loads_and_the_memory_starts_anew():
    model = small_model()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    set_gradients(model, 0)
    plain.step()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, momentum=0.9, clipping_type="auto")
    optimizer.load_state_dict(saved(plain.state_dict()))
    steps(model, optimizer, range(3))
    assert int(rule_memories(optimizer.param_groups, optimizer.state)["count"]) == 3


def test_a_checkpoint_of_another_rules_memory_is_refused_before_anything_is_loaded():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_type="auto", window=20)
    steps(model, optimizer, range(3))
    state = saved(optimizer.state_dict())
    for settings in ({"clipping_type": "norm"}, {"clipping_type": "auto", "window": 30}):
        other = ClippedSGD(model.parameters(), lr=0.5, **settings)
        with pytest.raises(
            ValueError,
            match="with the rule that was saved, or remove the entries that begin with 'clipping_memory_'",
        ):
            other.load_state_dict(state)
        assert other.param_groups[0]["lr"] == 0.5
    ClippedSGD(model.parameters(), clipping_type="auto", window=20, p_autoclip=0.1).load_state_dict(state)


def test_one_checkpoint_loaded_twice_makes_two_memories():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1, clipping_type="auto")
    steps(model, optimizer, range(3))
    state = saved(optimizer.state_dict())
    twins = [ClippedSGD(small_model().parameters(), lr=0.1, clipping_type="auto") for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(state)
    set_gradients(other := small_model(), 7)
    for p, q in zip(twins[0].param_groups[0]["params"], other.parameters(), strict=True):
        p.grad = q.grad
    twins[0].step()
    counts = [int(rule_memories(twin.param_groups, twin.state)["count"]) for twin in twins]
    assert counts == [4, 3]
    assert int(rule_memories(**state)["count"]) == 3


def test_random_rules_leave_torchs_own_stream_alone():
    """And what they draw are not the numbers that drew the weights."""
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    p = nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([p], clipping_type="linear_rand_norm")
    p.grad = torch.ones(1)
    optimizer.step()
    rng = optimizer.clipping.rng
    rng.manual_seed(rng.initial_seed())
    assert torch.rand(1, generator=rng) != first
    assert torch.equal(torch.rand(1), first)  # and torch's own stream was not touched
