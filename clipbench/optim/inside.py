"""The optimizer inside of what wraps one: accelerate, Lightning, Lookahead, SAM, schedule-free, ZeRO, …"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from clipbench.optim.ranks import sharding_of


def innermost(optimizer: Any) -> Optimizer:
    """The optimizer whose step does the work: `optimizer` itself, or what it holds, and that holds, ….

    TypeError where there is none, or several of which nobody can say which is meant.
    """
    found = path_to_innermost(optimizer)[-1]
    if not isinstance(found, Optimizer) or not hasattr(found, "_optimizer_step_pre_hooks"):
        raise TypeError(
            f"{type(found).__name__} is no torch optimizer, and none is in it. Give the one that steps."
        )
    return found


def whole_inside(optimizer: Any) -> Optimizer:
    """As `innermost`. TypeError for one that has only a part of the model on each rank, as ZeRO's."""
    for one in path_to_innermost(optimizer):
        if sharding_of(one) is not None:
            raise TypeError(
                f"Each rank's {type(one).__name__} holds a part of the parameters, and this is about all of "
                "them. Use fully_shard, or an optimizer on every rank."
            )
    return innermost(optimizer)


def path_to_innermost(optimizer: Any) -> list[Any]:
    """`optimizer`, what it holds, and that holds, …. TypeError as `innermost`, where it holds several."""
    path = [optimizer]
    while True:
        passed = {id(one) for one in path}
        inner = [one for one in _held_by(path[-1]) if id(one) not in passed]
        if not inner:
            return path
        if len(inner) > 1:
            names = ", ".join(type(one).__name__ for one in inner)
            raise TypeError(
                f"{type(path[-1]).__name__} holds several optimizers ({names}): give the one that is meant."
            )
        path.append(inner[0])


def _held_by(holder: Any) -> list[Optimizer]:
    """The optimizers among the attributes of `holder`, each once."""
    found: dict[int, Optimizer] = {}
    for name, value in getattr(holder, "__dict__", {}).items():
        if name in ("state", "param_groups", "defaults"):
            continue
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if isinstance(one, Optimizer):
                found[id(one)] = one
    return list(found.values())
