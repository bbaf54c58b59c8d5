"""What test_ranks.py compares, and the processes that see it: `python rank_cases.py RANK RANKS FOLDER`.

Each process goes through all cases in the same order and writes what it saw of each. The tests call `train`
in their own process too, on the whole model with the whole batch: that is what all ranks have to give.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clipbench.optim import (
    SPAM,
    ACClip,
    ClippedAdam,
    ClippedAdamW,
    ClippedSGD,
    ClippedSSTM,
    Lion,
    Muon,
    StableSPAM,
    clip_gradients,
    clip_stats,
    make_rule,
)
from clipbench.optim.inside import innermost

STEPS = 6
ROWS = 8
SIZES = (2.0, 6.0, 1.0, 0.3, 8.0, 3.0, 4.0, 1.0)
"""Of the answers at each step: the gradients' norms go up and down with them."""
SEED = 117
"""Of the one process, and of rank 0. Rank r has SEED + r, and SEED + 1 tosses other coins under each rule."""
PREFIX = "clipping_memory_"

RULES = {
    "none": {},
    "norm": {"clipping_level": 2.0},
    "linear_rand_norm": {"clipping_level": 2.0, "beta": 0.5},
    "quadratic_rand_norm": {"clipping_level": 2.0, "beta": 0.5},
    "layer_wise": {"clipping_level": 0.8},
    "coordinate_wise": {"clipping_level": 0.3},
    "value": {"clipping_level": 0.3},
    "normalize": {"clipping_level": 2.0},
    "auto": {"p_autoclip": 0.4, "window": 4},
    "linear_rand_auto": {"p_autoclip": 0.3, "window": 4, "beta": 0.5},
    "quadratic_rand_auto": {"p_autoclip": 0.3, "window": 4, "beta": 0.5},
    "zclip": {"z_threshold": 0.5, "warmup_steps": 2, "max_norm": 10.0},
    "adagc": {"warmup_steps": 2},
    "agc": {"clipping_level": 0.2},
    "uclip": {"clipping_level": 2.0},
    "block_rms": {"clipping_level": 0.5},
}
"""Settings under which each rule clips some of the steps. `none` is here so that it is seen to do nothing."""
RANDOM = ("linear_rand_norm", "quadratic_rand_norm", "linear_rand_auto", "quadratic_rand_auto")
RULES_OF_FOUR = ("norm", "linear_rand_norm", "layer_wise", "adagc", "agc", "uclip", "block_rms")
PER_TENSOR = ("layer_wise", "adagc", "agc", "block_rms")

CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ClippedSGD": (ClippedSGD, {"lr": 0.05, "momentum": 0.9}),
    "ClippedAdam": (ClippedAdam, {"lr": 0.01, "weight_decay": 0.01}),
    "ClippedAdamW": (ClippedAdamW, {"lr": 0.01}),
    "SPAM": (SPAM, {"lr": 0.01, "threshold": 2.0, "reset_every": 4, "warmup": 2, "pause": 1}),
    "StableSPAM": (StableSPAM, {"lr": 0.01, "reset_every": 4}),
    "ClippedSSTM": (ClippedSSTM, {"lr": 0.2, "L": 10.0}),
}
JOINED: dict[str, tuple[Any, dict[str, Any]]] = {
    "ACClip": (ACClip, {"lr": 0.1}),
    "Lion": (Lion, {"lr": 0.01}),
    "Muon": (Muon, {"lr": 0.02}),
    "torch's RMSprop": (torch.optim.RMSprop, {"lr": 0.01}),
}
"""These clip by `clip_gradients`."""

TWO = ("DDP", "fully_shard", "FSDP1", "FSDP1 flat", "ZeRO", "Shard(0)", "Shard(1)", "Replicate", "mixed")
"""Kinds of training on two processes. FSDP1 is with use_orig_params=True, "FSDP1 flat" without."""
FOUR = ("HSDP", "TP and FSDP")
"""On four, as two times two."""
DTENSORS = ("Shard(0)", "Shard(1)", "Replicate", "mixed")
"""Without any framework: parameters and gradients that were given out by distribute_tensor."""


# the model and its data


class Net(nn.Sequential):
    """Whose last layer can be left out."""

    def forward(self, x: Tensor, unused: bool = False) -> Tensor:
        """The hidden units if the last layer is `unused`."""
        layers = list(self)
        for layer in layers[:-1] if unused else layers:
            x = layer(x)
        return x


