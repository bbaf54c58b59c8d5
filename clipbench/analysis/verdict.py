"""What the numbers of a section allow one to say, in words. Nothing is called a difference that its seeds could not show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipbench.analysis.comparison import Arm, Section
from clipbench.stats import Comparison, Interval, paired_interval, sign_flip_floor

FEWEST = 3  # pairs of seeds: an interval from two is wider than anything one would call a result


@dataclass(frozen=True)
class Verdict:
    """`kind`: helps, hurts, mixed, same, short, few, diverged or open; of arms set side by side ahead or behind; `notes` limit `sentence`.

    `picture`: the methods had no equal chance to be tuned, as they have in a study.
    """

    kind: str
    sentence: str
    notes: tuple[str, ...]
    picture: bool


def judge(section: Section) -> Verdict:
    kind, sentence = _verdict(section)
    return Verdict(kind, sentence, tuple(_notes(section)), not section.equal_budget)


def _verdict(section: Section) -> tuple[str, str]:
    none, judged = section.none, section.judged
    if not judged:
        return (
            "open",
            "No verdict yet: only tuning runs are there. The same `clipbench study` goes on with the final ones.",
        )
    lower = (
        "Tune over smaller learning rates: study.space.lr=…"
        if section.group.study
        else "Lower the learning rate."
    )
    if all(arm.diverged == arm.n for arm in judged):
        return "diverged", f"No verdict: {'every run' if len(judged) > 1 else 'each run'} diverged. {lower}"
    if none is None:
        return (
            "open",
            "No verdict: there is no run without clipping to compare with. Add optim.clipping_type=none.",
        )
    if none.diverged == none.n:
        ended = [
            f"{arm.name} finished {arm.n - arm.diverged} of {arm.n}" for arm in judged if arm is not none
        ]
        return (
            "diverged",
            f"Without clipping {_of(none)} diverged, so there is no mean to compare with; {_list(ended)}.",
        )
    if not section.comparisons:
        alone = (
            "There is no clipped run" if len(judged) == 1 else "No clipped run has a seed in common with none"
        )
        return "open", f"No verdict: {alone} to compare with none."
    if not any(np.isfinite(each.difference.estimate) for each in section.comparisons.values()):
        if not (diverged := _divergences(section)):
            return "open", f"No verdict: the runs have no {section.group.headline} that is a number."
        return "diverged", f"No verdict: {_list(diverged)}, so no mean difference exists. {lower}"
    return _compared(section)


def _compared(section: Section) -> tuple[str, str]:
    usable = {
        name: each for name, each in section.comparisons.items() if np.isfinite(each.difference.estimate)
    }
    n = max(each.difference.n for each in usable.values())
    best = max(usable, key=lambda name: usable[name].difference.estimate)
    if n < FEWEST:
        seeds = "One seed shows" if n == 1 else f"{n} seeds show"
        return (
            "few",
            f"Too few seeds for a verdict. {seeds} {best} at {difference(section, usable[best].difference)} (n={n}).",
        )
    sure = {
        name: each.difference
        for name, each in usable.items()
        if each.different and each.difference.n >= FEWEST
    }
    idle = {arm.name for arm in section.judged if arm.clipped == 0 and not section.group.apart}
    up = sorted(
        (name for name in sure if sure[name].estimate > 0 and name not in idle),
        key=lambda name: -sure[name].estimate,
    )
    down = sorted((name for name in sure if sure[name].estimate < 0), key=lambda name: sure[name].estimate)
    if not up and not down:
        return "same", _no_difference(section, usable, [name for name in sure if name in idle])
    return _difference(section, usable, up, down)


def _difference(
    section: Section, usable: dict[str, Comparison], up: list[str], down: list[str]
) -> tuple[str, str]:
    """The first of each side in full, the others in short."""
    told = [_told(section, names[0], usable[names[0]]) for names in (up, down) if names]
    rest = ", ".join(
        f"{name} {difference(section, usable[name].difference, short=True)}" for name in (*up[1:], *down[1:])
    )
    also = f" Also: {rest}." if rest else ""
    if section.group.apart:
        assert section.none
        where = "Ahead of" if not down else "Behind" if not up else "Ahead of and behind"
        return (
            "ahead" if not down else "behind" if not up else "mixed"
        ), f"{where} {section.none.name}: {'; '.join(told)}.{also}"
    if up and down:
        return "mixed", f"It depends on how one clips: {'; '.join(told)}.{also}"
    if down and section.equal_budget and set(down) <= {arm.name for arm in section.judged if arm.without}:
        return (
            "short",
            f"No verdict on clipping: {told[0]}, but no clipping was among its choices, so the search was too small.{also}",
        )
    where = "C" if section.equal_budget else "In these runs c"
    return ("helps" if up else "hurts"), f"{where}lipping {'helps' if up else 'hurts'}: {told[0]}.{also}"


def _no_difference(section: Section, usable: dict[str, Comparison], idle: list[str]) -> str:
    far = idle[0] if idle else max(usable, key=lambda name: abs(usable[name].difference.estimate))
    found = usable[far].difference
    if idle:
        return (
            f"No difference that clipping made: {_told(section, far, usable[far])}, without clipping a step."
        )
    told = "" if found.estimate == 0 else f" The largest is {_told(section, far, usable[far])}"
    if told and 0 not in found:
        count = len(section.comparisons) + len(section.missing)
        told += f"; p={p_value(usable[far].adjusted)}" + (
            f" after Holm's correction for {count} comparisons" if count > 1 else ""
        )
    return f"No difference that {found.n} seeds could show." + told + "." * bool(told)


def _told(section: Section, name: str, comparison: Comparison) -> str:
    """ "auto +3.1 points of mcc over none, 95 % interval 1.2 to 5.0, n=5"."""
    found = comparison.difference
    ends = (
        f"{amount(section, found.low, found)} to {amount(section, found.high, found)}"
        if np.isfinite(found.low)
        else "without bounds"
    )
    return f"{name} {difference(section, found)}, 95 % interval {ends}, n={found.n}"


def difference(section: Section, found: Interval, short: bool = False) -> str:
    """ "+3.1 points of mcc over none", or "0.210 perplexity worse than none" where less is better."""
    headline = section.group.headline
    unit = f"points of {headline}" if section.in_points else headline
    if section.sign < 0:
        value = amount(section, abs(found.estimate), found)
        return f"{value} {unit} {'better' if found.estimate >= 0 else 'worse'} than {reference(section)}"
    value = amount(section, found.estimate, found, signed=True)
    return value if short else f"{value} {unit} over {reference(section)}"


def reference(section: Section) -> str:
    return section.none.name if section.none else "none"


def amount(section: Section, value: float, found: Interval, signed: bool = False) -> str:
    """A difference in points or in the metric's own unit, to what its interval allows, with a real minus."""
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞"
    scale = 100 if section.in_points else 1
    size = scale * (found.half if math.isfinite(found.half) else abs(found.estimate))
    first = -math.floor(math.log10(size)) if size else 0  # the decimal that its first digit stands at
    digits = max(1, min(first, 4)) if section.in_points else max(0, min(first + 1, 8))
    while digits < 8 and any(
        end and math.isfinite(end) and round(scale * end, digits) == 0 for end in (found.low, found.high)
    ):
        digits += 1  # an interval that leaves out 0 must not seem to touch it
    text = f"{scale * value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return ("+" * (signed and value > 0) + text).replace("-", "−")


