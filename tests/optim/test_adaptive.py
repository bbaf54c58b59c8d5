"""The rules with a memory of their own or an eye on the weights.

Against other people's code, by hand, and with a planted spike.
"""

import math

import numpy as np
import pytest
import pytorch_optimizer
import torch
import zclip
from conftest import set_gradients, small_model, weights
from optim_helpers import moves
from timm.utils import agc
from torch import nn

from clipbench.optim import ClippedAdamW, ClippedSGD
from clipbench.optim.memory import rule_memories


def gradients_of(model, steps):
    """A calm stream with a spike every 17th step, the same for every model."""
    for step in range(steps):
        set_gradients(model, step, 40.0 if step % 17 == 16 else 0.2)
        yield step


# against other people's code


def test_value_is_torchs_clip_grad_value():
    ours, theirs = small_model(), small_model()
    optimizer, oracle = (
        ClippedSGD(ours.parameters(), lr=0.1, clipping_type="value"),
        torch.optim.SGD(theirs.parameters(), lr=0.1),
    )
    for _ in zip(gradients_of(ours, 40), gradients_of(theirs, 40), strict=True):
        torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.1)
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize("level", [0.01, 0.5])
def test_agc_is_timms(level):
    torch.manual_seed(1)
    pair = [
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3)) for _ in range(2)
    ]
    pair[1].load_state_dict(pair[0].state_dict())
    ours, theirs = pair
    with torch.no_grad():
        for model in pair:
            model[3].weight[0] = 0  # a row below eps
    optimizer = ClippedSGD(ours.parameters(), lr=0.1, clipping_type="agc", clipping_level=level)
    oracle = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in zip(gradients_of(ours, 40), gradients_of(theirs, 40), strict=True):
        agc.adaptive_clip_grad(theirs.parameters(), clip_factor=level)
        optimizer.step()
        oracle.step()
    torch.testing.assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize("max_norm", [1.0, math.inf])
def test_zclip_is_its_authors(max_norm):
    theirs = small_model().double()
    ours = small_model().double()
    clip = zclip.ZClip(max_grad_norm=None if max_norm == math.inf else max_norm)
    optimizer = ClippedSGD(ours.parameters(), lr=0.1, clipping_type="zclip", max_norm=max_norm)
    oracle = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for step in range(120):
        for model in (ours, theirs):
            set_gradients(model, step, 40.0 if step % 17 == 16 else 0.2, torch.float64)
        clip.step(theirs)
        optimizer.step()
        oracle.step()
        if step >= 25:  # theirs keep a list until then
            memory = rule_memories(optimizer.param_groups, optimizer.state)
            assert float(memory["mean"]) == pytest.approx(clip.mean, rel=1e-5)
            assert float(memory["variance"]) == pytest.approx(clip.var, rel=1e-4)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-5)


def test_adagc_is_pytorch_optimizers():
    ours, theirs = small_model(), small_model()
    optimizer = ClippedAdamW(
        ours.parameters(), lr=0.01, weight_decay=0, clipping_type="adagc", warmup_steps=20
    )
    oracle = pytorch_optimizer.AdaGC(
        theirs.parameters(), lr=0.01, weight_decay=0, warmup_steps=21
    )  # theirs counts from 1 and stops before
    for _ in zip(gradients_of(ours, 80), gradients_of(theirs, 80), strict=True):
        optimizer.step()
        oracle.step()
    gammas = rule_memories(optimizer.param_groups, optimizer.state)["gamma"]
    torch.testing.assert_close(gammas, [oracle.state[p]["gamma"] for p in theirs.parameters()])
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-4, atol=1e-5)


def flat(tensors):
    """All entries, in float64."""
    return torch.cat([t.flatten() for t in tensors]).double().numpy()


def test_uclip_is_the_papers_recursion():
    ours, plain = small_model(), small_model()
    optimizer = ClippedSGD(ours.parameters(), lr=0.1, clipping_type="uclip")
    carry, position = 0.0, flat(weights(plain))
    total = np.zeros_like(position)
    for step, _ in zip(gradients_of(ours, 60), gradients_of(plain, 60), strict=True):
        g = flat([p.grad for p in plain.parameters()])
        u = (g + carry) * min(1, 1 / np.linalg.norm(g + carry))
        carry = g + carry - u
        position, total = position - 0.1 * u, total + g - u
        optimizer.step()
        assert (step < 16) or np.linalg.norm(carry) > 0
    np.testing.assert_allclose(flat(weights(ours)), position, rtol=1e-4, atol=1e-4)
    carry = flat(rule_memories(optimizer.param_groups, optimizer.state)["carry"])
    # all that was cut is still there: unbiased on average
    np.testing.assert_allclose(carry, total, rtol=1e-4, atol=1e-4)


