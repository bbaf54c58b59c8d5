"""`--dry-run`: what a sweep or a study would do and how long the rest should take. Makes no run and writes nothing."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from textwrap import shorten

import torch

from clipbench.cli.board import duration
from clipbench.cli.status import runs, show_list
from clipbench.errors import UserError
from clipbench.optim import evaluation_weights
from clipbench.record import tables
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.plan import Plan
from clipbench.sweeps.scheduler import arrange
from clipbench.sweeps.workers import Slot
from clipbench.task import place
from clipbench.task.seeds import generator
from clipbench.train.batches import serve
from clipbench.train.learner import Evaluation, Learner


@dataclass(frozen=True, order=True)
class Kind:
    """Runs whose steps cost about the same."""

    task: str
    scale: str
    optimizer: str
    batch_size: int
    device: str

    def __str__(self) -> str:
        return (
            f"{self.task} ({self.scale}) · {self.optimizer} · batch_size={self.batch_size} on {self.device}"
        )


@dataclass(frozen=True)
class Speed:
    """Seconds of a step and of a pass over validation, 0 where that is not known. `source`: how it is known."""

    step: float
    validation: float
    source: str

    def __str__(self) -> str:
        return f"{self.step:.3g} s a step{f' and {self.validation:.2g} s a validation' * (self.validation > 0)}, {self.source}"


Known = dict[Kind, Speed | str]  # or why there is no estimate


@dataclass(frozen=True)
class Left:
    """What is still to do: runs, seconds until the last of those whose speed is known is done, and how many these are."""

    runs: int = 0
    seconds: float = 0.0
    known: int = 0

    def __add__(self, other: Left) -> Left:
        """One after the other."""
        return Left(self.runs + other.runs, self.seconds + other.seconds, self.known + other.known)

    def __str__(self) -> str:
        return duration(self.seconds) + (
            f" for {self.known} of the {runs(self.runs)}" if self.known < self.runs else ""
        )


def show(plans: Sequence[Plan], launcher: Sequence[str] = (), known: Known | None = None) -> Left:
    """Print what making these runs would mean; with a launcher's words, as jobs of it. `known`: what was timed before; it grows."""
    first, known = plans[0], {} if known is None else known
    status = tables.statuses(first.results, [plan.run for plan in plans])
    todo = [plan for plan in plans if status.get(plan.run, "failed") == "failed"]
    failed = sum(plan.run in status for plan in todo)
    kept = sum(plan.run not in status and plan.run_folder.checkpoint_step() > 0 for plan in todo)
    diverged = sum(word == "diverged" for word in status.values())
    finished = f"{len(plans) - len(todo)} finished" + (f" ({diverged} diverged)" if diverged else "")
    print(f"{runs(len(plans))} into {first.results}: {finished}, {len(todo)} to do")
    if not todo:
        return Left()
    print(
        f"  {len(todo) - failed - kept} new, {kept} unfinished that go on from a checkpoint, {failed} failed that are tried again"
    )
    if launcher:
        print(f"  a job each for {launcher[0]}, which decides how many at a time")
        return _rest(todo, [todo], 1, known)
    groups, places = arrange(todo)
    shape = ", ".join(
        f"{count} group{'s' * (count > 1)} of {runs(size)}"
        for size, count in Counter(map(len, groups)).items()
    )
    print(f"  side by side: {shape}; on {_named(places)}")
    return _rest(todo, groups, len(places), known)


def _named(places: Sequence[Slot]) -> str:
    names = [slot.name for slot in places]
    return (
        f"1 slot: {names[0]}"
        if len(names) == 1
        else f"{len(names)} slots: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
    )


