"""channels_last and compile: other ways to compute, the same model."""

import shutil

import pytest
import torch

from clipbench.runs.build import build_learner, build_task
from clipbench.runs.plan import make_plan
from clipbench.task.seeds import generator
from clipbench.train.batches import device_batches

CPU = torch.device("cpu")


def losses(*words, steps=2):
    plan = make_plan(["steps=2", "device=cpu", *words])
    task = build_task(plan.settings, CPU)
    learner = build_learner(plan.settings, plan.rule, task, CPU)
    batches = device_batches(task, task.train_batches(generator(0, "data")), CPU)
    for _ in range(steps):
        learner.learn(next(batches))
    return learner, [row.loss for row in learner.read()]


def test_channels_last_is_the_same_model_in_another_order_of_memory():
    learner, found = losses("task=imagenet", "batch_size=8", "channels_last=true")
    kernels = [p for p in learner.model.parameters() if p.ndim == 4 and p.shape[2] > 1 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    _, expected = losses("task=imagenet", "batch_size=8")
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_as_the_plain_one_and_keeps_its_names():
    learner, found = losses("task=reddit", "compile=true")
    plain, expected = losses("task=reddit")
    assert found == pytest.approx(expected, rel=1e-3)
    assert learner.model.state_dict().keys() == plain.model.state_dict().keys()
    torch.compiler.reset()
