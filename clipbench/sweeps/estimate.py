"""`--dry-run`: what a sweep or a study would do and how long the rest should take. Makes no run and writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from clipbench.runs.plan import Plan, statuses, with_parents
from clipbench.sweeps.groups import arrange
from clipbench.sweeps.speed import Kind, NoSpeed, Speed, seconds_per_step, time_steps
from clipbench.task.content import Unread

Known = dict[Kind, Speed | NoSpeed]


@dataclass(frozen=True)
class Left:
    """What is still to do: runs, seconds until the last of those whose speed is known is done, and how many
    these are.
    """

    runs: int = 0
    seconds: float = 0.0
    known: int = 0

    def __add__(self, other: Left) -> Left:
        """One after the other."""
        return Left(self.runs + other.runs, self.seconds + other.seconds, self.known + other.known)


@dataclass(frozen=True)
class KindLeft:
    """The runs of one kind that are still to do, the steps they lack together, and what a step costs."""

    kind: Kind
    runs: int
    steps: int
    speed: Speed | NoSpeed


@dataclass(frozen=True)
class Estimate:
    """`runs` are asked for, `finished` of them are there, `diverged` of these diverged. Of the rest, `new`
    ones begin, `unfinished` ones resume from a checkpoint, `failed` ones are tried again.

    `group_sizes`: how many go side by side, a number for each group; `slots`: the names of where. With a
    launcher both are empty: it gets a job a run and decides. `launcher`: the override that chose it, or "".
    `unread`: data that are not hashed yet; their runs count as new.
    """

    results: Path
    runs: int
    finished: int
    diverged: int
    new: int
    unfinished: int
    failed: int
    group_sizes: tuple[int, ...]
    slots: tuple[str, ...]
    launcher: str
    unread: tuple[Unread, ...]
    kinds: tuple[KindLeft, ...]
    left: Left


def estimate(
    plans: Sequence[Plan],
    launcher: Sequence[str] = (),
    known: Known | None = None,
    announce: Callable[[str], None] = lambda text: None,
    begins: Mapping[str, int] | None = None,
) -> Estimate:
    """What making these runs would mean, with those that they start from.

    `launcher`: the overrides that choose another engine. `known`: speeds that were found before; new ones are
    added. `announce` is told what is about to be timed, since that takes seconds. `begins`, by run id: the
    step that a run will have come to before, where that is further than it is now.
    """
    plans = with_parents(plans)
    results = plans[0].results
    status = statuses(plans)
    todo = [plan for plan in plans if status.get(plan.run, "failed") == "failed"]
    begins = begins or {}
    made = {plan.run: max(plan.run_folder.checkpoint_step(), begins.get(plan.run, 0)) for plan in todo}
    failed = unfinished = 0
    for plan in todo:
        if plan.run in status:
            failed += 1
        elif made[plan.run] > 0:
            unfinished += 1
    groups, slots = [todo], [""]
    if todo and not launcher:
        groups, places = arrange(todo)
        slots = [slot.name for slot in places]
    known = {} if known is None else known
    kinds = _kinds_left(todo, made, known, announce)
    return Estimate(
        results=results,
        runs=len(plans),
        finished=len(plans) - len(todo),
        diverged=list(status.values()).count("diverged"),
        new=len(todo) - failed - unfinished,
        unfinished=unfinished,
        failed=failed,
        group_sizes=() if launcher else tuple(len(group) for group in groups if group),
        slots=() if launcher else tuple(slot for slot in slots if slot),
        launcher=launcher[0] if launcher else "",
        unread=tuple(dict.fromkeys(unread for plan in plans for unread in plan.unread)),
        kinds=kinds,
        left=_left(groups, made, len(slots), known),
    )


def _kinds_left(
    todo: Sequence[Plan], made: Mapping[str, int], known: Known, announce: Callable[[str], None]
) -> tuple[KindLeft, ...]:
    """Each kind of run with its speed, found where it is not known. `made`: the steps of each run."""
    if not todo:
        return ()
    measured = seconds_per_step(todo[0].results)
    by_kind: dict[Kind, list[Plan]] = {}
    for plan in todo:
        by_kind.setdefault(Kind.of(plan), []).append(plan)
    found = []
    for kind, plans in by_kind.items():
        if kind in measured:
            known[kind] = Speed(median(measured[kind]), finished_runs=len(measured[kind]))
        elif plans[0].unread:
            known[kind] = NoSpeed("its data are not hashed yet")
        elif kind not in known:
            announce(f"timing a few steps of {kind} …")
            known[kind] = time_steps(plans[0])
        steps = sum(_steps_left(plan, made) for plan in plans)
        found.append(KindLeft(kind, len(plans), steps, known[kind]))
    return tuple(found)


def _left(groups: Sequence[Sequence[Plan]], made: Mapping[str, int], slots: int, known: Known) -> Left:
    """The slots share the work evenly, and none is done before its longest group. A run's steps and what
    validation was timed; no test and no loading, and as if no batches were shared.
    """
    runs = with_speed = 0
    group_seconds = []
    for group in groups:
        seconds = 0.0
        for plan in group:
            runs += 1
            speed = known[Kind.of(plan)]
            if isinstance(speed, Speed):
                with_speed += 1
                seconds += _steps_left(plan, made) * speed.step
                seconds += _validations_left(plan, made) * speed.validation
        group_seconds.append(seconds)
    total = max(sum(group_seconds) / slots, *group_seconds)
    return Left(runs, total, with_speed)


def _steps_left(plan: Plan, made: Mapping[str, int]) -> int:
    return 0 if plan.transform else max(0, plan.last_step - made[plan.run])


def _validations_left(plan: Plan, made: Mapping[str, int]) -> int:
    if plan.transform:
        return 1
    done, steps, every = made[plan.run], plan.last_step, plan.settings.eval_every
    at_the_end = steps % every > 0
    return max(0, steps // every - done // every + at_the_end)
