"""`clipbench sweep`: the runs of a grid, with a live table and a table at the end."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from clipbench.api import mistakes_in, plan_sweep
from clipbench.cli.estimate import announce, show_estimate
from clipbench.cli.live import live_table
from clipbench.cli.messages import DONE, FAILED, INTERRUPTED, MISTAKE, runs, say, say_interrupt, show_remarks
from clipbench.cli.result import outcome, show_summary
from clipbench.errors import UserError
from clipbench.interrupt import first_interrupt
from clipbench.output import only_shown, shown_by
from clipbench.runs.events import Ended, Event
from clipbench.runs.plan import Plan, with_parents
from clipbench.runs.remarks import remarks
from clipbench.sweeps.engine import make_launcher
from clipbench.sweeps.estimate import estimate
from clipbench.sweeps.grid import points, split_launcher
from clipbench.sweeps.launch import launch
from clipbench.sweeps.outcome import SweepOutcome
from clipbench.sweeps.scheduler import make_runs, unfinished
from clipbench.task.content import Contents

STOPPING = "Finishing the steps at hand and keeping everything."
JOBS_STOPPING = "The jobs finish their steps and keep everything."


def sweep(options: Namespace) -> int:
    """Make what is not finished, or say what that would mean."""
    plans, launcher = plan_sweep(
        options.overrides, options.config_dir, Contents(read=not options.dry_run, announce=announce)
    )
    with only_shown("Notes on the settings cannot be made"):
        show_remarks([*_fewer_runs(options, plans), *remarks(plans)])
    if options.dry_run:
        found = estimate(plans, launcher, announce=announce)
        show_estimate(found)
        if found.left.runs:
            print("Nothing was started.")
        return DONE
    if launcher:  # a mistake in its settings is said before anything else
        make_launcher(launcher, options.config_dir, plans[0].results)
    ended = make_and_show(plans, launcher, options.config_dir)
    if not ended.interrupted:
        with only_shown("The table of the runs cannot be shown"):
            show_summary(plans[0].results, [plan.run for plan in plans])
    show_what_is_lacking(ended)
    if ended.mistakes and not ended.interrupted:
        raise UserError(mistakes_in(ended))
    return exit_code(ended)


def _fewer_runs(options: Namespace, plans: Sequence[Plan]) -> list[str]:
    overrides, _ = split_launcher(options.overrides)
    asked = len(points(overrides, options.config_dir))
    if asked == len(plans):
        return []
    return [
        f"the grid has {asked} points and {runs(len(plans))}: points that differ only in what they do not "
        "use are one run."
    ]


def make_and_show(plans: Sequence[Plan], launcher: Sequence[str], config_dir: Path | None) -> SweepOutcome:
    """Make the runs that are not finished, in workers or by a launcher, and show how far they are."""
    asked = {plan.run for plan in plans}
    plans = with_parents(plans)
    todo = unfinished(plans)
    finished = len(plans) - len(todo)
    behind = len(plans) - len(asked)
    count = f"{len(asked)} runs and {behind} that they start from" if behind else f"{len(asked)} runs"
    print(
        f"{count}, {finished} of them finished already, {len(todo)} to do, into {plans[0].results}",
        flush=True,
    )
    if not todo:
        return make_runs(plans)
    if launcher:
        with first_interrupt(say_interrupt(JOBS_STOPPING)) as interrupted:
            return launch(plans, launcher, config_dir, interrupted, EndedJobs(todo))
    with first_interrupt(say_interrupt(STOPPING)) as interrupted, shown_by(live_table(plans)) as sink:
        return make_runs(plans, interrupted, sink)


class EndedJobs:
    """A line for each of `plans` that ends."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.labels, self.ended = {plan.run: plan.label for plan in plans}, 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.ended += 1
            said = outcome(event.row) if event.row else ""
            count = f"{self.ended}/{len(self.labels)}"
            print(f"{count}  {self.labels[event.run]}  {said}", file=sys.stderr, flush=True)


def show_what_is_lacking(ended: SweepOutcome) -> None:
    """The commands of the runs that failed or have not ended, and why; not the user's mistakes."""
    if ended.interrupted:
        say(
            f"Interrupted, {len(ended.finished)} of {len(ended.plans)} runs are done. Nothing is lost: "
            "re-run the same command to resume.",
            INTERRUPTED,
        )
        return
    for plan in ended.failed:
        print(f"failed: {plan.command}", file=sys.stderr)
    if ended.mistakes:
        return
    if ended.launcher_error:
        where = f" What the jobs printed is in {ended.left_behind}." if ended.left_behind else ""
        say(f"{ended.launcher_error}{where}", FAILED)
    for plan in ended.out_of_time:
        print(f"out of time, to go on give a larger max_time: {plan.command}", file=sys.stderr)
    for plan in ended.not_made:
        note = ended.notes.get(plan.run, "")
        print(f"not finished: {plan.command}  {note}".rstrip(), file=sys.stderr)
    if ended.not_made:
        print("Re-run the same sweep to resume them.", file=sys.stderr)


def exit_code(ended: SweepOutcome) -> int:
    """130 after an interrupt, 2 for the user's mistakes, 1 where runs failed or are missing, else 0."""
    if ended.interrupted:
        return INTERRUPTED
    if ended.mistakes:
        return MISTAKE
    return DONE if ended.is_complete and not ended.launcher_error else FAILED
