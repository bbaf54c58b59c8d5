"""What clipping remembers, and where: the one place that knows how it lies in `optimizer.state`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.rule import Rule, State
from clipbench.optim.units import Unit

STATE_KEY = "clipping"
"""The key of `optimizer.state`: a string, so that `state_dict()` carries it as it is."""

MOVED = (
    "A parameter group has got or lost a clipping_level of its own since the first step, so the memory of "
    "clipping no longer fits. Give groups their levels when the optimizer is built, or delete "
    f"optimizer.state['{STATE_KEY}'] to start with a fresh memory."
)


class Memory:
    """What one optimizer's clipping remembers; it is empty until the first step.

    Of each unit, its rule's memory (whose lists have an item for each of the unit's parameters). Of the whole
    gradient, the norms before and after clipping at the latest step, the number of skipped steps, and, while
    it is saved, the state of the generator that random rules draw from.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._state: dict[Any, Any] = (
            optimizer.state
        )  # typed as by tensors; state_dict() carries other keys too

    def __bool__(self) -> bool:
        """Whether there is anything in it."""
        return bool(self._entries)

    @property
    def _entries(self) -> dict[str, Any]:
        return self._state.get(STATE_KEY, {})

    def _writable(self) -> dict[str, Any]:
        return self._state.setdefault(STATE_KEY, {})

    def check_units(self, units: Sequence[Unit]) -> None:
        """RuntimeError if it remembers something of a unit that is not one of `units`."""
        names = {unit.name for unit in units}
        for name, state in self._entries.get("rules", {}).items():
            if state and name not in names:
                raise RuntimeError(MOVED)

    def recall(self, unit: Unit) -> State:
        """The memory of a unit's rule, of all its parameters: a fresh one for those that are new."""
        rules = self._entries.get("rules", {})
        if unit.name not in rules:
            return unit.rule.init(unit.real_params)
        return _with_new_params(rules[unit.name], unit.rule, unit.real_params)

    def remember(self, unit: Unit, old: State, new: State, skipped: Tensor) -> None:
        """Keep `new`, of the unit's parameters with a gradient; `old`, of all of them, where `skipped` ()."""
        rules = self._writable().setdefault("rules", {})
        rules[unit.name] = _merged(old, new, unit.present, skipped)

    def record(self, norm: Tensor, clipped_norm: Tensor | None, skipped: Tensor) -> None:
        """The norms of the latest step, each (), None where not measured yet; and whether it is skipped."""
        entries = self._writable()
        entries["grad_norm"], entries["clipped_norm"] = norm, clipped_norm
        entries["skipped"] = entries.get("skipped", 0) + skipped.long()

    @property
    def grad_norm(self) -> Tensor | None:
        """Before clipping at the latest step; None before the first. ()"""
        return self._entries.get("grad_norm")

    @property
    def clipped_norm(self) -> Tensor | None:
        """After clipping at the latest step; None where it was not measured. ()"""
        return self._entries.get("clipped_norm")

    @clipped_norm.setter
    def clipped_norm(self, norm: Tensor) -> None:
        self._writable()["clipped_norm"] = norm

    @property
    def skipped(self) -> Tensor:
        """Number of steps so far whose gradient was not finite. ()"""
        return self._entries["skipped"]

    @property
    def rng_state(self) -> Tensor | None:
        """As saved last, on the CPU."""
        return self._entries.get("rng_state")

    @rng_state.setter
    def rng_state(self, state: Tensor) -> None:
        self._writable()["rng_state"] = state

    def forget_all_but_counts(self) -> None:
        """Empty `optimizer.state`, the rules' memory included; counts and the generator's state go on."""
        lasting = {key: value for key, value in self._entries.items() if key != "rules"}
        self._state.clear()
        if lasting:
            self._state[STATE_KEY] = lasting

    def after_loading(self, device: torch.device) -> None:
        """Make what was loaded its own: torch moves and copies only what belongs to a parameter."""
        entries = _copied(self._entries, device)
        if "coins" in entries:  # its name before the packages were laid out anew
            entries["rng_state"] = entries.pop("coins")
        if "rng_state" in entries:
            entries["rng_state"] = entries["rng_state"].cpu()
        self._state[STATE_KEY] = entries


def rule_memories(state: Any) -> dict[str, State]:
    """{unit: its rule's memory} in an `optimizer.state`, or in the `state` of a state_dict."""
    return state.get(STATE_KEY, {}).get("rules", {})


def at(state: State, places: Sequence[int]) -> State:
    """What the rule sees at a step: of each list, the items at `places`, whose parameters have a gradient."""
    seen: State = {}
    for name, entry in state.items():
        seen[name] = entry if isinstance(entry, Tensor) else [entry[i] for i in places]
    return seen


def shapes(state: State) -> dict[str, Any]:
    """{name: the shape of a tensor, or a list of those of a list}, to compare two memories by."""
    found: dict[str, Any] = {}
    for name, entry in state.items():
        found[name] = entry.shape if isinstance(entry, Tensor) else [item.shape for item in entry]
    return found


def _with_new_params(state: State, rule: Rule, params: Sequence[Tensor]) -> State:
    """`state` with fresh items for parameters that were added since: new groups come last."""
    lengths = [len(entry) for entry in state.values() if not isinstance(entry, Tensor)]
    if all(length == len(params) for length in lengths):
        return state
    if any(length > len(params) for length in lengths):
        raise RuntimeError(MOVED)
    fresh = rule.init(params)
    extended: State = {}
    for name, entry in state.items():
        extended[name] = entry if isinstance(entry, Tensor) else [*entry, *fresh[name][len(entry) :]]
    return extended


def _merged(old: State, new: State, places: Sequence[int], skipped: Tensor) -> State:
    """`old` where the step is skipped, else `new`, whose lists belong to `places`. Waits for nothing."""
    state: State = {}
    for name, entry in new.items():
        before = old[name]
        if isinstance(entry, Tensor):
            state[name] = torch.where(skipped, before, entry)
            continue
        items = list(before)
        chosen = _where(skipped, [before[i] for i in places], entry)
        for place, item in zip(places, chosen, strict=True):
            items[place] = item
        state[name] = items
    return state


def _where(skipped: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    if all(item.ndim == 0 for item in new):  # one kernel instead of one for each
        before, after = torch.stack(list(old)), torch.stack(list(new))
        return list(torch.where(skipped, before, after).unbind())
    return [torch.where(skipped, *pair) for pair in zip(old, new, strict=True)]


def _copied(tree: Any, device: torch.device) -> Any:
    """Dicts and lists with copies of their tensors on `device`; anything else as it is."""
    if isinstance(tree, dict):
        return {key: _copied(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copied(value, device) for value in tree]
    return tree.to(device, copy=True) if isinstance(tree, Tensor) else tree
