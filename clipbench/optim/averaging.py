"""Optimizers whose answer is not the point where they take gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.inside import whole_inside
from clipbench.optim.protocols import extra


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """Within, the parameters hold the optimizer's answer; afterwards, to the bit, what they held before.

    An optimizer takes part by a class attribute: `answer = "y"` names the entry of its state, one per
    parameter, that holds the answer, as in ClippedSSTM. It may be wrapped. For any other nothing happens.
    Evaluate and save
    the model within, but make no step. Costs one copy of the weights. Buffers stay, so batch norm's
    statistics are those of the training points.
    """
    optimizer = whole_inside(optimizer)
    name = extra(optimizer, "answer")
    params, answers = [], []
    for p, state in optimizer.state.items():
        if isinstance(p, Tensor) and name is not None and name in state:
            params.append(p)
            answers.append(state[name])
    points = [p.detach().clone() for p in params]
    try:
        _copy(params, answers)
        yield
    finally:
        _copy(params, points)


@torch.no_grad()
def _copy(params: list[Tensor], values: list[Tensor]) -> None:
    for p, value in zip(params, values, strict=True):
        p.copy_(value)
