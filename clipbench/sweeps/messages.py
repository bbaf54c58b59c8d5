"""What a worker process tells the sweep besides the events of its runs."""

from __future__ import annotations

from dataclasses import dataclass

from clipbench.runs.events import Event


@dataclass(frozen=True)
class GroupLeft:
    """The worker is done with its group: every run has ended, or it was asked to stop."""


@dataclass(frozen=True)
class MistakeFound:
    """The group cannot be made, for a reason that the user can mend."""

    text: str


@dataclass(frozen=True)
class GroupFailed:
    """What the runs of the group share has raised."""

    traceback: str


@dataclass(frozen=True)
class WorkerDied:
    """The process has ended: always the last message. `report`: how, with the lines in which it crashed."""

    report: str


Message = Event | GroupLeft | MistakeFound | GroupFailed | WorkerDied
