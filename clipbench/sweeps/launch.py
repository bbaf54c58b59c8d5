"""The runs of a sweep as single jobs of another engine, through Hydra's launchers, into the same results
folder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra.plugins.launcher import Launcher

from clipbench.errors import UserError
from clipbench.interrupt import never
from clipbench.output import listening
from clipbench.record import tables
from clipbench.record.files import table_path
from clipbench.record.folder import LaunchFolder
from clipbench.runs.ending import orphaned
from clipbench.runs.events import Ended, Refused, Sink
from clipbench.runs.plan import Plan, statuses, with_parents
from clipbench.sweeps.engine import make_launcher
from clipbench.sweeps.job import JobReport
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.scheduler import LOOK_AGAIN, unfinished

WATCH_EVERY = 0.2  # seconds between looks whether to stop


def launch(
    plans: Sequence[Plan],
    launcher_overrides: Sequence[str],
    config_dir: Path | None = None,
    interrupted: Callable[[], bool] = never,
    sink: Sink | None = None,
) -> SweepOutcome:
    """Make the runs that are not finished, a job each, and say what became of all; those that others start
    from are made first. `sink` is called with the end of each, as soon as it is seen from here: Ended, or
    Refused.

    What is lost with a job is its own run, which resumes when the same sweep is made again; joblib's workers
    are lost together. Once `interrupted()`, every job is asked to stop, wherever it runs, through a file in
    the results folder. UserError where the launcher is unknown or never started a job.
    """
    plans = with_parents(plans)
    results = plans[0].results
    folder = LaunchFolder.new(results)
    launcher = make_launcher(launcher_overrides, config_dir, folder.path)
    todo = unfinished(plans)
    jobs, tell = LaunchedJobs(), listening(sink)
    parents = {plan.parent.run for plan in todo if plan.parent}
    if first := [plan for plan in todo if plan.run in parents]:
        jobs = _hand_out(launcher, first, folder, interrupted, tell)
    then = [plan for plan in todo if plan.run not in parents]
    then, jobs = _without_orphans(then, jobs, tell)
    if then and not (jobs.interrupted or jobs.error):
        jobs = jobs.followed_by(_hand_out(launcher, then, folder, interrupted, tell))
    ended = statuses(plans)
    left = [plan for plan in todo if plan.run not in ended]
    keeps_output = bool(left and jobs.error and folder.holds_output)
    if not keeps_output:
        folder.clear()
    started = len(left) < len(todo) or any(plan.run_folder.exists for plan in todo)
    if jobs.error and not started and not jobs.interrupted:
        where = f" What the jobs printed is in {folder.path}." if keeps_output else ""
        raise UserError(f"{' '.join(launcher_overrides)}: {jobs.error}{where}")
    notes = {}
    for plan in left:
        report = jobs.reports.get(plan.run, JobReport("lost"))
        if report.kind == "mistake":
            ended[plan.run] = "not made"
            tell(Refused(plan.run, report.text))
        if report.text:
            notes[plan.run] = report.text
    return SweepOutcome(
        plans=tuple(plans),
        statuses=ended,
        mistakes=jobs.mistakes,
        interrupted=jobs.interrupted,
        launcher_error=jobs.error,
        notes=notes,
        left_behind=str(folder.path) if keeps_output else "",
    )


def _without_orphans(
    plans: Sequence[Plan], jobs: LaunchedJobs, tell: Sink
) -> tuple[list[Plan], LaunchedJobs]:
    """Those whose parents were not refused, and what is reported of the others."""
    kept, reports = [], dict(jobs.reports)
    for plan in plans:
        report = jobs.reports.get(plan.parent.run) if plan.parent else None
        if report is None or report.kind != "mistake":
            kept.append(plan)
            continue
        event = orphaned(plan, report.text)
        if isinstance(event, Refused):
            reports[plan.run] = JobReport("mistake", event.mistake)
        else:
            tell(event)
    return kept, replace(jobs, reports=reports)


@dataclass(frozen=True)
class LaunchedJobs:
    """What the jobs reported, by run id; what went wrong with the launcher itself, "" if nothing did; whether
    the jobs were asked to stop.
    """

    reports: Mapping[str, JobReport] = field(default_factory=dict)
    error: str = ""
    interrupted: bool = False

    def followed_by(self, later: LaunchedJobs) -> LaunchedJobs:
        """Both."""
        return LaunchedJobs({**self.reports, **later.reports}, later.error, later.interrupted)

    @property
    def mistakes(self) -> tuple[str, ...]:
        """What kept jobs from making their runs, each message once, and the user can mend."""
        found = [report.text for report in self.reports.values() if report.kind == "mistake"]
        return tuple(dict.fromkeys(found))


def _hand_out(
    launcher: Launcher,
    todo: Sequence[Plan],
    folder: LaunchFolder,
    interrupted: Callable[[], bool],
    sink: Sink,
) -> LaunchedJobs:
    """Launch a job for each run and wait until no run is being made any more."""
    folder.write_plans({plan.run: {"overrides": plan.overrides, "until": plan.until} for plan in todo})
    reports: dict[str, JobReport] = {}
    error = ""
    with _watch(todo, folder, interrupted, sink):
        try:
            jobs: Any = launcher.launch([[f"+run={plan.run}"] for plan in todo], 0)
            for plan, job in zip(todo, jobs, strict=True):
                reports[plan.run] = job.return_value
        except Exception as raised:
            error = f"The launcher failed. {type(raised).__name__}: {shorten(str(raised), 240)}"
        # jobs that outlive the launcher, or other sweeps
        while not interrupted() and any(plan.run_folder.owner for plan in todo):
            time.sleep(LOOK_AGAIN)
        return LaunchedJobs(reports, error, interrupted())


@contextmanager
def _watch(
    todo: Sequence[Plan],
    folder: LaunchFolder,
    interrupted: Callable[[], bool],
    sink: Sink,
) -> Iterator[None]:
    """Meanwhile, `sink` is told each run that ends; once `interrupted()`, the jobs are asked to stop."""
    waiting = {plan.run: _written(plan) for plan in todo}
    over = threading.Event()

    def look() -> None:
        for plan in todo:
            if plan.run not in waiting or _written(plan) == waiting[plan.run]:
                continue
            del waiting[plan.run]
            rows = tables.read(plan.results, "runs", runs=[plan.run])
            sink(Ended(plan.run, dict(rows.iloc[0]) if len(rows) else {}))

    def keep_looking() -> None:
        looked = time.monotonic()
        while not over.wait(WATCH_EVERY):
            if interrupted():
                folder.request_stop()
            if time.monotonic() - looked > LOOK_AGAIN:
                look()
                looked = time.monotonic()

    thread = threading.Thread(target=keep_looking, daemon=True, name="clipbench jobs")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def _written(plan: Plan) -> int:
    """When the run's row was written; 0 without one."""
    with suppress(OSError):
        return table_path(plan.results, "runs", plan.run).stat().st_mtime_ns
    return 0
