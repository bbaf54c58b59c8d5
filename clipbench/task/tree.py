"""Trees of tensors: what `forward` may return, and what a batch may be.

A tree is a tensor, or a (named) tuple, list or dict of trees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a tuple, list or dict of trees. What is none of these is a leaf that stays as it is."""

HALF = (torch.bfloat16, torch.float16)


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The tree with `function(leaf)` for every leaf: tuples, lists and dicts of the same types come back."""
    if isinstance(tree, dict):
        mapped = copy.copy(tree)  # not {}: the outputs of transformers are dicts with attributes
        for key, value in tree.items():
            mapped[key] = map_leaves(function, value)
        return mapped
    if isinstance(tree, (list, tuple)):
        parts = [map_leaves(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(tree)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with `function(tensor)` for every tensor; other leaves stay."""
    if isinstance(tree, Tensor):  # nearly always
        return function(tree)

    def on_tensors(leaf: Any) -> Any:
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    return map_leaves(on_tensors, tree)


def tensors(tree: Tree) -> list[Tensor]:
    """Every tensor of a tree, in order."""
    found: list[Tensor] = []

    def collect(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        return leaf

    map_leaves(collect, tree)
    return found


def rows(tree: Tree) -> int | None:
    """The length of the first dimension of all its tensors; None where they do not share one."""
    lengths = {len(tensor) if tensor.ndim else None for tensor in tensors(tree)}
    return lengths.pop() if len(lengths) == 1 else None


def detached(tree: Tree) -> Tree:
    """Without the graph that computed it."""
    return map_tensors(Tensor.detach, tree)


def widened(tree: Tree) -> Tree:
    """bfloat16 and float16 as float32, in which losses and metrics are summed; everything else as it is."""

    def widen(tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype in HALF else tensor

    return map_tensors(widen, tree)


def on_device(tree: Tree, device: torch.device) -> Tree:
    """Every leaf that has a `to` on `device`. Host memory that is pinned is copied without waiting."""

    def move(leaf: Any) -> Any:
        return leaf.to(device, non_blocking=True) if hasattr(leaf, "to") else leaf

    return map_leaves(move, tree)
