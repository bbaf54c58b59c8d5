"""What the laws look with: gradients, a small model, optimizers that clip by a rule, a counter of waits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipbench.optim.gradients import Gradients
from clipbench.optim.optimizers import ClippedAdam, ClippedAdamW, ClippedSGD
from clipbench.optim.rule import Rule, State

RuleFactory = Callable[..., Rule]
"""Builds the rule that is examined, with some of its settings changed."""
Law = Callable[[RuleFactory], None]
"""Raises AssertionError where it finds a counterexample."""
Build = Callable[[nn.Module], Any]
"""A fresh optimizer of a model's parameters."""

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (4,), (2, 3, 2), ())
OPTIMIZERS: dict[Any, dict[str, Any]] = {
    ClippedSGD: {"lr": 0.1, "momentum": 0.9},
    ClippedAdam: {"lr": 0.01},
    ClippedAdamW: {"lr": 0.01},
}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True, "fused": False},
    "loop": {"foreach": False, "fused": False},
}
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
}


def gradient(seed: int, scale: float = 1.0) -> list[Tensor]:
    """Normal numbers, of SHAPES."""
    rng = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=rng) for shape in SHAPES]


def clip(
    rule: Rule, grads: Sequence[Tensor], state: State | None = None, seed: int = 0
) -> tuple[list[Tensor], State]:
    """clip(g) and the new memory, by the definition of a factor.

    `state` None is the memory before the first step; `seed` is that of the generator. The weights are
    always the same.
    """
    rng = torch.Generator().manual_seed(99)
    params = [torch.randn(g.shape, generator=rng).to(g.dtype) for g in grads]
    part = Gradients(g.clone() for g in grads)
    if state is None:
        state = rule.init(params)
    factor, state = rule(part, params, state, torch.Generator().manual_seed(seed))
    if factor is None:
        return list(part), state
    if isinstance(factor, Tensor) and factor.ndim == 0:
        return [factor * g for g in part], state
    return [f * g for f, g in zip(factor, part, strict=True)], state


def norm(grads: Sequence[Tensor]) -> float:
    """‖g‖ over all tensors, in float64."""
    squares = [float((g.double() ** 2).sum()) for g in grads]
    return math.sqrt(sum(squares))


def small_model(seed: int = 0) -> nn.Module:
    """Four tensors, 83 weights, drawn from `seed`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def set_gradients(
    model: nn.Module, step: int, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> None:
    """Gradients that depend on `step` alone, of norms from far below 1 to far above."""
    rng = torch.Generator().manual_seed(step)
    size = scale * 10 ** (torch.rand((), generator=rng).item() * 2 - 1)
    for p in model.parameters():
        p.grad = (size * torch.randn(p.shape, generator=rng) / 3).to(dtype)


def weights(model: nn.Module) -> list[Tensor]:
    """A copy of each parameter of `model`, in its order."""
    return [p.detach().clone() for p in model.parameters()]


def make_steps(model: nn.Module, optimizer: Any, numbers: Sequence[int]) -> list[Tensor]:
    """The weights after steps with the gradients of these numbers."""
    for number in numbers:
        set_gradients(model, number)
        optimizer.step()
    return weights(model)


def classes_for(rule: Rule) -> dict[Any, dict[str, Any]]:
    """OPTIMIZERS, less those that the rule does not go with."""
    found = {}
    for kind, keywords in OPTIMIZERS.items():
        if rule.tied_to is None or issubclass(kind, rule.tied_to):
            found[kind] = keywords
    return found


def optimizers_for(rule: Rule) -> dict[str, Build]:
    """{words: what builds an optimizer that clips by `rule`}, for each class and implementation."""
    found: dict[str, Build] = {}
    for kind, keywords in classes_for(rule).items():
        for name, implementation in IMPLEMENTATIONS.items():
            settings = {"clipping_type": rule, **keywords, **implementation}
            found[f"{kind.__name__}, {name}"] = partial(_build, kind, settings)
    return found


def _build(kind: Any, settings: dict[str, Any], model: nn.Module) -> Any:
    return kind(model.parameters(), **settings)


def hold(promise: bool, counterexample: str) -> None:
    """AssertionError with the counterexample unless the promise is kept."""
    if not promise:
        raise AssertionError(counterexample)


def same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """To the bit."""
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def has_field(build_rule: RuleFactory, name: str) -> bool:
    """Whether the rule has a setting of that name."""
    return any(field.name == name for field in fields(build_rule()))


class Waits(TorchDispatchMode):
    """Counts the calls that wait for a device, also where there is none to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().split(".")[0] in WAITS
        return func(*args, **(kwargs or {}))
