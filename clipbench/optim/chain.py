"""Rules one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipbench.optim.gradients import Gradients
from clipbench.optim.rule import EntryRule, Rule, State
from clipbench.optim.rules import NoClip


@dataclass(frozen=True)
class Chain(EntryRule):
    """clip(g) = (… ∘ second ∘ first)(g)

    Each rule sees, and measures anew, what the one before left. They edit the gradients in place. A parameter
    group can be exempt, by a level of inf, but have no other level of its own: there is no telling whose.
    """

    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule.tied_to:
                raise ValueError(
                    f"{type(rule).__name__} acts on the optimizer's update, so it cannot be one of several "
                    "rules for the gradient."
                )

    @property
    def title(self) -> str:
        return ", then ".join(rule.title for rule in self.rules)

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return any(rule.draws for rule in self.rules)

    @property
    def needs_largest(self) -> bool:  # type: ignore[override]
        """At the start, where one does before the entries are edited."""
        for rule in self.rules:
            if rule.needs_largest:
                return True
            if isinstance(rule, EntryRule):
                return False
        return False

    @property
    def acts_on(self) -> tuple[str, ...]:  # type: ignore[override]
        kinds: tuple[str, ...] = ()
        for rule in self.rules:
            kinds += rule.acts_on
        return kinds

    def init(self, params: Sequence[Tensor]) -> State:
        state: State = {}
        for i, rule in enumerate(self.rules):
            state |= _numbered(i, rule.init(params))
        return state

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[None, State]:
        new: State = {}
        left = grads
        for i, rule in enumerate(self.rules):
            factor, own = rule(left, params, _of_number(i, state), rng)
            if isinstance(factor, Tensor) and i == len(self.rules) - 1:
                grads.norm_after = left.norm_after_factors(factor)
            left = left.times(factor)
            new |= _numbered(i, own)
        return None, new


def _numbered(i: int, state: State) -> State:
    """The memory of rule `i` as a part of the chain's."""
    return {f"{i}_{name}": entry for name, entry in state.items()}


def _of_number(i: int, state: State) -> State:
    """The inverse of `_numbered`: of the chain's memory what is rule `i`'s."""
    prefix = f"{i}_"
    own = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state[name] for name in own}


def chain(*rules: Rule) -> Rule:
    """Chain, less what does nothing."""
    return Chain(tuple(rule for rule in rules if not isinstance(rule, NoClip)))
