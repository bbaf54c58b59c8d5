"""ACClip: the published algorithm, by hand and in numpy."""

import copy

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved, steps
from torch import nn

from clipbench.optim import ACClip, Norm, clip_gradients
from clipbench.optim.laws import Waits


def moves(values, **keywords):
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = ACClip([p], lr=1.0, **keywords)
    found = []
    for value in values:
        before = p.item()
        p.grad = torch.tensor([float(value)], dtype=torch.float64)
        optimizer.step()
        found.append(before - p.item())
    return found


def test_by_hand():
    """g = 1, −2: m = .1, −.11; τ = .01, .0299. Both exceed τ: factors .01/.10001 and .0299/.11001."""
    assert moves([1, -2]) == pytest.approx([0.1 * 0.01 / 0.10001, -0.11 * 0.0299 / 0.11001], rel=1e-9)
    # power 2: τ = √(.01·1) = .1, then √(.0099 + .04) = .223383, above abs(m)
    assert moves([1, -2], power=2) == pytest.approx([0.1 * 0.1 / 0.10001, -0.11], rel=1e-9)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_trajectory_of_the_paper_in_numpy(power, decay):
    model, plain = small_model(), small_model()
    optimizer = ACClip(model.parameters(), lr=0.1, power=power, weight_decay=decay)
    w = [p.detach().numpy().astype(float) for p in plain.parameters()]
    m, t = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    for step in range(40):
        set_gradients(model, step, 30.0 if step == 25 else 0.5)
        for i, p in enumerate(model.parameters()):
            g = p.grad.numpy().astype(float) + decay * w[i]
            m[i] = 0.9 * m[i] + 0.1 * g
            t[i] = 0.99 * t[i] + 0.01 * abs(g) ** power
            level = t[i] ** (1 / power)
            factor = np.minimum(level / (abs(m[i]) + 1e-5), 1)
            w[i] = w[i] - 0.1 * factor * m[i]
        optimizer.step()
    for ours, theirs in zip(weights(model), w, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_a_planted_spike_moves_a_weight_no_further_than_its_level():
    calm = [0.5] * 600
    moved = moves([*calm, 500, *calm[:50]])
    assert moved[599] == pytest.approx(0.5, rel=0.01)  # τ and m have both settled at .5: nothing is cut
    tau = 0.99 * 0.5 + 0.01 * 500
    assert moved[600] == pytest.approx(tau, rel=0.01)  # the momentum is 50
    one = nn.Parameter(torch.zeros(2))
    optimizer = ACClip([one], lr=1.0)
    for value in [*calm, 500]:
        before, one.grad = one.detach().clone(), torch.tensor([value, 0.5])
        optimizer.step()
    assert (before - one.detach())[1].item() == pytest.approx(
        0.5, rel=0.01
    )  # the entry beside it goes its way


def test_five_steps_save_load_five_steps_are_ten_steps():
    straight = small_model()
    expected = steps(straight, clip_gradients(ACClip(straight.parameters()), Norm(1.0)), range(10))
    model = small_model()
    optimizer = clip_gradients(ACClip(model.parameters()), Norm(1.0))
    steps(model, optimizer, range(5))
    later = copy.deepcopy(model)
    resumed = clip_gradients(ACClip(later.parameters()), Norm(1.0))
    resumed.load_state_dict(saved(optimizer.state_dict()))
    assert same(steps(later, resumed, range(5, 10)), expected)


def test_no_step_waits_and_a_missing_gradient_moves_nothing():
    model = small_model()
    optimizer = ACClip(model.parameters(), weight_decay=0.1)
    for step in range(2):
        set_gradients(model, step)
        last = list(model.parameters())[-1]
        last.grad, before = None, last.detach().clone()
        with Waits() as waits:
            optimizer.step()
        assert waits.count == 0
        assert torch.equal(last, before)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be at least 0 and below 1"),
        ({"power": 3}, "power must be between 1 and 2"),
        ({"eps": 0}, "eps must be above 0"),
        ({"lr": -1}, "lr must be a number of at least 0"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ACClip(small_model().parameters(), **settings)
