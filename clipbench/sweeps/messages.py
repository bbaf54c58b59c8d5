"""What a worker process tells the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipbench.runs.latest import Latest


@dataclass(frozen=True)
class StepsMade:
    """By run id, of the runs that have made some since the message before."""

    latest: Mapping[str, Latest]


@dataclass(frozen=True)
class RunEnded:
    """A run is recorded; `row` is its row of `runs`."""

    run: str
    row: dict[str, Any]


@dataclass(frozen=True)
class RunRefused:
    """A run cannot be made or recorded before the user mends something; the others of its group go on."""

    run: str
    mistake: str


@dataclass(frozen=True)
class MadeElsewhere:
    """A run is left to `owner`, another process that makes it; "finished" where it is made already."""

    run: str
    owner: str


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


Message = (
    StepsMade | RunEnded | RunRefused | MadeElsewhere | GroupLeft | MistakeFound | GroupFailed | WorkerDied
)
