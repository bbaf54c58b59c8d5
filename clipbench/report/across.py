"""Several tasks at once: each on the scale mean of none = 0, best run seen = 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipbench import stats
from clipbench.analysis.comparison import Arm, Section
from clipbench.plot import style
from clipbench.report.panels import panel
from clipbench.stats import Interval

REPEATS = 1000  # of the bootstrap
TAUS = np.linspace(-0.5, 1.0, 61)

Seeds = dict[str, np.ndarray]  # task → (seeds,)


@dataclass(frozen=True)
class Aggregate:
    """One method over all tasks. `rank`: mean over tasks, 1 is best; `wins`: tasks where its mean is the best."""

    arm: Arm
    mean: Interval  # interquartile
    median: Interval
    gap: Interval  # optimality gap
    rank: float
    wins: int


@dataclass(frozen=True)
class Across:
    title: str  # what the tasks have in common
    tasks: tuple[str, ...]
    rows: tuple[Aggregate, ...]
    left_out: tuple[str, ...]  # "task (why)"
    scores: dict[str, Seeds]  # method → task → scaled


def across(sections: Sequence[Section]) -> list[Across]:
    """For each optimizer, scale and study with at least two tasks: the methods that all its usable tasks have."""
    kinds: dict[tuple[str, ...], list[Section]] = {}
    for section in sections:
        group = section.group
        kinds.setdefault(
            (group.scale, group.optimizer, group.study, section.context, section.split), []
        ).append(section)
    found = (
        _across(" · ".join(filter(None, kind[:4])), members)
        for kind, members in kinds.items()
        if not members[0].group.apart
    )
    return [each for each in found if each]


def _across(title: str, sections: Sequence[Section]) -> Across | None:
    why = {section.group.task: _unusable(section) for section in sections}
    usable = {section.group.task: section for section in sections if not why[section.group.task]}
    if len(usable) < 2:
        return None
    names = sorted(set.intersection(*({arm.name for arm in section.judged} for section in usable.values())))
    arms = {task: {arm.name: arm for arm in section.judged} for task, section in usable.items()}
    spans = {task: _span(section) for task, section in usable.items()}
    scores = {
        name: {task: stats.scaled(arms[task][name].scores.to_numpy(float), *spans[task]) for task in usable}
        for name in names
    }
    means = pd.DataFrame(
        {
            task: {name: np.nan_to_num(scores[name][task], nan=-np.inf).mean() for name in names}
            for task in usable
        }
    )
    ranks = means.rank(ascending=False)
    rows = [
        Aggregate(
            arm=next(iter(arms.values()))[name],
            mean=_bootstrap(usable, name, stats.interquartile_mean),
            median=_bootstrap(usable, name, stats.median),
            gap=_bootstrap(usable, name, stats.optimality_gap),
            rank=float(ranks.loc[name].mean()),
            wins=int((ranks.loc[name] == 1).sum()),
        )
        for name in names
    ]
    left_out = tuple(f"{task} ({reason})" for task, reason in why.items() if reason)
    return Across(title, tuple(usable), tuple(sorted(rows, key=lambda row: row.rank)), left_out, scores)


def _unusable(section: Section) -> str:
    if section.none is None or not section.none.score.n:
        return "no run without clipping came to an end"
    none, best = _span(section)
    return "" if np.isfinite(best) and section.sign * (best - none) > 0 else "all runs are equal"


def _span(section: Section) -> tuple[float, float]:
    """(mean of none, the best run of any method): what 0 and 1 stand for."""
    seen = np.concatenate([arm.scores.dropna() for arm in section.judged] or [np.zeros(0)])
    none = section.none.scores.dropna().mean() if section.none else np.nan
    return float(none), float(section.sign * (section.sign * seen).max(initial=-np.inf))


def _bootstrap(sections: Mapping[str, Section], name: str, statistic: Callable[[Seeds], float]) -> Interval:
    """The seeds of the method and of none are drawn together, as they are paired, and 0 anew each time; 1 stays where it is."""
    spans = {task: _span(section) for task, section in sections.items()}
    pairs = {}
    for task, section in sections.items():
        arm = next(arm for arm in section.judged if arm.name == name)
        none = section.none.scores if section.none else arm.scores
        pairs[task] = pd.concat([arm.scores, none.reindex(arm.scores.index)], axis=1).to_numpy(float)

    def drawn(parts: Mapping[str, np.ndarray]) -> float:
        return statistic(
            {
                task: stats.scaled(part[:, 0], _mean(part[:, 1], spans[task][0]), spans[task][1])
                for task, part in parts.items()
            }
        )

    return stats.stratified_bootstrap(pairs, drawn, np.random.default_rng(0), REPEATS)


def _mean(values: np.ndarray, otherwise: float) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else otherwise


def profile(found: Across) -> Figure:
    """Share of runs above τ, mean over tasks, with its pointwise 95 % band."""
    fig, ax = panel("scaled score τ (0: none, 1: best seen)", "share of runs above τ")
    for row in reversed(found.rows):
        band = stats.performance_profile(found.scores[row.arm.name], TAUS, np.random.default_rng(0), REPEATS)
        ax.plot(band.at, band.estimate, color=row.arm.colour, linestyle=row.arm.dash)
        if np.isfinite(band.low).all():
            ax.fill_between(band.at, band.low, band.high, color=row.arm.colour, alpha=0.1, linewidth=0)
    for at in (0, 1):
        ax.axvline(at, color=style.GREY, linewidth=0.5)
    ax.set_ylim(-0.02, 1.02)
    return fig
