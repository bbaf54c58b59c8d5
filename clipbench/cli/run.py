"""`clipbench run`: one run, with its result."""

from __future__ import annotations

import sys
from argparse import Namespace

from clipbench.api import finished_row, make_with_parent, plan_run
from clipbench.cli.estimate import announce
from clipbench.cli.messages import DONE, FAILED, INTERRUPTED, say, say_interrupt, show_remarks
from clipbench.cli.progress import progress
from clipbench.cli.result import show_result
from clipbench.interrupt import first_interrupt
from clipbench.output import only_shown, shown_by
from clipbench.runs.remarks import remarks
from clipbench.task.content import Contents

STOPPING = "Finishing the step and keeping everything."


def run(options: Namespace) -> int:
    """Make it, unless it is finished, and show its result."""
    plan = plan_run(options.overrides, options.config_dir, Contents(announce=announce))
    row = finished_row(plan)
    with only_shown("Notes on the settings cannot be made"):
        show_remarks(remarks([plan]))
    if row is None:
        with first_interrupt(say_interrupt(STOPPING)) as interrupted:
            row = make_with_parent(plan, interrupted, lambda each: shown_by(progress(each)))
    elif row["status"] != "timeout":
        print(
            f"{plan.label}\nIt is finished already; this is its result. For another run change a setting, "
            "the seed for instance."
        )
    if row is None:
        return say("Interrupted. Nothing is lost: re-run the same command to resume.", INTERRUPTED)
    if row["status"] == "timeout":
        return say(
            f"Its time is over: max_time={plan.settings.max_time}, after {row['steps']} of "
            f"{plan.settings.steps} steps. It goes on from there with a larger max_time, or with none.",
            FAILED,
        )
    if row["status"] == "failed":
        print(row["error"], file=sys.stderr)
        return say(
            f"The run failed and is recorded so, with this traceback, as {plan.run}. The same command tries "
            "again.",
            FAILED,
        )
    with only_shown("The result cannot be shown"):
        show_result(plan, row)
    return DONE
