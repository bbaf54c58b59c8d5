"""Runs that share task, data settings and seed, side by side over one stream of batches. One run alone is a
group of one.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.record.files import check_writable
from clipbench.record.lease import Heartbeat, Lease
from clipbench.record.rows import TO_GO_ON, RunEnd
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.checkpoint import (
    RecordedRows,
    UnusableCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from clipbench.runs.children import make_children
from clipbench.runs.ending import (
    GroupTooLarge,
    at_recorded_threads,
    ended,
    failure_now,
    finished_status,
    first_start,
    taken_over,
    trained,
)
from clipbench.runs.events import Begun, Ended, Event, MadeElsewhere, Refused, Resumed, Rows, last_rows
from clipbench.runs.plan import Plan, changed_since
from clipbench.runs.recording import describe
from clipbench.runs.settings import Settings, interval
from clipbench.task import Batch, Task
from clipbench.task.content import Contents
from clipbench.task.seeds import generator
from clipbench.task.spikes import Spike
from clipbench.train.batches import device_batches
from clipbench.train.learner import Learner
from clipbench.train.loop import train

Stopped = Callable[[], bool]
"""Whether training is to stop after the step at hand."""


@dataclass
class GroupMember:
    """A run of a group: its plan, what trains, its rows so far, when it was first started, and its lease."""

    plan: Plan
    learner: Learner
    rows: RecordedRows
    started: str
    lease: Lease

    def beginning(self) -> list[Event]:
        """It has begun, or goes on from its checkpoint."""
        run, step = self.plan.run, self.learner.step
        if not step:
            return [Begun(run)]
        last = last_rows([*self.rows.last_step, *self.rows.evals])
        return [Resumed(run, step), Rows(run, last, self.rows.share_clipped)]


def group_key(plan: Plan) -> str:
    """Plans of one key can go side by side."""
    settings = plan.settings
    # a process keeps a few compiled models at a time, and would compile again in turns
    alone = plan.run if settings.compile else ""
    shared = (settings.task.name, settings.task.target, settings.task.keywords, settings.seed)
    sizes = (settings.batch_size, settings.accumulate, settings.steps, settings.eval_every, plan.last_step)
    return repr((plan.transform is None, shared, sizes, settings.most_seconds, alone))


def train_group(plans: Sequence[Plan], stopped: Stopped = never) -> Iterator[Event]:
    """Make the runs side by side, record each as it ends, and say what happens. What another process makes or
    has made is left to it, and so is a run that another takes over while we are stopped for long.

    Once `stopped()`, the step is finished, each run writes a checkpoint and the iteration ends: a run without
    a row is unfinished. A run that raises is recorded as failed and leaves; so does, without a row, one that
    cannot be built or recorded; a group too large for the memory goes on in halves. An error of what the runs
    share, task and batches, is raised.
    """
    check_writable(plans[0].results, [plan.run for plan in plans])
    with Heartbeat() as heartbeat:
        ours = []
        leases: dict[str, Lease] = {}
        for plan in plans:
            leases[plan.run] = plan.run_folder.lease
            if owner := heartbeat.acquire(leases[plan.run]):
                yield MadeElsewhere(plan.run, owner)
            elif status := finished_status(plan):
                if status not in TO_GO_ON:  # the folder of these stays, with its checkpoint
                    plan.run_folder.clear()
                yield MadeElsewhere(plan.run, "", status)
            else:
                ours.append(at_recorded_threads(plan))
        by_threads: dict[int, list[Plan]] = {}
        for plan in ours:
            by_threads.setdefault(plan.settings.threads, []).append(plan)
        groups = deque(by_threads.values())
        while groups and not stopped():
            group = groups.popleft()
            if not group:
                continue
            ended = set()
            try:
                for event in _side_by_side(group, leases, stopped):
                    if isinstance(event, Ended | MadeElsewhere | Refused):
                        ended.add(event.run)
                    yield event
            except GroupTooLarge:
                left = [plan for plan in group if plan.run not in ended]
                half = len(left) // 2
                groups.extendleft([left[half:], left[:half]])
            _free_memory(plans)


def _free_memory(plans: Sequence[Plan]) -> None:
    gc.collect()
    if any(plan.settings.compile for plan in plans):
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _side_by_side(plans: Sequence[Plan], leases: Mapping[str, Lease], stopped: Stopped) -> Iterator[Event]:
    """The events of one group, GroupTooLarge after the checkpoints of those that are left."""
    settings = plans[0].settings
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads)
    look = Contents(before=plans[0].seen)
    try:
        task = build_task(settings, device)
        facts = describe(task) | {"lockstep": len(plans)}
    except Exception as error:
        if change := changed_since(plans[0], look):  # half of it replaced, perhaps
            raise UserError(change) from error
        raise
    unchanged = []
    for plan in plans:
        if change := changed_since(plan, look):
            yield Refused(plan.run, change)
        else:
            unchanged.append(plan)
    begin = make_children if plans[0].transform else _begin_members
    yield from begin(unchanged, leases, task, device, facts, stopped)


def _begin_members(
    plans: Sequence[Plan],
    leases: Mapping[str, Lease],
    task: Task,
    device: torch.device,
    facts: Mapping[str, Any],
    stopped: Stopped,
) -> Iterator[Event]:
    """Of runs that train. `facts`: what is known of all of them before the first step."""
    members: dict[Learner, GroupMember] = {}
    for plan in plans:
        started = first_start(plan)
        try:
            member = _member(plan, started, leases[plan.run], task, device)
        except UserError as error:
            yield Refused(plan.run, str(error))
        except Exception:
            yield ended(plan, RecordedRows(), {**facts, "started": started}, failure_now(), device)
        else:
            members[member.learner] = member
            yield from member.beginning()
    if members:
        yield from _train_members(members, task, device, facts, stopped)


def _train_members(
    members: dict[Learner, GroupMember],
    task: Task,
    device: torch.device,
    facts: Mapping[str, Any],
    stopped: Stopped,
) -> Iterator[Event]:
    """The events of members that have started, which leave `members` as they end. GroupTooLarge as above.

    `facts`: what is known of all of them before the first step.
    """
    plan = next(iter(members.values())).plan
    settings = plan.settings
    clock = CheckpointClock(interval(settings.checkpoint_every), stopped)
    first = min(learner.step for learner in members) * settings.accumulate
    source = task.train_batches(generator(settings.seed, "data"))
    batches = device_batches(task, source, device, first, spoiler(settings, task))
    with closing(batches):
        training = train(
            list(members),
            batches,
            steps=settings.steps,
            until=plan.last_step,
            eval_every=settings.eval_every,
            readings=clock,
            most_seconds=settings.most_seconds,
        )
        for new in training:
            too_large = False
            for learner, rows in new.items():
                member = members.get(learner)
                if member is None:  # another process makes it by now
                    continue
                member.rows.add(rows)
                readable = tuple(row for row in rows if not isinstance(row, RunEnd))
                if readable:
                    yield Rows(member.plan.run, readable, member.rows.share_clipped)
                end = rows[-1]
                if not isinstance(end, RunEnd):
                    continue
                del members[learner]
                if end.status == "out of memory" and facts["lockstep"] > 1:
                    too_large = True
                elif not member.lease.is_ours:
                    yield taken_over(member.plan)
                else:
                    if end.status in TO_GO_ON:
                        save_checkpoint(member.plan.run_folder, learner, member.rows)
                    known = {**facts, "started": member.started}
                    yield trained(member.plan, learner, member.rows, known, end, device)
            if clock.due or too_large:
                for learner, member in list(members.items()):
                    if member.lease.is_ours:
                        _save(member)
                    else:
                        del members[learner]
                        yield taken_over(member.plan)
                clock.restart()
            if too_large:
                raise GroupTooLarge
            if clock.stopping or not members:
                return


def spoiler(settings: Settings, task: Task) -> Callable[[int, Batch], Batch] | None:
    """What plants the bad batches that the settings ask for, each drawn by a generator of its own; None for
    none.
    """
    steps = frozenset(settings.spike.at)
    if not steps:
        return None
    spike = Spike(settings.spike.kind, settings.spike.size)

    is_possible = False

    def spoil(number: int, batch: Batch) -> Batch:
        nonlocal is_possible
        is_bad = number // settings.accumulate + 1 in steps
        if is_possible and not is_bad:
            return batch
        bad = task.spoiled(batch, spike, generator(settings.seed, f"spike {number}"))
        is_possible = True  # found at the first batch, not after many steps
        return bad if is_bad else batch

    return spoil


class CheckpointClock:
    """When to write checkpoints: every so many steps or seconds, and once `stopped()`.

    `due` and `stopping` are as `reads_at` found them after the latest step.
    """

    def __init__(self, every: tuple[str, float], stopped: Stopped) -> None:
        self.unit, self.every = every
        self.stopped, self.stopping = stopped, False
        self.restart()

    def restart(self) -> None:
        self.due, self.since, self.steps = False, time.monotonic(), 0

    def reads_at(self, step: int) -> bool:
        """For the training loop: whether a checkpoint is due after `step`. To be asked once a step."""
        self.steps += 1
        past = self.steps if self.unit == "steps" else time.monotonic() - self.since
        self.stopping = self.stopped()
        self.due = past >= self.every or self.stopping
        return self.due


def _member(plan: Plan, started: str, lease: Lease, task: Task, device: torch.device) -> GroupMember:
    """At its first step, or where its last checkpoint left it."""
    while True:
        learner = build_learner(plan.settings, plan.rule, task, device)
        member = GroupMember(plan, learner, RecordedRows(), started, lease)
        try:
            load_checkpoint(plan.run_folder, member.learner, member.rows)
            return member
        except UnusableCheckpoint:
            continue


def _save(member: GroupMember) -> None:
    """A checkpoint with every step so far. None of a run that is found to have diverged: its last one finds
    that again.
    """
    rows = member.learner.read()
    if rows and isinstance(rows[-1], RunEnd):
        return
    member.rows.add(rows)
    save_checkpoint(member.plan.run_folder, member.learner, member.rows)
