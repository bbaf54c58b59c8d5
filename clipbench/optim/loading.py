"""A checkpoint that is loaded: is its memory the rule's, and is it one of the version before?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.gradients import real
from clipbench.optim.memory import OWN_LEVEL, RNG_STATE, SKIPPED, names_in, rule_keys
from clipbench.optim.ranks import local
from clipbench.optim.rule import Rule, State
from clipbench.optim.units import LEVEL, PREFIX, SEPARATELY

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
        params: list[Tensor] = []
        for ours, theirs in zip(optimizer.param_groups, saved, strict=True):
            for index, p in zip(theirs["params"], ours["params"], strict=True):
                params.append(p)
                keys = rule_keys(states.get(index, {}))
                if keys:
                    self._exact[p] = {key: states[index][key] for key in keys}
        whole: State = {}
        for group in saved:
            for key in rule_keys(group):
                whole[key.removeprefix(PREFIX)] = group[key]
        of_parameters = {key.removeprefix(PREFIX) for entries in self._exact.values() for key in entries}
        if (whole or of_parameters) and not _fits(rule, params, whole, of_parameters):
            listed = ", ".join(sorted({*whole, *of_parameters}))
            raise ValueError(
                f"The checkpoint's clipping memory ({listed}) is not one of {rule}. Build the optimizer with "
                f"the rule that was saved, or remove the entries that begin with '{PREFIX}' from its groups "
                "and states, to start with a fresh memory."
            )


def _fits(rule: Rule, params: Sequence[Tensor], whole: State, of_parameters: set[str]) -> bool:
    """Whether this is a memory of `rule`. Of a parameter, what has another size begins afresh at the step."""
    fresh = rule.init([real(p) for p in params])
    names, lists = names_in(fresh)
    if (whole and whole.keys() != set(names)) or not of_parameters.issubset(lists):
        return False
    return all(value.shape == fresh[name].shape for name, value in whole.items())


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
            group[SEPARATELY] = group[OWN_LEVEL] = True  # as a level of its own meant then
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
