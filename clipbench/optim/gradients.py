"""The measured gradient: norms before and after clipping, and what is done to all its tensors.

Every sum over the gradient is taken here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

Factor = Tensor | Sequence[Tensor] | None
"""() for the whole gradient, (n,) for one factor per tensor, a sequence of n tensors that broadcast against
their gradients, or None where the rule has edited the gradients in place."""


class Gradients(list[Tensor]):
    """The gradients of one step, and their norms, which are summed once, in float32 or wider.

    The norms stay on the gradients' device: to read them there is to wait for it.
    """

    @cached_property
    def norms(self) -> Tensor:
        """‖g_l‖ of each tensor. (n,)"""
        return torch.stack(torch._foreach_norm(self, 2.0, dtype=wide_dtype(self)))

    @cached_property
    def norm(self) -> Tensor:
        """‖g‖ over all tensors. ()"""
        return torch.linalg.vector_norm(self.norms)


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, which share its memory; any other as it is."""
    return torch.view_as_real(x) if x.is_complex() else x


def wide_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """In which sums over `tensors` are taken: float32, or wider if one of them is."""
    dtypes = {tensor.dtype for tensor in tensors}
    return reduce(torch.promote_types, dtypes, torch.float32)


def gradients_of(params: Iterable[Tensor]) -> Gradients:
    """The gradients of those of `params` that have one."""
    return Gradients(real(p.grad) for p in params if p.grad is not None)


def check_gradients(grads: Sequence[Tensor]) -> None:
    """RuntimeError for gradients that cannot be clipped together: sparse ones, or on several devices."""
    if any(g.layout != torch.strided for g in grads):
        raise RuntimeError("Clipping needs dense gradients. Use sparse=False in the embedding layers.")
    devices = {g.device for g in grads}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"The gradients lie on several devices ({names}). Use one optimizer per device.")


def total_norm(parts: Sequence[Gradients]) -> Tensor:
    """‖g‖ over all tensors of all parts. ()"""
    return _root_of_squares([part.norm for part in parts])


def norm_after(factors: Sequence[Factor], parts: Sequence[Gradients], skipped: Tensor) -> Tensor | None:
    """‖clip(g)‖ from factors and norms, 0 where the step is skipped. ()

    None where a rule has edited entries, or has a factor for each of them: only the gradients can tell then.
    """
    after = []
    for factor, part in zip(factors, parts, strict=True):
        if not isinstance(factor, Tensor):
            return None
        norms = part.norms if factor.ndim else part.norm
        after.append(torch.linalg.vector_norm(factor * norms))
    return torch.where(skipped, 0.0, _root_of_squares(after))


def _root_of_squares(norms: list[Tensor]) -> Tensor:
    """The norm of a vector from those of its parts. ()"""
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def is_finite(norm: Tensor) -> Tensor:
    """In float32, as the rules' memories are: a float64 norm beyond it would enter them as infinity. ()"""
    return torch.isfinite(norm.float())


def multiply(grads: Gradients, factor: Factor) -> None:
    """In place; None leaves them as they are."""
    if isinstance(factor, Tensor) and factor.ndim == 0:
        torch._foreach_mul_(grads, factor)
    elif factor is not None:
        torch._foreach_mul_(grads, list(factor))


def zero_where(skipped: Tensor, grads: Sequence[Tensor]) -> None:
    """Zeros everywhere if `skipped` (), without asking the device.

    NaN·0 is NaN, so the bits are multiplied, as integers.
    """
    keep = (~skipped).long()
    for size, dtype in ((1, torch.int8), (2, torch.int16), (4, torch.int32), (8, torch.int64)):
        bits = [g.view(dtype) for g in grads if g.element_size() == size]
        if bits:
            torch._foreach_mul_(bits, keep.to(dtype))
