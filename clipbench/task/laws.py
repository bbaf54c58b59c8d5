"""What every task owes the bench: one list for our tests and for `clipbench check my_task:Mine`.

A law takes `build`, which makes a fresh object of the task, and raises AssertionError where it finds a counterexample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipbench.task import Batch, Task
from clipbench.task.seeds import fresh_model, generator

Build = Callable[[], Task]
Law = Callable[[Build], None]

SEEN_TWICE = 0.05  # of a split's examples: more than this is no accident of the data
MOST = 100  # batches of each part that are looked at
SMALLEST = 4  # numbers of an example that make it worth comparing: labels and indices alone repeat


def _hold(promise: bool, counterexample: str) -> None:
    if not promise:
        raise AssertionError(counterexample)


def leaves(tree: Any) -> list[Tensor]:
    """Every tensor of a batch; a sparse one as its parts."""
    if isinstance(tree, Tensor):
        return (
            [tree.crow_indices(), tree.col_indices(), tree.values()]
            if tree.layout == torch.sparse_csr
            else [tree]
        )
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        tree = (
            [value for value in vars(tree).values() if isinstance(value, (Tensor, dict, list, tuple))]
            if hasattr(tree, "__dict__")
            else []
        )
    return [leaf for item in tree for leaf in leaves(item)]


def same(ones: Iterable[Batch], others: Iterable[Batch]) -> bool:
    pairs = list(zip(map(leaves, ones), map(leaves, others), strict=True))
    return all(len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in pairs)


def first_batches(task: Task, seed: int, count: int = 3) -> list[Batch]:
    batches = task.train_batches(generator(seed, "data"))
    found = [task.finish(batch) for batch in islice(batches, count)]
    if hasattr(batches, "close"):
        batches.close()  # ends worker processes
    return found


def split_batches(task: Task, split: str) -> Iterator[Batch]:
    return (task.finish(batch) for batch in task.eval_batches(split))


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


def batches_come_from_the_generator_alone(build: Build) -> None:
    task = build()
    with global_seed(1):
        one = first_batches(task, 0)
    with global_seed(2):
        other = first_batches(task, 0)
    _hold(
        same(one, other),
        "another global seed gave other training batches: draw from the generator that is handed in",
    )
    _hold(
        not same(one, first_batches(task, 1)),
        "another generator gave the same training batches: the order must come from it",
    )


def a_second_object_gives_the_same(build: Build) -> None:
    with global_seed(1):
        first = build()
        one = first_batches(first, 0), list(islice(split_batches(first, "test"), 1))
    with global_seed(2):
        second = build()
        other = first_batches(second, 0), list(islice(split_batches(second, "test"), 1))
    _hold(same(one[0], other[0]), "a second object of the task gave other training batches")
    _hold(same(one[1], other[1]), "a second object of the task gave another test split")


def weights_come_from_the_seed_alone(build: Build) -> None:
    task = build()
    with global_seed(1):
        one = fresh_model(task, 0).state_dict()
    with global_seed(2):
        other = fresh_model(task, 0).state_dict()
    _hold(
        all(torch.equal(one[key], other[key]) for key in one),
        "one seed gave two models: build new layers, or draw from rng",
    )
    third = fresh_model(task, 1).state_dict()
    _hold(
        not all(torch.equal(one[key], third[key]) for key in one),
        "two seeds gave one model: model() must build it anew",
    )


def training_leaves_global_generators_alone(build: Build) -> None:
    task = build()
    with global_seed(3):
        expected = torch.rand(()).item(), np.random.rand(), random.random()
    with global_seed(3):
        first_batches(task, 0)
        found = torch.rand(()).item(), np.random.rand(), random.random()
    drawn = [name for name, a, b in zip(("torch", "numpy", "random"), expected, found, strict=True) if a != b]
    _hold(not drawn, f"train_batches drew from the global generator of {' and '.join(drawn)}")


def splits_are_fixed(build: Build) -> None:
    task = build()
    _hold(
        task.splits[0] == "val", f"splits[0] is '{task.splits[0]}': the first is what tuning looks at, 'val'"
    )
    _hold("test" in task.splits, f"there is no split 'test' among {', '.join(task.splits)}")
    for split in task.splits:
        with global_seed(1):
            one = list(islice(split_batches(task, split), 2))
        with global_seed(2):
            other = list(islice(split_batches(task, split), 2))
        _hold(bool(one), f"split '{split}' has no batches")
        _hold(
            same(one, other),
            f"split '{split}' was another the second time: always the same batches, in the same order",
        )


def splits_are_disjoint(build: Build) -> None:
    """As far as can be seen: examples are the rows of a batch's tensors; graphs, and training data that are augmented, differ anyway."""
    task = build()
    seen = {split: _examples(task, split_batches(task, split)) for split in task.splits}
    seen["train"] = _examples(task, first_batches(task, 0, MOST))
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared, least = len(seen[one] & seen[other]), min(len(seen[one]), len(seen[other]))
            _hold(
                shared <= SEEN_TWICE * least,
                f"{shared} examples of {len(seen[one])} in '{one}' are also in '{other}'",
            )


