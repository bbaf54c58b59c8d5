"""What clipping remembers, and where: the one place that knows how it lies in an optimizer.

What belongs to the whole gradient is in a parameter group, as plain tensors; what belongs to a parameter is
in that parameter's state. So whatever carries torch's optimizers carries it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.ranks import is_dtensor, like, local
from clipbench.optim.rule import Rule, State
from clipbench.optim.units import LEVEL, PREFIX, Group, Unit, at_level

SKIPPED, RNG_STATE = PREFIX + "skipped", PREFIX + "rng_state"
"""Keys of the first group that belong to no rule."""
OWN_LEVEL = PREFIX + "own_level"
"""The key of a group that was given another level than the common one."""
LASTING = (SKIPPED, RNG_STATE, OWN_LEVEL)


Names = tuple[tuple[str, ...], tuple[str, ...]]
"""Of what a rule remembers: of the whole gradient, and of each parameter."""
Entries = dict[str, Tensor]
"""By key, as in a group or a state."""


class Memory:
    """What one optimizer's clipping remembers.

    Of each unit, its rule's memory. Of all, the number of skipped steps and, while it is saved, the state of
    the generator that random rules draw from.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        # what the step that is being made will leave: of parameters, and of groups by id; see `settle`
        self._late: dict[Tensor, Entries] = {}
        self._late_whole: dict[int, tuple[Group, Entries]] = {}
        # of rules, what they remember, so that `init` is called once
        self._known: list[tuple[Rule, Names]] = []
        self._latest: tuple[Rule | None, Names] = None, ((), ())

    def prepare(self, units: Sequence[Unit]) -> None:
        """Begin what is to be there from the start, so that its size never changes."""
        first = self._optimizer.param_groups[0]
        params = [p for unit in units for p in unit.params]
        if SKIPPED not in first and params:
            first[SKIPPED] = torch.zeros((), dtype=torch.int64, device=local(params[0]).device)
        if any(unit.rule.draws for unit in units):
            first.setdefault(RNG_STATE, torch.empty(0, dtype=torch.uint8))  # until there is one
        for unit in units:
            if unit.params and not params[0].is_meta:
                names, _ = self._names(unit)
                if names and not any(PREFIX + name in self._home(unit) for name in names):
                    self._begin(unit, names)

    def recall(self, unit: Unit) -> State:
        """The memory of a unit's rule, of all its parameters: a fresh one for those that are new."""
        whole, lists = self._names(unit)
        state: State = {}
        if not whole and not lists:
            return state
        home = self._home(unit)
        device = unit.real_params[0].device
        if any(_missing(home.get(PREFIX + name)) for name in whole):
            self._begin(unit, whole)
        _, late = self._late_whole.get(id(home), (home, {}))
        for name in whole:
            key = PREFIX + name
            state[name] = late[key] if key in late else home[key].to(device)
        for name in lists:
            state[name] = []
        if lists:
            for p, part in zip(unit.params, unit.real_params, strict=True):
                for name, item in self._of_parameter(unit.rule, p, part, lists).items():
                    state[name].append(item)
        return state

    def remember(self, unit: Unit, old: State, new: State, hold: Tensor) -> None:
        """Keep `new`, of the unit's parameters with a gradient; `old`, of all of them, where `hold` ()."""
        whole, lists = self._names(unit)
        if whole:
            home = self._home(unit)
            entries = {PREFIX + name: torch.where(hold, old[name], new[name]) for name in whole}
            self._late_whole[id(home)] = home, entries
        for name in lists:
            before = [old[name][i] for i in unit.present]
            for i, item in zip(unit.present, _where(hold, before, new[name]), strict=True):
                if unit.params[i] is not unit.stand_in:
                    self._late.setdefault(unit.params[i], {})[PREFIX + name] = item

    def settle(self) -> None:
        """Put what is remembered where it belongs.

        After the step: optimizers begin a parameter's state where they find none, and a step that raised
        is to leave nothing.
        """
        for home, entries in self._late_whole.values():
            home.update(entries)
        self._late_whole.clear()
        for p, entries in self._late.items():
            for key, item in entries.items():
                if item.ndim and item.shape != local(p).shape and is_dtensor(p):
                    raise RuntimeError(
                        f"{key.removeprefix(PREFIX)}: what a rule remembers of a sharded parameter must be a "
                        "number or have the parameter's shape, or it could not be saved."
                    )
                self._optimizer.state[p][key] = like(item, p)
        self._late.clear()

    def drop_late(self) -> None:
        """Forget the step that was not finished."""
        self._late.clear()
        self._late_whole.clear()

    def count(self, skipped: Tensor) -> None:
        """Add a step that is left out where `skipped` ()."""
        first = self._optimizer.param_groups[0]
        so_far = first.get(SKIPPED, 0)
        if isinstance(so_far, Tensor):
            so_far = 0 if so_far.is_meta else so_far.to(skipped.device)
        first[SKIPPED] = so_far + skipped.long()

    @property
    def skipped(self) -> Tensor:
        """Number of steps so far whose gradient was not finite. ()"""
        return torch.as_tensor(self._optimizer.param_groups[0].get(SKIPPED, 0))

    @property
    def rng_state(self) -> Tensor | None:
        """As saved last, on the CPU."""
        state = self._optimizer.param_groups[0].get(RNG_STATE)
        return None if state is None or not state.numel() else state.cpu()

    @rng_state.setter
    def rng_state(self, state: Tensor) -> None:
        self._optimizer.param_groups[0][RNG_STATE] = state

    @property
    def is_before_first_draw(self) -> bool:
        """Whether it says of a rule that draws that it has drawn nothing yet."""
        state = self._optimizer.param_groups[0].get(RNG_STATE)
        return state is not None and not state.numel()

    def forget_all_but_counts(self) -> None:
        """Empty `optimizer.state` and the rules' memory; counts and the generator's state go on."""
        self.drop_late()
        self._optimizer.state.clear()
        for group in self._optimizer.param_groups:
            for key in rule_keys(group):
                del group[key]

    def whole(self, unit: Unit) -> State:
        """Of a unit's rule, what belongs to the whole gradient, as far as it is there."""
        home = self._home(unit)
        return {key.removeprefix(PREFIX): home[key] for key in rule_keys(home)}

    def _names(self, unit: Unit) -> Names:
        """Whatever the level: `init` is called once for a rule."""
        rule = unit.rule
        if rule is self._latest[0]:
            return self._latest[1]
        same = rule if rule.level_or_none is None else at_level(rule, 1.0)
        for known, names in self._known:
            if known == same:
                self._latest = rule, names
                return names
        names = names_in(rule.init(unit.real_params))
        self._known.append((same, names))
        return names

    def _home(self, unit: Unit) -> Group:
        """The group that holds the unit's memory: the first that has one, else the first.

        One that was exempted meanwhile still holds it.
        """
        exempt = [group for group in self._optimizer.param_groups if group.get(LEVEL) == math.inf]
        for group in (*unit.groups, *exempt):
            if rule_keys(group):
                return group
        return unit.groups[0]

    def _begin(self, unit: Unit, names: Sequence[str]) -> None:
        fresh = unit.rule.init(unit.real_params)
        home = self._home(unit)
        for name in names:
            home[PREFIX + name] = fresh[name]

    def _of_parameter(self, rule: Rule, p: Tensor, part: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Of one parameter, of which `part` lies here: fresh where it has none, or one of another size."""
        entries = {**self._optimizer.state.get(p, {}), **self._late.get(p, {})}
        found: dict[str, Tensor] = {}
        for name in names:
            item = entries.get(PREFIX + name)
            if isinstance(item, Tensor) and not item.is_meta:
                found[name] = local(item).to(part.device)
        sizes_differ = any(item.ndim and item.shape != part.shape for item in found.values())
        if len(found) == len(names) and not sizes_differ:
            return found
        fresh = rule.init([part])
        fits = len(found) == len(names)
        for name in names:
            fits = fits and found[name].shape == fresh[name][0].shape
        return found if fits else {name: fresh[name][0] for name in names}


def rule_keys(entries: dict[Any, Any]) -> list[str]:
    """Of a parameter group, or of a parameter's state, the keys that hold a rule's memory."""
    return [key for key in entries if isinstance(key, str) and key.startswith(PREFIX) and key not in LASTING]


def rule_memories(param_groups: Sequence[Group], state: Mapping[Any, dict]) -> State:
    """All that rules remember, by name: a tensor of the whole gradient, or a list, an item per parameter.

    Of an optimizer or of a state_dict; lists are in the order of the groups, of the parameters that have one.
    """
    found: State = {}
    for group in param_groups:
        for key in rule_keys(group):
            found[key.removeprefix(PREFIX)] = group[key]
    for group in param_groups:
        for p in group["params"]:
            entries = state.get(p, {})
            for key in rule_keys(entries):
                found.setdefault(key.removeprefix(PREFIX), []).append(entries[key])
    return found


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


def names_in(state: State) -> Names:
    """The names of what a rule's `init` gave: of the whole gradient, and of each parameter."""
    whole = tuple(name for name, entry in state.items() if isinstance(entry, Tensor))
    return whole, tuple(name for name in state if name not in whole)


def _missing(entry: Any) -> bool:
    return not isinstance(entry, Tensor) or entry.is_meta


def _where(hold: Tensor, old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    if all(item.ndim == 0 for item in new):  # one kernel instead of one for each
        before, after = torch.stack(list(old)), torch.stack(list(new))
        return list(torch.where(hold, before.to(after.dtype), after).unbind())
    return [torch.where(hold, *pair) for pair in zip(old, new, strict=True)]
