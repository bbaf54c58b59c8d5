"""What happens to runs while they are made: one stream, whoever makes them and wherever it is heard. Of each
run Begun or Resumed, Rows, and as its end Ended, MadeElsewhere or Refused.

Events name a run by its id, are small, and pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipbench.record.rows import EvalRow, StepRow


@dataclass(frozen=True)
class Begun:
    """It is loaded and at its first step: again, where what was made of it is lost."""

    run: str


@dataclass(frozen=True)
class Resumed:
    """It is loaded and goes on from its checkpoint after `step`. Rows with the last ones before it follow."""

    run: str
    step: int


@dataclass(frozen=True)
class Rows:
    """Rows that have become readable, oldest first. `clipped`: the share of all the run's steps so far that
    were clipped, those skipped left out.
    """

    run: str
    rows: tuple[StepRow | EvalRow, ...]
    clipped: float

    def thinned(self, earlier: Rows | None = None) -> Rows:
        """The last step and the last evaluation of these, or of `earlier` ones of the run."""
        before = earlier.rows if earlier else ()
        return Rows(self.run, last_rows([*before, *self.rows]), self.clipped)


def last_rows(rows: Sequence[StepRow | EvalRow]) -> tuple[StepRow | EvalRow, ...]:
    """Of rows, oldest first, those of the last step and of the last evaluation."""
    steps = [row for row in rows if isinstance(row, StepRow)]
    evals = [row for row in rows if isinstance(row, EvalRow)]
    return (*steps[-1:], *[row for row in evals if row.step == evals[-1].step])


@dataclass(frozen=True)
class Ended:
    """It is recorded; `row`: its row of `runs`, empty where another process wrote it and it cannot be
    read.
    """

    run: str
    row: dict[str, Any]


@dataclass(frozen=True)
class MadeElsewhere:
    """It is left to another process: `owner`, who makes it; or, "" while it is being made, the `status` with
    which it has ended there.
    """

    run: str
    owner: str
    status: str = ""


@dataclass(frozen=True)
class Refused:
    """It cannot be made or recorded before the user mends something: `mistake`. Others go on.

    `differs`: it is recorded, and came out otherwise when it was trained again for its weights.
    """

    run: str
    mistake: str
    differs: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a sweep is; comes several times a second, and tells of no run by itself.

    `statuses`: of the runs that have ended, now or before, and "not made" of those refused. `making`: by
    slot, the runs of its group. `waiting`: how many are waiting for a slot. `elsewhere`: those that another
    process makes. `stopping`: whether it was asked to stop.
    """

    statuses: Mapping[str, str] = field(default_factory=dict)
    making: Mapping[str, Sequence[str]] = field(default_factory=dict)
    waiting: int = 0
    elsewhere: frozenset[str] = frozenset()
    stopping: bool = False


Event = Begun | Resumed | Rows | Ended | MadeElsewhere | Refused | Progress

Sink = Callable[[Event], None]
"""Is called with each event in turn. What it raises harms nothing: it is told no more."""
