"""Optimizers that clipping is compared with and that torch has not, or not for a whole model: Lion, Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from clipbench.optim.optimizers import as_groups
from clipbench.optim.rules import real


def _checked(name: str, value: Any, allowed: Any, words: str) -> None:
    if isinstance(value, bool) or not allowed:
        raise ValueError(f"{name} must be {words}, got {value!r}.")


class Lion(Optimizer):
    """w ← w − lr·(sign(β1·m + (1−β1)·g) + λ·w); m ← β2·m + (1−β2)·g

    λ is `weight_decay`. Every entry moves by lr at each step, so lr is 3 to 10 times smaller than AdamW's and λ as much larger.
    Chen et al. 2023, arXiv 2302.06675, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        _checked("lr", lr, lr >= 0, "a number of at least 0")
        _checked("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        _checked(
            "betas",
            betas,
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "two numbers, each 0 <= beta < 1",
        )
        super().__init__(as_groups(params), {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = _loss(closure)
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                w, g, m = real(p), real(p.grad), real(self.state[p]["exp_avg"])
                w.mul_(1 - lr * group["weight_decay"])
                w.sub_(lr * m.lerp(g, 1 - beta1).sign_())
                m.lerp_(g, 1 - beta2)
        return loss


class Muon(Optimizer):
    """B ← μ·B + (1−μ)·G; W ← (1 − lr·λ)·W − 0.2·√max(rows, columns)·lr·orth((1−μ)·G + μ·B) for hidden matrices, AdamW for the rest

    orth is Newton and Schulz's iteration towards UVᵀ of the singular value decomposition, μ `momentum`, λ `weight_decay`; without
    `nesterov` it takes B. The steps are torch's own, with one learning rate for both: the factor of √max, torch's `match_rms_adamw`, makes
    AdamW's learning rate and weight decay serve for matrices too. A parameter of two or more dimensions is a matrix (a convolution's
    kernel: its output channels × all else) unless its group says `use_muon=False`; `Muon.groups(model)` says so for embeddings and for
    the last matrix, the head, as its authors advise. Jordan 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
            _checked(name, value, value >= 0, "a number of at least 0")
        _checked(
            "betas",
            betas,
            len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
            "two numbers, each 0 <= beta < 1",
        )
        _checked("momentum", momentum, 0 <= momentum < 1, "a number with 0 <= momentum < 1")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "betas": tuple(betas),
            "eps": eps,
        }
        super().__init__(as_groups(params), {**defaults, "ns_steps": ns_steps, "use_muon": True})

    @staticmethod
    def groups(model: nn.Module, params: Iterable[Any] | None = None) -> list[dict[str, Any]]:
        """The trainable parameters of `model`, or `params` of it in groups of their own, each divided in two: for Muon, and for AdamW."""
        trainable = [p for p in model.parameters() if p.requires_grad]
        given: list[Any] = trainable if params is None else list(params)
        groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
        hidden = {id(p) for p in [p for p in trainable if p.ndim >= 2 and id(p) not in embeddings][:-1]}
        parts = [
            {**group, "params": [p for p in group["params"] if (id(p) in hidden) == use], "use_muon": use}
            for group in groups
            for use in (True, False)
        ]
        return [part for part in parts if part["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = _loss(closure)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in params if group["use_muon"] and p.ndim >= 2]
            self._orthogonal(matrices, group)
            chosen = {id(p) for p in matrices}
            self._adamw([p for p in params if id(p) not in chosen], group)
        return loss

    def _orthogonal(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        for p in params:
            grad = p.grad.flatten(1)  # type: ignore[union-attr]
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(grad)
            buffer = self.state[p]["momentum_buffer"].lerp_(grad, 1 - momentum)
            update = orthogonal(
                grad.lerp(buffer, momentum) if group["nesterov"] else buffer, group["ns_steps"]
            )
            p.mul_(1 - lr * group["weight_decay"])
            p.add_(update.view(p.shape), alpha=-0.2 * math.sqrt(max(grad.shape)) * lr)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p].update(
                    step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
                )
        adamw(
            params,
            [p.grad for p in params],  # type: ignore[misc]
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Towards UVᵀ of matrix = U·S·Vᵀ: S/‖S‖ goes `steps` times through 3.4445·s − 4.775·s³ + 2.0315·s⁵, which ends near 1.

    In bfloat16 as its authors have it, but on a CPU in float32: few have arithmetic for bfloat16, and without it takes 20 times as long.
    """
    x = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16, copy=True)
    x = x.T if len(matrix) > matrix.shape[1] else x
    x.div_(x.norm().clamp(min=1e-7))
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype).contiguous()


def _loss(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
