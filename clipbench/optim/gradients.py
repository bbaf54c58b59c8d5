"""The measured gradient: norms before and after clipping, over all ranks that hold a part of it.

Every sum over the gradient is taken here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property, reduce

import torch
from torch import Tensor

from clipbench.optim.ranks import Asked, Split, Spread, Sums, is_dtensor, local, spread_of

Factor = Tensor | Sequence[Tensor] | None
"""() for the whole gradient, (n,) for one factor per tensor, a sequence of n tensors that broadcast against
their gradients, or None where the rule has edited the gradients in place."""


class Gradients(list[Tensor]):
    """The gradients of one step, and their norms, which are summed once, in float32 or wider.

    The norms stay on the gradients' device: to read them there is to wait for it. Where the gradient is
    divided among processes, the tensors are what lies here, and the norms are of the whole.
    """

    norm_after: Tensor | None = None
    """‖·‖ of what an EntryRule has made of them, where it knows: else they are measured again. ()"""

    def __init__(self, tensors: Iterable[Tensor], place: Place | None = None) -> None:
        super().__init__(tensors)
        self.place = place
        self._asked = self._total = self._asked_largest = None  # type: Asked | None

    @property
    def one(self) -> Tensor:
        """The factor that changes nothing. ()"""
        return torch.ones((), dtype=wide_dtype(self), device=self[0].device)

    def like(self, tensors: Iterable[Tensor]) -> Gradients:
        """Other tensors, parallel to these, to be measured in the same way."""
        return Gradients(tensors, self.place)

    @cached_property
    def norms(self) -> Tensor:
        """‖g_l‖ of each tensor. (n,)"""
        if self.place is None:
            return self._norms_here()
        self.ask()
        assert self._asked is not None
        return self._asked.value.sqrt()

    @cached_property
    def norm(self) -> Tensor:
        """‖g‖ over all tensors. ()"""
        if self.place is not None and self.place.spread.elsewhere is not None:
            self.ask()
            assert self._total is not None
            return self._total.value.sum().sqrt()
        return torch.linalg.vector_norm(self.norms)

    @cached_property
    def largest(self) -> Tensor:
        """max abs(g_l) of each tensor, 0 for an empty one. (n,)"""
        if self.place is None:
            return self._largest_here()
        self.ask_largest()
        assert self._asked_largest is not None
        return self._asked_largest.value

    def rms(self) -> Tensor:
        """‖·‖/√(number of entries) of each tensor, 0 for an empty one. (n,)"""
        numbers = [float(x.numel()) for x in self]
        if self.place is not None:
            self.ask()
        # numbers of the host go along with a launch; a tensor of them would be a copy, and a wait
        zeros = list(self._zeros().unbind())
        counts = torch.stack(torch._foreach_add(zeros, numbers))
        if self.place is not None:
            counts = self.place.sums.ask(counts, self.place.splits).value
        return self.norms / counts.clamp(min=1).sqrt()

    def times(self, factor: Factor) -> Gradients:
        """The same tensors, which `factor` is multiplied into: over ranks nothing is summed again."""
        after = self.like(self)
        if self.place is not None and isinstance(factor, Tensor):
            after.__dict__["norms"] = factor * self.norms
            if self._asked_largest is not None:
                after.__dict__["largest"] = factor * self.largest
            if not factor.ndim:
                after.__dict__["norm"] = factor * self.norm
        multiply(after, factor)
        return after

    def row_norms(self, *lists: Sequence[Tensor]) -> list[list[Tensor]]:
        """For each list, parallel to these: ‖·‖ of each tensor's rows, or of a vector or scalar as a whole.

        Each broadcasts against its tensor.
        """
        if self.place is None:
            found = []
            for tensors in lists:
                found.append([_row_norms(x) for x in tensors])
            return found
        return self.place.row_norms(lists)

    def norm_after_factors(self, factors: Tensor) -> Tensor:
        """‖·‖ of the gradient times a factor (), or times one for each tensor (n,). ()"""
        if not factors.ndim:
            return factors * self.norm
        after = factors * self.norms
        if self.place is None or self.place.spread.elsewhere is None:
            return torch.linalg.vector_norm(after)
        return self.place.total(after.square()).value.sum().sqrt()

    def ask(self) -> None:
        """Sum what lies here, to be summed over ranks together with whatever else is asked by then."""
        if self.place is None or self._asked is not None:
            return
        squares = self._norms_here().square()
        self._asked = self.place.sums.ask(squares, self.place.splits)
        if self.place.spread.elsewhere is not None:
            self._total = self.place.total(squares)

    def ask_largest(self) -> None:
        """As `ask`, for `largest`."""
        if self.place is not None and self._asked_largest is None:
            here = self._largest_here()
            self._asked_largest = self.place.sums.ask(here, self.place.splits, largest=True)

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self), dtype=wide_dtype(self), device=self[0].device)

    def _norms_here(self) -> Tensor:
        return torch.stack(torch._foreach_norm(self, 2.0, dtype=wide_dtype(self)))

    def _largest_here(self) -> Tensor:
        largest = list(self._zeros().unbind())
        full = [i for i, g in enumerate(self) if g.numel()]  # of an empty one torch knows no largest
        if full:
            found = torch._foreach_norm([self[i] for i in full], math.inf, dtype=wide_dtype(self))
            for i, value in zip(full, found, strict=True):
                largest[i] = value
        return torch.stack(largest)


class Place:
    """Where the tensors of one `Gradients` lie among processes."""

    def __init__(
        self, spread: Spread, sums: Sums, params: Sequence[Tensor], groups: Sequence[int], count: int
    ) -> None:
        """`groups`: of each of `params` the number of its parameter group, of which there are `count`."""
        self.spread, self.sums = spread, sums
        self.splits = [spread.of(p) for p in params]
        self.groups, self.count = groups, count

    def total(self, squares: Tensor) -> Asked:
        """The sums of `squares` (n,) over each parameter group, on all ranks of other parameters. (count,)"""
        sums = []
        for group in range(self.count):
            own = [square for square, number in zip(squares, self.groups, strict=True) if number == group]
            sums.append(torch.stack(own).sum() if own else squares.new_zeros(()))
        by_group = torch.stack(sums)
        return self.sums.ask(by_group, [Split((self.spread.elsewhere,))] * self.count)

    def row_norms(self, lists: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """As Gradients.row_norms: rows that are divided are summed over ranks, all of them together."""
        waiting: list[list[tuple[Tensor, Asked | None]]] = []
        for tensors in lists:
            row = []
            for x, split in zip(tensors, self.splits, strict=True):
                here = _row_norms(x)
                asked = None
                groups = split.row_groups if x.ndim > 1 else split.groups
                if groups:
                    squares = here.square().flatten()
                    asked = self.sums.ask(squares, [Split(groups)] * len(squares))
                row.append((here, asked))
            waiting.append(row)
        found = []
        for row in waiting:
            norms = []
            for here, asked in row:
                norms.append(here if asked is None else asked.value.sqrt().view(here.shape))
            found.append(norms)
        return found


def _row_norms(x: Tensor) -> Tensor:
    rows = tuple(range(1, x.ndim))
    return torch.linalg.vector_norm(x, dim=rows or None, keepdim=bool(rows), dtype=wide_dtype([x]))


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of reals, which share its memory; any other as it is.

    Of a DTensor, what lies here.
    """
    x = local(x)
    return torch.view_as_real(x) if x.is_complex() else x


