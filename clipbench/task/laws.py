"""The contract of every task: one list for our tests and for `clipbench check my_task:Mine`.

A law takes `build`, which makes a fresh object of the task, and raises AssertionError where it finds a
counterexample.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch

from clipbench.task import MetricSet, Task
from clipbench.task.probe import (
    BATCHES_LOOKED_AT,
    examples,
    first_batches,
    global_seed,
    parts_of,
    same,
    split_batches,
    twice,
)
from clipbench.task.seeds import fresh_model
from clipbench.task.tree import rows

Build = Callable[[], Task]
Law = Callable[[Build], None]

SEEN_TWICE = 0.05
"""Of a split's examples: more than this is no accident of the data."""


def _hold(promise: bool, counterexample: str) -> None:
    if not promise:
        raise AssertionError(counterexample)


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
    found = []
    for seed in (1, 2):
        with global_seed(seed):
            task = build()
            found.append((first_batches(task, 0), list(islice(split_batches(task, "test"), 1))))
    (train, test), (other_train, other_test) = found
    _hold(same(train, other_train), "a second object of the task gave other training batches")
    _hold(same(test, other_test), "a second object of the task gave another test split")


def weights_come_from_the_seed_alone(build: Build) -> None:
    task = build()
    with global_seed(1):
        one = fresh_model(task, 0).state_dict()
    with global_seed(2):
        other = fresh_model(task, 0).state_dict()
    _hold(same([one], [other]), "one seed gave two models: build new layers, or draw from rng")
    third = fresh_model(task, 1).state_dict()
    _hold(not same([one], [third]), "two seeds gave one model: model() must build it anew")


def training_leaves_global_generators_alone(build: Build) -> None:
    task = build()
    with global_seed(3):
        expected = torch.rand(()).item(), np.random.rand(), random.random()
    with global_seed(3):
        first_batches(task, 0)
        found = torch.rand(()).item(), np.random.rand(), random.random()
    drawn = []
    for name, before, after in zip(("torch", "numpy", "random"), expected, found, strict=True):
        if before != after:
            drawn.append(name)
    _hold(not drawn, f"train_batches drew from the global generator of {' and '.join(drawn)}")


def splits_are_fixed(build: Build) -> None:
    task = build()
    first = task.splits[0]
    _hold(first == "val", f"splits[0] is '{first}': the first is what tuning looks at, 'val'")
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
    """As far as can be seen: examples are the rows of a batch's tensors; graphs, and training data that are
    augmented, differ anyway.
    """
    task = build()
    seen = {split: examples(task, split_batches(task, split)) for split in task.splits}
    seen["train"] = examples(task, first_batches(task, 0, BATCHES_LOOKED_AT))
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = len(seen[one] & seen[other])
            smaller = min(len(seen[one]), len(seen[other]))
            _hold(
                shared <= SEEN_TWICE * smaller,
                f"{shared} examples of {len(seen[one])} in '{one}' are also in '{other}'",
            )


def the_loss_is_a_mean_with_a_gradient(build: Build) -> None:
    """The loss of the same rows twice is that of the rows: looked at where outputs and targets have rows."""
    task = build()
    model = fresh_model(task, 0)
    outputs, targets = task.forward(model, first_batches(task, 0, 1)[0])
    loss = task.loss(outputs, targets)
    shape = tuple(loss.shape)
    _hold(shape == (), f"the loss has the shape {shape}, not (): take the mean over the batch")
    _hold(bool(loss.isfinite()), f"the loss of a fresh model is {loss.item()}")
    loss.backward()
    reached = [p for p in model.parameters() if p.grad is not None and p.grad.any()]
    _hold(bool(reached), "the loss reaches no parameter: after backward() all gradients are missing or zero")
    if rows((outputs, targets)) is None:
        return
    doubled = task.loss(twice(outputs), twice(targets))
    _hold(
        bool(torch.isclose(doubled, loss, rtol=1e-4)),
        f"the loss of a batch is {loss.item():.6g}, of the batch twice {doubled.item():.6g}: not a mean",
    )


