"""`clipbench tails`: whether the gradient's noise at fixed weights is heavy-tailed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from clipbench.analysis.noise import conclusion, error_rates, provenance, samples, statistics_in_words
from clipbench.cli.estimate import announce
from clipbench.cli.messages import DONE
from clipbench.cli.progress import counting
from clipbench.errors import UserError, users_code
from clipbench.output import only_shown, shown_by
from clipbench.plot.tails import draw_tails
from clipbench.report.draw import in_inches
from clipbench.runs.config import parse
from clipbench.runs.noise import measure_noise, parse_steps
from clipbench.runs.plan import Plan, make_plan, plan_of
from clipbench.task.content import Contents


def _finished_run(run: str, options: Namespace) -> tuple[Plan, list[int]]:
    """The plan of the run that --from names, and its last step. UserError for anything else beside it."""
    folder, others = "results", []
    for override in parse(options.overrides):
        if override.key_or_group == "results":
            folder = str(override.value())
        else:
            others.append(str(override.input_line))
    if others or options.config_dir or options.at:
        superfluous = " ".join(others) or "--at and --config-dir"
        raise UserError(
            f"--from {run} measures at the end of that run, as it was made: beside it only results=DIR says "
            f"something, the folder that it lies in (results). Leave out {superfluous}."
        )
    plan = plan_of(Path(folder), run)
    return plan, [plan.settings.steps]


def tails(options: Namespace) -> int:
    """Measure, say it in words and draw the figure."""
    width = in_inches(options.width)
    run = vars(options)["from"]
    if run:
        plan, at = _finished_run(run, options)
    else:
        plan = make_plan(options.overrides, options.config_dir, contents=Contents(announce=announce))
        at = parse_steps(options.at, plan.settings.steps)
    with shown_by(counting(plan.label)) as tick, users_code(plan.label):
        rows = measure_noise(plan, at, options.batches, tick, kept=bool(run))
    print(provenance(rows))
    for step, tail in samples(rows).items():
        print(f"Step {step}: {statistics_in_words(tail)}\n  {conclusion(tail)}")
    print(error_rates(len(rows) // rows["step"].nunique()))
    name = f"{plan.settings.task.name}_{plan.settings.scale}_{plan.run}_tails.png"
    with only_shown("The figure is not drawn"):
        print(draw_tails(rows, plan.results / "figures" / name, width))
    return DONE
