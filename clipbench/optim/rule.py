"""What a clipping rule is: the base class, its two special kinds, and what rules are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipbench.optim.checks import SHARED
from clipbench.optim.gradients import Factor, Gradients

State = dict[str, Any]
"""A rule's memory by name: a Tensor, or a list of Tensors. See Rule.init."""


@dataclass(frozen=True)
class Rule:
    """Base of all rules: a frozen dataclass whose fields are the method's hyperparameters.

    Subclass it and write `__call__`; write `init` only for a rule with a memory. A rule never waits for the
    device: no `.item()`, no `if tensor:`. One that cuts entries in place is an EntryRule, one that acts on
    the optimizer's update an UpdateRule.
    """

    clips: ClassVar[bool] = True
    """False: levels and exemptions mean nothing to it."""
    tied_to: ClassVar[type[Optimizer] | None] = None
    """The only optimizers that it goes with, where it does not go with all."""
    spares_last_linear: ClassVar[bool] = False
    """Its paper leaves the last linear layer unclipped; the bench does so by default."""
    draws: ClassVar[bool] = False
    """Whether it draws from `rng`: one that does must say so, or other ranks would draw otherwise."""
    acts_on: ClassVar[tuple[str, ...]] = ("gradient",)
    """What it looks at together: the whole "gradient", a "tensor", a "row" of one, an "entry"; or several."""
    needs_largest: ClassVar[bool] = False
    """Whether it asks for `Gradients.largest`, which is then found together with the norm."""
    checks: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}
    """Of its own fields: name → (name, value) → the value, or ValueError."""

    def __post_init__(self) -> None:
        checks = {**SHARED, **self.checks}
        for field in fields(self):
            if field.name in checks:
                value = checks[field.name](field.name, getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    @property
    def level_or_none(self) -> float | None:
        """Its `clipping_level`; None for a rule without that field, which no group can be given one of."""
        return getattr(self, "clipping_level", None)

    @property
    def title(self) -> str:
        """What a message calls it."""
        return type(self).__name__

    def level_in_force(self, state: State) -> Tensor | float | None:
        """The norm, or what its level is of, above which it acts; None where that is no one number.

        `state` is what it remembers of the whole gradient.
        """
        return self.level_or_none

    def init(self, params: Sequence[Tensor]) -> State:
        """The memory before the first step, by name, on the device of `params`.

        `params` are all parameters, also those that have no gradient yet. An entry is a tensor, or a list of
        one tensor for each of `params`. Of such a list a step hands out and takes back the items of the
        parameters that have a gradient, in the order of `grads`: a gradient that is missing shifts nothing.
        """
        return {}

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Factor, State]:
        """(factor, new memory) for the parameters that have a gradient.

        `grads` and `params` are parallel; `state` is what `init` or the step before gave; `rng` lives on the
        gradients' device. Give back new tensors and leave those of `state` as they are: where a gradient is
        not finite the step is skipped, whatever the factor, and the old memory stays, so that no such norm
        enters it.
        """
        name = type(self).__name__
        raise NotImplementedError(f"{name} must define __call__(self, grads, params, state, rng).")


@dataclass(frozen=True)
class EntryRule(Rule):
    """A rule that edits the entries of `grads` in place, so it has no factor.

    The norm after it is measured, unless the rule puts what it knows of it as `grads.norm_after`.
    """

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[None, State]:
        """(None, new memory). Else as Rule."""
        name = type(self).__name__
        raise NotImplementedError(f"{name} must define __call__(self, grads, params, state, rng).")


@dataclass(frozen=True)
class UpdateRule(Rule):
    """A rule that acts on the optimizer's update, in `after_step`; it leaves the gradient as it is.

    `tied_to` names the optimizers whose update it understands.
    """

    tied_to: ClassVar[type[Optimizer]] = Optimizer

    def __call__(
        self, grads: Gradients, params: Sequence[Tensor], state: State, rng: torch.Generator
    ) -> tuple[Tensor, State]:
        return grads.one, state

    def after_step(
        self, optimizer: Optimizer, group: dict[str, Any], skipped: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Change, after torch's own step, what it did to the weights of `group`: nothing where `skipped` ().

        Back come ‖update‖² before and after, over the group, both () and on the device of `skipped`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define after_step(self, optimizer, group, skipped)."
        )


def within(level: Tensor | float, norms: Tensor) -> Tensor:
    """min(1, level / norm), and exactly 1 where norm ≤ level, 0 included. The shape of `norms`."""
    return torch.where(norms > level, level / norms, 1.0)


def toss(factor: Tensor, beta: float, power: int, rng: torch.Generator) -> Tensor:
    """`factor` with probability β^(factor^power), else 1. ()

    One draw for the whole gradient: its direction stays.
    """
    drawn = torch.rand((), generator=rng, device=factor.device)
    probability = torch.pow(beta, factor**power)
    return torch.where(drawn < probability, factor, 1.0)