def wide_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """In which sums over `tensors` are taken: float32, or wider if one of them is."""
    dtypes = {tensor.dtype for tensor in tensors}
    return reduce(torch.promote_types, dtypes, torch.float32)


def gradient_of(p: Tensor) -> Tensor:
    """Of a parameter: what can be measured and edited of it, in the gradient's own memory.

    Complex numbers as pairs of reals; of a sparse one its values, after duplicates were added up; of a
    DTensor what lies here. One whose entries share memory, as autograd's expanded ones, is copied first.
    """
    g = p.grad
    if g is None:  # nothing of it is here
        return real(p.detach())
    if g.is_conj() or g.is_neg():  # still to be made, and no kernel for many tensors makes it
        p.grad = g = g.resolve_conj().resolve_neg()
    if type(g) is Tensor and g.layout is torch.strided and g.is_contiguous():  # as nearly all are
        return torch.view_as_real(g) if g.is_complex() else g
    if g.layout == torch.sparse_coo:
        if not g.is_coalesced():
            p.grad = g = g.coalesce()
        return real(g._values())
    if is_dtensor(g) and is_dtensor(p) and g.placements != p.placements:  # type: ignore[attr-defined]
        raise RuntimeError(
            f"A gradient has the placements {g.placements}, its parameter {p.placements}. "  # type: ignore
            "Redistribute the gradient before step()."
        )
    if 0 in g.stride() and g.numel() > 1 and _repeats(g):
        p.grad = g = g.clone(memory_format=torch.contiguous_format)
    return real(g)


def _repeats(x: Tensor) -> bool:
    return any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape, strict=True))


def gradients_of(params: Iterable[Tensor]) -> Gradients:
    """The gradients of those of `params` that have one."""
    return Gradients(gradient_of(p) for p in params if p.grad is not None)


def gradients_like(params: Sequence[Tensor], tensors: Iterable[Tensor]) -> Gradients:
    """Tensors that lie over ranks as `params` do, to be measured."""
    spread = spread_of(params, None)
    place = None if spread is None else Place(spread, Sums(), params, [0] * len(params), 1)
    return Gradients(tensors, place)


def check_devices(grads: Sequence[Tensor]) -> None:
    """RuntimeError for gradients on several devices."""
    devices = {g.device for g in grads}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise RuntimeError(f"The gradients lie on several devices ({names}). Use one optimizer per device.")


def total_norm(parts: Sequence[Gradients]) -> Tensor:
    """‖g‖ over all tensors of all parts. ()"""
    return root_of_squares([part.norm for part in parts])


def norm_after(factors: list[Factor], parts: Sequence[Gradients]) -> Tensor:
    """‖clip(g)‖ from factors and norms where they tell; else the gradients are measured again. ()

    A factor for each entry or row is applied for that, and gives way to None.
    """
    again: dict[int, Gradients] = {}
    for i, (factor, part) in enumerate(zip(factors, parts, strict=True)):
        known = isinstance(factor, Tensor) or (factor is None and part.norm_after is not None)
        if not known:
            multiply(part, factor)
            factors[i] = None
            again[i] = part.like(part)
            again[i].ask()
    after = []
    for i, (factor, part) in enumerate(zip(factors, parts, strict=True)):
        if i in again:
            after.append(again[i].norm)
        elif isinstance(factor, Tensor):
            after.append(part.norm_after_factors(factor))
        else:
            assert part.norm_after is not None
            after.append(part.norm_after)
    return root_of_squares(after)


def root_of_squares(norms: list[Tensor]) -> Tensor:
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
