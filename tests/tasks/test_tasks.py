"""The contract of tasks on each file of conf/task at scale=mini; and that its laws find what breaks them."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Line
from torch import nn
from torchmetrics import MeanSquaredError as TheirMeanSquaredError
from torchmetrics import MetricCollection

from clipbench.runs.build import build_task
from clipbench.runs.config import load
from clipbench.task.laws import CONTRACT
from clipbench.task.metrics import MeanSquaredError

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "task").glob("*.yaml"))


def build(name):
    return build_task(load([f"task={name}"]), torch.device("cpu"))


@cache
def built_once(name):
    return build(name)


@pytest.mark.parametrize("law", CONTRACT)
@pytest.mark.parametrize("name", NAMES)
def test_every_task_keeps_the_contract(name, law):
    CONTRACT[law]((lambda: build(name)) if law.startswith("a second") else (lambda: built_once(name)))


@pytest.mark.parametrize("law", CONTRACT)
def test_the_task_of_our_tests_keeps_it_too(law):
    CONTRACT[law](Line)


class GlobalOrder(Line):
    def train_batches(self, rng):
        while True:
            index = torch.randint(128, (16,))
            yield self.x[index], self.y[index]


class FixedOrder(Line):
    def train_batches(self, rng):
        return super().train_batches(torch.Generator().manual_seed(0))


class OtherData(Line):
    def __init__(self):
        super().__init__()
        self.x = self.x + torch.randn(1)


class OneModel(Line):
    only = nn.Linear(5, 1)

    def model(self, rng):
        return self.only


class NumpyNoise(Line):
    def train_batches(self, rng):
        for x, y in super().train_batches(rng):
            np.random.rand()
            yield x, y


class ShuffledTest(Line):
    def eval_batches(self, split):
        for x, y in super().eval_batches(split):
            order = torch.randperm(len(x))
            yield x[order], y[order]


class TestIsVal(Line):
    def eval_batches(self, split):
        return super().eval_batches("val")


class TestIsTrain(Line):
    def eval_batches(self, split):
        yield (self.x[:32], self.y[:32]) if split == "test" else (self.x[128:160], self.y[128:160])


class Sum(Line):
    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets, reduction="sum")


class Each(Line):
    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets, reduction="none")


class Detached(Line):
    def forward(self, model, batch):
        return (0 * model(batch[0])), batch[1]


class Headless(Line):
    headline = "speed"


class NoDirection(TheirMeanSquaredError):
    higher_is_better = None


class Mute(Line):
    def metrics(self):
        return MetricCollection({"mse": NoDirection()})


class Masked(Line):
    """The mean is over every other row, or so, and count() does not say so."""

    def loss(self, outputs, targets):
        seen = targets > 0
        return (outputs - targets).square()[seen].mean()


class MaskedAndCounted(Masked):
    def count(self, targets):
        return (targets > 0).sum()


class CountsNothing(Line):
    def count(self, targets):
        return 0


class CountsTheBatch(Line):
    def count(self, targets):
        return 1


class NeverStartsAnew(MeanSquaredError):
    def reset(self):
        pass


class Unending(Line):
    def metrics(self):
        return {"mse": NeverStartsAnew()}


class ForgetsItsState(MeanSquaredError):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Forgetful(Line):
    def metrics(self):
        return {"mse": ForgetsItsState()}


class Solved(Line):
    def baseline(self):
        return "perfect", {"mse": 0.0}


class Silent(Line):
    data = ""


@pytest.mark.parametrize(
    ("task", "law", "message"),
    [
        (
            GlobalOrder,
            "training batches come from the generator alone",
            "another global seed gave other training batches",
        ),
        (GlobalOrder, "training leaves global generators alone", "global generator of torch"),
        (
            FixedOrder,
            "training batches come from the generator alone",
            "another generator gave the same training batches",
        ),
        (
            OtherData,
            "a second object gives the same",
            "a second object of the task gave other training batches",
        ),
        (OneModel, "starting weights come from the seed alone", "two seeds gave one model"),
        (NumpyNoise, "training leaves global generators alone", "global generator of numpy"),
        (ShuffledTest, "splits are fixed", "split 'val' was another the second time"),
        (
            TestIsVal,
            "splits are disjoint, as far as can be seen",
            "32 examples of 32 in 'val' are also in 'test'",
        ),
        (
            TestIsTrain,
            "splits are disjoint, as far as can be seen",
            "32 examples of 32 in 'test' are also in 'train'",
        ),
        (Sum, "the loss is a mean with a gradient", "not a mean"),
        (Each, "the loss is a mean with a gradient", r"the loss has the shape \(16, 1\)"),
        (Detached, "the loss is a mean with a gradient", "the loss reaches no parameter"),
        (Headless, "the headline is a metric with a direction", "headline is 'speed', the metrics are mse"),
        (Mute, "the headline is a metric with a direction", "mse: higher_is_better is neither"),
        (Masked, "the loss is a mean over what is counted", r"weighted by count\(\), give"),
        (CountsNothing, "the loss is a mean over what is counted", "of a training batch is 0"),
        (CountsTheBatch, "the loss is a mean over what is counted", "is 1, of its two parts 1 and 1"),
        (Unending, "metrics start anew and survive a checkpoint", r"'mse' is .* after reset\(\)"),
        (Forgetful, "metrics start anew and survive a checkpoint", "loaded into fresh metrics"),
        (Solved, "learning can beat the baseline", "leaves nothing to learn"),
        (Silent, "it says which data these are", "`data` is empty"),
    ],
)
def test_a_law_finds_the_task_that_breaks_it(task, law, message):
    with pytest.raises(AssertionError, match=message):
        CONTRACT[law](task)


def test_a_masked_loss_that_says_what_it_counts_keeps_the_contract():
    CONTRACT["the loss is a mean over what is counted"](MaskedAndCounted)
    CONTRACT["the loss is a mean with a gradient"](MaskedAndCounted)


IMPORTS = """
import sys
from itertools import islice
import torch
from clipbench.runs.build import build_learner, build_task
from clipbench.runs.plan import make_plan
from clipbench.task.seeds import generator
from clipbench.train.batches import device_batches
cpu = torch.device("cpu")
for name, more in (("reddit", "torchvision"), ("voc", "torchvision"), ("cola", "torchmetrics")):
    small = ["task.size=16", "task.width=4"] if name == "voc" else []
    plan = make_plan([f"task={name}", "batch_size=4", *small])
    task = build_task(plan.settings, cpu)
    learner = build_learner(plan.settings, plan.rule, task, cpu)
    learner.learn(*islice(device_batches(task, task.train_batches(generator(0, "data")), cpu), 1))
    print(name, [each for each in ("torchmetrics", more) if each in sys.modules])
"""


def test_a_first_step_imports_neither_torchmetrics_nor_what_its_task_does_not_use():
    """transformers imports torchvision by itself."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["reddit []", "voc []", "cola []"]


for each in (TestIsVal, TestIsTrain):
    each.__test__ = False  # they are tasks
