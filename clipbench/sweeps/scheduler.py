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
from clipbench.record.rows import TO_GO_ON
from clipbench.runs.ending import orphaned, record_failure
from clipbench.runs.events import Ended, Event, MadeElsewhere, Progress, Refused, Sink
from clipbench.runs.plan import Plan, statuses, with_parents
from clipbench.sweeps.groups import arrange
from clipbench.sweeps.messages import GroupFailed, GroupLeft, Message, MistakeFound, WorkerDied
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.slots import Slot
from clipbench.sweeps.workers import Worker

LOOK_AGAIN = 2.0  # seconds between looks at runs that another process makes
DEATHS = 2  # so often may a run's worker die without the run getting any further


def make_runs(
    plans: Sequence[Plan],
    interrupted: Callable[[], bool] = never,
    sink: Sink | None = None,
) -> SweepOutcome:
    """Make the runs that are not finished, and before them the runs that they start from, in worker
    processes, and say what became of all. `sink` is called with their events, rows thinned, and with the
    sweep's Progress.

    Once `interrupted()`, every run finishes its step and keeps a checkpoint. A run that fails is recorded so;
    what the user must mend stands in the outcome's `mistakes`. UserError where nothing can be started: the
    results folder cannot be written, or the main program lacks a main guard.
    """
    plans = with_parents(plans)
    todo = unfinished(plans)
    before = statuses(plans)
    if not todo:
        return SweepOutcome(tuple(plans), before)
    sweep = Sweep(plans, todo, sink)
    sweep.train_all(interrupted)
    now = {**before, **sweep.status}
    return SweepOutcome(tuple(plans), now, tuple(sweep.mistakes), sweep.stopping)


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
        elif status[plan.run] not in TO_GO_ON:
            plan.run_folder.clear_if_abandoned()
    return todo


