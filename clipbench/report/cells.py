"""A row of the report's table: what stands in each cell, and what its column is sorted by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipbench.analysis.amounts import amount, in_own_direction, interval, minus, p_value, reference_name
from clipbench.analysis.conditions import by_condition
from clipbench.analysis.names import metric_name
from clipbench.analysis.ranking import Method, Ranking
from clipbench.analysis.target import reached, target
from clipbench.report.text import milliseconds, milliseconds_heading, short
from clipbench.stats import FEWEST, Comparison, Interval

WIDTH, HEIGHT = 96, 16  # of the interval drawn in a cell, pixels
ALWAYS = math.inf  # more runs than there are
FLAGS = {"clipping_level": "level", "p_autoclip": "p", "beta": "β"}


@dataclass(frozen=True)
class Forest:
    """A difference and its interval, around the line of no difference: places in pixels from the left."""

    low: float
    at: float
    high: float
    bounded: bool


@dataclass(frozen=True)
class Cell:
    """`value`: what the column is sorted by, NaN for nothing; `small`: lines below the text; a forest stands
    in for both.
    """

    value: float
    text: str = ""
    small: tuple[str, ...] = ()
    bold: bool = False
    forest: Forest | None = None

    @property
    def key(self) -> str:
        """The value as JavaScript reads it."""
        if math.isnan(self.value):
            return ""
        return str(self.value).replace("inf", "Infinity")


EMPTY = Cell(math.nan)
ORDER = ("different", "equivalent", "undecided")


def columns(ranking: Ranking) -> dict[str, str]:
    """Heading → what it means."""
    headline, unit = metric_name(ranking.group.headline), ranking.unit
    gain = f"difference to {reference_name(ranking)}"
    meaning = f"paired by {unit}, with the simultaneous 95 % interval; "
    meaning += "higher is better" if ranking.sign > 0 else "lower is better"
    if ranking.in_points:
        gain, meaning = f"{gain}, points", f"{meaning}; a point is 0.01"
    found = {
        "method": "with its chosen settings",
        "n": f"{unit}s",
        f"{ranking.judged_on} {headline}": f"mean over {unit}s ± 95 % t-interval",
        gain: meaning,
        "": "the same, drawn: 0 is the line",
        "outcome": "different: the interval leaves out 0; equivalent: it lies within the smallest difference "
        "worth telling; else undecided",
        "p": "of the same paired t-test, times the number of tests",
        "P(better)": f"chance that a run of the method beats a run of {reference_name(ranking)}",
        "r": f"correlation of the paired {unit}s",
    }
    goal = target(ranking)
    if goal is not None:
        start = f"median steps until validation {headline} was at {goal:.4g}"
        found["to target"] = f"{start}, {ranking.group.place.brief}'s in tuning; ∞: half of the runs never"
    found["diverged"] = "runs that diverged"
    if ranking.group.place.trains:
        found["clipped"] = "share of steps clipped"
        found[milliseconds_heading(ranking)] = "median over runs, evaluation left out"
    return found


def cells(ranking: Ranking, method: Method) -> list[Cell]:
    """One for each of `columns` but the first."""
    found = [Cell(float(method.n), str(method.n)), _mean(method.score, method.n)]
    found += _compared(ranking, method)
    goal = target(ranking)
    if goal is not None:
        found.append(_reached(ranking, method, goal))
    lost = f"{method.diverged} of {method.n}" if method.diverged else "0"
    found.append(Cell(method.diverged / method.n, lost))
    if ranking.group.place.trains:
        share = 100 * method.clipped
        found.append(_cell(method.clipped, f"{share:.3g} %"))
        found.append(_cell(method.ms_per_step, milliseconds(method.ms_per_step)))
    return found


def _cell(value: float, text: str) -> Cell:
    """The text, or a dash where there is no value."""
    return Cell(value, "–" if math.isnan(value) else text)


def flags(method: Method) -> list[str]:
    """What lies at the edge of what was tried, by the names of a paper."""
    return [FLAGS.get(name, name) for name in method.edges]


@dataclass(frozen=True)
class Conditions:
    """Means of each of the `methods` under the conditions `names`; none where no run names one."""

    names: list[str]
    methods: dict[str, list[Cell]]


def conditions(ranking: Ranking) -> Conditions:
    """What its table by condition shows."""
    found = by_condition(ranking)
    names: dict[str, None] = {}
    for means in found.values():
        names.update(dict.fromkeys(means))
    methods = {}
    for method, means in found.items():
        methods[method] = [_mean(means[name], ALWAYS) if name in means else EMPTY for name in names]
    return Conditions([name or "without a name" for name in names], methods)


def _mean(score: Interval, n: float) -> Cell:
    """`n`: of how many runs; it is told where `score` is of fewer."""
    text = minus(short(score.estimate)) if score.n else "–"
    small = []
    if math.isfinite(score.half):
        small.append(f"± {short(score.half)}")
    if score.n < n:
        small.append(f"n={score.n}")
    return Cell(score.estimate, text, tuple(small))


def _compared(ranking: Ranking, method: Method) -> list[Cell]:
    """Difference, the same drawn, outcome, p, P(better), r: empty for what is not compared."""
    comparison = ranking.comparisons.get(method.name)
    if comparison is None:
        return [EMPTY] * 6
    share = comparison.improvement
    ends = f"{share.low:.2f} to {share.high:.2f}"
    r = comparison.correlation.estimate
    return [
        *_difference(ranking, comparison),
        Cell(share.estimate, f"{share.estimate:.2f}", (ends,)),
        _cell(r, minus(f"{r:.2f}")),
    ]


def _difference(ranking: Ranking, comparison: Comparison) -> list[Cell]:
    """Difference, the same drawn, outcome, p."""
    found = comparison.difference
    if not math.isfinite(found.estimate):
        return [Cell(math.nan, "diverged"), EMPTY, EMPTY, EMPTY]
    own = in_own_direction(ranking, found)
    gain = amount(ranking, own.estimate, own, signed=True)
    most = max(method.n for method in ranking.judged)
    pairs = (f"n={found.n}",) if found.n < most else ()
    drawn = Cell(own.estimate, forest=forest(ranking, own))
    if found.n < FEWEST:
        return [Cell(own.estimate, gain, pairs), drawn, EMPTY, EMPTY]
    ends = ", ".join([interval(ranking, found), *pairs])
    place = ORDER.index(comparison.outcome)
    return [
        Cell(own.estimate, gain, (ends,)),
        drawn,
        Cell(float(place), comparison.outcome, bold=comparison.different),
        Cell(comparison.adjusted, p_value(comparison.adjusted), bold=comparison.different),
    ]


def _reached(ranking: Ranking, method: Method, goal: float) -> Cell:
    found = reached(ranking, method, goal)
    steps, seconds = found.steps.estimate, found.seconds.estimate
    count = f"{found.count} of {method.n}"
    if not math.isfinite(steps):
        return Cell(steps, "∞", (f"{count} did",))
    return Cell(steps, f"{steps:.4g}", (f"{seconds:.3g} s, {count}",))


def forest(ranking: Ranking, found: Interval) -> Forest:
    """On one scale for all methods of the ranking: a very wide interval is cut rather than that the others
    cannot be seen.
    """
    scale = _scale(ranking)
    middle = WIDTH / 2

    def place(value: float) -> float:
        share = max(-1.0, min(1.0, value / scale))
        return round(middle + (middle - 4) * share, 1)

    low, at, high = place(found.low), place(found.estimate), place(found.high)
    return Forest(low, at, high, bounded=math.isfinite(found.low))


def _scale(ranking: Ranking) -> float:
    """The difference that stands at the end of what is drawn."""
    ends, estimates = [], []
    for comparison in ranking.usable.values():
        difference = comparison.difference
        estimates.append(abs(difference.estimate))
        for end in (difference.low, difference.high):
            if math.isfinite(end):
                ends.append(abs(end))
    widest = max(ends + estimates)
    usual = float(np.median(ends or [widest]))
    return min(widest, 4 * usual) or 1.0
