"""How much the learning rate and the level matter: a curve with a band for each method, and where runs diverge."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

from clipbench.plot import style
from clipbench.plot.arms import NO_EDGE, Arm, Section
from clipbench.plot.groups import mean_interval
from clipbench.plot.panels import Drawing, banded, panel

GRID = 8  # values of a setting that are places of their own; more are put into bins of trials
NAMES = {"lr": "learning rate", "clipping_level": "clipping level", "p_autoclip": "p_autoclip"}
RED = "#B3261E"


def sensitivity(section: Section) -> Iterator[Drawing]:
    """The final validation metric over the learning rate, all methods in one panel, then over each method's level in a panel of its own."""
    runs = _runs(section)
    tuned = not section.group.tuning.empty
    how = "trials, and their local mean" if tuned else "each at its best other setting, mean over seeds"
    if runs["lr"].nunique() > 1:
        fig, ax = _panel(section, runs, "lr")
        for arm in reversed(section.judged):
            _line(ax, section, runs[runs["name"] == arm.name], "lr", arm, arm in banded(section))
        yield f"learning rate: {how}", fig
    for arm in section.judged:
        own = runs[runs["name"] == arm.name]
        for setting in NO_EDGE:
            if own[setting].nunique() > 1:
                fig, ax = _panel(section, own, setting)
                _reference(ax, section, runs)
                _line(ax, section, own, setting, arm, True)
                yield f"{arm.name}: {NAMES[setting]}", fig


def _runs(section: Section) -> pd.DataFrame:
    """The tuning trials of a study, or else every run of the section; `value` NaN where one diverged."""
    group = section.group
    if group.tuning.empty:
        names = {run: method.name for method in section.methods for run in method.runs if method.role != "default"}
        rows = group.runs.loc[list(names)].assign(name=names.values())
    else:
        rows = group.tuning.assign(name=group.tuning["method"])
    numbers = rows[["lr", *NO_EDGE]].astype(float)
    return numbers.assign(
        name=rows["name"], diverged=rows["status"] == "diverged", value=rows["final"].astype(float).where(rows["status"] == "done")
    )


def _panel(section: Section, runs: pd.DataFrame, setting: str) -> tuple[Figure, Axes]:
    """Log axes but for p_autoclip, with ∞ a little beyond the last value; the values of a grid are named, on other axes round ones."""
    fig, ax = panel(NAMES[setting], f"validation {section.group.headline}")
    values = runs[setting].dropna()
    finite = np.sort(values[np.isfinite(values) & (values > 0)].unique())
    style.fit(ax, runs["value"])
    if len(finite):
        log = setting != "p_autoclip"
        ratio = max(1.3, (finite[-1] / finite[0]) ** 0.08)
        infinite = int(np.isinf(values).any())
        beyond = _beyond(runs, setting)
        ax.set_xscale("log" if log else "linear")
        ax.set_xlim((finite[0] / ratio, (beyond if infinite else finite[-1]) * ratio) if log else (finite[0] - 0.05, finite[-1] + 0.05))
        if log:
            ticks = list(finite if _is_grid(section, values) else _round(finite[0] / ratio, finite[-1] * ratio))
            ax.set_xticks(ticks + [beyond] * infinite, [f"{tick:g}" for tick in ticks] + ["∞"] * infinite)
            ax.minorticks_off()
        _region(ax, section, runs, setting)
    return fig, ax


def _is_grid(section: Section, values: pd.Series) -> bool:
    return section.group.tuning.empty and values.nunique() <= GRID


def _beyond(runs: pd.DataFrame, setting: str) -> float:
    """Where ∞ stands."""
    finite = runs[setting][np.isfinite(runs[setting]) & (runs[setting] > 0)]
    return float(finite.max() * max(1.3, (finite.max() / finite.min()) ** 0.08) ** 2) if len(finite) else 1.0


