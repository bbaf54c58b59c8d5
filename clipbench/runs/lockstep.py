"""Runs that share task, data settings and seed, side by side over one stream of batches. One run alone is a
group of one.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.record import tables
from clipbench.record.environment import now
from clipbench.record.files import check_writable
from clipbench.record.lease import Heartbeat, Lease
from clipbench.record.outcome import outcome
from clipbench.record.rows import TO_GO_ON, RunEnd
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.checkpoint import (
    RecordedRows,
    UnusableCheckpoint,
    checkpoint_rows,
    load_checkpoint,
    save_checkpoint,
)
from clipbench.runs.children import Child, begin_child, evaluate_children, failure_now
from clipbench.runs.events import Begun, Ended, Event, MadeElsewhere, Refused, Resumed, Rows, last_rows
from clipbench.runs.plan import Plan, changed_since, statuses
from clipbench.runs.recording import describe, record
from clipbench.runs.settings import interval
from clipbench.runs.weights import keep_weights
from clipbench.task import Task
from clipbench.task.content import Contents
from clipbench.task.seeds import generator
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


class GroupTooLarge(Exception):
    """The memory does not hold this many runs side by side."""


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
            elif status := _finished_status(plan):
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


def _finished_status(plan: Plan) -> str:
    """With which it has come to the end that the plan asks for; "" where it is to be made."""
    status = statuses([plan]).get(plan.run, "")
    return "" if status == "failed" else status


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
    begin = _begin_children if plans[0].transform else _begin_members
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
        started = _first_start(plan)
        try:
            member = _member(plan, started, leases[plan.run], task, device)
        except UserError as error:
            yield Refused(plan.run, str(error))
        except Exception:
            yield _ended(plan, RecordedRows(), {**facts, "started": started}, failure_now(), device)
        else:
            members[member.learner] = member
            yield from member.beginning()
    if members:
        yield from _train_members(members, task, device, facts, stopped)


def _begin_children(
    plans: Sequence[Plan],
    leases: Mapping[str, Lease],
    task: Task,
    device: torch.device,
    facts: Mapping[str, Any],
    stopped: Stopped,
) -> Iterator[Event]:
    """Of runs that transform the weights of others. `facts` as above."""
    children: dict[Child, tuple[RecordedRows, dict[str, Any]]] = {}
    for plan in plans:
        known = {**facts, "started": _first_start(plan)}
        try:
            found = begin_child(plan, task, device)
        except UserError as error:
            yield Refused(plan.run, str(error))
            continue
        except Exception:
            found = failure_now()
        if isinstance(found, RunEnd):
            yield _ended(plan, RecordedRows(), known, found, device)
        else:
            children[found] = (RecordedRows(), known)
            yield Begun(plan.run)
    for new in evaluate_children(list(children), stopped):
        for child, new_rows in new.items():
            rows, known = children[child]
            rows.add(new_rows)
            end = new_rows[-1]
            readable = tuple(row for row in new_rows if not isinstance(row, RunEnd))
            if readable:
                yield Rows(child.plan.run, readable, 0.0)
            if not isinstance(end, RunEnd):
                continue
            if end.status == "out of memory" and facts["lockstep"] > 1:
                raise GroupTooLarge
            if leases[child.plan.run].is_ours:
                yield _ended(child.plan, rows, known, end, device)
            else:
                yield _taken_over(child.plan)


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
    batches = device_batches(task, task.train_batches(generator(settings.seed, "data")), device, first)
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
                    yield _taken_over(member.plan)
                else:
                    if end.status in TO_GO_ON:
                        save_checkpoint(member.plan.run_folder, learner, member.rows)
                    known = {**facts, "started": member.started}
                    yield _trained(member, known, end, device)
            if clock.due or too_large:
                for learner, member in list(members.items()):
                    if member.lease.is_ours:
                        _save(member)
                    else:
                        del members[learner]
                        yield _taken_over(member.plan)
                clock.restart()
            if too_large:
                raise GroupTooLarge
            if clock.stopping or not members:
                return


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


def _taken_over(plan: Plan) -> MadeElsewhere:
    """We were stopped for so long that another process took the run over: it is that one's."""
    owner = plan.run_folder.owner or "another process"
    status = _finished_status(plan)
    return MadeElsewhere(plan.run, "" if status else str(owner), status)