# by hand


def test_zclip_by_hand():
    """μ = 2 and v = 1 after 1, 3.

    Then 10 has z = 8/1.000001 = 7.999992, so the threshold is 2 + 6.25/7.999992 = 2.781251.
    """
    moved = moves([1, 3, 10, 4], clipping_type="zclip", warmup_steps=2, max_norm=math.inf)
    assert moved == pytest.approx([1, 3, 2.781251, 4], rel=1e-6)
    p = nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([p], clipping_type="zclip", warmup_steps=2, max_norm=math.inf)
    for value in (1.0, 3.0, 10.0):
        p.grad = torch.tensor([value])
        optimizer.step()
    memory = rule_memories(optimizer.param_groups, optimizer.state)
    # μ = .97·2 + .03·2.781251, v = .97·1 + .03·(2.781251 − μ)²
    assert [float(memory["mean"]), float(memory["variance"])] == pytest.approx([2.023438, 0.987228], rel=1e-6)


def test_adagc_by_hand():
    """The warm-up clips 4 to 1 and keeps γ = min(1, .5).

    10 is clipped to 1.05·.5, which makes γ .5005; .6 to 1.05·.5005.
    """
    moved = moves([4, 0.5, 10, 0.52, 0.6], clipping_type="adagc", warmup_steps=2)
    # γ after .52, which is below 1.05·.5005: .98·.5005 + .02·.52 = .50089
    assert moved == pytest.approx([1, 0.5, 0.525, 0.52, 0.525935], rel=1e-6)


def test_normalize_by_hand():
    assert moves([4, 0.001, 0], clipping_type="normalize", clipping_level=0.5) == pytest.approx(
        [0.5, 0.4995005, 0], rel=1e-6
    )
    # .5·4/√(.25 + 16) = .496139
    assert moves([4, 0.001], clipping_type="normalize", clipping_level=0.5, smooth=True) == pytest.approx(
        [0.496139, 0.001], rel=1e-5
    )


# a planted spike


def test_zclip_cuts_a_spike_to_just_above_the_mean_and_leaves_calm_steps_alone():
    calm = [0.99, 1.01] * 50
    moved = moves([*calm, 100, *calm], clipping_type="zclip", max_norm=math.inf)
    assert moved[:100] == pytest.approx(calm)
    # not the mean plus 2.5 deviations: the larger, the lower
    assert moved[100] == pytest.approx(1.0, abs=0.01)
    assert moved[101:] == pytest.approx(calm)


def test_zclips_spike_in_the_warm_up_is_cut_to_max_norm_alone():
    assert moves([0.5, 100, 0.5], clipping_type="zclip") == pytest.approx([0.5, 1, 0.5])


def test_adagc_cuts_the_tensor_that_spikes_and_no_other():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([a, b], lr=1.0, clipping_type="adagc", warmup_steps=10)
    for step in range(60):
        spikes = step == 40
        before = a.item(), b.item()
        a.grad = torch.tensor([5.0 if spikes else 0.01])
        b.grad = torch.tensor([0.5])
        optimizer.step()
        assert before[0] - a.item() == pytest.approx(0.0105 if spikes else 0.01, rel=1e-3)
        assert before[1] - b.item() == pytest.approx(0.5, rel=1e-3)


def test_layer_wise_cuts_the_tensor_that_spikes_and_no_other():
    params = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer = ClippedSGD(params, lr=1.0, clipping_type="layer_wise")
    for p, entries in zip(params, ([0.6, 0.0], [300.0, -400.0], [0.0, -0.9]), strict=True):
        p.grad = torch.tensor(entries)
    optimizer.step()
    torch.testing.assert_close(
        [p.detach() for p in params], [torch.tensor(x) for x in ([-0.6, 0.0], [-0.6, 0.8], [0.0, 0.9])]
    )


def test_agc_cuts_the_row_that_spikes_and_no_other():
    p = nn.Parameter(torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]]))
    optimizer = ClippedSGD([p], lr=1.0, clipping_type="agc")
    before = p.detach().clone()
    p.grad = torch.tensor([[0.03, 0.0], [8.0, -6.0], [1.0, 0.0]])
    optimizer.step()
    # rows of norm 5, 1, 0: allowed .05, .01, and .01·eps = 1e-5
    torch.testing.assert_close(
        before - p.detach(), torch.tensor([[0.03, 0.0], [0.008, -0.006], [1e-5, 0.0]]), rtol=1e-3, atol=1e-6
    )