def net(kind: str = "one process") -> Net:
    """Layers of 5 rows and of 1, which two ranks cannot halve; but tensor parallelism wants even ones."""
    width, last = (8, 4) if kind in ("TP and FSDP", "even") else (5, 1)
    torch.manual_seed(0)
    return Net(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, last))


def batch(step: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return torch.randn(ROWS, 6, generator=rng), SIZES[step] * torch.randn(ROWS, 1, generator=rng)


def loss_of(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return ((model(x, **options) - y) ** 2).mean()


class Place:
    """A model as a kind of training holds it, and its gradients there."""

    def __init__(self, kind: str, rank: int = 0, model: nn.Module | None = None) -> None:
        """`kind`: of TWO, of FOUR, "one process", or "even": one process with the model of "TP and FSDP"."""
        self.kind, self.rank = kind, rank
        self.twin: nn.Module | None = None
        """The whole model, whose gradients are given out."""
        model = net(kind) if model is None else model
        kind = self.kind = "one process" if kind == "even" else kind
        self.module: nn.Module = model
        if kind in ("DDP", "ZeRO"):
            self.module = nn.parallel.DistributedDataParallel(model)
        elif kind in ("fully_shard", "HSDP"):
            _fully_shard(model, _mesh(kind))
        elif kind == "TP and FSDP":
            _tensor_parallel(model)
        elif kind.startswith("FSDP1"):
            self.module = _fsdp1(model, kind)
        elif kind in DTENSORS:
            self.twin = net()
            _distribute(model, kind)
        torch.manual_seed(SEED + rank)

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """What the optimizer is to train."""
        named = []
        for name, p in self.module.named_parameters():
            named.append((name.replace("_fsdp_wrapped_module.", "").removeprefix("module."), p))
        return named

    def backward(self, step: int, unused: bool = False) -> None:
        """Gradients of this rank's share of a batch; the last layer has none where it is `unused`."""
        for _, p in self.named():
            p.grad = None
        x, y = batch(step)
        if self.twin is not None:
            self._give_out(x, y)
            return
        shares, own = {"one process": (1, 0), "HSDP": (4, self.rank), "TP and FSDP": (2, self.rank // 2)}.get(
            self.kind, (2, self.rank)
        )
        x, y = x.chunk(shares)[own], y.chunk(shares)[own]
        options = {"unused": True} if unused else {}
        loss_of(self.module, x, y, **options).backward()

    def _give_out(self, x: Tensor, y: Tensor) -> None:
        assert self.twin is not None
        self.twin.zero_grad()
        pairs = [(p, q) for (_, p), q in zip(self.named(), self.twin.parameters(), strict=True)]
        for p, q in pairs:
            q.data.copy_(whole(p))
        loss_of(self.twin, x, y).backward()
        for p, q in pairs:
            p.grad = distributed_as(p, q.grad)

    def poison(self) -> None:
        """A NaN in the gradient: where ranks hold different parts, on those that have an odd number."""
        params = [p for _, p in self.named()]
        everywhere = self.kind in ("one process", "DDP", "ZeRO", "Replicate")
        if everywhere or self.rank % 2:
            parts = [here(p.grad) for p in params if p.grad is not None]
            full = [part for part in parts if part.numel()]
            full[0].view(-1)[0] = math.nan

    def weights(self) -> dict[str, Tensor]:
        """All of all of them."""
        if self.kind.startswith("FSDP1"):
            from torch.distributed.fsdp import FullyShardedDataParallel

            with FullyShardedDataParallel.summon_full_params(self.module):
                return {name: p.detach().clone() for name, p in self.named()}
        return {name: whole(p) for name, p in self.named()}


def whole(x: Tensor) -> Tensor:
    """A copy, of a DTensor as a plain tensor."""
    full = x.full_tensor() if hasattr(x, "full_tensor") else x
    return full.detach().clone()


def here(x: Tensor) -> Tensor:
    """What of it lies on this rank, in the same memory."""
    return x.to_local() if hasattr(x, "to_local") else x


def distributed_as(p: Tensor, x: Tensor) -> Tensor:
    """`x`, which all ranks have, as the parameter `p` lies."""
    if not hasattr(p, "placements"):
        return x.clone()
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.clone(), p.device_mesh, p.placements, src_data_rank=None)


def _mesh(kind: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    if kind in FOUR:
        return init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "shard"))
    return init_device_mesh("cpu", (2,))


def _fully_shard(model: nn.Sequential, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    if len(model) > 1:
        fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)


def _tensor_parallel(model: nn.Module) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = _mesh("TP and FSDP")
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": ColwiseParallel(output_layouts=Replicate())}
    parallelize_module(model, mesh["shard"], plan)
    fully_shard(model, mesh=mesh["data"])


def _fsdp1(model: nn.Module, kind: str) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    flat = kind.endswith("flat")
    if flat and isinstance(model, nn.Sequential) and len(model) > 1:  # two flat parameters instead of one
        model[0] = FullyShardedDataParallel(model[0], device_id=torch.device("cpu"), use_orig_params=False)
    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=not flat)


