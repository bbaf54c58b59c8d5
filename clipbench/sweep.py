"""A grid of settings → what is still to do → runs, one after another."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from clipbench import config, results, show
from clipbench.errors import UserError
from clipbench.optim import RULES
from clipbench.run import Interrupted, Plan, execute, make_plan

DEFAULT_GRID = (f"optim.clipping_type={','.join(RULES)}", "seed=0,1")


def make_plans(overrides: Sequence[str], config_dir: Path | None = None) -> list[Plan]:
    """Every point of the grid, once: points that differ only in what they ignore are one run. All core types where nothing is swept."""
    asked = {override.key_or_group for override in config.parse(overrides)}
    if not any(override.is_sweep_override() for override in config.parse(overrides)):
        overrides = [*overrides, *(axis for axis in DEFAULT_GRID if axis.split("=")[0] not in asked)]
    plans: dict[str, Plan] = {}
    for point in config.expand(overrides):
        plan = make_plan(point, config_dir)
        plans.setdefault(plan.run, plan)
    return list(plans.values())


def make_runs(plans: Sequence[Plan]) -> int:
    """Make the runs that are not finished, show the table of all, and return the exit code. A run that fails costs only itself."""
    folder = plans[0].folder
    status = results.finished(folder)
    todo = [plan for plan in plans if status.get(plan.run, "failed") == "failed"]
    print(f"{len(plans)} runs, {len(plans) - len(todo)} of them finished already, {len(todo)} to do, into {folder}")
    failed = []
    for number, plan in enumerate(todo, 1):
        try:
            with show.progress(plan, f"{number}/{len(todo)}") as watch:
                row = execute(plan, watch)
            print(f"{number}/{len(todo)}  {show.label(plan)}  {show.outcome(row)}")
        except UserError as error:
            raise UserError(f"{error} ({number - 1} of {len(todo)} runs are done; the same command goes on from there.)") from error
        except Interrupted as where:
            print(
                f"clipbench: Interrupted in run {number} of {len(todo)}, at {where}. Nothing is lost: the same command goes on from there.",
                file=sys.stderr,
            )
            return 130
        except Exception:
            traceback.print_exc()
            failed.append(plan)
            print(f"{number}/{len(todo)}  {show.label(plan)}  failed", file=sys.stderr)
    show.summary(folder, [plan.run for plan in plans])
    for plan in failed:
        print(f"failed: clipbench run {shlex.join(plan.overrides)}", file=sys.stderr)
    return 1 if failed else 0
