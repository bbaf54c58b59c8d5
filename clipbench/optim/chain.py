"""Rules one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipbench.optim.clip import multiply
from clipbench.optim.rules import Factor, Gradients, NoClip, Rule, State


@dataclass(frozen=True)
class Chain(Rule):
    """clip(g) = (… ∘ second ∘ first)(g)

    Each rule sees, and measures anew, what the one before left. They edit the gradients in place, so the norm after clipping is measured
    when somebody asks for it. A parameter group can be exempt, by a level of inf, but have no other level of its own: there is no telling
    whose.
    """

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        if tied := [rule for rule in self.rules if rule.tied_to]:
            name = type(tied[0]).__name__
            raise ValueError(
                f"{name} acts on the optimizer's update, so it cannot be one of several rules for the gradient."
            )

    def init(self, params: Sequence[Tensor]) -> State:
        return {
            f"{i}.{name}": value
            for i, rule in enumerate(self.rules)
            for name, value in rule.init(params).items()
        }

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Factor, State]:
        new: State = {}
        for i, rule in enumerate(self.rules):
            own = {
                name.partition(".")[2]: value
                for name, value in state.items()
                if name.partition(".")[0] == str(i)
            }
            factor, own = rule(grads, params, own, rng)
            multiply(grads, factor)
            grads = Gradients(grads)  # without the norms of before
            new |= {f"{i}.{name}": value for name, value in own.items()}
        return None, new


def chain(*rules: Rule) -> Rule:
    """Chain, less what does nothing."""
    return Chain(tuple(rule for rule in rules if not isinstance(rule, NoClip)))
