"""How parameters lie over processes, and sums over all of them: one collective for all asked together.

DTensor (fully_shard, tensor parallel) and the flat parameters of FSDP1 are parts of tensors: their sums are
taken over the ranks that hold the others. ZeroRedundancyOptimizer gives each rank whole tensors, but not all.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

ProcessGroup = Any
"""torch.distributed.ProcessGroup; torch builds without it import all the same."""


@dataclass(frozen=True)
class Split:
    """A tensor of which each rank holds a part."""

    groups: tuple[ProcessGroup, ...]
    """The sum over the first, then over the second, … is the whole tensor's."""
    row_groups: tuple[ProcessGroup, ...] = ()
    """Those of `groups` over which single rows are divided, where all dimensions but the first make a row."""
    shape_is_lost: bool = False
    """FSDP1: the part is a run of a flattened tensor."""
    is_flat: bool = False
    """FSDP1 with use_orig_params=False: a run of several tensors, one behind the other."""


WHOLE = Split(())


@dataclass
class Spread:
    """Of one optimizer's parameters, at one step. It is None where all of all of them is here."""

    elsewhere: ProcessGroup | None
    """Whose other members hold other parameters of the same model: ZeroRedundancyOptimizer's."""
    device: torch.device | None
    known: dict[Any, Split] = field(default_factory=dict)

    def of(self, p: Tensor) -> Split:
        """How the parameter `p` lies."""
        if not is_dtensor(p):
            return fsdp_split(p)
        key = id(p.device_mesh), tuple(p.placements), p.ndim  # type: ignore[attr-defined]
        if key not in self.known:
            self.known[key] = _split_of_mesh(p)
        return self.known[key]


PLAIN = frozenset((Tensor, torch.nn.Parameter))
"""Types of tensors that are no DTensor: most are, so they are asked for first."""


def is_dtensor(x: Any) -> bool:
    """Whether `x` is a torch.distributed.tensor.DTensor, which is not imported to know it."""
    if type(x) in PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: Tensor) -> Tensor:
    """What of a DTensor lies here, in the same memory; any other tensor as it is."""
    if type(x) in PLAIN:
        return x
    return x.to_local() if is_dtensor(x) else x  # type: ignore[attr-defined]


def like(part: Tensor, p: Tensor) -> Tensor:
    """`part`, of the shape of what lies here of `p`, as a DTensor if `p` is one."""
    if not is_dtensor(p) or part.shape != local(p).shape or not part.ndim:
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=p.shape, stride=p.stride())


def processes() -> int:
    """How many there are; 1 where torch.distributed is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def spread_of(params: Sequence[Tensor], elsewhere: ProcessGroup | None) -> Spread | None:
    """How `params` lie over processes; None where all of all of them is here.

    `elsewhere` is what `sharding_of` or `sharding_of_maker` found for the optimizer.
    """
    some_dtensors = not PLAIN.issuperset(map(type, params)) and any(is_dtensor(p) for p in params)
    if processes() == 1 and not some_dtensors:
        return None
    split = elsewhere is not None or some_dtensors or any(fsdp_split(p) is not WHOLE for p in params)
    return Spread(elsewhere, next((local(p).device for p in params), None)) if split else None


def takes_part(p: Tensor) -> bool:
    """Whether a parameter has a gradient, or would have one if something of it lay here."""
    return p.grad is not None or (not p.numel() and p.requires_grad and fsdp_split(p).shape_is_lost)


def sharding_of(optimizer: object) -> ProcessGroup | None:
    """The process group of `optimizer`, if it is a ZeroRedundancyOptimizer."""
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is not None and isinstance(optimizer, module.ZeroRedundancyOptimizer):
        return optimizer.process_group
    return None


def sharding_of_maker() -> ProcessGroup | None:
    """The process group of the ZeroRedundancyOptimizer that is building an optimizer just now, if one is.

    Its local optimizer gets a part of the parameters and no word about the others, so we look who calls.
    """
    frame = sys._getframe(1) if processes() > 1 else None
    while frame is not None:
        found = sharding_of(frame.f_locals.get("self"))
        if found is not None:
            return found
        frame = frame.f_back
    return None


def rank_0s_state(state: Tensor, spread: Spread | None, device: torch.device) -> Tensor:
    """Rank 0's copy of `state`, a generator's, on all ranks. One broadcast."""
    group = spread.elsewhere if spread is not None else None
    sent = state.to(device)
    dist.broadcast(sent, src=dist.get_global_rank(group, 0) if group is not None else 0, group=group)
    return sent.cpu()


def summed(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sums of `values` over `group`; as they are where that is None."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


def _split_of_mesh(p: Any) -> Split:
    """Of a DTensor."""
    groups, row_groups = [], []
    for dimension, placement in enumerate(p.placements):
        if placement.is_partial():
            raise RuntimeError(
                f"A gradient is a DTensor with placements {p.placements}: sums that are still to be made. "
                "Redistribute it to the parameter's placements before step()."
            )
        if not placement.is_replicate() and p.device_mesh.size(dimension) > 1:
            group = p.device_mesh.get_group(dimension)
            groups.append(group)
            if placement.dim % max(p.ndim, 1) != 0:
                row_groups.append(group)
    return Split(tuple(groups), tuple(row_groups))


_FSDP_SPLITS = WeakTensorKeyDictionary()
"""Of FSDP1's parameters, as far as they were met."""


