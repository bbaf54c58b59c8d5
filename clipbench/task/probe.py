"""What the laws look at: a task's first batches, the examples in them, and the parts of a batch's outputs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipbench.task import Batch, Task
from clipbench.task.seeds import fresh_model, generator
from clipbench.task.task import as_batches
from clipbench.task.tree import Tree, map_tensors, rows

BATCHES_LOOKED_AT = 100
"""For examples, of each split."""

SMALLEST = 4
"""Numbers of an example that make it worth comparing: labels and indices alone repeat."""


def batch_tensors(batch: Any) -> list[Tensor]:
    """Every tensor of a batch: of tuples, lists and dicts, of the attributes of any other object, and a
    sparse one as its parts.
    """
    if isinstance(batch, Tensor):
        if batch.layout == torch.sparse_csr:
            return [batch.crow_indices(), batch.col_indices(), batch.values()]
        return [batch]
    if isinstance(batch, dict):
        parts = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        parts = list(batch)
    else:
        attributes = getattr(batch, "__dict__", {}).values()
        parts = [value for value in attributes if isinstance(value, (Tensor, dict, list, tuple))]
    found: list[Tensor] = []
    for part in parts:
        found.extend(batch_tensors(part))
    return found


def same(ones: Iterable[Batch], others: Iterable[Batch]) -> bool:
    """Whether two lists of batches hold the same numbers."""
    for one, other in zip(ones, others, strict=True):
        a, b = batch_tensors(one), batch_tensors(other)
        if len(a) != len(b) or not all(map(torch.equal, a, b)):
            return False
    return True


def first_batches(task: Task, seed: int, count: int = 3) -> list[Batch]:
    """The first training batches of a run with this seed, as `forward` takes them."""
    batches = as_batches(task.train_batches(generator(seed, "data")))
    found = [task.finish(batch) for batch in islice(batches, count)]
    batches.close()
    return found


def split_batches(task: Task, split: str) -> Iterator[Batch]:
    """A split's batches as `forward` takes them."""
    for batch in task.eval_batches(split):
        yield task.finish(batch)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's generators at `seed`, and afterwards as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@torch.no_grad()
def examples(task: Task, batches: Iterable[Batch]) -> set[int]:
    """A hash of each example: what stands in the rows of those tensors of a batch that have one for each
    target.
    """
    found: set[int] = set()
    model = fresh_model(task, 0).eval()
    per_example: list[int] | None = None
    for batch in islice(batches, BATCHES_LOOKED_AT):
        parts = batch_tensors(batch)
        if per_example is None:
            number = rows(task.forward(model, batch)[1])
            per_example = [i for i, part in enumerate(parts) if number and part.ndim and len(part) == number]
        filled = [parts[i] for i in per_example if len(parts[i])]
        flat = [part.reshape(len(part), -1) for part in filled]
        if sum(part.shape[1] for part in flat) > SMALLEST:
            found.update(_hashes(flat))
    return found


def _hashes(parts: list[Tensor]) -> Iterator[int]:
    """Of each row over all `parts`, (n, …) each.

    Padding differs from batch to batch, so zeros at the end do not count.
    """
    arrays = [part.numpy() for part in parts]
    for i in range(len(arrays[0])):
        yield hash(tuple(array[i].tobytes().rstrip(b"\0") for array in arrays))


def parts_of(outputs: Tree, targets: Tree) -> list[tuple[Tree, Tree]] | None:
    """The first third of the rows and the rest, as if they were two batches.

    None where outputs and targets have no rows in common.
    """
    n = rows((outputs, targets))
    if n is None or n < 3:
        return None
    cut = n // 3

    def first(tensor: Tensor) -> Tensor:
        return tensor[:cut]

    def rest(tensor: Tensor) -> Tensor:
        return tensor[cut:]

    return [
        (map_tensors(first, outputs), map_tensors(first, targets)),
        (map_tensors(rest, outputs), map_tensors(rest, targets)),
    ]


def twice(tree: Tree) -> Tree:
    """Every row of every tensor, and all of them again."""

    def double(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor])

    return map_tensors(double, tree)
