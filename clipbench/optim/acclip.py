"""ACClip: momentum that is clipped entry by entry, at a level that follows each entry's own gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from clipbench.optim.checks import check_share, check_small, check_that
from clipbench.optim.gradients import gradients_of, real
from clipbench.optim.optimizers import Prepared, as_groups, check_lr, loss_of, number_of


class ACClip(Prepared):
    """m ← β1·m + (1−β1)·g; τ^p ← β2·τ^p + (1−β2)·abs(g)^p; w ← w − lr·min(1, τ/(abs(m)+ε))·m, entry by entry

    p is `power`, 1 ≤ p ≤ 2. A step is never longer than lr·τ, so lr is in the units of SGD's, with m
    smaller than SGD's buffer by 1 − β1: some ten times the lr of SGD with momentum 0.9. `weight_decay` is
    added to the gradient (L2). Zhang et al. 2020, arXiv 1912.03194, algorithm 2; ε is its authors'.
    """

    state_names = ("momentum", "moment")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        power: float = 1.0,
        eps: float = 1e-5,
        weight_decay: float = 0.0,
    ) -> None:
        for i, beta in enumerate(betas):
            check_share(f"betas[{i}]", beta)
        check_small("eps", eps)
        check_lr(lr)
        check_that("weight_decay", weight_decay, weight_decay >= 0, "at least 0")
        check_that("power", power, 1 <= power <= 2, "between 1 and 2")
        defaults = {"lr": lr, "betas": betas, "power": power, "eps": eps, "weight_decay": weight_decay}
        super().__init__(as_groups(params), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = loss_of(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_of(group, params)
        return loss

    def _step_of(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Of one group, of whose parameters `params` are those that have a gradient."""
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p].update(momentum=torch.zeros_like(p), moment=torch.zeros_like(p))  # m and τ^p
        weights, grads = [real(p) for p in params], list(gradients_of(params))
        momenta = [real(self.state[p]["momentum"]) for p in params]
        moments = [real(self.state[p]["moment"]) for p in params]
        beta1, beta2 = group["betas"]
        power = group["power"]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        torch._foreach_lerp_(momenta, grads, 1 - beta1)
        sizes = torch._foreach_abs(grads)
        if power != 1:
            torch._foreach_pow_(sizes, power)
        torch._foreach_lerp_(moments, sizes, 1 - beta2)
        levels = moments if power == 1 else torch._foreach_pow(moments, 1 / power)
        factors = torch._foreach_abs(momenta)
        torch._foreach_add_(factors, group["eps"])
        factors = torch._foreach_div(levels, factors)
        torch._foreach_clamp_max_(factors, 1)
        torch._foreach_mul_(factors, momenta)
        torch._foreach_mul_(factors, -number_of(group["lr"]))
        torch._foreach_add_(weights, factors)
