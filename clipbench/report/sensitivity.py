"""How much the learning rate and the level matter: a curve with a band for each method, and where runs diverge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from scipy import stats

from clipbench.analysis.comparison import Arm, Section
from clipbench.analysis.groups import mean_interval
from clipbench.plot import style
from clipbench.record.rows import NO_CLIPPING
from clipbench.report.panels import MARGINS, SIZE, Drawing, banded, panel

GRID = 8  # values of a setting that are places of their own; more are put into bins of trials
NAMES = {"lr": "learning rate", "clipping_level": "clipping level", "p_autoclip": "p_autoclip"}
ROW, GAP = 0.085, 0.05  # inches: of an arm on top of the panel, and below the rows
OWN = 12  # values of a setting that have a cell of their own in such a row


def sensitivity(section: Section) -> Iterator[Drawing]:
    """The final validation metric over the learning rate, all methods in one panel, then over each method's level in a panel of its own."""
    if section.group.apart:  # no setting was varied with all others kept
        return
    runs = _runs(section)
    tuned = not section.group.tuning.empty
    how = "trials, and their local mean" if tuned else "each at its best other setting, mean over seeds"
    if runs["lr"].nunique() > 1:
        fig, ax = _panel(section, runs, "lr")
        for arm in reversed(section.judged):
            _line(ax, section, runs[runs["name"] == arm.name], "lr", arm, arm in banded(section))
        above = "; on top, how many runs of each method diverged where" * _diverged(
            fig, ax, section, runs, "lr", section.judged
        )
        yield f"learning rate: {how}{above}", fig
    for arm in section.judged:
        own = runs[runs["name"] == arm.name]
        for setting in NO_CLIPPING:
            if own[setting].nunique() > 1:
                fig, ax = _panel(section, own, setting)
                _reference(ax, section, runs)
                _line(ax, section, own, setting, arm, True)
                _diverged(fig, ax, section, own, setting, [arm])
                yield f"{arm.name}: {NAMES[setting]}", fig


