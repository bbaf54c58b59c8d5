"""Time to target: when a study's final runs reached what the reference reached in tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipbench import stats
from clipbench.analysis.choice import winners
from clipbench.analysis.ranking import Method, Ranking
from clipbench.stats import Interval


@dataclass(frozen=True)
class Reached:
    """Medians over the runs, ∞ where more than half of them missed; `count` of them reached it."""

    steps: Interval
    seconds: Interval
    count: int


def target(ranking: Ranking) -> float | None:
    """The mean last validation value of the reference's chosen trials over the repetitions (the tuning seeds,
    where a study tuned once): other runs than those judged. None outside a study.
    """
    tuning = ranking.group.tuning
    if tuning.empty:
        return None
    best = winners(tuning[tuning["method"] == ranking.group.place.reference])
    if best.empty:
        return None
    value = float(best["value"].mean())
    return None if math.isnan(value) else value


def reached(ranking: Ranking, method: Method, value: float) -> Reached:
    """Evaluations are not timed; a run that missed or diverged before counts as ∞."""
    group = ranking.group
    rows = group.evals_of("val")
    in_steps, in_seconds = [], []
    for run in method.configuration.runs:
        own = rows[rows["run"] == run].sort_values("step")
        in_steps.append((own["step"], own["value"]))
        in_seconds.append((own["seconds"], own["value"]))
    steps = stats.time_to_target(in_steps, value, group.higher_is_better)
    seconds = stats.time_to_target(in_seconds, value, group.higher_is_better)
    return Reached(
        steps=stats.median_interval(steps),
        seconds=stats.median_interval(seconds),
        count=int((steps < math.inf).sum()),
    )
