"""What is known of a sweep while it is made, from its events alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from clipbench.cli.latest import Latest
from clipbench.cli.messages import duration
from clipbench.cli.result import outcome
from clipbench.runs.events import Ended, Event, MadeElsewhere, Progress, Rows
from clipbench.runs.plan import Plan

KNOWN_AFTER = 3.0  # seconds until the speed says something about the rest
PART = " · "  # between the parts of a run's label, and of the summary


class Overview:
    """Where a sweep of `plans` is, and at what pace."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = {plan.run: plan for plan in plans}
        self.progress = Progress()
        self.statuses: dict[str, str] = {}  # of the runs that have ended
        self.at: dict[str, Latest] = {}  # of the runs at work
        self.pace = Pace()

    def take(self, event: Event) -> str:
        """The line of a run that has ended with this event; "" for none."""
        match event:
            case Progress():
                self._take_progress(event)
            case Rows():
                self.at.setdefault(event.run, Latest()).take(event)
            case Ended(run, row):
                return self._ended(run, row["status"], outcome(row))
            case MadeElsewhere(run, _, status) if status:
                return self._ended(run, status, f"{status}, by another process")
        return ""

    def _take_progress(self, progress: Progress) -> None:
        self.progress = progress
        self.statuses = dict(progress.statuses)
        working = set().union(*progress.making.values())
        self.at = {run: latest for run, latest in self.at.items() if run in working}
        self.pace.take(self)

    def _ended(self, run: str, status: str, what: str) -> str:
        """ "7/18  cola (mini) · adamw · none · seed 0  mcc 0.71 on test, …"."""
        self.statuses[run] = status
        self.pace.take(self)
        ended = sum(status != "not made" for status in self.statuses.values())
        return f"{ended}/{len(self.plans)}  {self.plans[run].label}  {what}"

    @property
    def at_work(self) -> list[tuple[str, list[Plan]]]:
        """By slot, the runs there that have not ended."""
        found = []
        for slot, runs in self.progress.making.items():
            left = [run for run in runs if run not in self.statuses and run not in self.progress.elsewhere]
            found.append((slot, [self.plans[run] for run in left]))
        return found

    @property
    def counts(self) -> str:
        """ "7 of 18 runs done, 1 of them diverged · 4 running · 7 waiting · about 3 min left"."""
        status = Counter(self.statuses.values())
        ended = status["done"] + status["diverged"] + status["stopped"]
        done = f"{ended} of {len(self.plans)} runs done"
        if status["diverged"]:
            done += f", {status['diverged']} of them diverged"
        parts = [done]
        if status["failed"]:
            parts.append(f"{status['failed']} failed")
        if status["not made"]:
            parts.append(f"{status['not made']} not possible")
        parts.append(f"{sum(len(group) for _, group in self.at_work)} running")
        if self.progress.waiting:
            parts.append(f"{self.progress.waiting} waiting")
        if self.progress.elsewhere:
            parts.append(f"{len(self.progress.elsewhere)} made by another process")
        left = self.pace.left(self)
        if self.progress.stopping:
            parts.append("finishing the steps at hand")
        elif left is not None:
            parts.append(f"about {duration(left)} left")
        return PART.join(parts)


class Pace:
    """Steps made since the first were seen, over all runs, and what that says about the rest."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.seen: dict[str, float] = {}
        self.started = self.now = time.monotonic()

    def take(self, sweep: Overview) -> None:
        self.now = time.monotonic()
        for run, latest in sweep.at.items():
            if run not in self.first:
                self.first[run], self.seen[run] = latest.step, self.now
            self.steps[run] = latest.step
        for run in sweep.statuses:
            if run in self.first:
                self.steps[run] = max(self.steps[run], sweep.plans[run].last_step)

    def speed(self, run: str) -> float:
        """Steps per second of one run."""
        steps = self.steps.get(run, 0) - self.first.get(run, 0)
        return steps / max(1e-9, self.now - self.seen.get(run, self.now))

    def left(self, sweep: Overview) -> float | None:
        """Seconds until nothing is left, at the speed so far; None while that is not known."""
        steps = sum(self.steps[run] - self.first[run] for run in self.first)
        if not steps or self.now - self.started < KNOWN_AFTER:
            return None
        rest = 0
        for run, plan in sweep.plans.items():
            if run not in sweep.statuses:
                rest += plan.last_step - self.steps.get(run, 0)
        return rest * (self.now - min(self.seen.values())) / steps
