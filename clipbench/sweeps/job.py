"""One run of a sweep in a process that another engine started for it: a joblib worker, a Slurm job, a ray task."""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipbench.errors import UserError
from clipbench.runs.lockstep import record_failure, train_group
from clipbench.runs.plan import make_plan

LOOK = 0.5  # seconds between looks for the word to stop
PLANS, STOP = (
    "plans.json",
    "stop",
)  # the files of a launch: {run: words that ask for it}; there once all jobs are to stop


@dataclass(frozen=True)
class Job:
    """What a launcher calls. Small and picklable: the words that ask for the runs lie in `desk`, so Hydra's grammar never sees them."""

    folder: str  # where the sweep was started
    desk: Path  # the folder of this launch
    config_dir: Path | None

    def __call__(self, config: Any) -> tuple[str, str]:
        """ "ended", "elsewhere" (who makes it), "stopped" with a checkpoint, "mistake" or "lost" (why). Never raises for a run."""
        os.chdir(self.folder)
        try:
            with told_to_stop(self.desk / STOP) as stopped:
                return self._make(config["run"], stopped)
        except UserError as error:
            return "mistake", str(error)
        except Exception as error:
            return "lost", f"{type(error).__name__}: {error}"

    def _make(self, run: str, stopped: Callable[[], bool]) -> tuple[str, str]:
        plan = make_plan(json.loads((self.desk / PLANS).read_text(encoding="utf-8"))[run], self.config_dir)
        if plan.run != run:
            raise UserError(f"{plan.label}: its source or data changed after the sweep was started.")
        try:
            for news in train_group([plan], stopped):
                if news.elsewhere:
                    return "elsewhere", news.elsewhere
                if news.row:
                    return "ended", news.row["status"]
        except UserError:
            raise
        except Exception:
            return "ended", record_failure(plan, traceback.format_exc())["status"]
        return "stopped", ""


@contextmanager
def told_to_stop(word: Path) -> Iterator[Callable[[], bool]]:
    """A function that says whether to write a checkpoint and stop: a signal has come, or `word` is there.

    A signal that the engine handles itself is handed on afterwards: submitit's answer to Slurm's warning of the end of the
    job's time, or of preemption, is to queue the job again.
    """
    seen: dict[int, None] = {}
    looked = 0.0

    def stopped() -> bool:
        nonlocal looked
        if not seen and time.monotonic() - looked > LOOK:
            looked = time.monotonic()
            return word.exists()
        return bool(seen)

    before = _listen(lambda number, _: seen.setdefault(number))
    try:
        yield stopped
    finally:
        for number, theirs in before.items():
            signal.signal(number, theirs)
        for number in seen:
            theirs = before[number]
            if callable(theirs) and theirs is not signal.default_int_handler:
                theirs(number, None)


def _listen(note: Callable[[int, Any], Any]) -> dict[int, Any]:
    """Take over the signals that ask a job to end, the user's two only where the engine uses them. What handled them before."""
    before: dict[int, Any] = {}
    engine = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
    wanted = [
        signal.SIGINT,
        signal.SIGTERM,
        *(number for number in engine if callable(signal.getsignal(number))),
    ]
    try:
        for number in wanted:
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread, where no signal arrives
        pass
    return before