@torch.no_grad()
def the_loss_is_a_mean_over_what_is_counted(build: Build) -> None:
    """(n₁ loss₁ + n₂ loss₂) / (n₁ + n₂) of two parts of a batch is the loss of both: looked at where outputs
    and targets have rows.
    """
    task = build()
    model = fresh_model(task, 0)
    outputs, targets = task.forward(model, first_batches(task, 0, 1)[0])
    total = float(task.count(targets))
    _hold(
        bool(np.isfinite(total) and total > 0),
        f"count() of a training batch is {total:g}: how many things the mean of the loss is over",
    )
    parts = parts_of(outputs, targets)
    if parts is None:
        return
    counts = [float(task.count(part)) for _, part in parts]
    _hold(
        bool(np.isclose(sum(counts), total)),
        f"count() of a batch is {total:g}, of its two parts {counts[0]:g} and {counts[1]:g}",
    )
    weighted = 0.0
    for part, count in zip(parts, counts, strict=True):
        if count:
            weighted += count * float(task.loss(*part)) / total
    loss = float(task.loss(outputs, targets))
    _hold(
        bool(np.isclose(weighted, loss, rtol=1e-4)),
        f"the loss of a batch is {loss:.6g}, but its parts, weighted by count(), give {weighted:.6g}: "
        "count(targets) must say how many things the mean of the loss is over",
    )


def the_headline_is_a_metric_with_a_direction(build: Build) -> None:
    task = build()
    metrics = task.metrics()
    names = [str(name) for name in metrics]
    _hold(task.headline in names, f"headline is '{task.headline}', the metrics are {', '.join(names)}")
    mute = [name for name in names if metrics[name].higher_is_better not in (True, False)]
    _hold(not mute, f"{', '.join(mute)}: higher_is_better is neither True nor False")
    model = fresh_model(task, 0).eval()
    found = MetricSet(metrics)
    with torch.no_grad():
        found.update(*task.forward(model, next(split_batches(task, "val"))))
    values = found.values()
    _hold(
        all(np.isfinite(value) for value in values.values()),
        f"on a batch of 'val' the metrics of a fresh model are {values}",
    )


@torch.no_grad()
def metrics_start_anew_and_survive_a_checkpoint(build: Build) -> None:
    """After reset() as at first; saved after one batch and loaded into fresh ones, as if nothing had been."""
    task = build()
    model = fresh_model(task, 0).eval()
    first, second = (task.forward(model, batch) for batch in first_batches(task, 0, 2))
    metrics = MetricSet(task.metrics())
    metrics.update(*first)
    after_one = metrics.values()
    resumed = MetricSet(task.metrics())
    resumed.load_state_dict(copy.deepcopy(metrics.state_dict()))
    for each in (metrics, resumed):
        each.update(*second)
    _agree(resumed.values(), metrics.values(), "saved after a batch and loaded into fresh metrics, they give")
    metrics.reset()
    metrics.update(*first)
    _agree(metrics.values(), after_one, "after reset(), the same batch gives")


def _agree(found: dict[str, float], expected: dict[str, float], when: str) -> None:
    for name, value in expected.items():
        same_number = bool(np.isclose(found[name], value, equal_nan=True))
        _hold(same_number, f"'{name}' is {value:.6g}; {when} {found[name]:.6g}")


def learning_can_beat_the_baseline(build: Build) -> None:
    task = build()
    name, values = task.baseline()
    if not name:
        return
    _hold(task.headline in values, f"baseline '{name}' has no value of the headline '{task.headline}'")
    value = values[task.headline]
    higher_is_better = task.metrics()[task.headline].higher_is_better
    if higher_is_better is None:
        return
    beatable = value < 1 if higher_is_better else value > 0
    _hold(beatable, f"baseline '{name}' reaches {value:g}, which leaves nothing to learn")


def it_says_which_data_these_are(build: Build) -> None:
    task = build()
    _hold(bool(task.data), "`data` is empty: say which data these are, with their sizes")
    _hold(
        not task.steps_per_epoch <= 0,
        f"steps_per_epoch is {task.steps_per_epoch}, it must be above 0, or NaN where there are no epochs",
    )
    _hold(bool(task.prepare()), "prepare() says nothing of the data that are there")


CONTRACT: dict[str, Law] = {
    "training batches come from the generator alone": batches_come_from_the_generator_alone,
    "a second object gives the same": a_second_object_gives_the_same,
    "starting weights come from the seed alone": weights_come_from_the_seed_alone,
    "training leaves global generators alone": training_leaves_global_generators_alone,
    "splits are fixed": splits_are_fixed,
    "splits are disjoint, as far as can be seen": splits_are_disjoint,
    "the loss is a mean with a gradient": the_loss_is_a_mean_with_a_gradient,
    "the loss is a mean over what is counted": the_loss_is_a_mean_over_what_is_counted,
    "the headline is a metric with a direction": the_headline_is_a_metric_with_a_direction,
    "metrics start anew and survive a checkpoint": metrics_start_anew_and_survive_a_checkpoint,
    "learning can beat the baseline": learning_can_beat_the_baseline,
    "it says which data these are": it_says_which_data_these_are,
}
