"""One run of a sweep in a process that another engine started for it: a joblib worker, a Slurm job, a ray
task.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from clipbench.errors import RAISED, UserError
from clipbench.interrupt import stop_signals
from clipbench.output import lasting_output
from clipbench.record.folder import LaunchFolder
from clipbench.runs.ending import record_failure
from clipbench.runs.events import Ended, MadeElsewhere, Refused
from clipbench.runs.lockstep import train_group
from clipbench.runs.plan import make_plan

CHECK_EVERY = 0.5  # seconds between looks for the request to stop


@dataclass(frozen=True)
class JobReport:
    """How a job ended: its run has "ended" (`text`: its status), is made "elsewhere" (by whom, or
    how it has ended there), has "stopped" with a checkpoint, cannot be made for a "mistake" of the
    user's, or was "lost" (why).
    """

    kind: Literal["ended", "elsewhere", "stopped", "mistake", "lost"]
    text: str = ""


@dataclass(frozen=True)
class Job:
    """What a launcher calls. Small and picklable: what asks for the runs lies in the launch's folder, so
    Hydra's grammar never sees it.
    """

    started_in: str
    launch_folder: Path
    config_dir: Path | None

    def __call__(self, config: Any) -> JobReport:
        """Make the run that `config["run"]` names. Never raises for a run."""
        os.chdir(self.started_in)
        folder = LaunchFolder(self.launch_folder)
        try:
            with lasting_output(), stop_requests(folder) as stopped:
                return self._train(folder, config["run"], stopped)
        except UserError as error:
            return JobReport("mistake", str(error))
        except Exception as error:
            return JobReport("lost", f"{type(error).__name__}: {error}")

    def _train(self, folder: LaunchFolder, run: str, stopped: Callable[[], bool]) -> JobReport:
        """Until the run has ended, somebody else is found to make it, or `stopped()`.

        UserError for a mistake.
        """
        asked = folder.plan_of(run)
        plan = replace(make_plan(asked["overrides"], self.config_dir), until=asked["until"])
        if plan.run != run:
            raise UserError(f"{plan.label}: its source or data changed after the sweep was started.")
        try:
            for event in train_group([plan], stopped):
                match event:
                    case Ended(row=row):
                        return JobReport("ended", row["status"])
                    case Refused(mistake=mistake):
                        raise UserError(mistake)
                    case MadeElsewhere(owner=owner, status=status):
                        return JobReport("elsewhere", owner or status)
        except UserError:
            raise
        except RAISED:
            return JobReport("ended", record_failure(plan, traceback.format_exc())["status"])
        return JobReport("stopped")


@contextmanager
def stop_requests(folder: LaunchFolder) -> Iterator[Callable[[], bool]]:
    """A function that says whether to write a checkpoint and stop: a signal has come, or the launch asks for
    it.

    A signal that the engine handles itself is handed on afterwards: submitit's answer to Slurm's warning of
    the end of the job's time, or of preemption, is to queue the job again.
    """
    received: list[int] = []
    checked = 0.0

    def stopped() -> bool:
        nonlocal checked
        if not received and time.monotonic() - checked > CHECK_EVERY:
            checked = time.monotonic()
            return folder.stop_is_requested
        return bool(received)

    before = _take_over_signals(lambda number, frame: received.append(number))
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(received):
            handler = before[number]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(number, None)


def _take_over_signals(handler: Callable[[int, Any], Any]) -> dict[int, Any]:
    """`handler` for the signals that ask a job to end, the user's two only where the engine uses them. What
    handled them before.
    """
    wanted = stop_signals()
    for name in ("SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None and callable(signal.getsignal(number)):
            wanted.append(number)
    before: dict[int, Any] = {}
    try:
        for number in wanted:
            before[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread, where no signal arrives
        pass
    return before
