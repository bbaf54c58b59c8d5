"""Runs that share task, data settings and seed, side by side over one stream of batches. One run alone is a group of one."""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from clipbench.errors import UserError
from clipbench.record import tables
from clipbench.record.lease import Heartbeat
from clipbench.record.rows import Row, RunEnd
from clipbench.runs.build import build_learner, build_task, find_device
from clipbench.runs.checkpoint import Restart, Rows
from clipbench.runs.config import interval
from clipbench.runs.plan import Plan, describe, now, outcome, record
from clipbench.task import Task
from clipbench.task.seeds import generator
from clipbench.train.batches import serve
from clipbench.train.learner import Learner
from clipbench.train.loop import train

Stopped = Callable[[], bool]


@dataclass(frozen=True)
class News:
    """What happened to a run: rows that have become readable; at its end its row of `runs`; or `elsewhere`, who else makes it."""

    plan: Plan
    rows: Sequence[Row] = ()
    row: dict[str, Any] | None = None
    elsewhere: str | None = None


@dataclass
class Member:
    """A run of a group: its plan, what trains, and its rows so far."""

    plan: Plan
    learner: Learner
    rows: Rows
    started: str


class TooLarge(Exception):
    """The memory does not hold this many runs side by side."""


def key(plan: Plan) -> str:
    """Plans of one key can go side by side."""
    settings = plan.settings
    task = {name: value for name, value in settings.task.items() if name != "lr"}
    alone = (
        plan.run if settings.compile else ""
    )  # a process keeps a few compiled models at a time, and would compile again in turns
    return repr((task, settings.seed, settings.batch_size, settings.steps, settings.eval_every, alone))


def work(plans: Sequence[Plan], stopped: Stopped = lambda: False) -> Iterator[News]:
    """Make the runs side by side, record each as it ends, and say what happens. What another process makes or has made is left to it.

    Once `stopped()`, the step is finished, each run writes a checkpoint and the iteration ends: a run without a row is unfinished.
    A run that raises is recorded as failed and leaves; a group too large for the memory goes on in halves. An error of what
    the runs share, task and batches, is raised.
    """
    tables.check_writable(plans[0].folder)
    with Heartbeat() as heartbeat:
        mine = []
        for plan in plans:
            if owner := heartbeat.acquire(plan.work.lease):
                yield News(plan, elsewhere=owner)
            elif tables.is_finished(plan.folder, plan.run):
                plan.work.clear()
                yield News(plan, elsewhere="finished")
            else:
                mine.append(plan)
        groups = deque([mine] if mine else [])
        while groups and not stopped():
            group = groups.popleft()
            done = set()
            try:
                for news in _side_by_side(group, stopped):
                    if news.row:
                        done.add(news.plan.run)
                    yield news
            except TooLarge:
                left = [plan for plan in group if plan.run not in done]
                groups.extendleft([half for half in (left[len(left) // 2 :], left[: len(left) // 2]) if half])
            gc.collect()
            if any(plan.settings.compile for plan in plans):
                torch.compiler.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _side_by_side(plans: Sequence[Plan], stopped: Stopped) -> Iterator[News]:
    settings = plans[0].settings
    device = find_device(settings.device)
    torch.set_num_threads(settings.threads)
    task = build_task(settings, device)
    facts = describe(task) | {"lockstep": len(plans)}
    members = {}
    for plan in plans:
        started = _started(plan)
        try:
            member = _member(plan, started, task, device)
        except UserError:
            raise
        except Exception:
            failure = RunEnd("failed", 0, 0.0, 0, traceback.format_exc())
            yield _ended(plan, Rows(), facts | {"started": started}, failure, device)
        else:
            members[member.learner] = member
            yield News(plan, [*member.rows, *member.rows.evals])
    if not members:
        return
    pause = Pause(interval(settings.checkpoint_every), stopped)
    batches = serve(
        task,
        task.train_batches(generator(settings.seed, "data")),
        device,
        min(learner.step for learner in members),
    )
    with closing(batches):
        for new in train(
            list(members), batches, steps=settings.steps, eval_every=settings.eval_every, read=pause
        ):
            too_large = False
            for learner, rows in new.items():
                member = members[learner]
                member.rows.add(rows)
                yield News(member.plan, rows)
                if isinstance(end := rows[-1], RunEnd):
                    del members[learner]
                    if end.status == "out of memory" and len(plans) > 1:
                        too_large = True
                    else:
                        yield _ended(
                            member.plan, member.rows, facts | {"started": member.started}, end, device
                        )
            if pause.due or too_large:
                for member in members.values():
                    _save(member)
                pause.over()
            if too_large:
                raise TooLarge
            if pause.stopping:
                return


class Pause:
    """When to write checkpoints: every so many steps or seconds, and once `stopped()`."""

    def __init__(self, every: tuple[str, float], stopped: Stopped) -> None:
        (self.unit, self.every), self.stopped, self.stopping = every, stopped, False
        self.over()

    def over(self) -> None:
        self.due, self.since, self.steps = False, time.monotonic(), 0

    def __call__(self, step: int) -> bool:
        self.steps += 1
        past = {"steps": float(self.steps), "seconds": time.monotonic() - self.since}[self.unit]
        self.stopping = self.stopped()
        self.due = past >= self.every or self.stopping
        return self.due


def _member(plan: Plan, started: str, task: Task, device: torch.device) -> Member:
    """At its first step, or where its last checkpoint left it."""
    while True:
        member = Member(plan, build_learner(plan.settings, plan.rule, task, device), Rows(), started)
        try:
            plan.work.load(member.learner, member.rows)
            return member
        except Restart:
            continue


def _save(member: Member) -> None:
    """A checkpoint with every step so far. None of a run that is found to have diverged: its last one finds that again."""
    rows = member.learner.read()
    if not (rows and isinstance(rows[-1], RunEnd)):
        member.rows.add(rows)
        member.plan.work.save(member.learner, member.rows)


def _ended(plan: Plan, rows: Rows, facts: dict[str, Any], end: RunEnd, device: torch.device) -> News:
    """Write the tables and forget the checkpoint; that of a failed run is kept, so that another try goes on from there."""
    end = replace(end, status="failed") if end.status == "out of memory" else end
    row = record(plan, rows, facts | outcome(end, rows, facts), device)
    if end.status != "failed":
        plan.work.clear()
    return News(plan, row=row)


def record_failure(plan: Plan, error: str) -> dict[str, Any]:
    """A run whose process was lost: what its checkpoint holds of it, and how it was lost."""
    rows = plan.work.rows()
    steps = list(rows)
    end = RunEnd(
        "failed",
        len(steps),
        steps[-1].seconds if steps else 0.0,
        sum(not math.isfinite(row.grad_norm) for row in steps),
        error,
    )
    facts = {"started": _started(plan), "lockstep": 1, **asdict(end)}
    return record(plan, rows, facts, find_device(plan.settings.device))


def _started(plan: Plan) -> str:
    """When the run was first begun. Notes in its folder what asked for it."""
    return plan.work.note(
        {"label": plan.label, "overrides": plan.words, "steps": plan.settings.steps, "started": now()}
    )["started"]
