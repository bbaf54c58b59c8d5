"""A rule's memory in `optimizer.state`: by name, a tensor, or a list of one tensor for each parameter (see Rule.init)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipbench.optim.rules import Rule, State

MOVED = (
    "A parameter group has got or lost a clipping_level of its own since the first step, so the memory of clipping no longer fits. Give "
    "groups their levels when the optimizer is built, or delete optimizer.state['clipping'] to start with a fresh memory."
)


def grown(state: State, rule: Rule, params: Sequence[Tensor]) -> State:
    """`state` with fresh items for parameters that were added since; new groups come last, so the old items keep their places."""
    if all(isinstance(entry, Tensor) or len(entry) == len(params) for entry in state.values()):
        return state
    if any(not isinstance(entry, Tensor) and len(entry) > len(params) for entry in state.values()):
        raise RuntimeError(MOVED)
    fresh = rule.init(params)
    return {
        name: entry if isinstance(entry, Tensor) else [*entry, *fresh[name][len(entry) :]]
        for name, entry in state.items()
    }


def taken(state: State, places: Sequence[int]) -> State:
    """What the rule sees at a step: of each list, the items of the parameters at `places`, which have a gradient."""
    return {
        name: entry if isinstance(entry, Tensor) else [entry[i] for i in places]
        for name, entry in state.items()
    }


def kept(old: State, new: State, places: Sequence[int], skipped: Tensor) -> State:
    """What is remembered: `old` where the step is skipped, else `new`, whose lists belong to `places`. Asks the device nothing."""
    state: State = {}
    for name, entry in new.items():
        before = old[name]
        if isinstance(entry, Tensor):
            state[name] = torch.where(skipped, before, entry)
        else:
            here = dict(zip(places, _where(skipped, [before[i] for i in places], entry), strict=True))
            state[name] = [here.get(i, item) for i, item in enumerate(before)]
    return state


def _where(skipped: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    if all(item.ndim == 0 for item in new):  # one kernel instead of one for each
        return list(torch.where(skipped, torch.stack(list(old)), torch.stack(list(new))).unbind())
    return [torch.where(skipped, *pair) for pair in zip(old, new, strict=True)]


def shapes(state: State) -> dict[str, Any]:
    return {
        name: entry.shape if isinstance(entry, Tensor) else [item.shape for item in entry]
        for name, entry in state.items()
    }


def copied(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {key: copied(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [copied(value, device) for value in tree]
    return tree.to(device, copy=True) if isinstance(tree, Tensor) else tree
