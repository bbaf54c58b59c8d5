"""Clipping adds no wait for the device: counted, so that the claim does not depend on a clock or a GPU."""

import pytest
import torch
from conftest import set_gradients, small_model
from optim_helpers import Operators

from clipbench.optim import RULES, TIED, ClippedAdam, clip_gradients, make_rule
from clipbench.optim.laws import Waits

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
}


def waits(optimizer, model):
    set_gradients(model, 0)
    optimizer.step()
    set_gradients(model, 1, 10.0)
    with Waits() as counter:
        optimizer.step()
    return counter.count


@pytest.mark.parametrize(
    "implementation",
    [{"fused": True}, {"foreach": True}, {"foreach": False}],
    ids=["fused", "foreach", "loop"],
)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", RULES)
def test_waits_with_clipping_minus_without_are_zero(name, kind, implementation):
    cls, keywords = OPTIMIZERS[kind]
    if cls is torch.optim.RMSprop and "fused" in implementation:
        pytest.skip("torch has no fused RMSprop")
    model = small_model()
    without = waits(cls(model.parameters(), **keywords, **implementation), model)
    model = small_model()
    assert (
        waits(clip_gradients(cls(model.parameters(), **keywords, **implementation), make_rule(name)), model)
        == without
    )


def operators(layers, clipping_type=None):
    """Launched by one fused step of SGD."""
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    if clipping_type:
        clip_gradients(optimizer, make_rule(clipping_type))
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with Operators() as counter:
            optimizer.step()
    return counter.count


BUDGETS = {"none": 30, "norm": 30, "linear_rand_norm": 30, "auto": 60, "quadratic_rand_auto": 60}


@pytest.mark.parametrize(("name", "most"), BUDGETS.items())
def test_a_global_rule_launches_a_few_operators_however_many_tensors_there_are(name, most):
    added = [operators(layers, name) - operators(layers) for layers in (2, 40)]
    assert added[0] == added[1] <= most


def test_the_counter_sees_a_wait():
    with Waits() as counter:
        torch.ones(()).item()
        bool(torch.ones(()) > 0)
    assert counter.count == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*RULES, *TIED])
def test_a_gpu_is_never_waited_for(name):
    model = small_model().cuda()
    optimizer = ClippedAdam(model.parameters(), lr=0.1, clipping_type=name)
    torch.cuda.set_sync_debug_mode("default")
    for step in range(3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, device="cuda") * 10**step
        torch.cuda.set_sync_debug_mode("error")
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