def _runs(section: Section) -> pd.DataFrame:
    """The tuning trials of a study, or else every run of the section; `value` NaN where one diverged.

    Runs of one name and `setting` differ in the seed alone.
    """
    group = section.group
    if group.tuning.empty:
        names = {
            run: (method.name, i)
            for i, method in enumerate(section.methods)
            if method.role != "default"
            for run in method.runs
        }
        rows = group.runs.loc[list(names)].assign(
            name=[name for name, _ in names.values()], setting=[i for _, i in names.values()]
        )
    else:
        rows = group.tuning.assign(name=group.tuning["method"], setting=group.tuning["trial"])
    numbers = rows[["lr", *NO_CLIPPING]].astype(float)
    return numbers.assign(
        name=rows["name"],
        setting=rows["setting"],
        diverged=rows["status"] == "diverged",
        value=rows["final"].astype(float).where(rows["status"] == "done"),
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
        ax.set_xlim(
            (finite[0] / ratio, (beyond if infinite else finite[-1]) * ratio)
            if log
            else (finite[0] - 0.05, finite[-1] + 0.05)
        )
        if log:
            ticks = list(
                finite if _is_grid(section, values) else _round(finite[0] / ratio, finite[-1] * ratio)
            )
            ax.set_xticks(ticks + [beyond] * infinite, [f"{tick:g}" for tick in ticks] + ["∞"] * infinite)
            ax.minorticks_off()
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
    return [
        tick for decade in decades for step in steps if low <= (tick := float(f"{step}e{decade}")) <= high
    ]


def _diverged(
    fig: Figure, ax: Axes, section: Section, runs: pd.DataFrame, setting: str, arms: Sequence[Arm]
) -> bool:
    """On top of the panel a row for each arm, in the legend's order: how many of its runs diverged where, deeper where more did."""
    if not runs["diverged"].any():
        return False
    width, axes_height = SIZE[0] - sum(MARGINS[:2]), SIZE[1] - sum(MARGINS[2:])
    height = SIZE[1] + GAP + ROW * len(arms)
    fig.set_size_inches(SIZE[0], height)
    fig.subplots_adjust(bottom=MARGINS[2] / height, top=(MARGINS[2] + axes_height) / height)
    whole: dict[str, Any] = {"transform": ax.transAxes, "clip_on": False}
    for i, arm in enumerate(reversed(arms)):
        own = runs[(runs["name"] == arm.name) & (runs[setting] > 0)]
        y, cells = (
            1 + (GAP + ROW * i) / axes_height,
            _cells(ax, section, own[setting].clip(upper=_beyond(runs, setting))),
        )
        tried = [end for low, high, _ in cells for end in (low, high)]
        ax.plot(
            tried,
            [y + 0.45 * ROW / axes_height] * len(tried),
            color=arm.colour,
            linestyle=arm.dash,
            linewidth=0.6,
            **whole,
        )
        for low, high, there in cells:
            part = own["diverged"].to_numpy()[there]
            if part.any():
                size = (high - low - 0.004, 0.9 * ROW / axes_height)
                ax.add_patch(
                    Rectangle((low + 0.002, y), *size, facecolor="white", linewidth=0, zorder=3, **whole)
                )
                depth = 0.1 + 0.45 * part.mean()
                ax.add_patch(
                    Rectangle(
                        (low + 0.002, y),
                        *size,
                        facecolor=arm.colour,
                        alpha=depth,
                        linewidth=0,
                        zorder=4,
                        **whole,
                    )
                )
                words = f"{part.sum()}/{len(part)}"
                if len(part) > 1 and 0.045 * len(words) < width * (high - low):
                    place = ((low + high) / 2, y + 0.42 * ROW / axes_height)
                    ax.text(*place, words, fontsize=5, ha="center", va="center_baseline", zorder=5, **whole)
    middle = 1 + (GAP + ROW * len(arms) / 2) / axes_height
    ax.annotate(
        "diverged",
        (0, middle),
        (-3, 0),
        "axes fraction",
        "offset points",
        ha="right",
        va="center",
        fontsize=6.5,
    )
    return True


def _cells(ax: Axes, section: Section, x: pd.Series) -> list[tuple[float, float, np.ndarray]]:
    """(ends along the axis, from 0 to 1; which of x lie in it): one for each value, of many trials one for four or more in a row."""
    if x.empty:
        return []
    at = (ax.transScale + ax.transLimits).transform(np.column_stack([x, np.zeros(len(x))]))[:, 0].round(9)
    values = np.unique(at)
    count = len(values) if len(values) <= OWN or _is_grid(section, x) else min(OWN, len(values) // 4)
    parts = np.array_split(values, count)
    between = [(left[-1] + right[0]) / 2 for left, right in pairwise(parts)]
    first, last = (between[0] - values[0], values[-1] - between[-1]) if between else (0.04, 0.04)
    ends = pairwise([max(0.0, values[0] - first), *between, min(1.0, values[-1] + last)])
    return [(low, high, np.isin(at, part)) for part, (low, high) in zip(parts, ends, strict=True)]


def _line(ax: Axes, section: Section, runs: pd.DataFrame, setting: str, arm: Arm, band: bool) -> None:
    """Points are runs that ended; the line is a mean with its 95 % interval, over trials a smooth one."""
    runs = runs[runs[setting] > 0]
    if runs.empty:
        return
    x = runs[setting].clip(upper=_beyond(runs, setting))
    ax.plot(x, runs["value"], "o", markersize=2.5, markeredgewidth=0, alpha=0.45, color=arm.colour)
    if _is_grid(section, runs[setting]):
        places, means, halves = np.array(
            [(place, *_summary(section, part)) for place, part in runs.groupby(x)], float
        ).T
    else:
        log = ax.get_xscale() == "log"
        there = runs["value"].notna() & np.isfinite(runs[setting])
        at, means, halves = smoothed(np.log(x[there]) if log else x[there], runs["value"][there])
        places = np.exp(at) if log else at
    ax.plot(places, means, color=arm.colour, linestyle=arm.dash)
    if band:
        ax.fill_between(places, means - halves, means + halves, color=arm.colour, alpha=0.12, linewidth=0)


def smoothed(
    x: ArrayLike, y: ArrayLike, width: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _best(section: Section, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the best setting among those with all their seeds: fewest diverged, then the best mean, as in `clipbench.selection`."""
    settings = [part for _, part in runs.groupby("setting")]
    most = max(map(len, settings))

    def order(part: pd.DataFrame) -> tuple[int, float]:
        return int(part["value"].isna().sum()), float(np.nan_to_num(-section.sign * part["value"].mean()))

    return min((part for part in settings if len(part) == most), key=order)


def _summary(section: Section, runs: pd.DataFrame) -> tuple[float, float]:
    """Mean and half interval over the seeds that ended, of the best of the settings that share this place."""
    ended = _best(section, runs)["value"].dropna()
    mean, half = mean_interval(ended.to_numpy(float)) if len(ended) else (np.nan, np.nan)
    return float(mean), float(half)


def _reference(ax: Axes, section: Section, runs: pd.DataFrame) -> None:
    """No clipping at its best setting or, in a study, trial: its mean over seeds and, in a sweep, the interval."""
    none = runs[runs["name"] == section.none.name] if section.none else runs[:0]
    if none.empty:
        return
    mean, half = _summary(section, none)
    if np.isfinite(mean):
        ax.axhline(mean, color=style.GREY, linewidth=0.8)
        ax.annotate(
            "none",
            (0.99, mean),
            (0, 2),
            ax.get_yaxis_transform(),
            "offset points",
            color=style.GREY,
            fontsize=7,
            ha="right",
        )
    if np.isfinite(half) and section.group.tuning.empty:
        ax.axhspan(mean - half, mean + half, color=style.GREY, alpha=0.15, linewidth=0)
