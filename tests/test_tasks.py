"""What every task owes the bench, checked on each file of conf/task at scale=mini. Point MINE at a task of your own to check it too."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipbench.build import build_task
from clipbench.config import load
from clipbench.seeds import fresh_model, generator

NAMES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "task").glob("*.yaml"))
MINE = os.environ.get("MINE", "").split()  # CONFIG_DIR TASK


def build(name):
    settings = load([f"task={name}"], Path(MINE[0]) if name in MINE[1:] else None)
    return build_task(settings, torch.device("cpu"))


@pytest.fixture(scope="module", params=[*NAMES, *MINE[1:]])
def task(request):
    return build(request.param)


def leaves(tree):
    """Every tensor of a batch; a sparse one as its parts."""
    if isinstance(tree, Tensor):
        return [tree.crow_indices(), tree.col_indices(), tree.values()] if tree.layout == torch.sparse_csr else [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    return [leaf for item in tree if item is not None for leaf in leaves(item)]


def same(ones, others):
    pairs = list(zip(map(leaves, ones), map(leaves, others), strict=True))
    return all(len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in pairs)


def seed_everything(seed):
    import random

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def first_batches(task, seed, count=3):
    batches = task.train_batches(generator(seed, "data"))
    found = list(islice(batches, count))
    batches.close()
    return found


def test_the_same_generator_gives_the_same_batches_whatever_the_global_seeds(task):
    seed_everything(1)
    one = first_batches(task, 0)
    seed_everything(2)
    assert same(one, first_batches(task, 0))
    assert not same(one, first_batches(task, 1))


def test_a_second_object_of_the_task_gives_the_same_batches(task, request):
    again = build(request.node.callspec.params["task"])
    assert same(first_batches(task, 0), first_batches(again, 0))
    assert same(list(islice(task.eval_batches("test"), 1)), list(islice(again.eval_batches("test"), 1)))


def test_the_same_seed_gives_the_same_weights_whatever_the_global_one(task):
    seed_everything(1)
    one = fresh_model(task, 0).state_dict()
    seed_everything(2)
    other = fresh_model(task, 0).state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    third = fresh_model(task, 1).state_dict()
    assert not all(torch.equal(one[key], third[key]) for key in one)


def test_training_draws_nothing_from_global_generators(task):
    seed_everything(3)
    expected = torch.rand(2), np.random.rand(2)
    seed_everything(3)
    first_batches(task, 0)
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.rand(2), expected[1])


def test_a_split_is_the_same_every_time_whatever_the_global_seeds(task):
    for split in task.splits:
        seed_everything(1)
        one = list(islice(task.eval_batches(split), 2))
        seed_everything(2)
        assert same(one, list(islice(task.eval_batches(split), 2)))
    assert task.splits[0] == "val"
    assert "test" in task.splits


def test_the_loss_is_a_mean_and_has_a_gradient(task):
    model = fresh_model(task, 0)
    outputs, targets = task.forward(model, first_batches(task, 0, 1)[0])
    loss = task.loss(outputs, targets)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    twice = task.loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    assert twice.item() == pytest.approx(loss.item(), rel=1e-4)


def test_metrics_state_their_direction_and_the_headline_is_one(task):
    metrics = task.metrics()
    assert task.headline in metrics
    assert all(metric.higher_is_better in (True, False) for metric in metrics.values())
    model = fresh_model(task, 0).eval()
    with torch.no_grad():
        metrics.update(*task.forward(model, next(iter(task.eval_batches("val")))))
    assert all(torch.isfinite(value) for value in metrics.compute().values())


def test_the_baseline_is_of_the_headline_and_learning_can_beat_it(task):
    name, values = task.baseline()
    if name:
        worst = task.metrics()[task.headline].higher_is_better
        assert values[task.headline] < 1 if worst else values[task.headline] > 0


def test_it_says_which_data_these_are(task):
    assert task.data
    assert not task.steps_per_epoch <= 0
    assert task.prepare() == task.data
