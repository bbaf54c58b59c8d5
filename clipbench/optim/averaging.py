"""Optimizers whose answer is not the point where they take gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer


@contextmanager
def evaluation_weights(optimizer: Optimizer) -> Iterator[None]:
    """Within, the parameters hold the optimizer's answer; afterwards, to the bit, the point where it takes gradients.

    An optimizer takes part by a class attribute: `answer = "y"` names the entry of its state, one per parameter, that holds the answer, as
    in ClippedSSTM. For any other nothing happens. Evaluate and save the model within, but make no step. Costs one copy of the weights.
    Buffers stay, so batch norm's statistics are those of the training points.
    """
    name = getattr(optimizer, "answer", None)
    pairs = (
        [(p, state[name]) for p, state in optimizer.state.items() if isinstance(p, Tensor) and name in state]
        if name
        else []
    )
    held = [p.detach().clone() for p, _ in pairs]
    try:
        _copy(pairs)
        yield
    finally:
        _copy([(p, before) for (p, _), before in zip(pairs, held, strict=True)])


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for p, value in pairs:
        p.copy_(value)
