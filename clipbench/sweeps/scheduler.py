"""Many runs: what is still to do, in groups, on workers; lost workers and other sweeps of the same folder included."""

from __future__ import annotations

import heapq
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any

from clipbench.cli import show
from clipbench.cli.board import Say, board
from clipbench.errors import UserError
from clipbench.interrupt import first_interrupt
from clipbench.record import tables
from clipbench.record.files import check_writable
from clipbench.runs.lockstep import group_key, record_failure
from clipbench.runs.plan import Plan
from clipbench.sweeps.state import SweepState
from clipbench.sweeps.workers import Slot, Worker, slots

LOOK_AGAIN = 2.0  # seconds between looks at runs that another process makes
DEATHS = 2  # so often may a run's worker die without the run getting any further


def groups_of(plans: Iterable[Plan], most: int, slots: int) -> list[list[Plan]]:
    """Runs that can go side by side, at most `most` of them, the largest group first; split further where slots would else wait.

    That is: until the slots, each taking the next group when it is free, are done within a tenth of what single runs would need.
    """
    together: dict[str, list[Plan]] = {}
    for plan in plans:
        together.setdefault(group_key(plan), []).append(plan)
    groups = [part for group in together.values() for part in _parts(group, -(-len(group) // most))]
    singly = _makespan(sorted(([plan] for group in groups for plan in group), key=_cost, reverse=True), slots)
    while groups:
        groups.sort(key=_cost, reverse=True)
        largest = max(groups, key=len)
        if len(largest) == 1 or _makespan(groups, slots) <= 1.1 * singly:
            break
        groups.remove(largest)
        groups += _parts(largest, 2)
    return groups


def arrange(todo: Sequence[Plan]) -> tuple[list[list[Plan]], list[Slot]]:
    """What would go side by side, and the slots there are, by the settings that all plans share."""
    settings = todo[0].settings
    places = slots(settings.device, settings.threads, settings.sweep.workers_per_device)
    return groups_of(todo, settings.sweep.most_side_by_side(len(todo)), len(places)), places


def _parts(group: list[Plan], count: int) -> list[list[Plan]]:
    """`count` parts whose sizes differ by one at most."""
    return [group[i::count] for i in range(count)]


def _cost(group: list[Plan]) -> int:
    return sum(plan.settings.steps - plan.run_folder.checkpoint_step() for plan in group)


def _makespan(groups: list[list[Plan]], slots: int) -> float:
    ends = [0] * slots
    for group in groups:
        heapq.heappush(ends, heapq.heappop(ends) + _cost(group))
    return max(ends)


class Sweep:
    """Hands groups to workers and hears what becomes of them, until nothing is left to do."""

    def __init__(self, plans: Sequence[Plan], todo: Sequence[Plan], say: Say) -> None:
        self.folder, self.say = plans[0].results, say
        groups, places = arrange(todo)
        before = tables.statuses(self.folder, [plan.run for plan in plans])
        status = {run: status for run, status in before.items() if status != "failed"}
        self.state = SweepState(
            {plan.run: plan for plan in plans}, places, status, deque(groups), already=len(status)
        )
        self.workers: dict[Slot, Worker] = {}
        self.deaths: Counter[str] = Counter()
        self.reached: dict[str, int] = {}  # the checkpoint that a run's worker died after
        self.mistakes: list[str] = []
        self.looked = time.monotonic()
        tasks = {plan.settings.task.module for plan in todo}
        self.modules = sorted(module for module in tasks if module.startswith("clipbench."))

    def make(self, interrupted: Callable[[], bool]) -> None:
        state = self.state
        try:
            while state.waiting or state.making or state.elsewhere:
                if interrupted() and not state.stopping:
                    state.stopping = True
                    for worker in self.workers.values():
                        worker.stop()
                if state.stopping and not state.making:
                    return
                if not state.stopping:
                    self._hand_out()
                    self._look_elsewhere()
                wait(
                    [
                        part
                        for worker in self.workers.values()
                        for part in (worker.connection, worker.process.sentinel)
                    ],
                    0.2,
                )
                for slot, worker in list(self.workers.items()):
                    for message in worker.told():
                        self._hear(slot, worker, *message)
                self.say(state, None, None)
        except BaseException:
            for worker in self.workers.values():
                worker.kill()
            raise
        finally:
            for worker in self.workers.values():
                worker.close()

    def _hand_out(self) -> None:
        for slot in self.state.slots:
            if not self.state.waiting:
                return
            if slot.name not in self.state.making:
                worker = self.workers.get(slot) or Worker(slot, self.modules)
                self.workers[slot] = worker
                group = self.state.waiting.popleft()
                self.state.making[slot.name] = group
                worker.make(group)

    def _look_elsewhere(self) -> None:
        """A run that another process made is finished; one that it left is to be made."""
        if time.monotonic() - self.looked < LOOK_AGAIN:
            return
        self.looked = time.monotonic()
        for run in list(self.state.elsewhere):
            plan = self.state.plans[run]
            if (status := tables.statuses(self.folder, [run]).get(run)) and status != "failed":
                self._ended(run, status)
            elif plan.run_folder.owner is None:
                del self.state.elsewhere[run]
                self.state.waiting.append([plan])

    def _hear(self, slot: Slot, worker: Worker, kind: str, *news: Any) -> None:
        state = self.state
        left = [
            plan for plan in worker.group if plan.run not in state.status and plan.run not in state.elsewhere
        ]
        if kind == "at":
            state.at |= news[0]
        elif kind == "ended":
            run, row = news
            self._ended(run, row["status"], row)
        elif kind == "elsewhere":
            run, owner = news
            if owner == "finished":
                self._ended(run, tables.statuses(self.folder, [run]).get(run, "done"))
            else:
                state.elsewhere[run] = owner
        else:
            worker.group = []
            state.making.pop(slot.name, None)
            for plan in left:
                state.at.pop(plan.run, None)
            if kind == "mistake":
                self.mistakes += [news[0]] if news[0] not in self.mistakes else []
                state.status |= {plan.run: "not made" for plan in left}
            elif kind == "idle":  # with runs left where it was told to stop
                state.waiting.extendleft([left] if left and not state.stopping else [])
            elif kind == "failed":
                self._again(left, news[0], 1)
            elif kind == "died":
                worker.close()
                del self.workers[slot]
                if not state.stopping:
                    self._again(left, news[0], DEATHS)

    def _again(self, group: list[Plan], error: str, most: int) -> None:
        """What was lost with a group is tried run by run; what is lost alone, `most` times without progress, is recorded as failed."""
        for plan in group:
            reached = plan.run_folder.checkpoint_step()
            if len(group) > 1 or reached > self.reached.get(plan.run, -1):
                self.deaths[plan.run] = 0
            self.reached[plan.run] = reached
            self.deaths[plan.run] += 1
            if len(group) == 1 and self.deaths[plan.run] >= most:
                row = record_failure(plan, error)
                self._ended(plan.run, "failed", row)
            else:
                self.state.waiting.append([plan])

    def _ended(self, run: str, status: str, row: dict[str, Any] | None = None) -> None:
        self.state.at.pop(run, None)
        self.state.elsewhere.pop(run, None)
        self.state.status[run] = status
        self.say(self.state, self.state.plans[run], row)


def make_runs(plans: Sequence[Plan], table: bool = True) -> int:
    """Make the runs that are not finished, show the `table` of all, and return the exit code."""
    todo = unfinished(plans)
    if not todo:
        return conclude(plans, {}, table=table)
    with (
        first_interrupt("Finishing the steps at hand and keeping everything.") as interrupted,
        board() as say,
    ):
        sweep = Sweep(plans, todo, say)
        sweep.make(interrupted)
    return (
        say_interrupted(plans, sweep.state.status)
        if sweep.state.stopping
        else conclude(plans, sweep.state.status, sweep.mistakes, table)
    )


def unfinished(plans: Sequence[Plan]) -> list[Plan]:
    """Those that have no row or a failed one; a line says how many. UserError where the folder cannot be written."""
    folder = plans[0].results
    check_writable(folder)
    status = tables.statuses(folder, [plan.run for plan in plans])
    todo = []
    for plan in plans:
        if status.get(plan.run, "failed") == "failed":
            todo.append(plan)
        else:
            plan.run_folder.clear_if_abandoned()
    print(
        f"{len(plans)} runs, {len(plans) - len(todo)} of them finished already, {len(todo)} to do, into {folder}",
        flush=True,
    )
    return todo


def conclude(
    plans: Sequence[Plan], status: Mapping[str, str], mistakes: Sequence[str] = (), table: bool = True
) -> int:
    """The `table` of all runs, the commands of those that failed, and the exit code. UserError with the mistakes, if there are any."""
    if table:
        show.summary(plans[0].results, [plan.run for plan in plans])
    failed = [plan for plan in plans if status.get(plan.run) == "failed"]
    for plan in failed:
        print(f"failed: {plan.command}", file=sys.stderr)
    if mistakes:
        missing = sum(status.get(plan.run, "not made") == "not made" for plan in plans)
        raise UserError(
            " ".join(mistakes)
            + f" ({missing} of {len(plans)} runs were not made; the same command goes on from there.)"
        )
    return 1 if failed else 0


def say_interrupted(plans: Sequence[Plan], status: Mapping[str, str]) -> int:
    done = sum(status.get(plan.run) in ("done", "diverged") for plan in plans)
    message = f"clipbench: Interrupted, {done} of {len(plans)} runs are done. Nothing is lost: the same command goes on from there."
    print(message, file=sys.stderr)
    return 130
