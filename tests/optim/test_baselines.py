"""Lion against its algorithm in numpy, Muon against torch's Muon and AdamW.

And what every optimizer must do.
"""

import copy

import numpy as np
import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import same, saved, steps
from timm.optim.lion import Lion as TimmLion
from torch import nn
from torch.optim._muon import _zeropower_via_newtonschulz

from clipbench.optim import (
    SPAM,
    ACClip,
    ClippedSSTM,
    Lion,
    Muon,
    Norm,
    StableSPAM,
    baselines,
    clip_gradients,
    clip_stats,
)
from clipbench.optim.laws import Waits

NEW = {
    "lion": (Lion, {"lr": 0.01, "weight_decay": 0.1}),
    "muon": (Muon, {"lr": 0.01}),
    "spam": (SPAM, {"lr": 0.01, "clipping_type": "norm"}),
    "stable_spam": (StableSPAM, {"lr": 0.01, "clipping_type": "norm"}),
    "sstm": (ClippedSSTM, {"lr": 0.1, "L": 1.0}),
    "acclip": (ACClip, {"lr": 0.1, "weight_decay": 0.1}),
}


def built(kind, model):
    """Clipped at norm 1, whatever it is."""
    cls, settings = NEW[kind]
    optimizer = cls(model.parameters(), **settings)
    return optimizer if hasattr(optimizer, "clipping") else clip_gradients(optimizer, Norm(1.0))


def test_lion_is_its_algorithm():
    rng = np.random.default_rng(0)
    w, m = rng.standard_normal((3, 4)), np.zeros((3, 4))
    p = nn.Parameter(torch.tensor(w))
    optimizer = Lion([p], lr=0.03, betas=(0.8, 0.95), weight_decay=0.4)
    for _ in range(20):
        g = rng.standard_normal((3, 4))
        w = w - 0.03 * (np.sign(0.8 * m + 0.2 * g) + 0.4 * w)
        m = 0.95 * m + 0.05 * g
        p.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_allclose(p.detach(), w, rtol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_lion_is_timms(decay):
    ours, theirs = small_model(), small_model()
    pair = [
        (ours, Lion(ours.parameters(), lr=0.03, weight_decay=decay)),
        (theirs, TimmLion(theirs.parameters(), lr=0.03, weight_decay=decay)),
    ]
    for step in range(20):
        for model, optimizer in pair:
            set_gradients(model, step)
            optimizer.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


def test_lion_takes_complex_weights_as_pairs_and_refuses_a_misspelt_level():
    p, q = (
        nn.Parameter(torch.ones(2, dtype=torch.complex64)),
        nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 0.0]])),
    )
    pair = [Lion([each], lr=0.1, weight_decay=0.2) for each in (p, q)]
    for step in range(4):
        q.grad = torch.tensor([[1.0, -2.0], [0.5 - step, 3.0]])
        p.grad = torch.view_as_complex(q.grad.clone())
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(p.detach()), q.detach(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="Unknown key 'cliping_level' in a parameter group"):
        Lion([{"params": [p], "cliping_level": 1}])


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.conv = nn.Embedding(5, 4), nn.Conv2d(2, 6, 3)
        self.hidden, self.norm, self.head = nn.Linear(4, 7), nn.LayerNorm(7), nn.Linear(7, 3)


def torchs_orthogonal(matrix, steps):
    return _zeropower_via_newtonschulz(matrix, (3.4445, -4.775, 2.0315), steps, 1e-7)


@pytest.mark.parametrize("channels_last", [False, True])
def test_muon_is_torchs_muon_on_hidden_matrices_and_torchs_adamw_on_the_rest(channels_last, monkeypatch):
    """To the bit where ours is put into bfloat16, in which torch's iterates.

    In float32 to what bfloat16 can tell.
    """
    with monkeypatch.context() as patch:
        patch.setattr(baselines, "orthogonal", torchs_orthogonal)
        ours, theirs = both(channels_last)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    ours, theirs = both(channels_last)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_the_iteration_takes_every_singular_value_through_its_polynomial(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    assert s.min() > 0.3
    torch.testing.assert_close(baselines.orthogonal(matrix, 5), u @ s.diag() @ v, rtol=0, atol=2e-5)


def both(channels_last):
    """The weights after six steps: ours, and those of torch's Muon and AdamW."""
    torch.manual_seed(0)
    ours = Small()
    theirs = copy.deepcopy(ours)
    if channels_last:
        ours = ours.to(memory_format=torch.channels_last)
        assert not ours.conv.weight.is_contiguous()
    kernel = nn.Parameter(theirs.conv.weight.detach().flatten(1))
    rest = [p for name, p in theirs.named_parameters() if name not in ("conv.weight", "hidden.weight")]
    muon = torch.optim.Muon(
        [kernel, theirs.hidden.weight], lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=0.02, weight_decay=0.3, betas=(0.9, 0.95))
    optimizer = Muon(Muon.groups(ours), lr=0.02, weight_decay=0.3)
    for step in range(6):
        set_gradients(theirs, step)
        set_gradients(ours, step)
        if channels_last:
            ours.conv.weight.grad = ours.conv.weight.grad.contiguous(memory_format=torch.channels_last)
        kernel.grad = theirs.conv.weight.grad.flatten(1)
        for one in (muon, adamw, optimizer):
            one.step()
    with torch.no_grad():
        theirs.conv.weight.copy_(kernel.view_as(theirs.conv.weight))
    return weights(ours), weights(theirs)


def test_muon_takes_every_matrix_unless_its_group_says_otherwise():
    a, b, c = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))
    optimizer = Muon([{"params": [a, c]}, {"params": [b], "use_muon": False}])
    for p in (a, b, c):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [sorted(optimizer.state[p]) for p in (a, b, c)] == [
        ["momentum_buffer"],
        *[["exp_avg", "exp_avg_sq", "step"]] * 2,
    ]