def test_uclip_pays_a_spike_out_bit_by_bit():
    assert moves([0.5, 3.2, 0, 0, 0.5, 0, 0.5], clipping_type="uclip") == pytest.approx(
        [0.5, 1, 1, 1, 0.7, 0, 0.5], abs=1e-9
    )


def test_value_cuts_the_entry_that_spikes_and_no_other():
    p = nn.Parameter(torch.zeros(3))
    optimizer = ClippedSGD([p], lr=1.0, clipping_type="value")
    p.grad = torch.tensor([0.09, -7.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.09, 0.1, 0.0]))


# a memory for each parameter


def test_a_missing_gradient_leaves_the_other_tensors_their_own_memory():
    """Three weights of very different scales; the middle one is often missing.

    The others move as if it did not exist.
    """

    def run(values, missing):
        params = [nn.Parameter(torch.zeros(1)) for _ in values]
        optimizer = ClippedSGD(params, lr=1.0, clipping_type="adagc", lambda_abs=math.inf, warmup_steps=5)
        for step in range(40):
            for i, (p, value) in enumerate(zip(params, values, strict=True)):
                absent = i == missing and (step in (0, 7, 8) or step > 30)
                p.grad = None if absent else torch.tensor([value * (50 if step in (20, 33) else 1)])
            optimizer.step()
        return [p.item() for p in params], optimizer

    with_it, optimizer = run([0.01, 100.0, 1.0], missing=1)
    without, _ = run([0.01, 1.0], missing=None)
    assert [with_it[0], with_it[2]] == pytest.approx(without, rel=1e-6)
    gammas = [float(gamma) for gamma in rule_memories(optimizer.param_groups, optimizer.state)["gamma"]]
    assert gammas == pytest.approx([0.01, 100, 1], rel=0.05)


def test_a_gradient_of_zeros_does_not_stop_a_tensor_for_good():
    assert moves([0.5, 0, 0.5, 0.5, 0, 0.5], clipping_type="adagc", warmup_steps=3) == pytest.approx(
        [0.5, 0, 0.5, 0.5, 0, 0.5]
    )


def test_a_tensor_that_comes_later_starts_with_its_first_gradient():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = ClippedSGD([a], lr=1.0, clipping_type="adagc", warmup_steps=3)
    for step in range(12):
        if step == 6:
            optimizer.add_param_group({"params": [b]})
        a.grad, b.grad = torch.tensor([0.3]), torch.tensor([0.4 if step != 10 else 40.0])
        optimizer.step()
    gammas = rule_memories(optimizer.param_groups, optimizer.state)["gamma"]
    assert [float(gamma) for gamma in gammas] == pytest.approx([0.3, 0.4], rel=2e-3)
    assert a.item() == pytest.approx(-12 * 0.3)
    assert b.item() == pytest.approx(-(5 * 0.4 + 1.05 * 0.4), rel=1e-3)


def test_complex_weights_have_their_memory_too():
    for name in ("uclip", "agc", "adagc"):
        p = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        optimizer = ClippedSGD([p], lr=1.0, clipping_type=name)
        p.grad = torch.tensor([3.0 + 0j, 0 + 4j], dtype=torch.complex64)
        optimizer.step()
        assert torch.isfinite(torch.view_as_real(p.detach())).all()
        assert (p.detach() - 1).abs().max() < 1.1


def test_a_checkpoint_with_another_number_of_tensors_is_refused_and_what_has_another_size_begins_afresh():
    state = ClippedSGD(small_model().parameters(), clipping_type="uclip")
    set_gradients(model := small_model(), 0)
    optimizer = ClippedSGD(model.parameters(), clipping_type="uclip")
    optimizer.step()
    state.load_state_dict(optimizer.state_dict())
    other = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))  # as many tensors, of other shapes
    fresh = ClippedSGD(other.parameters(), clipping_type="uclip")
    fresh.load_state_dict(optimizer.state_dict())
    set_gradients(other, 1)
    before = [p.grad.clone() for p in other.parameters()]
    fresh.step()
    whole = list(other.parameters())[:3]  # of which nothing was remembered that fits: what was cut is left
    for p, g in zip(whole, before, strict=False):
        torch.testing.assert_close(fresh.state[p]["clipping_memory_carry"], g - p.grad)
    with pytest.raises(ValueError, match="parameter group"):  # torch's own
        ClippedSGD(list(other.parameters())[:3], clipping_type="uclip").load_state_dict(
            optimizer.state_dict()
        )
