"""Optimizers that clipping is compared with and that torch has not, or not for a whole model: Lion, Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from clipbench.optim.checks import check_that
from clipbench.optim.gradients import real
from clipbench.optim.optimizers import Prepared, as_groups, check_lr, loss_of, number_of
from clipbench.optim.ranks import fsdp_split, is_dtensor, local


class Lion(Prepared):
    """w ← w − lr·(sign(β1·m + (1−β1)·g) + λ·w); m ← β2·m + (1−β2)·g

    λ is `weight_decay`. Every entry moves by lr at each step, so lr is 3 to 10 times smaller than AdamW's
    and λ as much larger. Chen et al. 2023, arXiv 2302.06675, algorithm 2.
    """

    state_names = ("exp_avg",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        check_lr(lr)
        check_that("weight_decay", weight_decay, weight_decay >= 0, "a number of at least 0")
        _check_betas(betas)
        super().__init__(as_groups(params), {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = loss_of(closure)
        for group in self.param_groups:
            lr = number_of(group["lr"])
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "exp_avg" not in self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                w, g, m = real(p), real(p.grad), real(self.state[p]["exp_avg"])
                w.mul_(1 - lr * group["weight_decay"])
                w.sub_(lr * m.lerp(g, 1 - beta1).sign_())
                m.lerp_(g, 1 - beta2)
        return loss


class Muon(Prepared):
    """B ← μ·B + (1−μ)·G; W ← (1−lr·λ)·W − 0.2·√max(rows, columns)·lr·orth((1−μ)·G + μ·B); AdamW for the rest

    That is for hidden matrices. orth is Newton and Schulz's iteration towards UVᵀ of the singular value
    decomposition, μ `momentum`, λ `weight_decay`; without `nesterov` it takes B. The steps are torch's own,
    with one learning rate for both: the factor of √max, torch's `match_rms_adamw`, makes AdamW's learning
    rate and weight decay serve for matrices too. A parameter of two or more dimensions is a matrix (a
    convolution's kernel: its output channels × all else) unless its group says `use_muon=False`;
    `Muon.groups(model)` says so for embeddings and for the last matrix, the head, as its authors advise.
    Jordan 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        ns_steps: int = 5,
    ) -> None:
        check_lr(lr)
        for name, value in (("weight_decay", weight_decay), ("eps", eps)):
            check_that(name, value, value >= 0, "a number of at least 0")
        _check_betas(betas)
        check_that("momentum", momentum, 0 <= momentum < 1, "a number with 0 <= momentum < 1")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "betas": tuple(betas),
            "eps": eps,
            "ns_steps": ns_steps,
        }
        super().__init__(as_groups(params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. ValueError for complex matrices: the orthogonal matrix is computed in real numbers."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if p.is_complex() and _is_matrix(p, group):
                self.param_groups.pop()
                raise ValueError(
                    "Muon's matrices must be real, and one is complex. Give it a group with use_muon=False."
                )

    def lacks(self, saved: dict[str, Any]) -> list[str]:
        """A matrix has one buffer, any other parameter what AdamW has."""
        if "momentum_buffer" in saved:
            return []
        return [name for name in ("step", "exp_avg", "exp_avg_sq") if name not in saved]

    @staticmethod
    def groups(model: nn.Module, params: Iterable[Any] | None = None) -> list[dict[str, Any]]:
        """The trainable parameters of `model`, each group divided in two: for Muon, and for AdamW.

        `params` are those of the model's parameters that are to be trained, or groups of them; None is all.
        """
        given: list[Any] = list(params) if params is not None else _trainable(model)
        groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]
        hidden = _hidden_matrices(model)
        parts = []
        for group in groups:
            for use_muon in (True, False):
                chosen = [p for p in group["params"] if (id(p) in hidden) == use_muon]
                if chosen:
                    parts.append({**group, "params": chosen, "use_muon": use_muon})
        return parts

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = loss_of(closure)
        for group in self.param_groups:
            matrices: list[Tensor] = []
            others: list[Tensor] = []
            for p in group["params"]:
                if group.get("use_muon", True):
                    _check_has_shape(p)
                if p.grad is not None:
                    (matrices if _is_matrix(p, group) else others).append(p)
            self._orthogonal(matrices, group)
            self._adamw(others, group)
        return loss

    def _orthogonal(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        for p in params:
            assert p.grad is not None
            if not p.numel():
                continue
            _check_is_whole(p)
            grad = local(p.grad).flatten(1)
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(grad)
            buffer = self.state[p]["momentum_buffer"].lerp_(grad, 1 - momentum)
            matrix = grad.lerp(buffer, momentum) if group["nesterov"] else buffer
            update = orthogonal(matrix, group["ns_steps"])
            weight = local(p)
            weight.mul_(1 - lr * group["weight_decay"])
            weight.add_(update.view(p.shape), alpha=-0.2 * math.sqrt(max(grad.shape)) * lr)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """A step of torch's AdamW, of the parameters that are no matrices."""
        for p in params:
            if "step" not in self.state[p]:
                self.state[p]["step"] = torch.zeros(())
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _is_matrix(p: Tensor, group: dict[str, Any]) -> bool:
    return group.get("use_muon", True) and p.ndim >= 2


def _check_has_shape(p: Tensor) -> None:
    """RuntimeError for a parameter that is a run of a flattened one."""
    if fsdp_split(p).shape_is_lost:
        raise RuntimeError(
            "Muon needs whole matrices, and FullyShardedDataParallel has flattened them. Use DDP, or "
            "fully_shard with ignored_params for them, or groups with use_muon=False, which are AdamW's."
        )


def _check_is_whole(p: Tensor) -> None:
    """RuntimeError for a matrix of which other ranks hold a part."""
    if is_dtensor(p) and local(p).shape != p.shape:
        raise RuntimeError(
            f"Muon needs whole matrices, and one of shape {tuple(p.shape)} is split over ranks. Replicate it "
            "(DDP, or ignored_params of fully_shard), or give it a group with use_muon=False."
        )


def _check_betas(betas: tuple[float, float]) -> None:
    allowed = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
    check_that("betas", betas, allowed, "two numbers, each 0 <= beta < 1")


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    params = [p for p in model.parameters() if p.requires_grad]
    for p in params:
        _check_has_shape(p)
    return params


def _hidden_matrices(model: nn.Module) -> set[int]:
    """The ids of the trainable parameters of two or more dimensions, but for embeddings and the last one."""
    embeddings = set()
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            embeddings.add(id(module.weight))
    hidden = []
    for p in _trainable(model):
        if p.ndim >= 2 and id(p) not in embeddings:
            hidden.append(id(p))
    return set(hidden[:-1])


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Towards UVᵀ of matrix = U·S·Vᵀ: S/‖S‖ goes `steps` times through 3.4445·s − 4.775·s³ + 2.0315·s⁵.

    That ends near 1. In bfloat16 as its authors have it, but on a CPU in float32: few have arithmetic for
    bfloat16, and without it takes 20 times as long.
    """
    dtype = torch.float32 if matrix.device.type == "cpu" else torch.bfloat16
    tall = len(matrix) > matrix.shape[1]
    x = matrix.to(dtype, copy=True)
    x = x.T if tall else x
    x.div_(x.norm().clamp(min=1e-7))
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315)
        x = torch.addmm(x, polynomial, x, beta=3.4445)
    x = x.T if tall else x
    return x.to(matrix.dtype).contiguous()
