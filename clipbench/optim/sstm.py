"""Clipped SSTM: similar triangles, an accelerated method, on clipped gradients; and an estimate of the smoothness that it wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipbench.optim.clip import Join
from clipbench.optim.optimizers import _Clipped, as_groups
from clipbench.optim.rules import Rule


class Triangle(NamedTuple):
    """What step k + 1 of a group goes by: α = α_{k+1} and A = A_k after the cap, numbers of the host. Kept as `group["triangle"]`."""

    k: int
    alpha: float
    A: float

    @property
    def share(self) -> float:
        """α_{k+1}/A_{k+1}, the weight of z in x and y."""
        return self.alpha / (self.A + self.alpha) if self.A else 1.0


class _LevelOverAlpha(Join):
    """λ_{k+1} = B/α_{k+1}. Groups of one α are normed together, a group with another alone. Rules without a level stay as they are."""

    def _rule_of(self, group: dict[str, Any]) -> Rule:
        rule = super()._rule_of(group)
        if (level := getattr(rule, "clipping_level", None)) is None:
            return rule
        alpha = _coming(group).alpha
        return replace(rule, clipping_level=level / alpha if alpha else math.inf)  # type: ignore[call-arg]


class ClippedSSTM(_Clipped):
    """z ← z − α·clip(∇f(x), B/α); y ← (A·y + α·z)/(A + α); gradients at the next x = (A·y + α·z)/(A + α), the answer is y.

    α = (k+1)^{2ν/(1+ν)}·lr/(2L) in step k + 1 = 1, 2, …, and A is the sum of those before: steps grow, so with `lr` 1 (a = 1/lr in the
    papers) and `L` the smoothness of f, f(y) falls as 1/k². Between steps the parameters hold x: evaluate and save the model within
    `evaluation_weights(optimizer)`. `clipping_level` is B; types without a level (auto) clip as ever. `cap` r < 1 bounds A_k/A_{k+1}, as
    the step is too timid when it nears 1: where A_k > α/(1−r), A_k becomes (1/(1−r) − 1)·α. Each group may have lr, L, nu and cap of its
    own. A new `lr` acts on the x after the coming step. Memory: two copies of the weights, in their own precision: in pure bfloat16
    small steps round to nothing, so keep float32 weights and use autocast. A parameter that has moved once goes on towards z at steps
    where it has no gradient. Gorbunov et al. 2020, arXiv 2005.10785, and 2106.05958.
    """

    answer = "y"
    join_class = _LevelOverAlpha

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        L: float = 10.0,
        nu: float = 1.0,
        cap: float = 1.0,
        *,
        clipping_type: str | Rule = "norm",
        clipping_level: float | None = None,
        nonfinite: str = "skip",
        rng: torch.Generator | None = None,
        **rule_settings: Any,
    ) -> None:
        bounds = {"lr": (lr, 0, math.inf), "L": (L, 0, math.inf), "nu": (nu, -1e-300, 1), "cap": (cap, 0, 1)}
        for name, (value, low, high) in bounds.items():
            if (
                isinstance(value, bool)
                or not isinstance(value, Real)
                or not low < value <= high
                or math.isinf(value)
            ):
                allowed = {"nu": "0 <= nu <= 1", "cap": "0 < cap <= 1; 1 is no cap"}.get(name, f"{name} > 0")
                raise ValueError(f"{name} must be a number with {allowed}, got {value!r}.")
        super().__init__(
            as_groups(params),
            {"lr": float(lr), "L": float(L), "nu": float(nu), "cap": float(cap), "triangle": None},
        )
        self._join(clipping_type, nonfinite, rng, {"clipping_level": clipping_level, **rule_settings})

    def begin(self) -> None:
        """Back to k = 0, for a restart."""
        for group in self.param_groups:
            group["triangle"] = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            now = _coming(group)
            after = _next(group, now.k + 1, now.A + now.alpha)
            self._move(group["params"], now, after)
            group["triangle"] = tuple(after)
        return loss

    def _move(self, params: list[Tensor], now: Triangle, after: Triangle) -> None:
        for p in params:
            if p.grad is not None and not self.state[p]:
                self.state[p].update(y=p.detach().clone(), z=p.detach().clone())
        if not (moving := [p for p in params if self.state.get(p)]):
            return
        y, z = [self.state[p]["y"] for p in moving], [self.state[p]["z"] for p in moving]
        if pushed := [p for p in moving if p.grad is not None]:
            grads = [p.grad for p in pushed if p.grad is not None]
            torch._foreach_add_([self.state[p]["z"] for p in pushed], grads, alpha=-now.alpha)
        torch._foreach_lerp_(y, z, now.share)
        torch._foreach_copy_(moving, torch._foreach_lerp(y, z, after.share))


def _coming(group: dict[str, Any]) -> Triangle:
    return Triangle(*group["triangle"]) if group.get("triangle") else _next(group, 0, 0.0)


def _next(group: dict[str, Any], k: int, total: float) -> Triangle:
    """α_{k+1} and A_k = `total`, which the cap may lower."""
    alpha = (k + 1) ** (2 * group["nu"] / (1 + group["nu"])) * group["lr"] / (2 * group["L"])
    if alpha and group["cap"] < 1 and total > alpha / (1 - group["cap"]):
        total = (1 / (1 - group["cap"]) - 1) * alpha
    return Triangle(k, alpha, total)


def estimate_smoothness(
    params: Iterable[Tensor], losses: Iterable[Callable[[], Tensor]], lr: float = 1e-3
) -> float:
    """L ≈ 2·mean of ‖∇f(x′) − ∇f(x)‖/‖x′ − x‖ along gradient steps x′ = x − lr·∇f(x), one for each of `losses`.

    A loss is a function of no arguments, mostly one batch's: `(lambda: loss(model(x), y) for x, y in loader)`. Both gradients of a pair
    are of the same batch and see the same dropout, or their difference would be noise. The steps train the parameters as they go; at the
    end they are what they were (buffers such as batch norm's are not). It is a mean over the path, not a bound. The estimate in arXiv
    2106.05958.
    """
    moved = [p for p in params if p.requires_grad]
    start = [p.detach().clone() for p in moved]
    ratios = []
    try:
        for seed, loss in enumerate(losses):
            before = [p.detach().clone() for p in moved]
            first = _gradient(moved, loss, seed)
            with torch.no_grad():
                torch._foreach_add_(moved, first, alpha=-lr)
            second = _gradient(moved, loss, seed)
            ratios.append(_distance(second, first) / _distance(moved, before))
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, start)
    finite = [ratio for ratio in torch.stack(ratios).tolist() if math.isfinite(ratio)] if ratios else []
    if not finite:
        raise ValueError(
            "No smoothness can be estimated: `losses` was empty, or every gradient was zero or not finite."
        )
    return 2 * sum(finite) / len(finite)


def _gradient(params: list[Tensor], loss: Callable[[], Tensor], seed: int) -> list[Tensor]:
    devices = sorted({p.get_device() for p in params if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        found = torch.autograd.grad(loss(), params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


@torch.no_grad()
def _distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(torch._foreach_sub(one, other))))
