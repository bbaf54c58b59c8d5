"""`--dry-run` in words: what there is to do and how long it should take."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from clipbench.cli.messages import duration, runs
from clipbench.cli.status import show_list
from clipbench.sweeps.estimate import Estimate, Left
from clipbench.sweeps.speed import NoSpeed, Speed

SLOTS_NAMED = 4


def announce(text: str) -> None:
    """Say what is about to be timed, since that takes seconds."""
    print(text, file=sys.stderr, flush=True)


def show_estimate(found: Estimate) -> None:
    """What is finished and what is not, how that would be made, what each kind of run costs, and the sum."""
    todo = found.left.runs
    for unread in found.unread:
        print(
            f"Data not hashed yet: {unread}, once, when the first run begins. Which runs of it are finished "
            "is known then."
        )
    finished = f"{found.finished} finished"
    if found.diverged:
        finished += f" ({found.diverged} diverged)"
    print(f"{runs(found.runs)} into {found.results}: {finished}, {todo} to do")
    if not todo:
        return
    print(
        f"  {found.new} new, {found.unfinished} unfinished that resume from a checkpoint, "
        f"{found.failed} failed that are tried again"
    )
    if found.launcher:
        print(f"  a job each for {found.launcher}, which decides how many at a time")
    else:
        print(f"  side by side: {_group_words(found.group_sizes)}; on {_slot_words(found.slots)}")
    lines = []
    for each in found.kinds:
        kind = each.kind
        what = f"{kind.task} ({kind.scale}) · {kind.optimizer}"
        lines.append([what, runs(each.runs), f"{each.steps} steps left", speed_words(each.speed)])
    show_list(lines)
    if found.left.known:
        print(
            f"About {left_words(found.left)}: steps and what validation was timed, without test and loading, "
            "as if no batches were shared."
        )


def _group_words(sizes: Sequence[int]) -> str:
    """ "2 groups of 3 runs, 1 group of 1 run"."""
    parts = []
    for size, count in Counter(sizes).items():
        groups = "1 group" if count == 1 else f"{count} groups"
        parts.append(f"{groups} of {runs(size)}")
    return ", ".join(parts)


def _slot_words(names: Sequence[str]) -> str:
    """ "2 slots: cpu #1, cpu #2"."""
    if len(names) == 1:
        return f"1 slot: {names[0]}"
    more = " …" if len(names) > SLOTS_NAMED else ""
    return f"{len(names)} slots: {', '.join(names[:SLOTS_NAMED])}{more}"


def speed_words(speed: Speed | NoSpeed) -> str:
    """ "0.021 s a step and 0.2 s a validation, timed over 20 steps just now"."""
    if isinstance(speed, NoSpeed):
        return f"no estimate: {speed.reason}"
    text = f"{speed.step:.3g} s a step"
    if speed.validation:
        text += f" and {speed.validation:.2g} s a validation"
    if speed.finished_runs:
        return f"{text}, the median of {runs(speed.finished_runs)}"
    count = "1 step" if speed.timed_steps == 1 else f"{speed.timed_steps} steps"
    longer = "" if speed.validation else "; validation takes longer"
    return f"{text}, timed over {count} just now{longer}"


def left_words(left: Left) -> str:
    """ "4 min", or "4 min for 4 of the 8 runs" where the rest is not known."""
    text = duration(left.seconds)
    if left.known < left.runs:
        text += f" for {left.known} of the {runs(left.runs)}"
    return text