def _distribute(model: nn.Module, kind: str) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = _mesh(kind)
    number = 0
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            columns = Shard(1) if p.ndim > 1 else Shard(0)
            ways = {"Shard(0)": Shard(0), "Shard(1)": columns, "Replicate": Replicate()}
            placement = ways.get(kind, (Shard(0), None, columns, Replicate(), None)[number % 5])
            number += 1
            if placement is not None:
                spread = distribute_tensor(p.detach(), mesh, [placement], src_data_rank=None)
                setattr(module, name, nn.Parameter(spread))


# optimizers


def build(which: str, rule: str, place: Place, groups: Any = None, **more: Any) -> Any:
    """An optimizer of `place`'s parameters, or of `groups`, that clips by `rule`."""
    params = [p for _, p in place.named()] if groups is None else groups
    cls, keywords = {**CLASSES, **JOINED}[which]
    keywords = {**keywords, **more}
    if which in CLASSES:
        keywords |= {"clipping_type": rule, **RULES[rule]}
    if place.kind == "ZeRO":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        optimizer = ZeroRedundancyOptimizer(params, optimizer_class=cls, **keywords)
    else:
        optimizer = cls(params, **keywords)
    return optimizer if which in CLASSES else clip_gradients(optimizer, make_rule(rule, **RULES[rule]))


def groups_at(place: Place, levels: dict[str, float]) -> list[dict[str, Any]]:
    """A group of each layer, at a level of its own if it is named."""
    groups = []
    for layer in ("0", "2", "4"):
        params = [p for name, p in place.named() if name.startswith(layer)]
        own = {"clipping_level": levels[layer]} if layer in levels else {}
        groups.append({"params": params, **own})
    return groups


def stats_of(optimizer: Any) -> dict[str, Any]:
    """The numbers, and whether they are plain tensors of shape ()."""
    found = clip_stats(optimizer)
    names = ("grad_norm", "clipped_norm", "clip_factor", "clipping_level", "share_clipped", "skipped")
    values = {name: getattr(found, name) for name in names}
    plain = all(type(value) is Tensor and value.ndim == 0 for value in values.values())
    return {"plain": plain, **{name: float(value) for name, value in values.items()}}


def memory_of(optimizer: Any, place: Place) -> dict[str, Any]:
    """What is remembered of the whole gradient, and but under FSDP1 of each parameter that is here."""
    inner = innermost(optimizer)
    found = {}
    for number, group in enumerate(inner.param_groups):
        for key, value in group.items():
            if key.startswith(PREFIX) and isinstance(value, Tensor) and key != PREFIX + "rng_state":
                found[f"group {number}: {key}"] = whole(value)
    if place.kind.startswith("FSDP1"):
        return found
    for name, p in place.named():
        for key, value in inner.state.get(p, {}).items():
            if str(key).startswith(PREFIX):
                found[f"{name}: {key}"] = whole(value)
    return found


