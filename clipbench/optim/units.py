"""Which parameters are normed, clipped and remembered together, and by which rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.checks import check_level
from clipbench.optim.gradients import real
from clipbench.optim.names import nearest
from clipbench.optim.protocols import extra
from clipbench.optim.ranks import PLAIN, Split, Spread, takes_part
from clipbench.optim.rule import Rule
from clipbench.optim.rules import NoClip

Group = dict[str, Any]
"""A parameter group of an optimizer."""

LEVEL = "clipping_level"
"""The key of a group that holds its level, as "lr" holds its learning rate."""
PREFIX = "clipping_memory_"
"""What every other key of ours begins with, in a group and in a parameter's state."""
SEPARATELY = "clip_separately"
"""The key of a group that is to be normed alone even where others have its level."""


@dataclass
class Unit:
    """The parameter groups that are clipped by one rule together. Made anew for every step."""

    rule: Rule
    groups: list[Group] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of each of `params`, the place of its group in the optimizer."""

    empty: set[int] = field(default_factory=set)
    """Which of `params` count as having a gradient, with no entry here: all of them are on other ranks."""
    stand_in: Tensor | None = None
    """The parameter of a unit of which nothing is here, so that this rank takes part in every sum."""

    @cached_property
    def present(self) -> list[int]:
        """Which of `params` have a gradient."""
        return [i for i, p in enumerate(self.params) if p.grad is not None or i in self.empty]

    @property
    def gradients(self) -> list[Tensor]:
        """As they are, of those that have one."""
        return [p.grad for p in self.params if p.grad is not None]

    @cached_property
    def real_params(self) -> list[Tensor]:
        """What lies here of `params`, complex ones as pairs of reals."""
        if PLAIN.issuperset(map(type, self.params)) and not any(map(torch.is_complex, self.params)):
            return self.params
        return [real(p) for p in self.params]

    def take_in_what_is_elsewhere(self, spread: Spread) -> None:
        """Parameters whose entries are all on other ranks take part, or ranks would sum unlike things."""
        for i, p in enumerate(self.params):
            if p.grad is None and takes_part(p):
                self.empty.add(i)
        here = any(p.grad is not None for p in self.params)
        if spread.elsewhere is not None and not here:
            self.stand_in = torch.empty(0, device=spread.device)
            self.params.append(self.stand_in)
            self.numbers.append(self.numbers[0] if self.numbers else 0)
            self.empty.add(len(self.params) - 1)

    def check(self, spread: Spread | None) -> None:
        """RuntimeError where the rule cannot clip these gradients rightly."""
        for i in self.present:
            grad = self.params[i].grad
            if grad is not None and grad.layout is not torch.strided:
                raise RuntimeError(
                    "Clipping needs dense gradients. Use sparse=False in the embedding layers, or exempt "
                    "their group by clipping_level=inf."
                )
        if spread is not None:
            for i in self.present:
                self._check_split(spread.of(self.params[i]))

    def _check_split(self, split: Split) -> None:
        about_rows = "row" in self.rule.acts_on
        about_tensors = about_rows or "tensor" in self.rule.acts_on
        if (split.is_flat and about_tensors) or (split.shape_is_lost and about_rows):
            unit = "rows" if about_rows else "whole tensors"
            remedy = "" if about_rows else ", or use_orig_params=True"
            raise RuntimeError(
                f"{self.rule.title} is about {unit}, which FullyShardedDataParallel has flattened. "
                f"Use torch.distributed.fsdp.fully_shard{remedy}."
            )


def units_of(groups: Sequence[Group], rules: Sequence[Rule]) -> list[Unit]:
    """The units of `groups`, of which `rules` are the rules at this step.

    Groups whose rules are equal, level included, are one unit, but for those that are to be clipped
    separately.
    """
    units: list[Unit] = []
    shared: list[Unit] = []
    for number, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        apart = group.get(SEPARATELY) and rule.clips
        unit = None
        if not apart:
            unit = next((one for one in shared if one.rule is rule or one.rule == rule), None)
        if unit is None:
            unit = Unit(rule)
            units.append(unit)
            if not apart:
                shared.append(unit)
        unit.groups.append(group)
        unit.params.extend(group["params"])
        unit.numbers.extend([number] * len(group["params"]))
    return units


def rule_of_group(optimizer: Optimizer, common: Rule, group: Group) -> Rule:
    """The rule of `group` at the coming step: `common`, at the group's level.

    An optimizer may adapt it: see `OptimizerExtras.rule_at_step`. ValueError for a level that is none, or
    that the rule has not.
    """
    copied = common.level_or_none is None and group.get(LEVEL) == optimizer.defaults.get(LEVEL)
    rule = common if copied else _at_own_level(common, group)  # as wrappers copy defaults into every group
    adapt = extra(optimizer, "rule_at_step")
    return rule if adapt is None else adapt(rule, group)


def is_exempt(group: Group, common: Rule) -> bool:
    """Whether `group` is not to be clipped: its level is inf, and that of all is not."""
    level = group.get(LEVEL)
    return level is not None and math.isinf(level) and common.level_or_none != level


def at_level(rule: Rule, level: float) -> Rule:
    """`rule`, which has a clipping_level, at another one."""
    changes: dict[str, Any] = {LEVEL: level}
    return replace(rule, **changes)


def check_group(group: Group) -> None:
    """ValueError for a misspelt key of clipping, or a level that is none."""
    for key in group:
        if key in (*GROUP_KEYS, "clipping_type") or not isinstance(key, str):
            continue  # a type is compared with the optimizer's own, which this is not to know
        if not key.startswith(PREFIX) and nearest(key, GROUP_KEYS, 0.7):
            known = " and ".join(GROUP_KEYS)
            raise ValueError(
                f"Unknown key '{key}' in a parameter group.{nearest(key, GROUP_KEYS)} Of clipping, a group "
                f"may set {known}."
            )
    if group.get(LEVEL) is not None:
        group[LEVEL] = check_level(LEVEL, group[LEVEL])
    apart = group.get(SEPARATELY, False)
    if not isinstance(apart, bool):
        raise ValueError(f"{SEPARATELY} must be true or false, got {apart!r}.")


GROUP_KEYS = (LEVEL, SEPARATELY)
"""Of clipping, what a parameter group may set."""


def _at_own_level(rule: Rule, group: Group) -> Rule:
    level = group.get(LEVEL)
    if level is None or level == rule.level_or_none:
        return rule
    level = check_level(LEVEL, level)
    if not rule.clips:
        return rule
    if math.isinf(level):
        return NoClip()
    if rule.level_or_none is None:
        raise ValueError(
            f"A parameter group has a clipping_level, but {type(rule).__name__} has none. Only inf is "
            "allowed, which exempts it."
        )
    return at_level(rule, level)
