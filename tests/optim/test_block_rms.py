"""block_rms: Adam's update, clipped as torch's own Adafactor clips its."""

import copy
import math

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import IMPLEMENTATIONS, same
from torch import nn

from clipbench.optim import BlockRMS, ClippedAdam, ClippedAdamW, ClippedSGD, clip_gradients, clip_stats

CLASSES = {ClippedAdam: torch.optim.Adam, ClippedAdamW: torch.optim.AdamW}


@pytest.mark.parametrize("d", [1.0, 1.5])
def test_the_block_rms_is_adafactors(d):
    """On a vector Adafactor does not factor.

    With β₂ → 1 Adam's v̂ is the plain mean of g², as Adafactor's is with beta2_decay=−1.
    """
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(40, dtype=torch.float64))
    theirs = nn.Parameter(ours.detach().clone())
    adam = ClippedAdam([ours], betas=(0.0, 1 - 1e-9), eps=1e-30, clipping_type="block_rms", clipping_level=d)
    oracle = torch.optim.Adafactor(
        [theirs], lr=0.01, beta2_decay=-1.0, eps=(1e-30, 1e-3), d=d, weight_decay=0.0, foreach=False
    )
    acted = 0
    for step in range(30):
        ours.grad = torch.randn(40, dtype=torch.float64) * (100 if step in (7, 20) else 1)
        theirs.grad = ours.grad.clone()
        # Adafactor's learning rate is relative to the weights and falls with the step
        lr = max(1e-3, float(theirs.detach().norm() / 40**0.5)) * min(0.01, 1 / math.sqrt(step + 1))
        adam.param_groups[0]["lr"] = lr
        before = ours.detach().clone()
        adam.step()
        oracle.step()
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-9)
        rms = float((before - ours.detach()).square().mean().sqrt()) / lr
        assert rms <= d * (1 + 1e-6)
        acted += rms > d * (1 - 1e-6)
    assert 1 < acted < 30


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.1}], ids=str
)
def test_the_update_is_adams_divided_by_its_rms(kind, implementation, options):
    """torch's own step from the same place, its update divided tensor by tensor.

    AdamW's weight decay stays whole.
    """
    keywords = {"lr": 0.01, "betas": (0.5, 0.999), **options, **IMPLEMENTATIONS[implementation]}
    model = small_model()
    ours = kind(model.parameters(), clipping_type="block_rms", **keywords)
    acted = 0
    for step in range(25):
        set_gradients(model, step, 100.0 if step % 10 == 9 else 0.1)
        twin = copy.deepcopy(model)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = p.grad.clone()
        plain = CLASSES[kind](twin.parameters(), **keywords)
        state = copy.deepcopy(ours.state_dict())  # loading shares the tensors
        plain.load_state_dict(state)
        start = weights(model)
        ours.step()
        plain.step()
        decay = 1 - 0.01 * ours.param_groups[0]["weight_decay"] if kind is ClippedAdamW else 1
        for before, after, whole in zip(start, weights(model), weights(twin), strict=True):
            update = whole - decay * before
            rms = float(update.square().mean().sqrt()) / 0.01
            acted += rms > 1.001
            torch.testing.assert_close(after - decay * before, update / max(1, rms), rtol=2e-3, atol=1e-6)
    assert 0 < acted < 100


def test_a_planted_spike_is_cut_and_calm_steps_are_adams():
    """At step 50 of 60 the gradient is 1000 times as large."""
    ours, theirs = small_model(), small_model()
    keywords = {
        "lr": 1e-3,
        "betas": (0.5, 0.999),
        "fused": True,
    }  # a spike after t calm steps is an update of (1 − β₁)·√t
    optimizer = ClippedAdam(ours.parameters(), clipping_type="block_rms", **keywords)
    adam = torch.optim.Adam(theirs.parameters(), **keywords)
    rng, share = torch.Generator().manual_seed(0), []
    for step in range(60):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=rng) * (1000 if step == 50 else 1)
            q.grad = p.grad.clone()
        optimizer.step()
        adam.step()
        stats = clip_stats(optimizer)
        share.append(float(stats.clipped_norm / stats.grad_norm))
        if step < 50:
            torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-8)
    assert share[:50] == pytest.approx([1.0] * 50)  # the first updates are signs, of RMS 1
    assert share[50] < 0.5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", CLASSES)
