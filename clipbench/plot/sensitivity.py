"""How much the learning rate and the level matter: a curve with a band for each method, and where runs diverge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    how = "trials, and the mean of those near each other" if tuned else "each at its best other setting, mean over seeds"
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
    """Log axes but for p_autoclip, with ∞ a little beyond the last value; the places of a grid are named."""
    fig, ax = panel(NAMES[setting], f"validation {section.group.headline}")
    values = runs[setting].dropna()
    finite = np.sort(values[np.isfinite(values)].unique())
    if setting != "p_autoclip":
        ax.set_xscale("log")
    if len(finite):
        ratio = max(1.3, (finite[-1] / finite[0]) ** 0.08) if finite[0] > 0 else 1.3
        log = setting != "p_autoclip"
        beyond = finite[-1] * ratio**2 if log else finite[-1]
        end = beyond if np.isinf(values).any() else finite[-1]
        ax.set_xlim((finite[0] / ratio, end * ratio) if log else (finite[0] - 0.05, end + 0.05))
        grid = _is_grid(section, values)
        if grid or np.isinf(values).any():
            ticks = list(finite if grid else _decades(finite))
            infinite = int(np.isinf(values).any())
            ax.set_xticks(ticks + [beyond] * infinite, [f"{tick:g}" for tick in ticks] + ["∞"] * infinite)
            ax.minorticks_off()
    style.fit(ax, runs["value"])
    _region(ax, runs, setting, _is_grid(section, values))
    return fig, ax


def _is_grid(section: Section, values: pd.Series) -> bool:
    return section.group.tuning.empty and values.nunique() <= GRID


def _decades(finite: np.ndarray) -> np.ndarray:
    return 10.0 ** np.arange(np.ceil(np.log10(finite[0])), np.floor(np.log10(finite[-1])) + 1)


def _places(ax: Axes, values: pd.Series, grid: bool) -> pd.Series:
    """Where each value stands: a grid's at itself, trials at the geometric middle of the bin that they fall into, ∞ behind the last."""
    finite = values[np.isfinite(values)]
    if grid or finite.empty:
        return values.clip(upper=_beyond(ax, finite))
    log = ax.get_xscale() == "log"
    x = np.log(finite) if log else finite
    edges = np.linspace(x.min(), x.max(), int(np.clip(len(x) // 4, 2, 8)) + 1)
    bins = np.clip(np.digitize(x, edges) - 1, 0, len(edges) - 2)
    middle = (edges[bins] + edges[bins + 1]) / 2
    placed = pd.Series(np.exp(middle) if log else middle, finite.index)
    return placed.reindex(values.index).fillna(_beyond(ax, finite))


def _beyond(ax: Axes, finite: pd.Series) -> float:
    high = ax.get_xlim()[1]
    ticks = ax.get_xticks()
    return float(ticks[-1]) if len(ticks) and len(finite) and ticks[-1] > finite.max() else float(high)


def _region(ax: Axes, runs: pd.DataFrame, setting: str, grid: bool) -> None:
    """Shade the places where at least half of all runs diverged."""
    rows = runs[runs[setting].notna()]
    if not rows["diverged"].any():
        return
    share = rows["diverged"].groupby(_places(ax, rows[setting], grid)).mean().sort_index()
    at = share.index.to_numpy(float)
    log = ax.get_xscale() == "log"
    x = np.log(at) if log else at
    limits = np.log(ax.get_xlim()) if log else np.array(ax.get_xlim())
    edges = np.concatenate([limits[:1], (x[1:] + x[:-1]) / 2, limits[1:]])
    back = np.exp if log else np.asarray
    for low, high, part in zip(edges[:-1], edges[1:], share, strict=True):
        if part >= 0.5:
            ax.axvspan(float(back(low)), float(back(high)), color=RED, alpha=0.1, linewidth=0, label="half of the runs or more diverge")


def _line(ax: Axes, section: Section, runs: pd.DataFrame, setting: str, arm: Arm, band: bool) -> None:
    """Points are runs, ✕ those that diverged, at the losing edge; the line is a mean with its 95 % t-interval."""
    runs = runs[runs[setting].notna()]
    if runs.empty:
        return
    at = _places(ax, runs[setting], _is_grid(section, runs[setting]))
    x = runs[setting].clip(upper=at.max())
    colour = arm.colour
    ax.plot(x, runs["value"], "o", markersize=2.5, markeredgewidth=0, alpha=0.45, color=colour)
    low, high = ax.get_ylim()
    losing = low if section.group.higher_is_better else high
    for place in x[runs["diverged"]].unique():
        style.cross(ax, place, losing, colour)
    rows = [(place, *_summary(section, part)) for place, part in runs.groupby(at)]
    places, means, halves = np.array(rows, float).T
    ax.plot(places, means, color=colour, linestyle=arm.dash)
    if band:
        ax.fill_between(places, means - halves, means + halves, color=colour, alpha=0.12, linewidth=0)


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
