"""What limits a verdict, in words: how the configurations were chosen, what is wrong with the runs, what the
tests cannot show.
"""

from __future__ import annotations

import math

import pandas as pd

from clipbench.analysis.amounts import difference, interval, listed
from clipbench.analysis.names import is_fitted, metric_name
from clipbench.analysis.ranking import Ranking
from clipbench.stats import FEWEST, paired_interval

PASSED = "Check at ∞ passed: no method that could choose no clipping, level ∞ or p=1, lost to none."


def notes_on(ranking: Ranking) -> list[str]:
    """A sentence or two each."""
    notes = _choice(ranking)
    notes += _behind(ranking)
    notes += _likeness(ranking)
    notes += _runs(ranking)
    notes += _tests(ranking)
    return notes


def _behind(ranking: Ranking) -> list[str]:
    """That no method beats a baseline which has itself learned from the training data."""
    name = ranking.baseline_name
    if math.isnan(ranking.baseline) or not is_fitted(name):
        return []
    floor = ranking.sign * ranking.baseline
    if any(ranking.sign * method.score.estimate > floor for method in ranking.judged):
        return []
    return [f"No method beats the baseline ({name}, {ranking.baseline:.3g}) in so many steps."]


def divergences(ranking: Ranking) -> list[str]:
    """ "auto 1 of 5 runs", "no clipping 0 of 5", of the methods that diverged and of none; empty where no run
    did.
    """
    if not any(method.diverged for method in ranking.judged):
        return []
    found: list[str] = []
    for method in ranking.judged:
        if method.diverged or method is ranking.reference:
            name = ranking.group.place.in_words(method.name)
            of = f"{method.diverged} of {method.n}"
            found.append(f"{name} {of}" if found else f"{name} {of} runs")
    return found


def _choice(ranking: Ranking) -> list[str]:
    """How the configurations were chosen, and what that allows."""
    if ranking.equal_budget and ranking.tuned_once:
        words = "Tuned once: what is told holds at the settings that were chosen; another tuning may choose"
        repeat = "others, and identical methods then differ. A study with study.repetitions tells more."
        return [f"{words} {repeat}", *_infinity(ranking), *_tuning(ranking)]
    if ranking.equal_budget:
        return [*_infinity(ranking), *_tuning(ranking)]
    tried = ranking.budgets or {0}
    budget = f"{min(tried)} to {max(tried)}" if len(tried) > 1 else f"{max(tried)}"
    if ranking.group.study:
        start = "Descriptive only, not a verdict"
        words = f"{start}: the methods had {budget} trials, and more trials find better settings."
        advice = "The same `clipbench study` with one study.trials for all evens that out."
        return [f"{words} {advice}", *_infinity(ranking)]
    if ranking.reference is None or len(ranking.judged) < 2:
        return []
    words = "Descriptive only, not a verdict."
    trains = ranking.group.place.trains
    if not trains:
        words = "Descriptive only, not a verdict: it holds of models that were trained with these settings."
    elif len(ranking.learning_rates) == 1:
        words = "One learning rate for all: descriptive only, not a verdict."
    if tried != {1}:
        best = "Each method stands at its best by validation on the same seeds"
        words += f" {best}, of {budget} settings a method"
        words += "; that favours whoever had more." if len(tried) > 1 else "."
    return [words + " clipbench study tunes all alike and judges on fresh seeds." if trains else words]


def _infinity(ranking: Ranking) -> list[str]:
    """Clipping at level ∞ is no clipping: a tuned method that could choose it and stands below none was not
    searched for well enough.
    """
    free, bound = [], []
    for method in ranking.judged:
        if method.tried < 2 or method.name not in ranking.comparisons:
            continue
        if method.without:
            free.append(method)
        else:
            bound.append(method.name)
    if not free and not bound:
        return []
    aside = f" Without such a trial: {listed(bound)}." if bound else ""
    reference_diverged = ranking.reference.diverged if ranking.reference else 0
    lost = []
    for method in free:
        below = ranking.comparisons[method.name].difference.high < 0
        if below or method.diverged > reference_diverged:
            lost.append(method.name)
    if lost:
        which = "its 95 % interval leaves out 0, or more of its runs diverged"
        if len(lost) > 1:
            which = "their 95 % intervals leave out 0, or more of their runs diverged"
        failed = f"Check at ∞ failed: {listed(lost)} lost to none ({which})"
        why = "though among the trials was no clipping, level ∞ or p=1. The search was too small."
        return [f"{failed}, {why}{aside}"]
    if free:
        return [PASSED + aside]
    return [f"No check at ∞: no trial was without clipping.{aside}"]


