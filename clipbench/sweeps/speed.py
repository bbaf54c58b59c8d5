"""What a step and a validation cost: from runs that are finished, or from a few steps made for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from clipbench.errors import RAISED, UserError
from clipbench.record import tables
from clipbench.record.rows import from_json
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.plan import Plan
from clipbench.task import prepare_on_device
from clipbench.task.seeds import generator
from clipbench.task.tree import tensors
from clipbench.train.batches import device_batches
from clipbench.train.evaluation import Evaluation
from clipbench.train.learner import Learner

TIMED_STEPS = 20
TIMED_SECONDS = 3.0  # after which timing ends, of the steps and again of the validation
COLUMNS = ["task", "scale", "optimizer", "config", "device", "status", "steps", "seconds"]


@dataclass(frozen=True, order=True)
class Kind:
    """Runs whose steps cost about the same."""

    task: str
    scale: str
    optimizer: str
    batch_size: int
    accumulate: int
    device: str

    @classmethod
    def of(cls, plan: Plan) -> Kind:
        settings = plan.settings
        device = find_device(settings.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        sizes = (settings.batch_size, settings.accumulate)
        return cls(settings.task.name, settings.scale, settings.optim.name, *sizes, name)

    def __str__(self) -> str:
        what = f"{self.task} ({self.scale}) · {self.optimizer} · batch_size={self.batch_size}"
        if self.accumulate > 1:
            what += f" accumulate={self.accumulate}"
        return f"{what} on {self.device}"


@dataclass(frozen=True)
class Speed:
    """Seconds of a step and of a pass over validation, bytes of a checkpoint, 0 where that is not known.

    It is the median of `finished_runs`, or the mean over `timed_steps` made just now: one of the two is 0.
    """

    step: float
    validation: float = 0.0
    finished_runs: int = 0
    timed_steps: int = 0
    checkpoint: int = 0


@dataclass(frozen=True)
class NoSpeed:
    """Nothing could be timed: `reason` is the error's one line."""

    reason: str


def seconds_per_step(folder: Path) -> dict[Kind, list[float]]:
    """Of the finished runs in a results folder, without evaluation."""
    table = tables.read(folder, "runs", COLUMNS)
    ended = table[(table["status"] != "failed") & (table["steps"] > 0)]
    found: dict[Kind, list[float]] = {}
    for row in ended.itertuples():
        config = from_json(row.config, dict)
        sizes = (
            config.get("batch_size"),
            config.get("accumulate", 1),
        )  # earlier versions had no accumulation
        if not all(isinstance(size, int) for size in sizes):
            continue
        kind = Kind(row.task, row.scale, row.optimizer, *sizes, row.device)
        found.setdefault(kind, []).append(row.seconds / row.steps)
    return found


def time_steps(plan: Plan) -> Speed | NoSpeed:
    """From some of the run's own first steps and one validation, neither of them recorded."""
    settings, threads = plan.settings, torch.get_num_threads()
    try:
        torch.set_num_threads(settings.threads)
        device = find_device(settings.device)
        task = build_task(settings, device)
        learner = build_learner(settings, plan.rule, task, device)
        source = task.train_batches(generator(settings.seed, "data"))
        with closing(device_batches(task, source, device)) as batches:
            steps = _timed_steps(learner, batches, settings.accumulate)
        validation = _timed_validation(learner)
        checkpoint = sum(tensor.nbytes for tensor in tensors(learner.state_dict()))
    except UserError as error:
        return NoSpeed(str(error))
    except RAISED as error:
        return NoSpeed(f"{type(error).__name__}: {shorten(str(error), 200)}")
    finally:
        torch.set_num_threads(threads)
    mean = sum(steps) / len(steps)
    return Speed(mean, validation, timed_steps=len(steps), checkpoint=checkpoint)


def _timed_steps(learner: Learner, batches: Iterator[Any], batches_per_step: int) -> list[float]:
    """Seconds of each step but the first, which sets things up; of that one where time allows no other."""
    steps: list[float] = []
    since, before = time.perf_counter(), 0.0
    while len(steps) <= TIMED_STEPS and time.perf_counter() - since < TIMED_SECONDS:
        learner.learn(*islice(batches, batches_per_step))
        learner.read()
        steps.append(learner.seconds - before)
        before = learner.seconds
    return steps[1:] or steps


def _timed_validation(learner: Learner) -> float:
    """Seconds of one pass; 0 if it takes longer than TIMED_SECONDS."""
    since, evaluation = time.perf_counter(), Evaluation(learner)
    with learner.evaluation_weights():
        for batch in learner.task.eval_batches(learner.task.splits[0]):
            evaluation.update(prepare_on_device(learner.task, batch, learner.device))
            if time.perf_counter() - since > TIMED_SECONDS:
                return 0.0
    evaluation.values()
    return time.perf_counter() - since
