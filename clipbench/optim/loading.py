"""A checkpoint that is loaded: is its memory the rule's, and is it one of the version before?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.memory import OWN_LEVEL, RNG_STATE, SKIPPED, names_in, rule_keys
from clipbench.optim.ranks import is_dtensor, local
from clipbench.optim.rule import Rule, State
from clipbench.optim.units import LEVEL, PREFIX, SEPARATELY, Unit, rule_of_group, units_of

OLD_KEY, OLD_STEPS = "clipping", "steps"
"""Where version 0.1 kept its memory, and SPAM its count of steps: string keys of `state`."""


class Loading:
    """One call of `load_state_dict`, from before it to after it."""

    def __init__(self, optimizer: Optimizer, rule: Rule, state_dict: dict[str, Any]) -> None:
        """ValueError if `state_dict` holds another rule's memory."""
        self.state_dict = state_dict
        self._exact: dict[Tensor, dict[str, Tensor]] = {}
        groups = state_dict["param_groups"]
        ours = [len(group["params"]) for group in optimizer.param_groups]
        if ours != [len(group["params"]) for group in groups]:
            return  # torch says so itself
        if OLD_KEY in state_dict["state"] or OLD_STEPS in state_dict["state"]:
            self.state_dict = _of_today(state_dict)
        if rule.level_or_none is None:
            self._leave_out_levels()
        self._check(optimizer, rule)

    def _leave_out_levels(self) -> None:
        """The common level of another rule means nothing to one without a level."""
        groups = []
        for group in self.state_dict["param_groups"]:
            own = group.get(OWN_LEVEL) or group.get(LEVEL) == math.inf
            groups.append({key: value for key, value in group.items() if key != LEVEL or own})
        self.state_dict = {**self.state_dict, "param_groups": groups}

    def finish(self, optimizer: Optimizer) -> None:
        """After torch has loaded: to the parameters' device, and in the precision that was saved.

        torch casts what lies in a parameter's state to the parameter's own.
        """
        for p, entries in self._exact.items():
            for key, value in entries.items():
                optimizer.state[p][key] = value.detach().to(p.device, copy=True)
        for group in optimizer.param_groups:
            device = next((local(p).device for p in group["params"]), None)
            for key, value in group.items():
                if isinstance(value, Tensor) and key.startswith(PREFIX) and key != RNG_STATE:
                    group[key] = value.to(device)

    def _check(self, optimizer: Optimizer, rule: Rule) -> None:
        saved, states = self.state_dict["param_groups"], self.state_dict["state"]
        loaded = []
        for ours, theirs in zip(optimizer.param_groups, saved, strict=True):
            # the groups' levels are loaded too: the saved ones say which parameters are clipped together
            loaded.append({**theirs, "params": ours["params"]})
            for index, p in zip(theirs["params"], ours["params"], strict=True):
                entries = states.get(index, {})
                keys = rule_keys(entries) if isinstance(entries, dict) else []
                if keys:
                    self._exact[p] = {key: entries[key] for key in keys}
        units = units_of(loaded, [rule_of_group(optimizer, rule, group) for group in loaded])
        names = {key for group in saved for key in rule_keys(group)}
        for entries in self._exact.values():
            names.update(entries)
        if names and not all(self._fits(unit) for unit in units):
            listed = ", ".join(sorted(key.removeprefix(PREFIX) for key in names))
            raise ValueError(
                f"The checkpoint's clipping memory ({listed}) is not one of {rule}. Build the optimizer with "
                f"the rule that was saved, or remove the entries that begin with '{PREFIX}' from its groups "
                "and states, to start with a fresh memory."
            )

    def _fits(self, unit: Unit) -> bool:
        """Whether what was saved for the groups and parameters of `unit` is a memory of its rule."""
        fresh = unit.rule.init(unit.real_params) if unit.params else {}
        whole, lists = names_in(fresh)
        found: State = {}
        for group in unit.groups:
            for key in rule_keys(group):
                found[key.removeprefix(PREFIX)] = group[key]
        if found.keys() - set(whole):
            return False
        if found and found.keys() != set(whole):
            return False
        for name, value in found.items():
            if value.shape != fresh[name].shape:
                return False
        for i, p in enumerate(unit.params):
            for key, value in self._exact.get(p, {}).items():
                name = key.removeprefix(PREFIX)
                if name not in lists:
                    return False
                if not is_dtensor(p) and value.shape != fresh[name][i].shape:
                    return False
        return True


def _of_today(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state_dict of version 0.1, laid out as it is now. ValueError where that cannot be done."""
    states = dict(state_dict["state"])
    memory = states.pop(OLD_KEY, {})
    steps = states.pop(OLD_STEPS, None)
    groups = [dict(group) for group in state_dict["param_groups"]]
    rules = memory.get("rules", {})
    named = {int(name.removeprefix("group ")) for name in rules if name != "all"}
    for name, entries in rules.items():
        if name == "all":
            own = [group for number, group in enumerate(groups) if number not in named]
        else:
            own = [groups[int(name.removeprefix("group "))]]
        _lay_out(entries, own, states)
    for group in groups:
        if group.get(LEVEL) is not None:
            group[SEPARATELY] = True  # as a level of its own meant then
        if group.get("fused"):
            group["fused"] = None  # it was ours to choose then too
    if "skipped" in memory:
        groups[0][SKIPPED] = torch.as_tensor(memory["skipped"])
    rng_state = memory.get("rng_state", memory.get("coins"))
    if rng_state is not None:
        groups[0][RNG_STATE] = rng_state.cpu()
    if steps is not None:
        groups[0]["started_steps"] = steps
    return {**state_dict, "state": states, "param_groups": groups}


def _lay_out(entries: State, groups: list[dict[str, Any]], states: dict[Any, Any]) -> None:
    """Put a rule's memory of old into the groups and states of those it was of."""
    indices = [index for group in groups for index in group["params"]]
    for name, entry in entries.items():
        key = PREFIX + name.replace(".", "_")
        if isinstance(entry, Tensor):
            groups[0][key] = entry
            continue
        if len(entry) != len(indices):
            raise ValueError(
                f"The checkpoint, of an earlier version, remembers {name} of {len(entry)} parameters, and "
                f"its groups have {len(indices)}. Remove state['{OLD_KEY}'] to start with a fresh memory."
            )
        for index, item in zip(indices, entry, strict=True):
            states[index] = {**states.get(index, {}), key: item}
