"""Where a sweep is: everything that a listener may show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clipbench.runs.latest import Latest
from clipbench.runs.plan import Plan
from clipbench.sweeps.slots import Slot


@dataclass
class SweepState:
    """Everything that a listener may show. The runs are named by their ids."""

    plans: dict[str, Plan]
    slots: list[Slot]
    status: dict[str, str]  # of the runs that have ended
    waiting: deque[list[Plan]] = field(default_factory=deque)
    at: dict[str, Latest] = field(default_factory=dict)  # of the runs at work
    elsewhere: dict[str, str] = field(default_factory=dict)  # run: who makes it
    making: dict[str, list[Plan]] = field(default_factory=dict)  # slot's name: its group
    already: int = 0  # finished before this sweep began
    stopping: bool = False


Listener = Callable[[SweepState, Plan | None, dict[str, Any] | None], None]
"""Is told the state now and then; and each run that ends, with its row of `runs` (None where another process
made it).
"""
