"""`clipbench tails`: whether the gradient's noise at fixed weights is heavy-tailed."""

from __future__ import annotations

from argparse import Namespace

from clipbench.analysis.noise import conclusion, error_rates, provenance, samples, statistics_in_words
from clipbench.cli.estimate import announce
from clipbench.cli.messages import DONE
from clipbench.cli.progress import counting
from clipbench.errors import users_code
from clipbench.output import only_shown, shown_by
from clipbench.plot.tails import draw_tails
from clipbench.report.draw import in_inches
from clipbench.runs.noise import measure_noise, parse_steps
from clipbench.runs.plan import make_plan
from clipbench.task.content import Contents


def tails(options: Namespace) -> int:
    """Measure, say it in words and draw the figure."""
    width = in_inches(options.width)
    plan = make_plan(options.overrides, options.config_dir, contents=Contents(announce=announce))
    at = parse_steps(options.at, plan.settings.steps)
    with shown_by(counting(plan.label)) as tick, users_code(plan.label):
        rows = measure_noise(plan, at, options.batches, tick)
    print(provenance(rows))
    for step, tail in samples(rows).items():
        print(f"Step {step}: {statistics_in_words(tail)}\n  {conclusion(tail)}")
    print(error_rates(len(rows) // rows["step"].nunique()))
    name = f"{plan.settings.task.name}_{plan.settings.scale}_{plan.run}_tails.png"
    with only_shown("The figure is not drawn"):
        print(draw_tails(rows, plan.results / "figures" / name, width))
    return DONE