@torch.no_grad()
def _examples(task: Task, batches: Iterable[Batch]) -> set[int]:
    """A hash of each example: what stands in the rows of those tensors of a batch that have one for each target."""
    found: set[int] = set()
    model = fresh_model(task, 0).eval()
    per_example: list[int] = []
    for i, batch in enumerate(islice(batches, MOST)):
        parts = leaves(batch)
        if i == 0:
            count = len(task.forward(model, batch)[1])
            per_example = [place for place, leaf in enumerate(parts) if leaf.ndim and len(leaf) == count]
        rows = [parts[place].reshape(len(parts[place]), -1) for place in per_example if len(parts[place])]
        if sum(part.shape[1] for part in rows) > SMALLEST:
            arrays = [part.numpy() for part in rows]
            # padding differs from batch to batch, so zeros at the end do not count
            found |= {
                hash(tuple(array[j].tobytes().rstrip(b"\0") for array in arrays))
                for j in range(len(arrays[0]))
            }
    return found


def the_loss_is_a_mean_with_a_gradient(build: Build) -> None:
    task = build()
    model = fresh_model(task, 0)
    outputs, targets = task.forward(model, first_batches(task, 0, 1)[0])
    loss = task.loss(outputs, targets)
    _hold(
        loss.shape == (), f"the loss has the shape {tuple(loss.shape)}, not (): take the mean over the batch"
    )
    _hold(bool(loss.isfinite()), f"the loss of a fresh model is {loss.item()}")
    loss.backward()
    reached = any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    _hold(reached, "the loss reaches no parameter: after backward() all gradients are missing or zero")
    twice = task.loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    close = bool(torch.isclose(twice, loss, rtol=1e-4))
    _hold(
        close, f"the loss of a batch is {loss.item():.6g}, of the batch twice {twice.item():.6g}: not a mean"
    )


def the_headline_is_a_metric_with_a_direction(build: Build) -> None:
    task = build()
    metrics = task.metrics()
    names = [str(name) for name in metrics]
    _hold(task.headline in names, f"headline is '{task.headline}', the metrics are {', '.join(names)}")
    mute = [name for name in names if metrics[name].higher_is_better not in (True, False)]
    _hold(not mute, f"{', '.join(mute)}: higher_is_better is neither True nor False")
    model = fresh_model(task, 0).eval()
    with torch.no_grad():
        metrics.update(*task.forward(model, next(split_batches(task, "val"))))
    values = {str(name): float(value) for name, value in metrics.compute().items()}
    _hold(
        all(np.isfinite(value) for value in values.values()),
        f"on a batch of 'val' the metrics of a fresh model are {values}",
    )


def learning_can_beat_the_baseline(build: Build) -> None:
    task = build()
    name, values = task.baseline()
    if name:
        _hold(task.headline in values, f"baseline '{name}' has no value of the headline '{task.headline}'")
        if (direction := task.metrics()[task.headline].higher_is_better) is not None:
            best = values[task.headline] < 1 if direction else values[task.headline] > 0
            _hold(best, f"baseline '{name}' reaches {values[task.headline]:g}, which leaves nothing to learn")


def it_says_which_data_these_are(build: Build) -> None:
    task = build()
    _hold(bool(task.data), "`data` is empty: say which data these are, with their sizes")
    _hold(
        not task.steps_per_epoch <= 0,
        f"steps_per_epoch is {task.steps_per_epoch}, it must be above 0, or NaN where there are no epochs",
    )
    _hold(bool(task.prepare()), "prepare() says nothing of the data that are there")


OWED: dict[str, Law] = {
    "training batches come from the generator alone": batches_come_from_the_generator_alone,
    "a second object gives the same": a_second_object_gives_the_same,
    "starting weights come from the seed alone": weights_come_from_the_seed_alone,
    "training leaves global generators alone": training_leaves_global_generators_alone,
    "splits are fixed": splits_are_fixed,
    "splits are disjoint, as far as can be seen": splits_are_disjoint,
    "the loss is a mean with a gradient": the_loss_is_a_mean_with_a_gradient,
    "the headline is a metric with a direction": the_headline_is_a_metric_with_a_direction,
    "learning can beat the baseline": learning_can_beat_the_baseline,
    "it says which data these are": it_says_which_data_these_are,
}
