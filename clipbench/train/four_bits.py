"""Training in simulated four bits: products are computed from weights and inputs that are rounded to sixteen
values a group, and gradients pass straight through the rounding.

As Stable-SPAM simulates it, https://arxiv.org/abs/2502.17055: weights in groups of 256 to the nearest value,
inputs in groups of 64 with stochastic rounding. A group lies within one row: one output's weights, one
position's features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from clipbench.errors import UserError

WEIGHTS, INPUTS = 256, 64
"""Entries of a group, at most; a row that is shorter is one group, the last group of a row what is left."""

FP4_LARGEST = 6.0
"""E2M1 holds 0, 0.5, 1, 1.5, 2, 3, 4 and 6, and the same below 0."""

Draw = Callable[[Tensor], Tensor]
"""From a number x ≥ 0 and its fraction between two neighbours to 0 or 1: which of them is taken."""


def nearest(fraction: Tensor) -> Tensor:
    """The nearer neighbour; the lower of two as near. Same shape."""
    return (fraction > 0.5).to(fraction.dtype)


def stochastic(fraction: Tensor) -> Tensor:
    """The upper neighbour with a probability of the fraction, so that the mean stays. Same shape.

    Draws from torch's global generator, which is the run's own within its steps.
    """
    return (torch.rand_like(fraction) < fraction).to(fraction.dtype)


def int4(groups: Tensor, draw: Draw = nearest) -> Tensor:
    """Asymmetric min-max, a scale and a zero point for each group, the last dimension. Same shape.

    s = max(max x − min x, 1e-5)/15,   z = clamp(round(−min x/s), 0, 15)
    x ← s·(clamp(round(x/s) + z, 0, 15) − z)
    """
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low).clamp(min=1e-5) / 15
    zero = torch.round(-low / step).clamp(0, 15)
    levels = (_drawn(groups / step, draw) + zero).clamp(0, 15)
    return (levels - zero) * step


def _drawn(x: Tensor, draw: Draw) -> Tensor:
    """To whole numbers."""
    floor = torch.floor(x)
    return floor + draw(x - floor)


def fp4(groups: Tensor, draw: Draw = nearest) -> Tensor:
    """E2M1, scaled so that the largest entry of a group, the last dimension, becomes ±6. Same shape."""
    largest = groups.abs().amax(-1, keepdim=True)
    step = torch.where(largest > 0, largest, 1.0) / FP4_LARGEST
    size = (groups.abs() / step).clamp(max=FP4_LARGEST)
    # from one value to the next; computed, for a table would have to be sent to the device at each step
    spacing = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.sign(groups) * _drawn(size / spacing, draw) * spacing * step


FORMATS: dict[str, Callable[[Tensor, Draw], Tensor]] = {"int4": int4, "fp4": fp4}
"""By the names of `precision`."""


def quantized(x: Tensor, kind: str, size: int, draw: Draw = nearest) -> Tensor:
    """`x` in groups of at most `size` along its last dimension, each in the format `kind`. Same shape; the
    gradient is that of x itself (straight through).
    """
    rows = x.detach().reshape(-1, x.shape[-1])
    size = min(size, rows.shape[-1])
    padding = -rows.shape[-1] % size
    # the last entry again: it is in the last group already, whose range stays
    padded = torch.cat([rows, rows[:, -1:].expand(-1, padding)], 1)
    grouped = padded.reshape(len(rows), -1, size)
    found = FORMATS[kind](grouped.float(), draw).reshape(len(rows), -1)[:, : rows.shape[-1]]
    return x + (found.reshape(x.shape).to(x.dtype) - x.detach())


def simulate(model: nn.Module, kind: str) -> None:
    """From now on the model's linear and recurrent layers compute in simulated four bits: torch's Linear,
    RNN, LSTM, GRU and their cells, Linear of torch_geometric, Conv1D of transformers. Their parameters stay
    as they are, in full precision.

    In evaluation nothing is drawn: inputs go to the nearest value too. Of a recurrent layer the matrices and
    the layer's input are rounded, not what it carries from step to step. UserError for a model that has no
    such layer.
    """
    found = 0
    for module in model.modules():
        names = _matrices(module)
        if names:
            Simulated(module, names, kind)
            found += 1
    if not found:
        raise UserError(
            f"precision={kind} is simulated in linear and recurrent layers, and the model has none. "
            "precision=fp32 or bf16 is for every model."
        )


class Simulated:
    """Hooks of one layer: rounded matrices stand in for its own while it computes."""

    def __init__(self, module: nn.Module, names: list[str], kind: str) -> None:
        self.names, self.kind = names, kind
        # transformers' Conv1D holds its matrix the other way round
        self.transposed = type(module).__name__ == "Conv1D"
        self.own: list[dict[str, Any]] = []  # as often as the layer is inside itself
        module.register_forward_pre_hook(self.before, with_kwargs=True)
        module.register_forward_hook(self.after, always_call=True)
        if isinstance(module, nn.RNNBase):
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")

    def before(self, module: nn.Module, inputs: Any, keywords: Any) -> Any:
        own = {name: getattr(module, name) for name in self.names}
        self.own.append(own)
        for name, weight in own.items():
            matrix = weight.t() if self.transposed else weight
            rounded = quantized(matrix, self.kind, WEIGHTS)
            _put(module, name, rounded.t() if self.transposed else rounded)
        if inputs:
            draw = stochastic if module.training else nearest
            inputs = (_rounded_input(inputs[0], self.kind, draw), *inputs[1:])
        return inputs, keywords

    def after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for name, weight in self.own.pop().items():
            _put(module, name, weight)


def _rounded_input(x: Any, kind: str, draw: Draw) -> Any:
    """What a layer is given, in groups within each position's features; anything but numbers as it is."""
    if isinstance(x, PackedSequence):
        return x._replace(data=_rounded_input(x.data, kind, draw))
    if isinstance(x, Tensor) and x.is_floating_point():
        return quantized(x, kind, INPUTS, draw)
    return x


def _put(module: nn.Module, name: str, weight: Any) -> None:
    """In the place of a parameter, without a look at what it is."""
    module._parameters[name] = weight
    if isinstance(module, nn.RNNBase):
        module._flat_weights[module._flat_weights_names.index(name)] = weight


def _matrices(module: nn.Module) -> list[str]:
    """Names of the layer's matrices; none of a layer of another kind."""
    kinds = (nn.Linear, nn.RNNBase, nn.RNNCellBase)
    if not isinstance(module, kinds) and type(module).__name__ not in ("Linear", "Conv1D"):
        return []
    return list(_two_dimensional(module))


def _two_dimensional(module: nn.Module) -> Iterator[str]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim == 2:
            yield name
