"""What an optimizer may have beside torch's interface. All of it is optional and listed here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from clipbench.optim.rule import Rule


class OptimizerExtras(Protocol):
    """The members that clipping, restarts and the bench look for in an optimizer. Each is optional by itself.

    An optimizer of your own takes part by having one of them: nothing is to be inherited or registered.
    """

    answer: ClassVar[str]
    """The entry of `optimizer.state[p]` that holds the answer, where that is not the point at which gradients
    are taken. See `evaluation_weights`."""

    clips_by_itself: ClassVar[bool]
    """True where it clips also under clipping_type "none", so that an exempt group means something."""

    grad_scale: Tensor | None
    """Set by torch's GradScaler around a step: what the gradients are still multiplied by. ()"""

    found_inf: Tensor | None
    """Set by torch's GradScaler around a step: above 0 where the step is to be left out. ()"""

    @staticmethod
    def groups(model: nn.Module, params: Iterable[Any] | None = None) -> list[dict[str, Any]]:
        """The parameter groups of `model`, or of `params` of it, where they depend on the modules."""

    def begin(self) -> None:
        """Back to before the first step: what `optimizer.state` does not hold. Called by restarts."""

    def rule_at_step(self, rule: Rule, group: dict[str, Any]) -> Rule:
        """The rule by which `group` is clipped at the coming step; `rule` is the one it was given.

        Groups that are not given a level of their own are normed together as long as their rules are equal.
        """

    def edit_gradients(self) -> None:
        """Edit `p.grad` in place, after the rule has acted and before the update. Waits for no device."""


Extra = Literal[
    "answer",
    "clips_by_itself",
    "grad_scale",
    "found_inf",
    "groups",
    "begin",
    "rule_at_step",
    "edit_gradients",
]


def extra(optimizer: object, name: Extra) -> Any:
    """The member `name` of OptimizerExtras that an optimizer or its class has, else None."""
    return getattr(optimizer, name, None)
