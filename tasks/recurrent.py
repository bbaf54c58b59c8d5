"""Recurrent nets by name, and how they start: what `lm`, `reber` and `adding` have in common."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from clipbench.errors import UserError, nearest
from clipbench.task.loading import whole_number

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}
"""Names of `task.model`, and how many matrices torch stacks in each of its weights."""

STARTS = ("normal", "orthogonal", "identity")
"""Names of `task.recurrent_init`, beside null."""


def recurrent(
    kind: str,
    inputs: int,
    hidden: int,
    layers: int,
    dropout: float = 0.0,
    recurrent_init: str | None = None,
    forget_bias: float | None = None,
    generator: torch.Generator | None = None,
) -> nn.RNNBase:
    """torch's nn.RNN, nn.LSTM or nn.GRU: (N, length, inputs) → (N, length, hidden), and its last state.

    `kind`: one of `GATES`. `dropout`: between layers, so that one layer has none. With `recurrent_init` null
    all weights are torch's own, uniform in ±1/√hidden; else the h × h matrices (of each gate) are drawn anew:

    - "normal": W ~ N(0, 1/hidden)
    - "orthogonal": WᵀW = I, uniformly among these
    - "identity": W = I and no bias, of plain nets only (Le, Jaitly and Hinton 2015, arXiv 1504.00941)

    `forget_bias`: what an LSTM adds to its forget gate. torch has two biases there, so one of them is this
    number and the other 0. Nets without such a gate leave it unused.

    `generator`: what all weights are drawn from; by default torch's global one. UserError for names that are
    not known and numbers that cannot be.
    """
    _check(kind, recurrent_init, dropout, forget_bias)
    sizes: dict[str, Any] = {
        "input_size": whole_number("The number of inputs", inputs),
        "hidden_size": whole_number("task.hidden", hidden),
        "num_layers": whole_number("task.layers", layers),
    }
    sizes |= {"batch_first": True, "dropout": float(dropout) if layers > 1 else 0.0}
    net: nn.RNNBase
    if kind == "lstm":
        net = nn.LSTM(**sizes)
    elif kind == "gru":
        net = nn.GRU(**sizes)
    else:
        net = nn.RNN(**sizes, nonlinearity=kind.removeprefix("rnn_"))
    if generator is not None:
        for weight in net.parameters():
            nn.init.uniform_(weight, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden), generator=generator)
    if recurrent_init is not None:
        _start(net, GATES[kind], recurrent_init, generator)
    if forget_bias is not None and kind == "lstm":
        _bias_forget_gates(net, forget_bias)
    return net


class LastState(nn.Module):
    """A linear function of the state that `body` ends with, having read what `first` makes of the input."""

    def __init__(self, first: nn.Module, body: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.first, self.body, self.head = first, body, nn.Linear(body.hidden_size, outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: (N, longest, …), padded behind; lengths: (N,). (N, outputs)"""
        states, _ = self.body(self.first(x))
        return self.head(last(states, lengths))


def last(states: Tensor, lengths: Tensor) -> Tensor:
    """What each sequence ends with, whatever pads it behind: states[i, lengths[i] − 1]. (N, hidden)"""
    index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, index)[:, 0]


@torch.no_grad()
def _start(net: nn.RNNBase, gates: int, name: str, generator: torch.Generator | None) -> None:
    for key, weight in net.named_parameters():
        if key.startswith("weight_hh"):
            for matrix in weight.chunk(gates):
                if name == "normal":
                    nn.init.normal_(matrix, std=1 / math.sqrt(net.hidden_size), generator=generator)
                elif name == "orthogonal":
                    nn.init.orthogonal_(matrix, generator=generator)
                else:
                    nn.init.eye_(matrix)
        elif name == "identity" and key.startswith("bias"):
            weight.zero_()


@torch.no_grad()
def _bias_forget_gates(net: nn.RNNBase, value: float) -> None:
    """torch stacks the gates of an LSTM as input, forget, cell, output."""
    for key, bias in net.named_parameters():
        if key.startswith("bias"):
            forget = bias.chunk(4)[1]
            forget.fill_(value if key.startswith("bias_ih") else 0.0)


def _check(kind: str, recurrent_init: str | None, dropout: float, forget_bias: float | None) -> None:
    if kind not in GATES:
        known = ", ".join(GATES)
        raise UserError(f"Unknown task.model '{kind}'.{nearest(str(kind), GATES)} Known: {known}.")
    if recurrent_init is not None and recurrent_init not in STARTS:
        close = nearest(str(recurrent_init), STARTS)
        known = ", ".join(STARTS)
        raise UserError(
            f"Unknown task.recurrent_init '{recurrent_init}'.{close} Known: {known}; null is torch's own."
        )
    if recurrent_init == "identity" and GATES[kind] > 1:
        raise UserError(
            f"task.recurrent_init=identity is for task.model=rnn_relu or rnn_tanh, not for {kind}: its gates "
            "have no identity to start from. Give orthogonal."
        )
    if not (_is_number(dropout) and 0 <= dropout < 1):
        raise UserError(f"task.dropout must be a number from 0 to below 1, got {dropout!r}.")
    if forget_bias is not None and not (_is_number(forget_bias) and math.isfinite(forget_bias)):
        raise UserError(f"task.forget_bias must be a finite number or null, got {forget_bias!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
