"""An estimate of the smoothness that ClippedSSTM wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def estimate_smoothness(
    params: Iterable[Tensor], losses: Iterable[Callable[[], Tensor]], lr: float = 1e-3
) -> float:
    """L ≈ 2·mean of ‖∇f(x′) − ∇f(x)‖/‖x′ − x‖ along steps x′ = x − lr·∇f(x), one for each of `losses`.

    A loss is a function of no arguments, mostly one batch's: `(lambda: loss(model(x), y) for x, y in
    loader)`. Both gradients of a pair are of the same batch and see the same dropout, or their difference
    would be noise. The steps train the parameters as they go; at the end they are what they were (buffers
    such as batch norm's are not). It is a mean over the path, not a bound. The estimate in arXiv
    2106.05958.
    """
    moved = [p for p in params if p.requires_grad]
    start = [p.detach().clone() for p in moved]
    ratios = []
    try:
        for seed, loss in enumerate(losses):
            before = [p.detach().clone() for p in moved]
            first = _gradient(moved, loss, seed)
            with torch.no_grad():
                torch._foreach_add_(moved, first, alpha=-lr)
            second = _gradient(moved, loss, seed)
            ratios.append(_distance(second, first) / _distance(moved, before))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, start)
    numbers = torch.stack(ratios).tolist() if ratios else []
    finite = [ratio for ratio in numbers if math.isfinite(ratio)]
    if not finite:
        raise ValueError(
            "No smoothness can be estimated: `losses` was empty, or every gradient was zero or not finite."
        )
    return 2 * sum(finite) / len(finite)


def _gradient(params: list[Tensor], loss: Callable[[], Tensor], seed: int) -> list[Tensor]:
    """Of the loss, zeros where it depends not on a parameter; whatever it draws is drawn from `seed`."""
    devices = sorted({p.get_device() for p in params if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        found = torch.autograd.grad(loss(), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


@torch.no_grad()
def _distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """‖one − other‖ over all tensors. ()"""
    norms = torch._foreach_norm(torch._foreach_sub(one, other))
    return torch.linalg.vector_norm(torch.stack(norms))
