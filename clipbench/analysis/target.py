"""Time to target: when a study's final runs reached what `none` reached in tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipbench import stats
from clipbench.analysis.choice import winners
from clipbench.analysis.comparison import Method, Ranking
from clipbench.stats import Interval


@dataclass(frozen=True)
class Reached:
    """Medians over the runs, ∞ where more than half of them missed; `count` of them reached it."""

    steps: Interval
    seconds: Interval
    count: int


def target(ranking: Ranking) -> float | None:
    """The mean last validation value of none's chosen trial over the tuning seeds: other runs than those
    judged. None outside a study.
    """
    tuning = ranking.group.tuning
    if tuning.empty:
        return None
    best = winners(tuning[tuning["method"] == "none"])
    if best.empty:
        return None
    value = float(best["value"].iloc[0])
    return None if math.isnan(value) else value


def reached(ranking: Ranking, method: Method, value: float) -> Reached:
    """Evaluations are not timed; a run that missed or diverged before counts as ∞."""
    group = ranking.group
    rows = group.evals_of("val")
    parts = [rows[rows["run"] == run].sort_values("step") for run in method.configuration.runs]
    times = {}
    for axis in ("step", "seconds"):
        curves = [(part[axis], part["value"]) for part in parts]
        times[axis] = stats.time_to_target(curves, value, group.higher_is_better)
    steps, seconds = stats.median_interval(times["step"]), stats.median_interval(times["seconds"])
    return Reached(steps, seconds, int((times["step"] < math.inf).sum()))
