"""`--dry-run`: what a sweep or a study would do and how long the rest should take. Starts nothing and writes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from clipbench import results
from clipbench.board import duration
from clipbench.build import find_device
from clipbench.checkpoint import checkpoint_step
from clipbench.run import Plan
from clipbench.status import runs, show_list
from clipbench.sweep import arrange
from clipbench.workers import Slot


@dataclass(frozen=True, order=True)
class Kind:
    """Runs whose steps cost about the same."""

    task: str
    scale: str
    optimizer: str
    batch_size: int
    device: str

    def __str__(self) -> str:
        return f"{self.task} ({self.scale}) · {self.optimizer} · batch_size={self.batch_size} on {self.device}"


def show(plans: Sequence[Plan], launcher: Sequence[str] = ()) -> bool:
    """Print what making these runs would mean; with a launcher's words, as jobs of it. True if anything is to do."""
    first = plans[0]
    status = results.statuses(first.folder, [plan.run for plan in plans])
    todo = [plan for plan in plans if status.get(plan.run, "failed") == "failed"]
    failed = sum(plan.run in status for plan in todo)
    kept = sum(plan.run not in status and checkpoint_step(plan.work.folder) > 0 for plan in todo)
    diverged = sum(word == "diverged" for word in status.values())
    finished = f"{len(plans) - len(todo)} finished" + (f" ({diverged} diverged)" if diverged else "")
    print(f"{runs(len(plans))} into {first.folder}: {finished}, {len(todo)} to do")
    if todo:
        print(f"  {len(todo) - failed - kept} new, {kept} unfinished that go on from a checkpoint, {failed} failed that are tried again")
        if launcher:
            print(f"  a job each for {launcher[0]}, which decides how many at a time")
            _rest(todo, [todo], 1)
        else:
            _side_by_side(todo)
    return bool(todo)


def _side_by_side(todo: Sequence[Plan]) -> None:
    groups, places = arrange(todo)
    shape = ", ".join(f"{count} group{'s' * (count > 1)} of {runs(size)}" for size, count in Counter(map(len, groups)).items())
    print(f"  side by side: {shape}; on {_named(places)}")
    _rest(todo, groups, len(places))


def _named(places: Sequence[Slot]) -> str:
    names = [slot.name for slot in places]
    return f"1 slot: {names[0]}" if len(names) == 1 else f"{len(names)} slots: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"


def _rest(todo: Sequence[Plan], groups: Sequence[Sequence[Plan]], slots: int) -> None:
    """The steps left of each kind of run, what they cost, and the time until the last slot is done."""
    left = {plan.run: plan.settings.steps - checkpoint_step(plan.work.folder) for plan in todo}
    measured = speeds(todo[0].folder)
    kinds: dict[Kind, list[Plan]] = {}
    for plan in todo:
        kinds.setdefault(kind(plan), []).append(plan)
    lines = []
    for each, plans in kinds.items():
        speed = f"no estimate: no finished run of {each}"
        if found := measured.get(each):
            speed = f"{median(found):.3g} s a step, the median of {runs(len(found))}"
        steps = sum(left[plan.run] for plan in plans)
        lines.append([f"{each.task} ({each.scale}) · {each.optimizer}", runs(len(plans)), f"{steps} steps left", speed])
    show_list(lines)
    if known := [plan.run for plan in todo if kind(plan) in measured]:
        costs = [sum(left[plan.run] * median(measured[kind(plan)]) for plan in group if plan.run in known) for group in groups]
        time = duration(max(sum(costs) / slots, *costs))
        which = "" if len(known) == len(todo) else f" for {len(known)} of the {runs(len(todo))}"
        print(f"About {time}{which}: the steps alone, without evaluation and loading, as if no batches were shared.")


def kind(plan: Plan) -> Kind:
    settings = plan.settings
    device = find_device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Kind(settings.task["name"], settings.scale, settings.optim["name"], settings.batch_size, name)


def speeds(folder: Path) -> dict[Kind, list[float]]:
    """Seconds per step of the finished runs, without evaluation."""
    table = results.read(folder, "runs", ["task", "scale", "optimizer", "config", "device", "status", "steps", "seconds"])
    found: dict[Kind, list[float]] = {}
    for row in table[(table["status"] != "failed") & (table["steps"] > 0)].itertuples():
        of = Kind(row.task, row.scale, row.optimizer, json.loads(row.config)["batch_size"], row.device)
        found.setdefault(of, []).append(row.seconds / row.steps)
    return found
