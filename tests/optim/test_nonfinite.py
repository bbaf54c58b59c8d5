"""Steps that are skipped: gradients that are not finite, and a GradScaler's overflows."""

import math

import pytest
import torch
from conftest import set_gradients, small_model, weights
from optim_helpers import CLASSES, IMPLEMENTATIONS, pairs_of, same

from clipbench.optim import (
    RULES,
    TIED,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    clip_stats,
)

PAIRS = pairs_of(RULES)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_under_a_grad_scaler_the_step_is_the_same_as_without(name, kind, implementation):
    """Whether the scaler unscales in its step or is asked to before."""
    cls, keywords = CLASSES[kind]
    keywords = {**keywords, **IMPLEMENTATIONS[implementation], "clipping_type": name}
    x, plain, scaled = torch.randn(8, 6), small_model(), small_model()
    torch.manual_seed(0)
    optimizer = cls(plain.parameters(), **keywords)
    torch.manual_seed(0)
    other = cls(scaled.parameters(), **keywords)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(4):
        for model, opt in ((plain, optimizer), (scaled, other)):
            opt.zero_grad()
            loss = (10 * (step + 1) * model(x)).square().mean()
            if model is plain:
                loss.backward()
                opt.step()
            else:
                scaler.scale(loss).backward()
                if step % 2:
                    scaler.unscale_(opt)
                scaler.step(opt)
                scaler.update()
        found, wanted = clip_stats(other), clip_stats(optimizer)
        torch.testing.assert_close(found.grad_norm, wanted.grad_norm, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.clipped_norm, wanted.clipped_norm, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=1e-5, atol=1e-6)


def test_an_overflow_under_a_grad_scaler_leaves_the_step_out_and_halves_the_scale():
    model = small_model()
    optimizer = ClippedAdamW(model.parameters(), lr=0.1, clipping_type="auto", fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(model)
    scaler.scale(model(torch.ones(1, 6)).sum() * 1e37).backward()  # 1024·1e37 is no float32
    scaler.step(optimizer)
    scaler.update()
    assert same(weights(model), before)
    assert scaler.get_scale() == 512
    assert int(clip_stats(optimizer).skipped) == 1
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_fused_step_with_a_gradient_that_is_not_finite_is_left_out_exactly(name, kind, bad):
    """Afterwards all is as in a run without those steps."""
    cls, keywords = CLASSES[kind]
    model, clean = small_model(), small_model()
    torch.manual_seed(0)
    optimizer = cls(model.parameters(), clipping_type=name, **keywords)
    torch.manual_seed(0)
    other = cls(clean.parameters(), clipping_type=name, **keywords)
    for step in range(6):
        if step in (0, 3):  # the very first step too, before any momentum buffer
            set_gradients(model, step)
            next(model.parameters()).grad[0, 0] = bad
            before = weights(model)
            optimizer.step()
            assert same(weights(model), before)
            assert float(clip_stats(optimizer).clipped_norm) == 0
            continue
        for m, o in ((model, optimizer), (clean, other)):
            set_gradients(m, step)
            if "rand" not in name:  # a skipped step has drawn its number
                o.step()
    if "rand" not in name:
        assert same(weights(model), weights(clean))
    assert int(clip_stats(optimizer).skipped) == 2


@pytest.mark.parametrize("implementation", ["foreach", "loop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*RULES, *TIED])
def test_other_implementations_see_a_gradient_of_zeros(name, dtype, implementation):
    model = small_model().to(dtype)
    cls, keywords = (
        (ClippedAdam, {"eps": 1e-4}) if name in TIED else (ClippedSGD, {})
    )  # Adam's own 1e-8 is 0 in float16
    optimizer = cls(
        model.parameters(), lr=0.1, clipping_type=name, **keywords, **IMPLEMENTATIONS[implementation]
    )
    set_gradients(model, 0, dtype=dtype)
    first, *_, last = model.parameters()
    first.grad[0], last.grad[0] = math.nan, -math.inf
    before = weights(model)
    optimizer.step()
    assert same(weights(model), before)
    assert all((p.grad == 0).all() for p in model.parameters())
    assert int(clip_stats(optimizer).skipped) == 1


def test_nonfinite_raise_names_the_norm_and_the_way_out():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), nonfinite="raise")
    set_gradients(model, 0)
    optimizer.step()
    next(model.parameters()).grad[0, 0] = math.inf
    with pytest.raises(
        FloatingPointError, match=r"norm is inf\. Lower the learning rate, or use nonfinite='skip'"
    ):
        optimizer.step()
    with pytest.raises(ValueError, match="nonfinite must be one of skip, raise, got 'ignore'"):
        ClippedSGD(model.parameters(), nonfinite="ignore")


def test_a_step_that_raises_leaves_nothing_behind():
    model = small_model()
    optimizer = ClippedSGD(model.parameters(), lr=0.1)
    set_gradients(model, 0)
    optimizer.param_groups[0]["lr"] = "broken"
    with pytest.raises((TypeError, RuntimeError)):
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.1
    set_gradients(model, 1, 0.01)
    before, grads = weights(model), [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    torch.testing.assert_close(weights(model), [b - 0.1 * g for b, g in zip(before, grads, strict=True)])
    assert not hasattr(optimizer, "grad_scale")
