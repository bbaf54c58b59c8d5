"""What became of a sweep, or of one phase of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clipbench.record.rows import ENDED
from clipbench.runs.plan import Plan


@dataclass(frozen=True)
class SweepOutcome:
    """`statuses`, by run id: done, diverged, stopped, timeout or failed of the runs that have ended, now or
    before; "not made" of those whose data or settings were found wrong, for the reasons in `mistakes`.

    `interrupted`: it was asked to stop; the runs without a status resume when the same sweep is made again.
    `launcher_error`: what went wrong with the launcher itself, "" if nothing did. `notes`, by run id: what a
    launched job said of a run that has not ended. `left_behind`: the folder with what the jobs printed.
    """

    plans: tuple[Plan, ...]
    statuses: Mapping[str, str]
    mistakes: tuple[str, ...] = ()
    interrupted: bool = False
    launcher_error: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    left_behind: str = ""

    def with_status(self, *statuses: str) -> list[Plan]:
        return [plan for plan in self.plans if self.statuses.get(plan.run) in statuses]

    @property
    def finished(self) -> list[Plan]:
        """Done, diverged or stopped where they were to be, now or before."""
        return self.with_status("done", "diverged", "stopped")

    @property
    def failed(self) -> list[Plan]:
        return self.with_status("failed")

    @property
    def out_of_time(self) -> list[Plan]:
        """Those that go on with a larger max_time."""
        return self.with_status("timeout")

    @property
    def not_made(self) -> list[Plan]:
        """Neither finished nor failed."""
        return [plan for plan in self.plans if self.statuses.get(plan.run) not in ENDED]

    @property
    def is_complete(self) -> bool:
        """Whether every run is finished."""
        return len(self.finished) == len(self.plans)