def test_frozen_parameters_are_in_no_group():
    model = Small()
    model.hidden.requires_grad_(False)
    in_groups = sum(len(group["params"]) for group in Muon.groups(model))
    assert in_groups == len(list(model.parameters())) - 2


@pytest.mark.parametrize("kind", NEW)
def test_five_steps_save_load_five_steps_are_ten_steps_bit_for_bit(kind):
    straight = small_model()
    expected = steps(straight, built(kind, straight), range(10))
    model = small_model()
    optimizer = built(kind, model)
    steps(model, optimizer, range(5))
    later = copy.deepcopy(model)
    resumed = built(kind, later)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    assert same(steps(later, resumed, range(5, 10)), expected)


@pytest.mark.parametrize("kind", NEW)
def test_the_gradient_is_clipped_and_one_that_is_not_finite_is_counted(kind):
    model = small_model()
    optimizer = built(kind, model)
    steps(model, optimizer, [0], 100.0)
    if kind not in ("stable_spam", "sstm"):  # whose level is another
        assert float(clip_stats(optimizer).clipped_norm) == pytest.approx(1, rel=1e-5)
    set_gradients(model, 1)
    next(model.parameters()).grad[0, 0] = float("nan")
    optimizer.step()
    assert int(clip_stats(optimizer).skipped) == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("kind", NEW)
def test_no_step_waits_for_the_device(kind):
    model = small_model()
    optimizer = built(kind, model)
    steps(model, optimizer, range(3))
    plain = small_model()
    adam = clip_gradients(torch.optim.AdamW(plain.parameters(), foreach=True), Norm(1.0))
    steps(plain, adam, range(3))
    counts = []
    for m, o in ((model, optimizer), (plain, adam)):
        set_gradients(m, 3)
        with Waits() as counter:
            o.step()
        counts.append(counter.count)
    # torch's AdamW reads its step counters, which lie on the host
    assert counts[0] <= (counts[1] if kind == "muon" else 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", NEW)
def test_a_gpu_is_never_waited_for(kind):
    model = small_model().cuda()
    optimizer = built(kind, model)
    for step in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, device="cuda") * 10**step
        torch.cuda.set_sync_debug_mode("error")
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", NEW)
def test_a_closure_is_called_once_and_its_loss_comes_back(kind):
    model, calls = small_model(), []
    optimizer = built(kind, model)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 6)).square().mean()
        loss.backward()
        calls.append(loss.item())
        return loss

    before = weights(model)
    assert optimizer.step(closure).item() == calls[0]
    assert len(calls) == 1
    assert not torch.equal(weights(model)[0], before[0])


@pytest.mark.parametrize("kind", NEW)
def test_parameters_without_a_gradient_stay_and_may_join_later(kind):
    model = small_model()
    optimizer = built(kind, model)
    first = next(model.parameters())
    before = first.detach().clone()
    for step in range(6):
        set_gradients(model, step)
        if step < 3:
            first.grad = None
        optimizer.step()
        assert torch.equal(first, before) == (step < 3)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (Lion, {"betas": (0.9, 1.0)}, "betas must be two numbers, each 0 <= beta < 1"),
        (Lion, {"lr": -1}, "lr must be a number of at least 0, got -1"),
        (Muon, {"momentum": 1}, "momentum must be a number with 0 <= momentum < 1"),
        (Muon, {"eps": -1}, "eps must be a number of at least 0"),
    ],
)
def test_wrong_settings_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls([nn.Parameter(torch.zeros(1))], **settings)