def _tuning(ranking: Ranking) -> list[str]:
    """What tuning brought to none: a measure for what clipping brings."""
    reference = ranking.reference
    defaults = [method for method in ranking.methods if method.is_default and method.is_reference]
    if reference is None or not defaults:
        return []
    default = defaults[0]
    if reference.diverged or default.diverged:
        return []
    both = pd.concat([reference.scores, default.scores], axis=1, join="inner").dropna()
    if len(both) < FEWEST:
        return []
    tuned, untuned = (ranking.sign * both).to_numpy().T
    found = paired_interval(tuned, untuned)
    unit = metric_name(ranking.group.headline)
    if ranking.in_points:
        unit = f"points of {unit}"
    direction = "higher" if ranking.sign > 0 else "lower"
    gain = difference(ranking, found, short=True)
    about = f"(95 % interval {interval(ranking, found)}, n={found.n}; {direction} is better)"
    moved = f"tuning alone moved {ranking.group.place.words} by {gain} {unit} from its defaults"
    return [f"For scale: {moved} {about}."]


def _runs(ranking: Ranking) -> list[str]:
    """What is missing from the runs, or wrong with them."""
    notes = []
    if ranking.split == "val" and ranking.methods:
        notes.append("These runs have no test value: validation stands in for it.")
    if ranking.usable and divergences(ranking):
        pairs = f"{ranking.unit}s in which both came to an end"
        notes.append(
            f"Differences are means over the {pairs}; Fisher's test of divergence takes runs for "
            "independent, and errs on the safe side where pairs diverge together."
        )
    untested = [f"{method.name} {method.untested}" for method in ranking.judged if method.untested]
    if untested:
        notes.append(f"Runs that ended without a {ranking.split} value, left out: {', '.join(untested)}.")
    if ranking.missing:
        names = listed(list(ranking.missing))
        notes.append(f"Not compared: {names}, without a final run so far; the correction counts them.")
    skipped = _skipped(ranking)
    if skipped:
        notes.append(f"Steps skipped for a gradient that was not finite: {', '.join(skipped)}.")
    if len({method.n for method in ranking.judged}) > 1:
        start = f"The methods have unequal numbers of {ranking.unit}s"
        brief = ranking.group.place.brief
        notes.append(f"{start}; each is compared with {brief} on those they share.")
    failed = len(ranking.group.failed)
    if failed:
        notes.append(f"{failed} failed and {'is' if failed == 1 else 'are'} left out: see below.")
    edges = _edges(ranking)
    if edges:
        start = "At the edge of what was tried, so that the best may lie beyond"
        notes.append(f"{start}: {', '.join(edges)}.")
    return notes


def _skipped(ranking: Ranking) -> list[str]:
    """ "none 1": steps, of each method that skipped some."""
    found = []
    for method in ranking.judged:
        if method.skipped:
            found.append(f"{method.name} {method.skipped}")
    return found


def _edges(ranking: Ranking) -> list[str]:
    found = []
    for method in ranking.judged:
        if method.edges:
            names = ", ".join(method.edges).replace("clipping_level", "level")
            found.append(f"{method.name} ({names})")
    return found


def _tests(ranking: Ranking) -> list[str]:
    """What the intervals are; and that the largest of several was picked for being it."""
    comparisons = ranking.comparisons.values()
    if ranking.most_pairs < FEWEST:
        return []
    notes = []
    tests = max((comparison.tests for comparison in comparisons), default=0)
    start = "Intervals and p are of paired t-tests, which take the differences for normal"
    if tests > 1:
        start = f"{start}, and hold for all {tests} tests together (Bonferroni)"
    notes.append(f"{start}.")
    if len(comparisons) > 1 and any(comparison.different for comparison in comparisons):
        notes.append(f"The largest of {len(comparisons)} differences is on average larger seen than it is.")
    return notes


def _likeness(ranking: Ranking) -> list[str]:
    """What was not alike among the runs that are compared, and pairs that are left out for it."""
    notes = []
    for name, count in ranking.unlike.items():
        pairs = "1 pair is" if count == 1 else f"{count} pairs are"
        other = f"other data or another version than {ranking.group.place.brief}'s"
        notes.append(f"{name}: {pairs} left out, whose runs saw {other}.")
    for column, words in (("git", "revisions"), ("device", "devices"), ("versions", "library versions")):
        if column in ranking.group.runs and ranking.differing(column):
            notes.append(f"Compared across different {words}: see where the runs come from.")
    if ranking.spaces_differ:
        notes.append("Learning rates were drawn from different spaces: the methods are not like with like.")
    return notes
