"""Several tasks at once: each on the scale none = 0, best seen = 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clipbench import stats
from clipbench.plot import style
from clipbench.plot.arms import Arm, Section
from clipbench.plot.panels import panel
from clipbench.stats import Interval

REPEATS = 600  # of the bootstrap
TAUS = np.linspace(-0.5, 1.0, 61)


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
    tasks: tuple[str, ...]
    rows: tuple[Aggregate, ...]
    left_out: tuple[str, ...]  # tasks without a none, or where nothing differs
    scores: dict[str, dict[str, np.ndarray]]  # method → task → (seeds,)


def across(sections: Sequence[Section]) -> Across | None:
    """The methods that all usable tasks have; None where fewer than two tasks have a none that came to an end."""
    usable = {section.title: section for section in sections if section.none is not None and section.none.score.n}
    spans = {title: _span(section) for title, section in usable.items()}
    usable = {title: section for title, section in usable.items() if np.isfinite(spans[title]).all() and np.ptp(spans[title]) > 0}
    if len(usable) < 2:
        return None
    names = set.intersection(*({arm.name for arm in section.judged} for section in usable.values()))
    scores: dict[str, dict[str, np.ndarray]] = {name: {} for name in sorted(names)}
    means = pd.DataFrame(index=sorted(names), columns=list(usable), dtype=float)
    for title, section in usable.items():
        for arm in section.judged:
            if arm.name in names:
                scores[arm.name][title] = stats.scaled(arm.scores.to_numpy(float), *spans[title])
                means.loc[arm.name, title] = np.nan_to_num(scores[arm.name][title], nan=-np.inf).mean()
    ranks = means.rank(ascending=False)
    first = next(iter(usable.values()))
    arms = {arm.name: arm for arm in first.judged if arm.name in names}
    rows = [
        Aggregate(
            arm=arms[name],
            mean=_bootstrap(scores[name], stats.interquartile_mean),
            median=_bootstrap(scores[name], stats.median),
            gap=_bootstrap(scores[name], stats.optimality_gap),
            rank=float(ranks.loc[name].mean()),
            wins=int((ranks.loc[name] == 1).sum()),
        )
        for name in arms
    ]
    left_out = tuple(section.title for section in sections if section.title not in usable)
    return Across(tuple(usable), tuple(sorted(rows, key=lambda row: row.rank)), left_out, scores)


def _span(section: Section) -> tuple[float, float]:
    """(mean of none, the best mean of any method): what 0 and 1 stand for."""
    means = [arm.scores.mean(skipna=False) for arm in section.judged]
    finite = [mean for mean in means if np.isfinite(mean)]
    none = section.none.scores.dropna().mean() if section.none else np.nan
    return float(none), (max if section.sign > 0 else min)(finite, default=np.nan)


def _bootstrap(scores, statistic) -> Interval:  # type: ignore[no-untyped-def]
    return stats.stratified_bootstrap(scores, statistic, np.random.default_rng(0), REPEATS)


def profile(found: Across) -> Figure:
    """Share of runs above τ, mean over tasks, with its pointwise 95 % band."""
    fig, ax = panel("scaled score τ (0: none, 1: best seen)", "share of runs above τ")
    for row in reversed(found.rows):
        band = stats.performance_profile(found.scores[row.arm.name], TAUS, np.random.default_rng(0), REPEATS // 4)
        ax.plot(band.at, band.estimate, color=row.arm.colour, linestyle=row.arm.dash)
        if np.isfinite(band.low).all():
            ax.fill_between(band.at, band.low, band.high, color=row.arm.colour, alpha=0.1, linewidth=0)
    for at in (0, 1):
        ax.axvline(at, color=style.GREY, linewidth=0.5)
    ax.set_ylim(-0.02, 1.02)
    return fig
