"""What several test files need: a small model whose gradients are easy to scale, and every rule with what it claims."""

from __future__ import annotations

import pytest
import torch
from torch import nn

torch.set_num_threads(2)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def set_gradients(model: nn.Module, step: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
    """Gradients that depend on `step` alone, of norms from far below 1 to far above."""
    rng = torch.Generator().manual_seed(step)
    size = scale * 10 ** (torch.rand((), generator=rng).item() * 2 - 1)
    for p in model.parameters():
        p.grad = (size * torch.randn(p.shape, generator=rng) / 3).to(dtype)


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
