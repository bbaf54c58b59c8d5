"""What several test files need: a small model whose gradients are easy to scale."""

from __future__ import annotations

import pytest
import torch

from clipbench.optim.laws import set_gradients, small_model, weights

__all__ = ["set_gradients", "small_model", "weights"]

torch.set_num_threads(1)  # the suite runs in several processes


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