def train(
    place: Place,
    optimizer: Any,
    steps: Any = range(STEPS),
    poison: int | None = None,
    unused: tuple[int, ...] = (),
    count: bool = False,
) -> dict[str, Any]:
    """What was seen of the steps; with a NaN in the gradient at step `poison`.

    `count`: the collectives of a further step too.
    """
    stats, history, warned = [], [], set()
    for step in steps:
        place.backward(step, unused=step in unused)
        if step == poison:
            place.poison()
            history.append(place.weights())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        warned.update(str(one.message) for one in caught)
        if step == poison:
            history.append(place.weights())
        stats.append(stats_of(optimizer))
    seen = {
        "stats": stats,
        "weights": place.weights(),
        "memory": memory_of(optimizer, place),
        "warned": warned,
    }
    if poison is not None:
        seen["around the poison"] = history
    if count:
        place.backward(STEPS)
        seen["collectives"] = collectives(innermost(optimizer).step)
    return seen


def collectives(call: Callable[[], Any]) -> int:
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode() as mode:
        call()
    return mode.get_total_counts()


# cases: what is seen of one is the answer of a function of the rank


@dataclass(frozen=True)
class Case:
    """Its name, and how it is seen: run(rank)."""

    name: str
    run: Callable[[int], Any]


def one_training(kind: str, which: str, rule: str, rank: int = 0, **options: Any) -> dict[str, Any]:
    place = Place(kind, rank)
    return train(place, build(which, rule, place), **options)


def separate_levels(kind: str, rank: int = 0) -> dict[str, Any]:
    """Two groups at levels of their own, one exempt."""
    place = Place(kind, rank)
    levels = {"0": 0.7, "2": 1.5, "4": math.inf}
    return train(place, build("ClippedAdamW", "norm", place, groups_at(place, levels)))


def frozen_layer(kind: str, rank: int = 0) -> dict[str, Any]:
    """Parameters that never get a gradient."""
    model = net()
    model[2].requires_grad_(False)
    place = Place(kind, rank, model)
    return train(place, build("ClippedAdamW", "adagc", place))


def unused_layer(kind: str, rank: int = 0) -> dict[str, Any]:
    """Parameters that get their first gradient at the third step, and none at the last."""
    place = Place(kind, rank)
    return train(place, build("ClippedAdamW", "adagc", place), unused=(0, 1, 5))


def one_parameter(kind: str, rank: int = 0) -> dict[str, Any]:
    """Of which ZeRO gives one rank nothing, and fully_shard all of its one row to the other."""
    torch.manual_seed(0)
    place = Place(kind, rank, nn.Sequential(nn.Linear(6, 1, bias=False)))
    return train(place, build("ClippedAdamW", "auto", place))


def own_generator(kind: str, rank: int = 0) -> dict[str, Any]:
    """A generator that the user gives, differently seeded on each rank."""
    place = Place(kind, rank)
    rng = torch.Generator().manual_seed(7 + rank)
    return train(place, build("ClippedSGD", "linear_rand_norm", place, rng=rng))


def first_step(kind: str, which: str, rule: str, rank: int) -> int:
    place = Place(kind, rank)
    optimizer = build(which, rule, place)
    place.backward(0)
    return collectives(innermost(optimizer).step)


def one_all_reduce(rank: int) -> int:
    return collectives(lambda: dist.all_reduce(torch.ones(1)))


def process_groups_made_anew(rank: int) -> list[dict[str, Any]]:
    """Two trainings, between which torch.distributed was ended and begun again."""
    seen = [one_training("fully_shard", "StableSPAM", "norm", rank)]
    end()
    begin()
    seen.append(one_training("fully_shard", "StableSPAM", "norm", rank))
    return seen


# refused: the last thing that such a case does is to raise


def refused_training(kind: str, which: str, rule: str, rank: int) -> str:
    """Three steps without a word, if it comes to its end."""
    one_training(kind, which, rule, rank, steps=range(3))
    return "nothing was refused"


def muon_of_groups(kind: str, rank: int) -> str:
    place = Place(kind, rank)
    optimizer = clip_gradients(Muon(Muon.groups(place.module), lr=0.02), make_rule("norm"))
    place.backward(0)
    optimizer.step()
    return "nothing was refused"


def muon_without_matrices(kind: str, rank: int = 0) -> dict[str, Any]:
    place = Place(kind, rank)
    groups = [{"params": [p for _, p in place.named()], "use_muon": False}]
    return train(place, build("Muon", "norm", place, groups))


