"""Time to target: when a study's final runs reached what `none` reached in tuning."""

from __future__ import annotations

from dataclasses import dataclass

from clipbench import stats
from clipbench.analysis.choice import winners
from clipbench.analysis.comparison import Arm, Section
from clipbench.stats import Interval


@dataclass(frozen=True)
class Reached:
    """Medians over the runs, ∞ where more than half of them missed; `count` of them reached it."""

    steps: Interval
    seconds: Interval
    count: int


def target(section: Section) -> float | None:
    """The mean last validation value of none's chosen trial over the tuning seeds: other runs than those judged. None outside a study."""
    tuning = section.group.tuning
    if tuning.empty or (best := winners(tuning[tuning["method"] == "none"])).empty:
        return None
    value = float(best["value"].iloc[0])
    return value if value == value else None


def reached(section: Section, arm: Arm, value: float) -> Reached:
    """Evaluations are not timed; a run that missed or diverged before counts as ∞."""
    group = section.group
    rows = group.evals[(group.evals["metric"] == group.headline) & (group.evals["split"] == "val")]
    parts = [rows[rows["run"] == run].sort_values("step") for run in arm.method.runs]
    steps, seconds = (
        stats.time_to_target([(part[axis], part["value"]) for part in parts], value, group.higher_is_better)
        for axis in ("step", "seconds")
    )
    return Reached(
        stats.median_interval(steps), stats.median_interval(seconds), int((steps < float("inf")).sum())
    )