def test_an_infinite_level_is_torchs_own_to_the_bit(kind, implementation):
    ours, theirs = small_model(), small_model()
    keywords = {"lr": 0.01, **IMPLEMENTATIONS[implementation]}
    optimizer = kind(ours.parameters(), clipping_type="block_rms", clipping_level=math.inf, **keywords)
    oracle = CLASSES[kind](theirs.parameters(), **keywords)
    for step in range(20):
        for model, each in ((ours, optimizer), (theirs, oracle)):
            set_gradients(model, step, 100.0 if step == 15 else 1.0)
            each.step()
    assert same(weights(ours), weights(theirs))


def test_in_bfloat16_the_update_is_that_of_float32():
    """Weights of 0, so that an update shows to bfloat16's eight bits."""
    pair = [nn.Parameter(torch.zeros(16, dtype=dtype)) for dtype in (torch.bfloat16, torch.float64)]
    optimizers = [
        ClippedAdam([p], lr=0.1, betas=(0.5, 0.999), clipping_type="block_rms", clipping_level=0.5)
        for p in pair
    ]
    for step in range(4):
        g = (torch.randn(16) * (50 if step == 3 else 1)).bfloat16()
        for p, optimizer in zip(pair, optimizers, strict=True):
            p.grad = g.to(p.dtype)
            before = p.detach().double()
            optimizer.step()
            moved = (p.detach().double() - before).square().mean().sqrt() / 0.1
            assert float(moved) == pytest.approx(0.5, rel=0.05) or float(moved) < 0.5
        torch.testing.assert_close(pair[0].detach().double(), pair[1].detach(), rtol=0.05, atol=0.003)


def test_a_level_of_its_own_and_an_exempt_group():
    params = [nn.Parameter(torch.zeros(4)) for _ in range(3)]
    groups = [
        {"params": [p], **more}
        for p, more in zip(params, ({}, {"clipping_level": 0.25}, {"clipping_level": math.inf}), strict=True)
    ]
    optimizer = ClippedAdam(groups, lr=1.0, clipping_type="block_rms", clipping_level=0.5)
    for p in params:
        p.grad = torch.full((4,), 3.0)  # the first update of Adam is the sign of the gradient
    optimizer.step()
    torch.testing.assert_close(
        [p.detach() for p in params], [torch.full((4,), -size) for size in (0.5, 0.25, 1.0)]
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_step_without_any_gradient_changes_nothing(implementation):
    model = small_model()
    optimizer = ClippedAdam(model.parameters(), clipping_type="block_rms", **IMPLEMENTATIONS[implementation])
    set_gradients(model, 0)
    optimizer.step()
    before = weights(model)
    optimizer.zero_grad()
    optimizer.step()
    assert same(weights(model), before)


def test_it_is_tied_to_adam():
    model = small_model()
    with pytest.raises(
        ValueError, match="BlockRMS acts on the update of Adam and of its subclasses, not of ClippedSGD"
    ):
        ClippedSGD(model.parameters(), clipping_type="block_rms")
    with pytest.raises(ValueError, match="not of RMSprop"):
        clip_gradients(torch.optim.RMSprop(model.parameters()), BlockRMS())


@pytest.mark.parametrize("kind", CLASSES)
def test_complex_weights(kind):
    p, q = nn.Parameter(torch.ones(3, dtype=torch.complex64)), nn.Parameter(torch.ones(3, 2))
    with torch.no_grad():
        q[:, 1] = 0
    pair = [kind([each], lr=0.1, clipping_type="block_rms", clipping_level=0.5) for each in (p, q)]
    for step in range(4):
        q.grad = torch.randn(3, 2) * 10**step
        p.grad = torch.view_as_complex(q.grad.clone())
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(p.detach()), q.detach())