def p_value(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"[1:] if p < 0.0995 else f"{p:.2f}".removeprefix("0")


def _of(arm: Arm) -> str:
    return f"{arm.diverged} of {arm.n} runs"


def _divergences(section: Section) -> list[str]:
    return [f"{arm.name} diverged in {_of(arm)}" for arm in section.judged if arm.diverged]


def _list(words: list[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def _notes(section: Section) -> list[str]:
    return [*_choice(section), *_runs(section), *_tests(section)]


def _choice(section: Section) -> list[str]:
    """How the settings were chosen, and what that allows."""
    tried = {arm.tried for arm in section.judged}
    budget = (
        f"{min(tried, default=0)} to {max(tried, default=0)}"
        if len(tried) > 1
        else f"{max(tried, default=0)}"
    )
    if section.equal_budget:
        return [*_infinity(section), *_tuning(section)]
    if section.group.study:
        words = f"A picture, not a verdict: the methods had {budget} trials, and more trials find better settings."
        return [
            f"{words} The same `clipbench study` with one study.trials for all evens that out.",
            *_infinity(section),
        ]
    if section.none is None or len(section.judged) < 2:
        return []
    words = (
        "One learning rate for all: a picture, not a verdict."
        if len(section.learning_rates) == 1
        else "A picture, not a verdict."
    )
    if tried != {1}:
        words += (
            f" Each method stands at its best by validation on the same seeds, of {budget} settings a method"
        )
        words += "; that favours whoever had more." if len(tried) > 1 else "."
    return [words + " clipbench study tunes all alike and judges on fresh seeds."]


def _infinity(section: Section) -> list[str]:
    """Clipping at level ∞ is no clipping: a tuned method that could choose it and stands below none was not searched for well enough."""
    tuned = [arm for arm in section.judged if arm.tried > 1 and arm.name in section.comparisons]
    free = [arm for arm in tuned if arm.without]
    none_diverged = section.none.diverged if section.none else 0
    lost = [
        arm.name
        for arm in free
        if section.comparisons[arm.name].difference.high < 0 or arm.diverged > none_diverged
    ]
    bound = [arm.name for arm in tuned if not arm.without]
    aside = f" Without such a trial: {_list(bound)}." if bound else ""
    if lost:
        which = (
            "its 95 % interval leaves out 0"
            if len(lost) == 1
            else "their 95 % intervals, each by itself, leave out 0"
        )
        which += ", or more of its runs diverged" if len(lost) == 1 else ", or more of their runs diverged"
        return [
            f"Check at ∞ failed: {_list(lost)} lost to none ({which}), though among the trials was no clipping, level ∞ or p=1. "
            f"The search was too small.{aside}"
        ]
    if free:
        return [
            f"Check at ∞ passed: no method that could choose no clipping, level ∞ or p=1, lost to none.{aside}"
        ]
    return [f"No check at ∞: no trial was without clipping.{aside}"] if tuned else []


def _tuning(section: Section) -> list[str]:
    """What tuning brought to none: a measure for what clipping brings."""
    default = next(
        (arm for arm in section.arms if arm.method.role == "default" and arm.method.type == "none"), None
    )
    if section.none is None or default is None or default.diverged or section.none.diverged:
        return []
    both = pd.concat([section.none.scores, default.scores], axis=1, join="inner").dropna() * section.sign
    if len(both) < FEWEST:
        return []
    found = paired_interval(*both.to_numpy().T)
    gain = f"{amount(section, found.estimate, found, signed=True)} {'points of ' * section.in_points}{section.group.headline}"
    ends = f"{amount(section, found.low, found)} to {amount(section, found.high, found)}"
    return [
        f"For scale: tuning alone moved none by {gain} from its defaults (95 % interval {ends}, n={found.n}; positive is better)."
    ]


def _runs(section: Section) -> list[str]:
    notes = []
    if section.split == "val" and section.arms:
        notes.append("These runs have no test value: validation stands in for it.")
    usable = any(np.isfinite(each.difference.estimate) for each in section.comparisons.values())
    if usable and (diverged := _divergences(section)):
        notes.append(
            f"{_list(diverged)[0].upper()}{_list(diverged)[1:]}: no mean difference exists there, and no p."
        )
    if section.missing:
        notes.append(
            f"Not compared: {_list(list(section.missing))}, without a final run so far; Holm's correction counts them."
        )
    skipped = {
        arm.name: section.group.runs.loc[list(arm.method.runs), "skipped"].fillna(0).sum()
        for arm in section.judged
    }
    if told := [f"{name} {int(count)}" for name, count in skipped.items() if count]:
        notes.append(f"Steps skipped for a gradient that was not finite: {', '.join(told)}.")
    if len({arm.n for arm in section.judged}) > 1:
        notes.append(
            "The methods have unequal numbers of seeds; each is compared with none on those they share."
        )
    if len(section.group.failed):
        notes.append(
            f"{len(section.group.failed)} failed and {'is' if len(section.group.failed) == 1 else 'are'} left out: see below."
        )
    if edges := [
        f"{arm.name} ({', '.join(arm.edges).replace('clipping_level', 'level')})"
        for arm in section.judged
        if arm.edges
    ]:
        notes.append(f"At the edge of what was tried, so that the best may lie beyond: {', '.join(edges)}.")
    return notes


def _tests(section: Section) -> list[str]:
    """The floor of the exact test, where no number of wins could reach .05; and that the largest of several was picked for being it."""
    notes = []
    if sum(each.different for each in section.comparisons.values()) and len(section.comparisons) > 1:
        notes.append(
            f"The largest of {len(section.comparisons)} differences is on average larger seen than it is."
        )
    counts = {
        each.difference.n for each in section.comparisons.values() if np.isfinite(each.difference.estimate)
    }
    if counts and (n := max(counts)) >= FEWEST and (floor := sign_flip_floor(n)) > 0.05:
        notes.append(
            f"p is of the paired t-test and takes the differences for normal; the exact sign-flip test cannot go below {floor:g} at n={n}."
        )
    return notes