class Sweep:
    """Hands groups to workers and handles what they report, until nothing is left to do."""

    def __init__(self, plans: Sequence[Plan], todo: Sequence[Plan], sink: Sink | None) -> None:
        self.tell = listening(sink)
        self.plans = {plan.run: plan for plan in plans}
        self.status = statuses(plans)  # of the runs that have ended
        for plan in todo:
            self.status.pop(plan.run, None)  # it failed, and is tried again
        groups, self.slots = arrange(todo)
        self.waiting = deque(groups)
        self.making: dict[Slot, list[Plan]] = {}
        self.elsewhere: set[str] = set()  # runs that other processes make
        self.stopping = False
        self.workers: dict[Slot, Worker] = {}
        self.deaths: Counter[str] = Counter()
        self.reached: dict[str, int] = {}  # the checkpoint that a run's worker died after
        self.mistakes: list[str] = []
        self.looked = time.monotonic()
        self.modules = _own_task_modules(todo)

    def train_all(self, interrupted: Callable[[], bool]) -> None:
        """Until every run has ended or, once `interrupted()`, every worker has kept what it has."""
        try:
            while self.waiting or self.making or self.elsewhere:
                if interrupted() and not self.stopping:
                    self._stop()
                if self.stopping and not self.making:
                    return
                if not self.stopping:
                    self._hand_out()
                    self._look_elsewhere()
                self._wait_for_messages()
                for slot, worker in list(self.workers.items()):
                    for message in worker.messages():
                        self._handle(slot, worker, message)
                self.tell(self._progress())
        except KeyboardInterrupt:  # stop now; after anything else they keep what they have, and leave
            for worker in self.workers.values():
                worker.kill()
            raise
        finally:
            for worker in self.workers.values():
                worker.close()

    def _progress(self) -> Progress:
        making = {}
        for slot, group in self.making.items():
            making[slot.name] = tuple(plan.run for plan in group)
        waiting = sum(map(len, self.waiting))
        return Progress(dict(self.status), making, waiting, frozenset(self.elsewhere), self.stopping)

    def _stop(self) -> None:
        self.stopping = True
        for worker in self.workers.values():
            worker.stop()

    def _hand_out(self) -> None:
        """The next groups to the slots that are free."""
        for slot in self.slots:
            if not self.waiting:
                return
            if slot in self.making:
                continue
            group = self._next_group()
            if group is None:
                return
            if slot not in self.workers:
                self.workers[slot] = Worker(slot, self.modules)
            self.making[slot] = group
            self.workers[slot].assign(group)

    def _next_group(self) -> list[Plan] | None:
        """Of those waiting the first whose runs' parents have ended; None where all wait for one."""
        for group in self.waiting:
            parents = [plan.parent.run for plan in group if plan.parent]
            if all(run in self.status for run in parents):
                self.waiting.remove(group)
                return group
        return None

    def _look_elsewhere(self) -> None:
        """A run that another process made is finished; one that it left is to be made."""
        if time.monotonic() - self.looked < LOOK_AGAIN:
            return
        self.looked = time.monotonic()
        for run in list(self.elsewhere):
            plan = self.plans[run]
            status = statuses([plan]).get(run, "failed")
            if status != "failed":
                self._take(MadeElsewhere(run, "", status))
            elif plan.run_folder.owner is None:
                self.elsewhere.remove(run)
                self.waiting.append([plan])

    def _wait_for_messages(self) -> None:
        """Until a worker says something or ends, a fifth of a second at most."""
        parts: list[Any] = []
        for worker in self.workers.values():
            parts += [worker.connection, worker.process.sentinel]
        wait(parts, 0.2)

    def _handle(self, slot: Slot, worker: Worker, message: Message) -> None:
        if isinstance(message, GroupLeft | MistakeFound | GroupFailed | WorkerDied):
            self._handle_end_of_group(slot, worker, message)
        else:
            self._take(message)

    def _take(self, event: Event) -> None:
        """Keep account of what has happened to a run, and hand it on."""
        match event:
            case Ended(run, row):
                self.status[run] = row["status"]
            case Refused(run, mistake):
                self.status[run] = "not made"
                if mistake not in self.mistakes:
                    self.mistakes.append(mistake)
                self._leave_children(run, mistake)
            case MadeElsewhere(run, _, ""):
                self.elsewhere.add(run)
            case MadeElsewhere(run, _, status):
                self.status[run] = status
                self.elsewhere.discard(run)
        self.tell(event)

    def _leave_children(self, parent: str, mistake: str) -> None:
        """Those that wait for a parent which is not made are not made either."""
        for group in list(self.waiting):
            orphans = [plan for plan in group if plan.parent and plan.parent.run == parent]
            for plan in orphans:
                group.remove(plan)
                self._take(orphaned(plan, mistake))
            if not group:
                self.waiting.remove(group)

    def _handle_end_of_group(self, slot: Slot, worker: Worker, message: Message) -> None:
        """The slot is free again; what is left of its group is tried again, or not made."""
        left = []
        for plan in self.making.pop(slot, []):
            if plan.run not in self.status and plan.run not in self.elsewhere:
                left.append(plan)
        match message:
            case GroupLeft():
                if left and not self.stopping:
                    self.waiting.appendleft(left)
            case MistakeFound(text):
                for plan in left:
                    self._take(Refused(plan.run, text))
            case GroupFailed(traceback):
                self._try_again(left, traceback, 1)
            case WorkerDied(report):
                worker.close()
                del self.workers[slot]
                if not self.stopping:
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
                    text = f"{plan.label} failed, and that cannot be recorded: {refusal}"
                    self._take(Refused(plan.run, text))
                else:
                    self._take(Ended(plan.run, row))
            else:
                self.waiting.append([plan])


def _own_task_modules(plans: Sequence[Plan]) -> list[str]:
    """The modules of our own tasks: a user's may do anything when it is imported."""
    modules = {plan.settings.task.module for plan in plans}
    return sorted(module for module in modules if module.startswith("clipbench."))