def _trained(
    member: GroupMember, facts: Mapping[str, Any], end: RunEnd, device: torch.device
) -> Ended | Refused:
    """Record a run that trained, with its weights where they are to be kept."""
    plan = member.plan
    try:
        before = tables.row_of(plan.results, plan.run)
        if before is not None and before["status"] == "done":
            return Ended(plan.run, _keep_later(member, before, end, facts))
        if plan.settings.keep and end.status == "done":
            keep_weights(member.learner, plan.model_path)
            facts = {**facts, "model": str(plan.model_path.relative_to(plan.results))}
    except UserError as error:
        return Refused(plan.run, str(error))
    return _ended(plan, member.rows, facts, end, device)


def _keep_later(
    member: GroupMember, before: Mapping[str, Any], end: RunEnd, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The row `before` of a run that was finished without its weights, once it is trained again and they are
    kept. UserError, and the row stays, where it came out otherwise than recorded: they would be another's.
    """
    plan = member.plan
    again = outcome(end, member.rows.evals, facts)
    for name in ("status", "final", "final_test"):
        if again[name] != before[name]:
            plan.run_folder.clear()
            raise UserError(
                f"The weights of {plan.run} were not kept, and training it again gave {name}={again[name]}, "
                f"where its row has {before[name]} (device {before['device']}, threads {before['threads']}, "
                f"version {before['git']}). What starts from it needs it anew: another results folder, or "
                f"clipbench rm {plan.results} {plan.run}"
            )
    keep_weights(member.learner, plan.model_path)
    row = {**before, "model": str(plan.model_path.relative_to(plan.results))}
    tables.write_rows(plan.results, "runs", plan.run, [row])
    plan.run_folder.clear()
    return row


def at_recorded_threads(plan: Plan) -> Plan:
    """The plan of a run that is finished and is to be made again for its weights, at the threads that it was
    made with: sums differ with them. Any other plan as it is.
    """
    row = tables.row_of(plan.results, plan.run)
    if row is None or row["status"] != "done" or row["threads"] is None:
        return plan
    return replace(plan, settings=replace(plan.settings, threads=row["threads"]))


def orphaned(plan: Plan, mistake: str) -> Ended | Refused:
    """What becomes of a child whose parent was refused for `mistake`: it fails where the parent is recorded
    but could not be made again, and is not made where the user can mend what is wrong.
    """
    assert plan.parent is not None
    row = tables.row_of(plan.parent.results, plan.parent.run)
    if row is not None and row["status"] == "done":
        return Ended(plan.run, record_failure(plan, mistake))
    return Refused(plan.run, mistake)


def _ended(
    plan: Plan, rows: RecordedRows, facts: Mapping[str, Any], end: RunEnd, device: torch.device
) -> Ended | Refused:
    """Write the tables and clear the run's folder; that of a run which failed or was stopped stays, so that
    it can go on from there.

    What cannot be recorded keeps its folder too, and is this run's mistake alone.
    """
    if end.status == "out of memory":
        end = replace(end, status="failed")
    try:
        row = record(plan, rows, {**facts, **outcome(end, rows.evals, facts)}, device)
    except UserError as error:
        return Refused(plan.run, str(error))
    except (ValueError, TypeError, ArithmeticError) as error:  # of the values, whatever they are
        return Refused(plan.run, f"{plan.label} cannot be recorded: {error}")
    if end.status not in ("failed", *TO_GO_ON):
        plan.run_folder.clear()
    return Ended(plan.run, row)


def record_failure(plan: Plan, error: str) -> dict[str, Any]:
    """Record a run whose process was lost: what its checkpoint holds of it, and how it was lost (`error`).

    Its row of `runs` comes back: that of a run which was finished before something else failed stays.
    """
    before = tables.row_of(plan.results, plan.run)
    if before is not None and (before["status"] == "done" or plan.ends_with(before)):
        return before
    rows = checkpoint_rows(plan.run_folder)
    steps, seconds, skipped = 0, 0.0, 0
    for row in rows:
        steps, seconds = row.step, row.seconds
        if not math.isfinite(row.grad_norm):
            skipped += 1
    end = RunEnd("failed", steps, seconds, skipped, error)
    facts = {"started": _first_start(plan), "lockstep": 1, **asdict(end)}
    return record(plan, rows, facts, find_device(plan.settings.device))


def _first_start(plan: Plan) -> str:
    """When the run was first started. Keeps in its folder what asked for it."""
    facts = {
        "label": plan.label,
        "overrides": plan.arguments,
        "steps": plan.settings.steps,
        "started": now(),
        "facts": plan.facts,
    }
    return plan.run_folder.write_plan(facts)["started"]