def partial_gradient(of_parameter: bool, rank: int) -> str:
    """Gradients that are still to be summed, of a replicated parameter or of one that is so itself."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = _mesh("Replicate")
    placement = [Partial()] if of_parameter else [Replicate()]
    p = nn.Parameter(DTensor.from_local(torch.ones(3, 2), mesh, placement, run_check=False))
    optimizer = ClippedSGD([p], lr=1.0)
    p.grad = DTensor.from_local(torch.ones(3, 2), mesh, [Partial()], run_check=False)
    optimizer.step()
    return "nothing was refused"


# states


def resumed(kind: str, way: str, which: str, rule: str, folder: Path, rank: int) -> dict[str, Any]:
    """Three steps, a checkpoint that goes `way`, and three steps of a new model and optimizer."""
    place = Place(kind, rank)
    optimizer = build(which, rule, place)
    weights = train(place, optimizer, range(3))["weights"]
    other = Place(kind, rank, net_with(weights))
    torch.manual_seed(4321)
    loaded = build(which, rule, other)
    WAYS[way][1](other, loaded, WAYS[way][0](place, optimizer, folder), folder)
    return train(other, loaded, range(3, STEPS))


def torchs_resumed(kind: str, way: str, folder: Path, rank: int) -> dict[str, Any]:
    """The same with torch's AdamW: {"straight": weights, "again": weights}."""

    def steps(place: Place, optimizer: Any, numbers: Any) -> dict[str, Tensor]:
        for step in numbers:
            place.backward(step)
            optimizer.step()
        return place.weights()

    place = Place(kind, rank)
    straight = steps(place, torchs_adamw(place), range(STEPS))
    place = Place(kind, rank)
    optimizer = torchs_adamw(place)
    weights = steps(place, optimizer, range(3))
    other = Place(kind, rank, net_with(weights))
    loaded = torchs_adamw(other)
    WAYS[way][1](other, loaded, WAYS[way][0](place, optimizer, folder), folder)
    return {"straight": straight, "again": steps(other, loaded, range(3, STEPS))}


def torchs_adamw(place: Place) -> Any:
    params = [p for _, p in place.named()]
    if place.kind != "ZeRO":
        return torch.optim.AdamW(params, lr=0.01)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(params, optimizer_class=torch.optim.AdamW, lr=0.01)


def net_with(weights: dict[str, Tensor]) -> Net:
    model = net()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(weights[name])
    return model


def _options(full: bool, flatten: bool = False) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=full, flatten_optimizer_state_dict=flatten)


def dcp_get(place: Place, optimizer: Any, folder: Path, **options: bool) -> Any:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return get_optimizer_state_dict(place.module, optimizer, options=_options(**options))


def dcp_set(place: Place, optimizer: Any, saved: Any, folder: Path, **options: bool) -> None:
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    if options["full"]:  # with full_state_dict rank 0 alone has it
        shared = [saved]
        dist.broadcast_object_list(shared, src=0)
        saved = shared[0]
    set_optimizer_state_dict(place.module, optimizer, saved, options=_options(**options))


def files_save(place: Place, optimizer: Any, folder: Path) -> Any:
    import torch.distributed.checkpoint as dcp

    state = dcp_get(place, optimizer, folder, full=False)
    dcp.save({"optimizer": state}, checkpoint_id=str(folder))
    return None


