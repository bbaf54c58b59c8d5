"""torch's optimizers with clipping in the constructor: ClippedSGD, ClippedAdam, ClippedAdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from clipbench.optim.clip import Clipping
from clipbench.optim.make import make_rule
from clipbench.optim.rule import Rule


class Clipped(Optimizer):
    """Base of the optimizers that clip by themselves, and that still do when they are copied or unpickled.

    A subclass calls `join` at the end of its constructor. It may extend `build_rule`, to clip by more than
    the rule asked for, and `attach_hooks`, to have step hooks of its own.
    """

    clipping: Clipping

    def join(
        self, clipping_type: str | Rule, nonfinite: str, rng: torch.Generator | None, settings: dict[str, Any]
    ) -> None:
        """Clip from now on; `settings` are the rule's. ValueError for what is misspelt or cannot be."""
        rule = self.build_rule(clipping_type, settings)
        self.clipping = Clipping(rule, nonfinite, rng)
        self.attach_hooks()

    def build_rule(self, clipping_type: str | Rule, settings: dict[str, Any]) -> Rule:
        """The rule by which this optimizer clips."""
        return make_rule(clipping_type, **settings)

    def attach_hooks(self) -> None:
        """Register what acts at every step: when built, and again for a copy, which has lost its hooks."""
        self.clipping.attach(self)

    def __getstate__(self) -> dict[str, Any]:
        fused = getattr(self, "_step_supports_amp_scaling", False)
        return {**super().__getstate__(), "clipping": self.clipping, "_step_supports_amp_scaling": fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "clipping" in state:  # not from load_state_dict, which comes here too
            self.attach_hooks()


class ClippedSGD(Clipped, SGD):
    """torch.optim.SGD on clipped gradients: momentum takes clip(g).

    `clipping_type` is a name from `clipbench.optim.RULES`, "module:Class" or a rule; `clipping_level` None
    is the type's default; further fields of the rule (p_autoclip, beta, window, …) are keywords too, and an
    unknown one is a ValueError. A parameter group may have a `clipping_level` of its own. `fused` None is
    True where torch has the kernel and `foreach` is not given: the factor is then applied as the kernel
    updates, and a non-finite gradient leaves the step out exactly. The rest: `clip_gradients`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **rule_settings: Any,
    ) -> None:
        groups = as_groups(params)
        unset = fused is None and foreach is None and not differentiable
        super().__init__(
            groups,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=choose_fused(groups) if unset else fused,
        )
        self.join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})


class ClippedAdam(Clipped, Adam):
    """torch.optim.Adam on clipped gradients: the moments and weight decay (0 unless given) take clip(g).

    Else as ClippedSGD.
    """

    default_weight_decay = 0.0

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | None = None,
        amsgrad: bool = False,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **rule_settings: Any,
    ) -> None:
        groups = as_groups(params)
        unset = fused is None and foreach is None and not differentiable
        super().__init__(
            groups,
            lr,
            betas,
            eps,
            self.default_weight_decay if weight_decay is None else weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=choose_fused(groups) if unset else fused,
        )
        self.join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})


class ClippedAdamW(ClippedAdam, AdamW):
    """torch.optim.AdamW on clipped gradients; weight decay (0.01 unless given) acts on the weights."""

    default_weight_decay = 0.01


GROUP_KEYS = {"clipping_level"}
"""Of clipping, what a parameter group may set."""


def as_groups(params: Iterable[Any]) -> list[Any]:
    """`params` as torch takes them, read once (an iterator would be spent).

    ValueError for a misspelt clipping key in a group.
    """
    if isinstance(params, Tensor):
        raise TypeError("params must be an iterable of tensors or of dicts, got one Tensor.")
    groups: list[Any] = []
    for item in params:
        if isinstance(item, dict):
            _check_keys(item)
            item = {**item, "params": _as_list(item["params"])}
        groups.append(item)
    return groups


def _check_keys(group: dict[str, Any]) -> None:
    for key in group:
        if key.startswith("cl") and key not in GROUP_KEYS:
            known = ", ".join(GROUP_KEYS)
            raise ValueError(
                f"Unknown key '{key}' in a parameter group. Of clipping, a group may set: {known}."
            )


def _as_list(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """The loss of a closure, which computes gradients; None without one. A step begins with it."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def choose_fused(groups: Iterable[Any]) -> bool | None:
    """True where torch has a fused kernel for every parameter: real floating tensors on CPU or CUDA.

    Else None, torch's default. `groups` are parameters, pairs of name and parameter, or groups of either.
    """
    items: list[Any] = []
    for group in groups:
        items += group["params"] if isinstance(group, dict) else [group]
    for item in items:
        p = item[1] if isinstance(item, tuple) else item
        if not (isinstance(p, Tensor) and p.is_floating_point() and p.device.type in ("cpu", "cuda")):
            return None
    return True if items else None
