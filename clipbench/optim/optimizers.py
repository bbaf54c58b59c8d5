"""torch's optimizers with clipping in the constructor: ClippedSGD, ClippedAdam, ClippedAdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from clipbench.optim.clip import Join
from clipbench.optim.make import make_rule
from clipbench.optim.rules import Rule


class _Clipped(Optimizer):
    """Joins the rule, and joins it again to a copy or an unpickled optimizer, which have lost their hooks."""

    join_class = Join

    def _join(
        self, clipping_type: str | Rule, nonfinite: str, rng: torch.Generator | None, settings: dict[str, Any]
    ) -> None:
        self.clipping = self.join_class(make_rule(clipping_type, **settings), nonfinite, rng)
        self.clipping.attach(self)

    def __getstate__(self) -> dict[str, Any]:
        fused = getattr(self, "_step_supports_amp_scaling", False)
        return {**super().__getstate__(), "clipping": self.clipping, "_step_supports_amp_scaling": fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "clipping" in state:  # not from load_state_dict, which comes here too
            self.clipping.attach(self)


class ClippedSGD(_Clipped, SGD):
    """torch.optim.SGD on clipped gradients: momentum takes clip(g).

    `clipping_type` is a name from `clipbench.optim.RULES`, "module:Class" or a rule; `clipping_level` None is the type's default;
    further fields of the rule (p_autoclip, beta, window, …) are keywords too, and an unknown one is a ValueError. A parameter group may
    have a `clipping_level` of its own. `fused` None is True where torch has the kernel and `foreach` is not given: the factor is then
    applied as the kernel updates, and a non-finite gradient leaves the step out exactly. The rest: `clip_gradients`.
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
            fused=choose_fused(groups) if fused is None and foreach is None and not differentiable else fused,
        )
        self._join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})


class ClippedAdam(_Clipped, Adam):
    """torch.optim.Adam on clipped gradients: the moments and weight decay (0 unless given) take clip(g). Else as ClippedSGD."""

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
            fused=choose_fused(groups) if fused is None and foreach is None and not differentiable else fused,
        )
        self._join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})


class ClippedAdamW(ClippedAdam, AdamW):
    """torch.optim.AdamW on clipped gradients; weight decay (0.01 unless given) acts on the weights, unclipped."""

    default_weight_decay = 0.01


GROUP_KEYS = {"clipping_level"}


def as_groups(params: Iterable[Any]) -> list[Any]:
    """`params` as torch takes them, read once (an iterator would be spent). ValueError for a misspelt clipping key in a group."""
    if isinstance(params, Tensor):
        raise TypeError("params must be an iterable of tensors or of dicts, got one Tensor.")
    groups = [
        {**item, "params": _listed(item["params"])} if isinstance(item, dict) else item for item in params
    ]
    for group in groups:
        unknown = (
            [key for key in group if key.startswith("cl") and key not in GROUP_KEYS]
            if isinstance(group, dict)
            else []
        )
        if unknown:
            raise ValueError(
                f"Unknown key '{unknown[0]}' in a parameter group. Of clipping, a group may set: clipping_level."
            )
    return groups


def _listed(params: Any) -> list[Any]:
    return [params] if isinstance(params, Tensor) else list(params)


def choose_fused(groups: Iterable[Any]) -> bool | None:
    """True where torch has a fused kernel for every parameter: real floating tensors on CPU or CUDA. Else None, torch's default."""
    items = [item for group in groups for item in (group["params"] if isinstance(group, dict) else [group])]
    tensors = [item[1] if isinstance(item, tuple) else item for item in items]
    fusible = all(
        isinstance(p, Tensor) and p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in tensors
    )
    return True if tensors and fusible else None