def files_load(place: Place, optimizer: Any, saved: Any, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    state = {"optimizer": dcp_get(place, optimizer, folder, full=False)}
    dcp.load(state, checkpoint_id=str(folder))
    dcp_set(place, optimizer, state["optimizer"], folder, full=False)


def fsdp_get(place: Place, optimizer: Any, folder: Path) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with _sharded(place):
        return FullyShardedDataParallel.optim_state_dict(place.module, optimizer)


def fsdp_set(place: Place, optimizer: Any, saved: Any, folder: Path) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with _sharded(place):
        state = FullyShardedDataParallel.optim_state_dict_to_load(place.module, optimizer, saved)
    optimizer.load_state_dict(state)


def _sharded(place: Place) -> Any:
    """A context: whole ones of torch 2.14 hold exp_avg_sq in the place of exp_avg, of torch's AdamW too."""
    from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

    return FullyShardedDataParallel.state_dict_type(place.module, StateDictType.SHARDED_STATE_DICT)


def own_get(place: Place, optimizer: Any, folder: Path) -> Any:
    saved = optimizer.state_dict()
    return pickle.loads(pickle.dumps(saved))


def own_set(place: Place, optimizer: Any, saved: Any, folder: Path) -> None:
    optimizer.load_state_dict(saved)


def zero_get(place: Place, optimizer: Any, folder: Path) -> Any:
    optimizer.consolidate_state_dict(to=0)
    shared = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


Way = tuple[Callable[..., Any], Callable[..., None]]
WAYS: dict[str, Way] = {
    "sharded": (functools.partial(dcp_get, full=False), functools.partial(dcp_set, full=False)),
    "full": (functools.partial(dcp_get, full=True), functools.partial(dcp_set, full=True)),
    "flattened": (
        functools.partial(dcp_get, full=False, flatten=True),
        functools.partial(dcp_set, full=False, flatten=True),
    ),
    "files": (files_save, files_load),
    "optim_state_dict": (fsdp_get, fsdp_set),
    "state_dict": (own_get, own_set),
    "consolidated": (zero_get, own_set),
}
WAYS_OF = {
    "DDP": ("state_dict", "full"),
    "fully_shard": ("state_dict", "sharded", "full", "flattened", "files"),
    "FSDP1": ("optim_state_dict", "full"),
    "FSDP1 flat": ("optim_state_dict", "full"),
    "ZeRO": ("consolidated",),
}
KEPT_APART = [(kind, way) for kind, ways in WAYS_OF.items() for way in ways]
REMEMBERS = (
    ("ClippedAdamW", "norm"),
    ("ClippedSGD", "auto"),
    ("ClippedSGD", "linear_rand_norm"),
    ("ClippedSGD", "adagc"),
    ("ClippedSGD", "uclip"),
    ("StableSPAM", "norm"),
)
"""(class, rule): what is remembered of the whole gradient, of each parameter, by coins and by counts.

They are among `pairs`, whose six steps without a checkpoint are what they have to give.
"""


# which there are


def fits(kind: str, which: str, rule: str) -> bool:
    """Whether the two go with that kind. Else it is refused: see REFUSED."""
    about_tensors = rule in PER_TENSOR or which == "StableSPAM"
    if kind == "FSDP1 flat" and about_tensors:
        return False
    if kind == "FSDP1" and rule == "agc":
        return False
    return which != "Muon" or kind in ("one process", "DDP", "ZeRO", "Replicate")


def class_for(rule: str) -> str:
    return "ClippedAdamW" if rule == "block_rms" else "ClippedSGD"


def pairs(kind: str) -> list[tuple[str, str]]:
    """(class, rule): every rule, and every class; on four processes, which take long, one of each sort."""
    if kind in FOUR:
        return [(class_for(rule), rule) for rule in RULES_OF_FOUR] + [
            (which, "norm") for which in ("ClippedAdamW", "Lion", "StableSPAM")
        ]
    found = [(class_for(rule), rule) for rule in RULES]
    found += [(which, "norm") for which in (*CLASSES, *JOINED) if which != "ClippedSGD"]
    found.append(("ClippedAdamW", "layer_wise"))
    return [(which, rule) for which, rule in found if fits(kind, which, rule)]


REFUSED = {
    "layer_wise": ("FSDP1 flat", "ClippedSGD", "layer_wise"),
    "adagc": ("FSDP1 flat", "ClippedSGD", "adagc"),
    "agc": ("FSDP1 flat", "ClippedSGD", "agc"),
    "block_rms": ("FSDP1 flat", "ClippedAdamW", "block_rms"),
    "StableSPAM": ("FSDP1 flat", "StableSPAM", "none"),
    "agc with use_orig_params": ("FSDP1", "ClippedSGD", "agc"),
}
MUON_REFUSED = ("fully_shard", "Shard(0)", "Shard(1)", "FSDP1", "FSDP1 flat")
COUNTED = ("fully_shard", "FSDP1", "DDP", "Shard(0)", "ZeRO")
SPECIAL = {
    "separate levels": (separate_levels, ("DDP", "fully_shard", "FSDP1", "ZeRO", "mixed")),
    "a frozen layer": (frozen_layer, ("fully_shard", "FSDP1", "ZeRO")),
    "an unused layer": (unused_layer, ("fully_shard",)),
    "one parameter": (one_parameter, ("fully_shard", "FSDP1", "FSDP1 flat", "ZeRO")),
    "a generator of the user's": (own_generator, ("DDP", "fully_shard", "FSDP1", "ZeRO")),
}


def cases(ranks: int, folder: Path) -> Iterator[Case]:
    part = functools.partial
    kinds = TWO if ranks == 2 else FOUR
    for kind in kinds:
        for which, rule in pairs(kind):
            run = part(one_training, kind, which, rule, count=True)
            yield Case(f"{kind}: {which}, {rule}", run)
    for kind in kinds:
        yield Case(f"{kind}: NaN", part(one_training, kind, "ClippedAdamW", "zclip", poison=2))
    for kind in TWO if ranks == 2 else ():
        yield Case(f"{kind}: NaN under SGD", part(one_training, kind, "ClippedSGD", "norm", poison=2))
    if ranks == 2:
        yield from _cases_of_two(folder)


def _cases_of_two(folder: Path) -> Iterator[Case]:
    part = functools.partial
    for name, (function, kinds) in SPECIAL.items():
        for kind in kinds:
            yield Case(f"{kind}: {name}", part(function, kind))
    yield Case("one all_reduce", one_all_reduce)
    for kind in COUNTED:
        for rule in ("norm", "linear_rand_norm"):
            run = part(first_step, kind, "ClippedSGD", rule)
            yield Case(f"{kind}: first step, {rule}", run)
    yield Case("fully_shard: Muon without matrices", part(muon_without_matrices, "fully_shard"))
    for kind, ways in WAYS_OF.items():
        for way in ways:
            for which, rule in REMEMBERS:
                if fits(kind, which, rule):
                    name = f"{kind}: {which}, {rule}, {way}"
                    own = folder / f"checkpoint {name}".replace(":", "").replace(" ", "_")
                    yield Case(name, part(resumed, kind, way, which, rule, own))
    for kind, way in KEPT_APART:
        own = folder / f"checkpoint {kind} {way}".replace(" ", "_")
        yield Case(f"{kind}: torch's AdamW, {way}", part(torchs_resumed, kind, way, own))
    yield Case("process groups made anew", process_groups_made_anew)
    for name, (kind, which, rule) in REFUSED.items():
        yield Case(f"refused: {name}", part(refused_training, kind, which, rule))
    for kind in MUON_REFUSED:
        yield Case(f"refused: Muon, {kind}", part(refused_training, kind, "Muon", "norm"))
    yield Case("refused: Muon.groups, FSDP1", part(muon_of_groups, "FSDP1"))
    yield Case("refused: Partial gradient", part(partial_gradient, False))
    yield Case("refused: Partial parameter", part(partial_gradient, True))


# a process


@dataclass
class Process:
    """Which of how many, and where they write."""

    rank: int
    ranks: int
    folder: Path
    begun: int = 0


THIS = Process(0, 1, Path())


def begin() -> None:
    """By a file, not a port; anew under another name each time."""
    store = dist.FileStore(str(THIS.folder / f"store_{THIS.begun}"), THIS.ranks)
    THIS.begun += 1
    dist.init_process_group(
        "gloo", store=store, rank=THIS.rank, world_size=THIS.ranks, timeout=timedelta(seconds=20)
    )


def end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def outcome_of(case: Case) -> dict[str, Any]:
    """{"seen": …}, or {"error": its class, "words": …, "traceback": …}."""
    try:
        return {"seen": case.run(THIS.rank)}
    except BaseException as error:  # as torch.distributed.checkpoint's are
        end()  # others that wait for this rank are told so at once
        words = traceback.format_exc()
        return {"error": type(error).__name__, "words": str(error), "traceback": words}


def main(rank: int, ranks: int, folder: Path) -> None:
    """Each case in turn; where one has failed on any rank, in new process groups."""
    torch.set_num_threads(1)
    THIS.rank, THIS.ranks, THIS.folder = rank, ranks, folder
    results = dist.FileStore(str(folder / "results"), ranks)
    results.set_timeout(timedelta(seconds=90))
    begin()
    with open(folder / f"seen_{rank}", "wb") as file:
        for number, case in enumerate(cases(ranks, folder)):
            outcome = outcome_of(case)
            pickle.dump((case.name, outcome), file)
            file.flush()
            results.set(f"{number} {rank}", "failed" if "error" in outcome else "fine")
            every = [results.get(f"{number} {other}") for other in range(ranks)]
            if b"failed" in every:
                end()
                begin()
    end()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
