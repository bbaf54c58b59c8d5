"""Bad batches, planted: the same for every method at a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipbench.errors import UserError
from clipbench.task.tree import Tree, map_tensors, rows, tensors

KINDS = ("labels", "inputs", "repeat")


@dataclass(frozen=True)
class Spike:
    """How a batch is spoiled. `labels`: a share `size` of the examples get the targets of others; `inputs`:
    numbers among the inputs are multiplied by `size`; `repeat`: a share `size` of the examples become copies
    of the first one.
    """

    kind: str
    size: float


def spoiled_pair(inputs: Tree, targets: Tree, spike: Spike, rng: torch.Generator) -> tuple[Tree, Tree]:
    """(inputs, targets), spoiled; both have a row an example. `rng` is on the CPU. The tensors that are given
    stay as they are. UserError where the inputs hold no numbers that could be scaled.
    """
    if spike.kind == "inputs":
        return scaled(inputs, spike.size), targets
    count = rows(targets) or 0
    chosen = torch.randperm(count, generator=rng)[: round(spike.size * count)]
    index = torch.arange(count)
    if spike.kind == "repeat":
        index[chosen] = 0
        return _taken(inputs, index), _taken(targets, index)
    index[chosen] = chosen.roll(1)  # none of them keeps its own
    return inputs, _taken(targets, index)


def scaled(inputs: Tree, factor: float) -> Tree:
    """Every floating-point number in them times `factor`. UserError where there is none."""
    if not any(tensor.is_floating_point() for tensor in tensors(inputs)):
        raise UserError(
            "spike.kind=inputs scales numbers, and the inputs of this task are none: spike.kind=labels or "
            "repeat is for every task."
        )
    return map_tensors(lambda tensor: tensor * factor if tensor.is_floating_point() else tensor, inputs)


def _taken(tree: Tree, index: Tensor) -> Tree:
    """The rows `index` of every tensor."""
    return map_tensors(lambda tensor: tensor[index.to(tensor.device)], tree)
