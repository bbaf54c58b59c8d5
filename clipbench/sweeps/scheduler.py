"""Many runs: what is still to do, in groups, on workers; lost workers and other sweeps of the same folder
included.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from clipbench.interrupt import never
from clipbench.output import listening
from clipbench.processes import check_main_guard
from clipbench.record.files import check_writable
from clipbench.runs.lockstep import record_failure
from clipbench.runs.plan import Plan, statuses
from clipbench.sweeps.groups import arrange
from clipbench.sweeps.messages import (
    GroupFailed,
    GroupLeft,
    MadeElsewhere,
    Message,
    MistakeFound,
    RunEnded,
    RunRefused,
    StepsMade,
    WorkerDied,
)
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.slots import Slot
from clipbench.sweeps.state import Listener, SweepState
from clipbench.sweeps.workers import Worker

LOOK_AGAIN = 2.0  # seconds between looks at runs that another process makes
DEATHS = 2  # so often may a run's worker die without the run getting any further


def make_runs(
    plans: Sequence[Plan],
    interrupted: Callable[[], bool] = never,
    listener: Listener | None = None,
) -> SweepOutcome:
    """Make the runs that are not finished, in worker processes, and say what became of all.

    Once `interrupted()`, every run finishes its step and keeps a checkpoint. A run that fails is recorded so;
    what the user must mend stands in the outcome's `mistakes`. UserError where nothing can be started: the
    results folder cannot be written, or the main program lacks a main guard.
    """
    todo = unfinished(plans)
    before = statuses(plans)
    if not todo:
        return SweepOutcome(tuple(plans), before)
    sweep = Sweep(plans, todo, listener)
    sweep.train_all(interrupted)
    now = {**before, **sweep.state.status}
    return SweepOutcome(tuple(plans), now, tuple(sweep.mistakes), sweep.state.stopping)


def unfinished(plans: Sequence[Plan]) -> list[Plan]:
    """Those that have no row, a failed one, or that of a run which was stopped before the step it is to come
    to. What finished runs have left in `.work` is cleared away.

    UserError where the folder cannot be written.
    """
    check_main_guard()
    folder = plans[0].results
    check_writable(folder, [plan.run for plan in plans])
    status = statuses(plans)
    todo = []
    for plan in plans:
        if status.get(plan.run, "failed") == "failed":
            todo.append(plan)
        elif status[plan.run] != "stopped":
            plan.run_folder.clear_if_abandoned()
    return todo


class Sweep:
    """Hands groups to workers and handles what they report, until nothing is left to do."""

    def __init__(self, plans: Sequence[Plan], todo: Sequence[Plan], listener: Listener | None) -> None:
        self.listener = listening(listener)
        by_id = {plan.run: plan for plan in plans}
        status = statuses(plans)
        for plan in todo:
            status.pop(plan.run, None)  # it failed, and is tried again
        groups, places = arrange(todo)
        self.state = SweepState(by_id, places, status, deque(groups), already=len(status))
        self.workers: dict[Slot, Worker] = {}
        self.deaths: Counter[str] = Counter()
        self.reached: dict[str, int] = {}  # the checkpoint that a run's worker died after
        self.mistakes: list[str] = []
        self.looked = time.monotonic()
        self.modules = _own_task_modules(todo)

    def train_all(self, interrupted: Callable[[], bool]) -> None:
        """Until every run has ended or, once `interrupted()`, every worker has kept what it has."""
        state = self.state
        try:
            while state.waiting or state.making or state.elsewhere:
                if interrupted() and not state.stopping:
                    self._stop()
                if state.stopping and not state.making:
                    return
                if not state.stopping:
                    self._hand_out()
                    self._look_elsewhere()
                self._wait_for_messages()
                for slot, worker in list(self.workers.items()):
                    for message in worker.messages():
                        self._handle(slot, worker, message)
                self.listener(state, None, None)
        except KeyboardInterrupt:  # stop now; after anything else they keep what they have, and leave
            for worker in self.workers.values():
                worker.kill()
            raise
        finally:
            for worker in self.workers.values():
                worker.close()

    def _stop(self) -> None:
        self.state.stopping = True
        for worker in self.workers.values():
            worker.stop()

    def _hand_out(self) -> None:
        """The next groups to the slots that are free."""
        state = self.state
        for slot in state.slots:
            if not state.waiting:
                return
            if slot.name in state.making:
                continue
            if slot not in self.workers:
                self.workers[slot] = Worker(slot, self.modules)
            group = state.waiting.popleft()
            state.making[slot.name] = group
            self.workers[slot].assign(group)

    def _look_elsewhere(self) -> None:
        """A run that another process made is finished; one that it left is to be made."""
        if time.monotonic() - self.looked < LOOK_AGAIN:
            return
        self.looked = time.monotonic()
        for run in list(self.state.elsewhere):
            plan = self.state.plans[run]
            status = statuses([plan]).get(run, "failed")
            if status != "failed":
                self._ended(run, status)
            elif plan.run_folder.owner is None:
                del self.state.elsewhere[run]
                self.state.waiting.append([plan])

    def _wait_for_messages(self) -> None:
        """Until a worker says something or ends, a fifth of a second at most."""
        parts: list[Any] = []
        for worker in self.workers.values():
            parts += [worker.connection, worker.process.sentinel]
        wait(parts, 0.2)

    def _handle(self, slot: Slot, worker: Worker, message: Message) -> None:
        match message:
            case StepsMade(latest):
                self.state.at.update(latest)
            case RunEnded(run, row):
                self._ended(run, row["status"], row)
            case RunRefused(run, mistake):
                self._not_made(run, mistake)
            case MadeElsewhere(run, "finished"):
                plan = self.state.plans[run]
                self._ended(run, statuses([plan]).get(run, "done"))
            case MadeElsewhere(run, owner):
                self.state.elsewhere[run] = owner
            case _:
                self._handle_end_of_group(slot, worker, message)

    def _handle_end_of_group(self, slot: Slot, worker: Worker, message: Message) -> None:
        """The slot is free again; what is left of its group is tried again, or not made."""
        state = self.state
        left = []
        for plan in worker.group:
            if plan.run not in state.status and plan.run not in state.elsewhere:
                left.append(plan)
                state.at.pop(plan.run, None)
        worker.group = []
        state.making.pop(slot.name, None)
        match message:
            case GroupLeft():
                if left and not state.stopping:
                    state.waiting.appendleft(left)
            case MistakeFound(text):
                for plan in left:
                    self._not_made(plan.run, text)
            case GroupFailed(traceback):
                self._try_again(left, traceback, 1)
            case WorkerDied(report):
                worker.close()
                del self.workers[slot]
                if not state.stopping:
                    self._try_again(left, report, DEATHS)

    def _try_again(self, group: list[Plan], error: str, most: int) -> None:
        """What was lost with a group is tried run by run; what is lost alone, `most` times without progress,
        is recorded as failed.
        """
        for plan in group:
            reached = plan.run_folder.checkpoint_step()
            if len(group) > 1 or reached > self.reached.get(plan.run, -1):
                self.deaths[plan.run] = 0
            self.reached[plan.run] = reached
            self.deaths[plan.run] += 1
            if len(group) == 1 and self.deaths[plan.run] >= most:
                try:
                    row = record_failure(plan, error)
                except Exception as refusal:  # whatever it is, the other runs go on
                    self._not_made(plan.run, f"{plan.label} failed, and that cannot be recorded: {refusal}")
                else:
                    self._ended(plan.run, row["status"], row)
            else:
                self.state.waiting.append([plan])

    def _not_made(self, run: str, mistake: str) -> None:
        """It has no row, and will have none before the user mends something. The others go on."""
        if mistake not in self.mistakes:
            self.mistakes.append(mistake)
        self.state.at.pop(run, None)
        self.state.status[run] = "not made"

    def _ended(self, run: str, status: str, row: dict[str, Any] | None = None) -> None:
        self.state.at.pop(run, None)
        self.state.elsewhere.pop(run, None)
        self.state.status[run] = status
        self.listener(self.state, self.state.plans[run], row)


def _own_task_modules(plans: Sequence[Plan]) -> list[str]:
    """The modules of our own tasks: a user's may do anything when it is imported."""
    modules = {plan.settings.task.module for plan in plans}
    return sorted(module for module in modules if module.startswith("clipbench."))
