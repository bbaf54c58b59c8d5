"""Which parameters are normed, clipped and remembered together, and by which rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.checks import check_level
from clipbench.optim.gradients import real
from clipbench.optim.protocols import extra
from clipbench.optim.rule import Rule
from clipbench.optim.rules import NoClip

Group = dict[str, Any]
"""A parameter group of an optimizer."""


@dataclass
class Unit:
    """A parameter group with a level of its own, or all the others together. Made anew for every step."""

    name: str
    rule: Rule
    params: list[Tensor] = field(default_factory=list)

    @cached_property
    def present(self) -> list[int]:
        """Which of `params` have a gradient."""
        return [i for i, p in enumerate(self.params) if p.grad is not None]

    @cached_property
    def real_params(self) -> list[Tensor]:
        """`params`, complex ones as pairs of reals."""
        return [real(p) for p in self.params]


def units_of(groups: Sequence[Group], rules: Sequence[Rule], common: Rule) -> list[Unit]:
    """The units of `groups`, of which `rules` are the rules at this step; `common` is the optimizer's own.

    Groups without a level of their own are one unit, "all", as long as their rules are equal; the others are
    called by their place, "group 2".
    """
    units: dict[str, Unit] = {}
    for index, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        name = f"group {index}"
        if rule is common:
            name = "all"
        elif group.get("clipping_level") is None:
            shared = units.get("all")
            if shared is None or shared.rule == rule:
                name = "all"
        unit = units.setdefault(name, Unit(name, rule))
        unit.params.extend(group["params"])
    return list(units.values())


def rule_of_group(optimizer: Optimizer, common: Rule, group: Group) -> Rule:
    """The rule of `group` at the coming step: `common` at the group's own level, if it has one.

    An optimizer may adapt it: see `OptimizerExtras.rule_at_step`. ValueError for a level that is none, or
    that the rule has not.
    """
    rule = _at_own_level(common, group)
    adapt = extra(optimizer, "rule_at_step")
    return rule if adapt is None else adapt(rule, group)


def is_exempt(group: Group) -> bool:
    """Whether `group` is not to be clipped: its own level is inf."""
    level = group.get("clipping_level")
    return level is not None and math.isinf(level)


def at_level(rule: Rule, level: float) -> Rule:
    """`rule`, which has a clipping_level, at another one."""
    changes: dict[str, Any] = {"clipping_level": level}
    return replace(rule, **changes)


def _at_own_level(rule: Rule, group: Group) -> Rule:
    if group.get("clipping_level") is None:
        return rule
    level = check_level("clipping_level", group["clipping_level"])
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