def _round(low: float, high: float) -> list[float]:
    """Decades between low and high, where they are few 2 and 5 times them too."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1,) if np.log10(high / low) > 2 else (1, 2, 5) if np.log10(high / low) < 1 else (1, 3)
    return [tick for decade in decades for step in steps if low <= (tick := float(f"{step}e{decade}")) <= high]


def _region(ax: Axes, section: Section, runs: pd.DataFrame, setting: str) -> None:
    """Shade where at least half of the runs diverged: at a value of a grid, or among four trials or more that are next to each other."""
    rows = runs[np.isfinite(runs[setting]) & (runs[setting] > 0)].sort_values(setting)
    if not rows["diverged"].any():
        return
    x = np.log(rows[setting].to_numpy()) if ax.get_xscale() == "log" else rows[setting].to_numpy()
    values = np.unique(x)
    count = len(values) if _is_grid(section, rows[setting]) else max(1, min(8, len(values) // 4))
    parts = np.array_split(values, count)
    limits = np.log(ax.get_xlim()) if ax.get_xscale() == "log" else np.array(ax.get_xlim())
    between = [(left[-1] + right[0]) / 2 for left, right in pairwise(parts)]
    back = np.exp if ax.get_xscale() == "log" else np.asarray
    for part, (low, high) in zip(parts, pairwise([limits[0], *between, limits[1]]), strict=True):
        if rows["diverged"].to_numpy()[np.isin(x, part)].mean() >= 0.5:
            ax.axvspan(float(back(low)), float(back(high)), color=RED, alpha=0.1, linewidth=0, label="half of the runs or more diverge")


def _line(ax: Axes, section: Section, runs: pd.DataFrame, setting: str, arm: Arm, band: bool) -> None:
    """Points are runs, ✕ those that diverged, at the losing edge; the line is a mean with its 95 % interval, over trials a smooth one."""
    runs = runs[runs[setting] > 0]
    if runs.empty:
        return
    x = runs[setting].clip(upper=_beyond(runs, setting))
    ax.plot(x, runs["value"], "o", markersize=2.5, markeredgewidth=0, alpha=0.45, color=arm.colour)
    losing = ax.get_ylim()[0 if section.group.higher_is_better else 1]
    for place in x[runs["diverged"]].unique():
        style.cross(ax, place, losing, arm.colour)
    if _is_grid(section, runs[setting]):
        places, means, halves = np.array([(place, *_summary(section, part)) for place, part in runs.groupby(x)], float).T
    else:
        log = ax.get_xscale() == "log"
        there = runs["value"].notna() & np.isfinite(runs[setting])
        at, means, halves = smoothed(np.log(x[there]) if log else x[there], runs["value"][there])
        places = np.exp(at) if log else at
    ax.plot(places, means, color=arm.colour, linestyle=arm.dash)
    if band:
        ax.fill_between(places, means - halves, means + halves, color=arm.colour, alpha=0.12, linewidth=0)


def smoothed(x: ArrayLike, y: ArrayLike, width: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places, local mean, half its 95 % interval) of y over x, by local lines under a Gaussian of `width`. (40,) each; empty for n < 5.

    With weights l at a place the mean is l·y and its error σ·‖l‖, σ² from the residuals with n − tr(2L − LLᵀ) degrees of freedom.
    As `width` grows it becomes the least-squares line with its t-interval. Source: Cleveland and Devlin 1988, JASA 83:596.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 5 or np.ptp(x) == 0:
        return (np.zeros(0),) * 3
    width = width or max(0.12, 1.5 / len(x)) * float(np.ptp(x))
    at = np.linspace(x.min(), x.max(), 40)
    weights, own = _weights(at, x, width), _weights(x, x, width)
    freedom = len(x) - float(np.trace(2 * own - own @ own.T))
    if freedom < 1:
        return at, weights @ y, np.full(len(at), np.nan)
    sigma = np.sqrt(np.sum((y - own @ y) ** 2) / freedom)
    return at, weights @ y, stats.t.ppf(0.975, freedom) * sigma * np.linalg.norm(weights, axis=1)


def _weights(at: np.ndarray, x: np.ndarray, width: float) -> np.ndarray:
    """How much each y counts in the local line's value at each place. (places, n)"""
    distance = x - at[:, None]
    kernel = np.exp(-0.5 * (distance / width) ** 2)
    first, second = (kernel * distance).sum(1, keepdims=True), (kernel * distance**2).sum(1, keepdims=True)
    weights = kernel * (second - distance * first)
    return weights / weights.sum(1, keepdims=True)


def _summary(section: Section, runs: pd.DataFrame) -> tuple[float, float]:
    """Mean and half interval over the runs that ended: in a sweep, of the best of the settings that share this place."""
    ended = runs.dropna(subset="value")
    if ended.empty:
        return np.nan, np.nan
    if section.group.tuning.empty:
        others = [ended[column].fillna(-1) for column in ("lr", *NO_EDGE)]
        means = ended["value"].groupby(others).transform("mean")
        ended = ended[means == (means.max() if section.group.higher_is_better else means.min())]
    mean, half = mean_interval(ended["value"].to_numpy(float))
    return float(mean), float(half)


def _reference(ax: Axes, section: Section, runs: pd.DataFrame) -> None:
    """No clipping at its best: in a sweep its mean and interval over seeds, in a study its best trial."""
    if section.none is None:
        return
    if section.group.tuning.empty:
        finals = section.none.method.finals
        mean, half = mean_interval(finals) if len(finals) else (np.nan, np.nan)
    else:
        values = runs["value"][runs["name"] == section.none.name]
        mean, half = (values.max() if section.group.higher_is_better else values.min()), np.nan
    if np.isfinite(mean):
        ax.axhline(float(mean), color=style.GREY, linewidth=0.8)
        ax.annotate(
            "none", (0.99, float(mean)), (0, 2), ax.get_yaxis_transform(), "offset points", color=style.GREY, fontsize=7, ha="right"
        )
    if np.isfinite(half):
        ax.axhspan(float(mean - half), float(mean + half), color=style.GREY, alpha=0.15, linewidth=0)
