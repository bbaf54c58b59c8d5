"""How much the learning rate and the level matter: a curve with a band for each method, and where runs
diverge.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipbench.analysis.choice import is_without_clipping
from clipbench.analysis.ranking import Ranking
from clipbench.analysis.sensitivity import mean_of_best, tried
from clipbench.plot import style, titles
from clipbench.plot.comparison import THIN
from clipbench.plot.looks import Look, in_print, method_looks
from clipbench.record.rows import NO_CLIPPING
from clipbench.report.divergence import beyond, divergence, is_grid
from clipbench.report.frame import Drawing, banded, panel
from clipbench.stats import smoothed

NAMES = {"lr": "learning rate", "clipping_level": "clipping level", "p_autoclip": "quantile"}


def sensitivity(ranking: Ranking) -> Iterator[Drawing]:
    """The final validation metric over the learning rate, all methods in one panel, then over each method's
    level in a panel of its own.
    """
    if ranking.group.apart:  # no setting was varied with all others kept
        return
    runs, looks = tried(ranking), method_looks(ranking)
    if runs["lr"].nunique() > 1:
        yield _over_learning_rate(ranking, runs, looks)
    for method in ranking.judged:
        own = runs[runs["name"] == method.name]
        for setting in NO_CLIPPING:
            if own[setting].nunique() < 2:
                continue
            fig, ax = _panel(ranking, own, setting)
            _reference(ax, ranking, runs)
            _line(ax, ranking, own, setting, looks[method.name], band=True)
            divergence(fig, ax, ranking, own, setting, [method])
            yield f"{in_print(method.name, ranking.group.place)}: {NAMES[setting]}", fig


def _over_learning_rate(ranking: Ranking, runs: pd.DataFrame, looks: dict[str, Look]) -> Drawing:
    fig, ax = _panel(ranking, runs, "lr")
    bands = banded(ranking)
    for method in reversed(ranking.judged):
        own = runs[runs["name"] == method.name]
        _line(ax, ranking, own, "lr", looks[method.name], method in bands)
    caption = "learning rate: each at its best other setting, mean over seeds"
    if not ranking.group.tuning.empty:
        caption = "learning rate: trials, and their local mean"
    if divergence(fig, ax, ranking, runs, "lr", ranking.judged):
        caption += "; on top, how many runs of each method diverged where"
    return caption, fig


def _panel(ranking: Ranking, runs: pd.DataFrame, setting: str) -> tuple[Figure, Axes]:
    """Log axes but for p_autoclip, with ∞ a little beyond the last value; the values of a grid are named, on
    other axes round ones.
    """
    fig, ax = panel(NAMES[setting], titles.headline(ranking.group))
    style.fit(ax, runs["value"])
    values = runs[setting].dropna()
    finite = np.sort(values[np.isfinite(values) & (values > 0)].unique())
    if not len(finite):
        return fig, ax
    smallest, largest = finite[0], finite[-1]
    if setting == "p_autoclip":
        ax.set_xscale("linear")
        ax.set_xlim(smallest - 0.05, largest + 0.05)
        return fig, ax
    ratio = max(1.3, (largest / smallest) ** 0.08)
    low, high = smallest / ratio, largest * ratio
    ticks = list(finite) if is_grid(ranking, values) else _round(low, high)
    names = [f"{tick:g}" for tick in ticks]
    if any(is_without_clipping({setting: value}) for value in values.unique()):
        infinity = beyond(runs, setting)
        high = infinity * ratio
        ticks.append(infinity)
        names.append("∞")
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_xticks(ticks, names)
    ax.minorticks_off()
    return fig, ax


def _round(low: float, high: float) -> list[float]:
    """Decades between low and high, where they are few 2 and 5 times them too."""
    decades = np.log10(high / low)
    firsts: tuple[int, ...] = (1, 3)
    if decades > 2:
        firsts = (1,)
    elif decades < 1:
        firsts = (1, 2, 5)
    ticks = []
    for decade in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1):
        for first in firsts:
            tick = float(f"{first}e{decade}")
            if low <= tick <= high:
                ticks.append(tick)
    return ticks


def _line(ax: Axes, ranking: Ranking, runs: pd.DataFrame, setting: str, look: Look, band: bool) -> None:
    """Points are runs that ended; the line is a mean, over trials a smooth one. A band is the 95 % interval,
    of more than seven runs.
    """
    runs = runs[runs[setting] > 0]
    if runs.empty:
        return
    x = runs[setting].clip(upper=beyond(runs, setting))
    ax.plot(x, runs["value"], "o", markersize=2.5, markeredgewidth=0, alpha=0.45, color=look.colour)
    if is_grid(ranking, runs[setting]):
        rows = []
        for place, part in runs.groupby(x):
            rows.append((place, *mean_of_best(ranking, part)))
        places, means, halves = np.array(rows, float).T
        band = band and _many(ranking)
    else:
        ended = runs["value"].notna() & np.isfinite(runs[setting])
        at, values = x[ended], runs["value"][ended]
        band = band and len(at) > THIN
        if ax.get_xscale() == "log":
            places, means, halves = smoothed(np.log(at), values)
            places = np.exp(places)
        else:
            places, means, halves = smoothed(at, values)
    ax.plot(places, means, **look.line)
    if band:
        ax.fill_between(places, means - halves, means + halves, color=look.colour, alpha=0.12, linewidth=0)


def _many(ranking: Ranking) -> bool:
    """Whether there are so many runs of a configuration that an interval may stand for them."""
    return max(len(configuration.runs) for configuration in ranking.configurations) > THIN


def _reference(ax: Axes, ranking: Ranking, runs: pd.DataFrame) -> None:
    """No clipping at its best setting or, in a study, trial: its mean over seeds and, in a sweep, the
    interval.
    """
    if ranking.reference is None:
        return
    own = runs[runs["name"] == ranking.reference.name]
    if own.empty:
        return
    mean, half = mean_of_best(ranking, own)
    if np.isfinite(mean):
        ax.axhline(mean, color=style.GREY, linewidth=0.8)
        ax.annotate(
            ranking.group.place.words,
            (0.99, mean),
            (0, 2),
            ax.get_yaxis_transform(),
            "offset points",
            color=style.GREY,
            fontsize=7,
            ha="right",
        )
    if np.isfinite(half) and ranking.group.tuning.empty and _many(ranking):
        ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.15, linewidth=0)
