"""Which runs of a sweep go side by side, and on how many slots."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from clipbench.runs.lockstep import group_key
from clipbench.runs.plan import Plan
from clipbench.sweeps.slots import Slot, slots

TOLERANCE = 1.1  # the slots may take so much longer with groups than with single runs


def arrange(todo: Sequence[Plan]) -> tuple[list[list[Plan]], list[Slot]]:
    """What would go side by side, and the slots there are, by the settings that all plans share."""
    settings = todo[0].settings
    places = slots(settings.device, settings.threads, settings.sweep.workers_per_device)
    most = settings.sweep.most_side_by_side(len(todo))
    return groups_of(todo, most, len(places)), places


def groups_of(plans: Iterable[Plan], most: int, slots: int) -> list[list[Plan]]:
    """Runs that can go side by side, at most `most` of them, the largest group first; split further where
    slots would else wait.

    That is: until the slots, each taking the next group when it is free, are done within a tenth of what
    single runs would need.
    """
    compatible: dict[str, list[Plan]] = {}
    for plan in plans:
        compatible.setdefault(group_key(plan), []).append(plan)
    groups: list[list[Plan]] = []
    singles: list[list[Plan]] = []
    for members in compatible.values():
        parts_needed = -(-len(members) // most)
        groups += _split(members, parts_needed)
        singles += _split(members, len(members))
    singles.sort(key=_steps_left, reverse=True)
    alone = _makespan(singles, slots)
    while groups:
        groups.sort(key=_steps_left, reverse=True)
        largest = max(groups, key=len)
        if len(largest) == 1 or _makespan(groups, slots) <= TOLERANCE * alone:
            break
        groups.remove(largest)
        groups += _split(largest, 2)
    return groups


def _split(group: list[Plan], count: int) -> list[list[Plan]]:
    """`count` parts whose sizes differ by one at most."""
    return [group[i::count] for i in range(count)]


def _steps_left(group: list[Plan]) -> int:
    return sum(plan.steps_left for plan in group)


def _makespan(groups: list[list[Plan]], slots: int) -> float:
    """When the last slot is done, in steps."""
    ends = [0] * slots
    for group in groups:
        heapq.heappush(ends, heapq.heappop(ends) + _steps_left(group))
    return max(ends)