def _rest(todo: Sequence[Plan], groups: Sequence[Sequence[Plan]], slots: int, known: Known) -> Left:
    """The steps left of each kind of run, what they cost, and the time until the last slot is done."""
    measured = speeds(todo[0].results)
    kinds: dict[Kind, list[Plan]] = {}
    for plan in todo:
        kinds.setdefault(kind(plan), []).append(plan)
    lines: list[list[str]] = []
    costs: dict[str, float] = {}
    for each, plans in kinds.items():
        if found := measured.get(each):
            known[each] = Speed(median(found), 0.0, f"the median of {runs(len(found))}")
        elif each not in known:
            print(f"timing a few steps of {each} …", file=sys.stderr, flush=True)
            known[each] = timed(plans[0])
        speed = known[each]
        left = {plan.run: _left(plan) for plan in plans}
        steps = f"{sum(steps for steps, _ in left.values())} steps left"
        lines.append([f"{each.task} ({each.scale}) · {each.optimizer}", runs(len(plans)), steps, str(speed)])
        if isinstance(speed, Speed):
            costs |= {
                run: steps * speed.step + evaluations * speed.validation
                for run, (steps, evaluations) in left.items()
            }
    show_list(lines)
    ends = [sum(costs.get(plan.run, 0.0) for plan in group) for group in groups]
    total = Left(len(todo), max(sum(ends) / slots, *ends), len(costs))
    if costs:
        print(
            f"About {total}: steps and what validation was timed, without test and loading, as if no batches were shared."
        )
    return total


def _left(plan: Plan) -> tuple[int, int]:
    """Steps that a run has yet to make, and passes over validation."""
    done, steps, every = plan.run_folder.checkpoint_step(), plan.settings.steps, plan.settings.eval_every
    return steps - done, steps // every - done // every + (steps % every > 0)


def timed(plan: Plan, most: int = 20, seconds: float = 3.0) -> Speed | str:
    """From some of the run's own steps, the first left out, and one validation; each ends after `seconds`. Or why that cannot be."""
    settings, threads = plan.settings, torch.get_num_threads()
    try:
        torch.set_num_threads(settings.threads)
        device = find_device(settings.device)
        task = build_task(settings, device)
        learner = build_learner(settings, plan.rule, task, device)
        with closing(serve(task, task.train_batches(generator(settings.seed, "data")), device)) as batches:
            spent, since = [0.0], time.perf_counter()
            while len(spent) <= most + 1 and time.perf_counter() - since < seconds:
                learner.learn(next(batches))
                learner.read()
                spent.append(learner.seconds)
        steps = [after - before for before, after in pairwise(spent)]
        steps = steps[1:] or steps  # the first one sets things up
        validation = _validation(learner, seconds)
    except UserError as error:
        return f"no estimate: {error}"
    except Exception as error:
        return f"no estimate: {type(error).__name__}: {shorten(str(error), 200)}"
    finally:
        torch.set_num_threads(threads)
    count = f"{len(steps)} steps" if len(steps) > 1 else "1 step"
    return Speed(
        sum(steps) / len(steps),
        validation,
        f"timed over {count} just now" + "; validation takes longer" * (not validation),
    )


def _validation(learner: Learner, seconds: float) -> float:
    """Of one pass; 0 if it takes longer than that."""
    since, evaluation = time.perf_counter(), Evaluation(learner)
    with evaluation_weights(learner.optimizer):
        for batch in learner.task.eval_batches(learner.task.splits[0]):
            evaluation.update(place(learner.task, batch, learner.device))
            if time.perf_counter() - since > seconds:
                return 0.0
    evaluation.values()
    return time.perf_counter() - since


def kind(plan: Plan) -> Kind:
    settings = plan.settings
    device = find_device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Kind(settings.task.name, settings.scale, settings.optim.name, settings.batch_size, name)


def speeds(folder: Path) -> dict[Kind, list[float]]:
    """Seconds per step of the finished runs, without evaluation."""
    table = tables.read(
        folder, "runs", ["task", "scale", "optimizer", "config", "device", "status", "steps", "seconds"]
    )
    found: dict[Kind, list[float]] = {}
    for row in table[(table["status"] != "failed") & (table["steps"] > 0)].itertuples():
        of = Kind(row.task, row.scale, row.optimizer, json.loads(row.config)["batch_size"], row.device)
        found.setdefault(of, []).append(row.seconds / row.steps)
    return found