def fsdp_split(p: Tensor) -> Split:
    """How FSDP1 has divided `p`: it marks its parameters, but only their handles know between whom."""
    if not getattr(p, "_fsdp_flattened", False):
        return WHOLE
    if p not in _FSDP_SPLITS:
        _find_fsdp_splits()
        _FSDP_SPLITS.setdefault(p, WHOLE)
    return _FSDP_SPLITS[p]


def _find_fsdp_splits() -> None:
    from torch.distributed.fsdp._flat_param import FlatParamHandle

    for handle in gc.get_objects():
        if type(handle) is not FlatParamHandle or not handle.uses_sharded_strategy:
            continue
        groups = (handle.process_group,)
        _FSDP_SPLITS[handle.flat_param] = Split(groups, groups, shape_is_lost=True, is_flat=True)
        for p in handle.flat_param._params or []:
            _FSDP_SPLITS[p] = Split(groups, groups, shape_is_lost=True)


class Sums:
    """Sums and maxima over ranks: all that were asked for are made together when the first is read."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []

    def ask(self, values: Tensor, splits: Sequence[Split], largest: bool = False) -> Asked:
        """Of each of `values` (n,), over the ranks of its split; the maximum if `largest`."""
        asked = Asked(self, values, splits, largest)
        self._asked.append(asked)
        return asked

    def make(self) -> None:
        """One collective for each process group that any of them is split over."""
        asked, self._asked = self._asked, []
        groups: dict[Any, None] = {}
        for one in asked:
            for split in one.splits:
                groups.update(dict.fromkeys(split.groups))
        for group in groups:
            _over(group, asked)


class Asked:
    """What one `Sums.ask` will give."""

    def __init__(self, sums: Sums, values: Tensor, splits: Sequence[Split], largest: bool) -> None:
        self.sums, self.values, self.splits, self.largest = sums, values, splits, largest

    @property
    def value(self) -> Tensor:
        """(n,), on all ranks the same."""
        if self in self.sums._asked and any(split.groups for split in self.splits):
            self.sums.make()
        return self.values


def _over(group: ProcessGroup, asked: Sequence[Asked]) -> None:
    """Put the results over `group` in the place of those of the values that are split over it."""
    chosen = []
    for one in asked:
        places = [i for i, split in enumerate(one.splits) if group in split.groups]
        if places:
            chosen.append((one, places))
    sent = []
    for one, places in chosen:
        whole = len(places) == len(one.splits)
        # a list as an index would be copied to the device, and waited for
        sent.append(one.values if whole else torch.stack([one.values[i] for i in places]))
    parts = torch.cat(sent)
    if any(one.largest for one, _ in chosen):
        each = [torch.empty_like(parts) for _ in range(dist.get_world_size(group))]
        dist.all_gather(each, parts, group=group)
        gathered = torch.stack(each)
        results = [gathered.sum(0), gathered.amax(0)]
    else:
        dist.all_reduce(parts, group=group)
        results = [parts, parts]
    start = 0
    for one, places in chosen:
        result = results[one.largest][start : start + len(places)]
        start += len(places)
        if len(places) == len(one.splits):
            one.values = result
        else:
            values = list(one.values.unbind())
            for place, value in zip(places, result.unbind(), strict=True):
                values[place] = value
            one.values = torch.stack(values)
